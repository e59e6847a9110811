"""The content class of a call, told by its prompt: each call draws what its class draws, and nothing else changes."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch

import pabtune
from pabtune.libraries.diffusers_internals import hook_names
from pabtune.records.classifiers import PromptClassifier
from pabtune.records.errors import PabtuneWarning, PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.contents import prompts_of
from tests.conftest import STEPS, draw, pyramid
from tests.pipelines.cases import CASES, run

WINDOW = (2, STEPS)
POLICY = Policy(
    name="by content",
    rules=(Rule(kind="spatial", range=2, window=WINDOW),),
    variants={
        "still": (Rule(kind="stack", range=3, window=WINDOW), Rule(kind="guidance", range=2, window=WINDOW)),
        "slow": (Rule(kind="stack", range=2, window=WINDOW, layers=(1,)),),
        "fast": (Rule(kind="block", range=2, window=WINDOW), Rule(kind="transformer", range=2, window=(6, STEPS))),
    },
    classifier=PromptClassifier(
        bias={"still": 0.0, "slow": 0.0, "fast": 0.0, "odd": 0.0},
        words={"still": {"still": 2.0}, "slow": {"slowly": 2.0}, "fast": {"quickly": 2.0}, "odd": {"spins": 2.0}},
        margin=1.0,
    ),
)
"""Every class has units of its own: stacks over different blocks, single blocks, whole calls."""

BY_CONTENT = {
    "still": "a blue square stands still on black",
    "slow": "a red square moves slowly to the left",
    "fast": "a green cross bounces quickly",
    None: "a green cross bounces",
}


@pytest.fixture(params=[True, False], ids=["one call", "two calls"])
def batched(request) -> bool:
    return request.param


def test_each_call_draws_what_its_class_draws(pipeline, batched) -> None:
    expected = {}
    for content, prompt in BY_CONTENT.items():
        with pabtune.broadcast(pipeline, POLICY, content) as active:
            expected[content] = draw(pipeline, prompt, batched_guidance=batched), active.summary()
    with pabtune.broadcast(pipeline, POLICY, "auto") as active:
        for content in ("still", "fast", None, "slow", "still"):
            frames, summary = expected[content]
            assert (draw(pipeline, BY_CONTENT[content], batched_guidance=batched) == frames).all()
            assert active.summary() == summary
            assert active.summary()["content"] == content
            assert active.mask.compute.shape == active.called.shape
    assert len({str(summary["broadcast_calls"]) for _, summary in expected.values()}) == 4


def test_prompts_that_disagree_or_tell_nothing_are_under_the_general_rules(pipeline) -> None:
    still, fast = BY_CONTENT["still"], BY_CONTENT["fast"]
    chosen = []
    with pabtune.broadcast(pipeline, POLICY, "auto") as active:
        for prompts in ([still, still], [still, fast], [still, BY_CONTENT[None]], ["a cross spins"]):
            draw(pipeline, prompts)
            chosen.append(active.summary()["content"])
    assert chosen == ["still", None, None, None]


def test_a_copy_of_the_pipeline_chooses_for_itself(pipeline) -> None:
    with pabtune.broadcast(pipeline, POLICY, "auto") as active:
        for content, own in (("still", pipeline), ("fast", copy.copy(pipeline))):
            draw(own, BY_CONTENT[content])
            assert active.summary()["content"] == content


def attributes(pipeline) -> list[list[str]]:
    """Names of everything that stands on each module of the transformer, and the hooks among it."""
    return [sorted([*vars(part), *hook_names(part)]) for part in pipeline.transformer.modules()]


def test_nothing_is_left_behind(pipeline) -> None:
    before = draw(pipeline)
    attributes_before = attributes(pipeline)
    with pabtune.broadcast(pipeline, POLICY, "auto") as active:
        for prompt in BY_CONTENT.values():
            draw(pipeline, prompt)
            assert active.stored_bytes == 0
    assert attributes(pipeline) == attributes_before
    assert (draw(pipeline) == before).all()


def test_dynamos_limits_hold_the_graphs_of_all_classes_and_are_given_back(pipeline) -> None:
    config = torch._dynamo.config
    before = (config.recompile_limit, config.accumulated_recompile_limit)
    with pabtune.broadcast(pipeline, POLICY, "auto") as active:
        for content, patterns, together in (("still", 20, 20), ("fast", 30, 50), ("still", 20, 50), ("still", 25, 55)):
            active._broadcaster.allow_compilations(content, patterns)
            assert config.recompile_limit == max(before[0], 8 * together)
    assert (config.recompile_limit, config.accumulated_recompile_limit) == before


def test_a_bare_transformer_and_a_policy_without_a_classifier_are_refused(pipeline) -> None:
    with pytest.raises(PolicyError, match="a bare transformer sees no prompts"):
        pabtune.enable(pipeline.transformer, POLICY, "auto")
    with pytest.raises(PolicyError, match="has no classifier"):
        pabtune.enable(pipeline, pyramid(), "auto")
    wild = replace(POLICY, variants={"still": (Rule(kind="full", range=2, window=WINDOW),)})
    with pytest.raises(PolicyError, match="no 'full' sites"):  # no prompt asked for it yet
        pabtune.enable(pipeline, wild, "auto")


def test_a_variant_whose_budget_was_not_shown_to_hold_says_so(pipeline) -> None:
    doubtful = replace(
        POLICY, evidence={"verdict": "accept", "variants": {"slow": {"verdict": "reject", "budget": "shapes>=-1"}}}
    )
    with pytest.warns(PabtuneWarning, match="was rejected"), pabtune.broadcast(pipeline, doubtful, "auto"):
        pass


def test_embeddings_tell_no_class_and_the_first_call_says_so() -> None:
    case = CASES["wan-2.1"]
    wan = case.build()
    wan.set_progress_bar_config(disable=True)
    rule = Rule(kind="mlp", range=2, window=(1, 6))
    policy = replace(POLICY, rules=(rule,), variants={"still": (replace(rule, range=5),)})
    embeddings = {"prompt_embeds": torch.zeros(1, 16, 32), "negative_prompt_embeds": torch.zeros(1, 16, 32)}
    with pabtune.broadcast(wan, policy, "auto") as active:
        run(wan, "wan-2.1", "it stands still")
        assert active.summary()["content"] == "still"
        with pytest.warns(PabtuneWarning, match="without a prompt as text"):
            wan(**case.call, **embeddings)
        assert active.summary()["content"] is None
        assert active.summary()["broadcast_calls"]["mlp"] > 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wan(**case.call, **embeddings)


@pytest.mark.parametrize(
    ("arguments", "prompts"),
    [
        ({"prompt": "red"}, ["red"]),
        ({"prompt": ["red", "blue"]}, ["red", "blue"]),
        ({"prompt": ("red",)}, ["red"]),
        ({"prompt": ""}, [""]),
        ({"prompt": None}, None),
        ({"prompt": []}, None),
        ({"prompt": torch.zeros(2)}, None),
        ({"prompt": ["red", torch.zeros(2)]}, None),
        ({}, None),
    ],
)
def test_texts_of_a_call(arguments, prompts) -> None:
    assert prompts_of(arguments) == prompts
