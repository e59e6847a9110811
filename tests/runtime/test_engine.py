"""The laws of broadcasting, each with exact equality, on the real classes at small size."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import pabtune
from pabtune.planning.masks import resolve
from pabtune.planning.presets import PRESETS
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import ModelError, PabtuneWarning, PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.runtime.interception import interceptions_of
from pabtune.runtime.targets import Target
from tests.conftest import PROMPT, STEPS, draw, make_pipeline, make_transformer, pyramid

BRANCHES = {True: ("cond+uncond",), False: ("cond", "uncond")}
KINDS = ("spatial", "temporal", "cross", "mlp")


def range_one() -> Policy:
    return Policy(name="one", rules=tuple(Rule(kind=kind, range=1, window=(0, STEPS)) for kind in KINDS))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("policy", [range_one(), PRESETS["none"]], ids=["range 1", "none"])
def test_range_one_equals_no_policy(pipeline, policy, batched) -> None:
    plain = draw(pipeline, batched_guidance=batched)
    with pabtune.broadcast(pipeline, policy) as run:
        assert (draw(pipeline, batched_guidance=batched) == plain).all()
    assert not any(run.broadcast_calls.values())


def test_a_broadcast_changes_the_video(pipeline) -> None:
    with pabtune.broadcast(pipeline, pyramid()):
        accelerated = draw(pipeline)
    assert not (accelerated == draw(pipeline)).all()


@pytest.mark.parametrize("batched", [True, False])
def test_calls_per_site_and_branch_equal_the_mask(pipeline, batched, sigmas) -> None:
    sites = Target.of(pipeline).sites
    real_calls: dict[str, int] = {}
    modules = dict(pipeline.transformer.named_modules())
    for site in sites:
        # Counted independently, inside the module: the last projection runs once per computed call.
        last = {"mlp": "fc2"}.get(site.kind, "proj")
        module = modules[f"{site.path}.{last}"]
        module.register_forward_hook(
            lambda *_, name=site.name: real_calls.__setitem__(name, real_calls.get(name, 0) + 1)
        )
    with pabtune.broadcast(pipeline, pyramid()) as run:
        draw(pipeline, batched_guidance=batched)
    mask = resolve(pyramid(), sites, NoiseSchedule(steps=STEPS, sigmas=sigmas))
    for site, row in zip(sites, mask.compute, strict=True):
        for branch in BRANCHES[batched]:
            assert run.computed_calls[branch, site.name] == row.sum()
            assert run.broadcast_calls.get((branch, site.name), 0) == (~row).sum()
        assert real_calls[site.name] == row.sum() * len(BRANCHES[batched])
    assert (run.mask.compute == mask.compute).all()


def test_a_broadcast_skips_what_only_feeds_it(pipeline) -> None:
    original = torch.nn.functional.layer_norm
    calls = []

    def counting(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "layer_norm", counting)
        draw(pipeline)
        everything = len(calls)
        calls.clear()
        with pabtune.broadcast(pipeline, pyramid()) as run:
            draw(pipeline)
    fed = {site.name for site in Target.of(pipeline).sites if site.feeders}
    skipped = sum(count for (_, name), count in run.broadcast_calls.items() if name in fed)
    assert skipped > 0
    assert len(calls) == everything - skipped


@pytest.mark.parametrize("batched", [True, False])
def test_disabling_restores_the_model_and_leaves_no_trace(batched) -> None:
    pipeline = make_pipeline()

    def attributes() -> list[set[str]]:
        return [set(vars(module)) for module in pipeline.transformer.modules()]

    before_attributes, before_scheduler = attributes(), set(vars(pipeline.scheduler))
    pabtune.enable(pipeline, pyramid())
    pabtune.disable(pipeline)
    assert attributes() == before_attributes
    assert set(vars(pipeline.scheduler)) == before_scheduler
    plain = draw(pipeline, batched_guidance=batched)
    pabtune.enable(pipeline, pyramid())
    draw(pipeline, batched_guidance=batched)
    pabtune.disable(pipeline)
    pabtune.disable(pipeline)
    assert (draw(pipeline, batched_guidance=batched) == plain).all()


def abort(at: int):
    def callback(pipeline, step, timestep, arguments):
        if step == at:
            raise RuntimeError("stopped by the user")
        return arguments

    return callback


DISTURBANCES = {
    "the same run": lambda p: draw(p),
    "another prompt": lambda p: draw(p, "a green circle rises quickly", seed=9),
    "another batch size": lambda p: draw(p, [PROMPT, "a blue cross stands still"], seed=3),
    "another step count": lambda p: draw(p, num_inference_steps=5),
    "guidance in two calls": lambda p: draw(p, batched_guidance=False),
    "no guidance": lambda p: draw(p, guidance_scale=1.0),
    **{f"a run aborted at step {at}": lambda p, at=at: aborted(p, at) for at in (0, 3, STEPS - 1)},
}


def aborted(pipeline, at: int) -> None:
    with pytest.raises(RuntimeError, match="stopped by the user"):
        draw(pipeline, "a pink triangle sinks", seed=5, callback_on_step_end=abort(at))


@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("batched", [True, False])
def test_every_run_equals_one_on_a_fresh_pipeline(disturbance, batched, sigmas) -> None:
    policy = Policy(name="carried", rules=pyramid().rules[:2], made_for=MadeFor(steps=STEPS, sigmas=sigmas))
    fresh = make_pipeline()
    with pabtune.broadcast(fresh, policy):
        expected = draw(fresh, batched_guidance=batched)
    used = make_pipeline()
    with pabtune.broadcast(used, policy) as run:
        DISTURBANCES[disturbance](used)
        assert (draw(used, batched_guidance=batched) == expected).all()
        assert run.stored_bytes == 0


def call(transformer, step: int, size: int) -> torch.Tensor:
    """A step of a bare transformer on a video of this size."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(1, 4, 4, size, size, generator=generator)
    text = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(7))
    with transformer.cache_context("cond", step_index=step, num_inference_steps=6), torch.no_grad():
        return transformer(x, torch.tensor([900.0 - 100 * step]), text, return_dict=False)[0]


def test_another_frame_size_after_an_aborted_run_equals_a_fresh_transformer() -> None:
    policy = Policy(name="bare", rules=(Rule(kind="mlp", range=4, window=(1, 4)),))
    fresh, used = make_transformer(), make_transformer()
    with pabtune.broadcast(fresh, policy), pabtune.broadcast(used, policy) as run:
        expected = [call(fresh, step, 16) for step in range(4)]
        for step in range(2):
            call(used, step, 24)
        assert run.stored_bytes > 0
        again = [call(used, step, 16) for step in range(4)]
        assert run.stored_bytes == 0
    assert all((a == b).all() for a, b in zip(expected, again, strict=True))


def test_a_call_that_does_not_follow_the_one_before_computes_everything() -> None:
    """Fault 27: all but step 0 may be broadcast, but step 2 is skipped, and at step 5 the video has another size."""
    transformer = make_transformer()
    policy = Policy(name="all", rules=tuple(Rule(kind=kind, range=9, window=(1, 6)) for kind in KINDS))
    plain, sizes = make_transformer(), {0: 16, 1: 16, 3: 16, 4: 16, 5: 24}
    with pabtune.broadcast(transformer, policy) as run:
        outputs = {step: call(transformer, step, size) for step, size in sizes.items()}
    everything = frozenset(range(len(Target.of(transformer).sites)))
    assert {record.step: record.computed for record in run.records} == {
        step: everything if step in (0, 3, 5) else frozenset() for step in sizes
    }
    for step, size in sizes.items():
        assert (outputs[step] == call(plain, step, size)).all() == (step in (0, 3, 5))


def test_a_bare_transformer_without_a_context_is_refused_with_the_line_to_type() -> None:
    transformer = make_transformer()
    with pabtune.broadcast(transformer, pyramid()), pytest.raises(ModelError, match="cache_context"):
        transformer(torch.randn(1, 4, 2, 8, 8), torch.tensor([500.0]), torch.randn(1, 24, 16))


def test_two_pipelines_do_not_meet() -> None:
    expected = []
    for seed in (0, 1):
        alone = make_pipeline(seed)
        with pabtune.broadcast(alone, pyramid()):
            expected.append(draw(alone))
    first, second = make_pipeline(0), make_pipeline(1)
    inner = {}

    def run_the_other(pipeline, step, timestep, arguments):
        if step == 4:
            inner["frames"] = draw(second)
        return arguments

    with pabtune.broadcast(first, pyramid()), pabtune.broadcast(second, pyramid()):
        outer = draw(first, callback_on_step_end=run_the_other)
    assert (outer == expected[0]).all()
    assert (inner["frames"] == expected[1]).all()


def test_guidance_branches_never_share_state(pipeline) -> None:
    """With everything broadcast from step 1 on, each branch repeats its own output of step 0, not the other's."""
    policy = Policy(name="all", rules=tuple(Rule(kind=kind, range=99, window=(1, STEPS)) for kind in KINDS))
    seen: dict[str, list[torch.Tensor]] = {"cond": [], "uncond": []}
    site = pipeline.transformer.temporal_blocks[1].mlp
    with pabtune.broadcast(pipeline, policy):
        (interception,) = interceptions_of(pipeline.transformer)
        root = interception._interceptors[0]._hook
        inner = site.forward

        def watch(*args, **kwargs):
            output = inner(*args, **kwargs)
            seen[root.context.current().name].append(output)
            return output

        site.forward = watch
        draw(pipeline, batched_guidance=False)
        site.forward = inner
    for outputs in seen.values():
        assert len(outputs) == STEPS
        assert all((output == outputs[0]).all() for output in outputs)
    assert not (seen["cond"][0] == seen["uncond"][0]).all()


def test_guidance_in_one_call_or_two_gives_the_same_video(pipeline) -> None:
    with pabtune.broadcast(pipeline, pyramid()):
        together = draw(pipeline, batched_guidance=True)
        apart = draw(pipeline, batched_guidance=False)
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_nothing_is_held_after_a_run_nor_after_an_error(pipeline) -> None:
    held = []

    def note(pipe, step, timestep, arguments):
        held.append(run.stored_bytes)
        return arguments

    with pabtune.broadcast(pipeline, pyramid()) as run:
        draw(pipeline, callback_on_step_end=note)
        assert run.stored_bytes == 0
        aborted(pipeline, 3)
    assert run.stored_bytes == 0
    assert max(held) > 0
    assert held[-1] == 0
    assert held[0] > 0
    assert run.summary()["most_stored_bytes"] >= max(held)


def test_an_output_is_stored_only_while_a_later_step_needs_it(pipeline) -> None:
    late = Policy(name="late", rules=(Rule(kind="spatial", range=2, window=(5, 6)),))
    held = []

    def note(pipe, step, timestep, arguments):
        held.append(run.stored_bytes)
        return arguments

    with pabtune.broadcast(pipeline, late) as run:
        draw(pipeline, callback_on_step_end=note)
    assert [size > 0 for size in held] == [False] * 4 + [True] + [False] * 3


def test_another_scheduler_in_the_middle_is_noticed(pipeline) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    with pabtune.broadcast(pipeline, pyramid()):
        draw(pipeline)
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        replaced = draw(pipeline)
    fresh = make_pipeline()
    with pabtune.broadcast(fresh, pyramid()):
        assert (draw(fresh) == replaced).all()


def test_a_second_policy_or_cache_is_refused(pipeline) -> None:
    with pabtune.broadcast(pipeline, pyramid()), pytest.raises(ModelError, match="already attached"):
        pabtune.enable(pipeline, pyramid())
    pipeline.transformer._cache_config = object()
    with pytest.raises(ModelError, match="another cache is enabled"):
        pabtune.enable(pipeline, pyramid())


def test_variants_are_used(pipeline) -> None:
    policy = Policy(name="v", variants={"still": (Rule(kind="mlp", range=2, window=(1, 7)),)})
    with pabtune.broadcast(pipeline, policy, "still") as run:
        draw(pipeline)
    assert run.summary()["broadcast_calls"] == {"mlp": 4 * 3}
    with pytest.raises(PolicyError, match="no variant"):
        pabtune.enable(pipeline, policy, "fast")


def test_the_memory_of_a_run_is_known_in_its_first_step_and_limited(pipeline) -> None:
    with pabtune.broadcast(pipeline, pyramid(), memory=2**40) as run:
        draw(pipeline)
    needed = run.summary()["most_stored_bytes"]
    assert run.predicted_bytes.max() == needed > 0
    calls = []
    pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    with pabtune.broadcast(pipeline, pyramid(), memory=needed) as run:
        draw(pipeline)
    calls.clear()
    with (
        pabtune.broadcast(pipeline, pyramid(), memory=needed - 1) as run,
        pytest.raises(PolicyError, match=r"would hold .* in step \d, more than the limit"),
    ):
        draw(pipeline)
    assert len(calls) == 1
    assert run.stored_bytes == 0


def test_with_branches_in_two_calls_the_prediction_is_never_too_small(pipeline) -> None:
    with pabtune.broadcast(pipeline, pyramid(), memory=2**40) as run:
        draw(pipeline, batched_guidance=False)
    assert 0 < run.summary()["most_stored_bytes"] <= run.predicted_bytes.max()


def test_a_site_in_a_block_that_is_served_keeps_its_output(pipeline) -> None:
    """Blocks compute at even steps, spatial attention at 0, 4, …: its output must outlive the odd steps between."""
    rules = (
        Rule(kind="block", range=2, window=(1, STEPS), anchor="start"),
        Rule(kind="spatial", range=4, window=(1, STEPS), anchor="start"),
    )
    with pabtune.broadcast(pipeline, Policy(name="nested", rules=rules)) as run:
        draw(pipeline)
    spatial = [count for (_, name), count in run.computed_calls.items() if name.endswith("spatial_blocks.0.attn")]
    assert spatial == [STEPS // 4]
    assert run.stored_bytes == 0


def test_a_policy_whose_budget_was_not_shown_to_hold_says_so(pipeline) -> None:
    """Fault 8: nothing that runs a policy read its evidence."""
    rejected = replace(pyramid(), evidence={"verdict": "reject", "budget": "shapes>=-1"})
    with (
        pytest.warns(PabtuneWarning, match=r"shapes>=-1 was rejected on unseen prompts"),
        pabtune.broadcast(pipeline, rejected),
    ):
        pass
    mixed = replace(
        pyramid(),
        variants={"slow": pyramid().rules, "fast": pyramid().rules},
        evidence={"verdict": "accept", "variants": {"slow": {"verdict": "undecided"}, "fast": {"verdict": "accept"}}},
    )
    with pytest.warns(PabtuneWarning, match="could not be decided"), pabtune.broadcast(pipeline, mixed, "slow"):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for policy, content in ((mixed, None), (mixed, "fast"), (pyramid(), None)):
            with pabtune.broadcast(pipeline, policy, content):
                pass
