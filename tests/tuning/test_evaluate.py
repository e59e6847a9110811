import time
from dataclasses import replace

import pytest

import pabtune
from pabtune.catalog import CATALOG, ModelCard
from pabtune.catalog.card import sites_in
from pabtune.planning.presets import PRESETS
from pabtune.quality.codec import DESCRIPTION, load_codec
from pabtune.quality.fidelity import psnr_db, ssim
from pabtune.quality.measures import load_measures
from pabtune.records.classifiers import PromptClassifier
from pabtune.records.errors import BudgetError, MeasureError, PolicyError, PromptError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.tuning.evaluate import evaluate
from pabtune.tuning.generation import Settings, generate
from tests.conftest import PROMPTS, STEPS, pyramid


def test_no_policy_costs_and_gains_nothing_and_a_policy_is_told_apart(pipeline) -> None:
    videos = {}
    none, accelerated = evaluate(
        pipeline, [PRESETS["none"], pyramid()], PROMPTS, STEPS, batch_size=2,
        on_videos=lambda name, batch, made: videos.setdefault(name, []).extend(made),
    )  # fmt: skip
    assert none.compute_fraction == 1.0
    assert set(none.psnr_db) == {100.0}
    assert set(none.drops) == {0.0}
    assert not none.broadcast_calls
    assert accelerated.compute_fraction < 1.0
    assert max(accelerated.psnr_db) < 100.0
    sites = {"spatial": 2, "temporal": 2, "cross": 4, "mlp": 4}
    for kind, count in sites.items():
        computed, broadcast = accelerated.computed_calls[kind], accelerated.broadcast_calls.get(kind, 0)
        assert computed + broadcast == count * STEPS
    assert {name: len(made) for name, made in videos.items()} == {"reference": 4, "none": 4, "pyramid": 4}


def test_compute_fraction_is_flops_over_flops(pipeline) -> None:
    everything = Policy(
        name="all",
        rules=tuple(Rule(kind=kind, range=99, window=(1, STEPS)) for kind in ("spatial", "temporal", "cross", "mlp")),
    )
    evaluation = evaluate(pipeline, [everything], PROMPTS[:1], STEPS)[0]
    assert 1 / STEPS < evaluation.compute_fraction < 1 / STEPS + 0.1


def test_variants_are_chosen_by_the_prompts_content(pipeline) -> None:
    rule = Rule(kind="mlp", range=99, window=(1, STEPS))
    policy = Policy(name="v", variants={"slow": (rule,)})
    slow, others = PROMPTS[0], PROMPTS[1]
    assert evaluate(pipeline, [policy], [slow], STEPS)[0].broadcast_calls == {"mlp": 4 * (STEPS - 1)}
    assert evaluate(pipeline, [policy], [others], STEPS)[0].broadcast_calls == {}


def test_a_catalog_says_what_is_broadcast(pipeline) -> None:
    card = ModelCard(transformer="STDiT3Transformer3DModel", sites=sites_in("spatial_blocks", mlp="mlp"))
    policy = Policy(name="mlp", rules=(Rule(kind="mlp", range=99, window=(1, STEPS)),))
    found = evaluate(pipeline, [policy], PROMPTS[:1], STEPS, catalog=CATALOG.with_card(card))[0]
    assert found.broadcast_calls == {"mlp": 2 * (STEPS - 1)}


def test_wrong_requests_are_refused(pipeline) -> None:
    with pytest.raises(PromptError, match="at least one prompt"):
        evaluate(pipeline, [pyramid()], [], STEPS)
    with pytest.raises(BudgetError, match="unknown score 'beauty'"):
        evaluate(pipeline, [pyramid()], PROMPTS, STEPS, score="beauty")
    with pytest.raises(MeasureError, match="unknown measure 'beauty'"):
        evaluate(pipeline, [pyramid()], PROMPTS, STEPS, measures=["beauty"])
    with pytest.raises(PolicyError, match="no 'full' sites"):
        evaluate(pipeline, [Policy(name="p", rules=(Rule(kind="full", range=2, window=(1, 2)),))], PROMPTS, STEPS)


def test_policies_with_blocks_are_evaluated(pipeline) -> None:
    blocks = Policy(name="blocks", rules=(Rule(kind="block", range=2, window=(1, STEPS)),))
    found = evaluate(pipeline, [blocks], PROMPTS[:2], STEPS, batch_size=2)[0]
    assert set(found.broadcast_calls) == {"block"}
    assert 0.4 < found.compute_fraction < 0.65  # every second step, and what is outside of blocks


def brightness(video, prompt: str) -> float:
    """A score that sees the least change."""
    return 1000 * float(video.mean()) % 100


def test_figures_are_those_of_the_videos_of_each_prompt(pipeline) -> None:
    """Fault 27: fidelity and scores once more by hand, from the videos that were given out; memory from a run."""
    videos: dict[str, list] = {}
    told: list[tuple[int, int]] = []
    (found,) = evaluate(
        pipeline, [pyramid()], PROMPTS, STEPS, batch_size=2, score="tests.tuning.test_evaluate:brightness",
        on_videos=lambda name, batch, made: videos.setdefault(name, []).extend(made),
        progress=lambda *done: told.append(done),
    )  # fmt: skip
    plain, fast = videos["reference"], videos["pyramid"]
    assert found.psnr_db == tuple(map(psnr_db, fast, plain))
    assert found.ssim == tuple(map(ssim, fast, plain))
    assert found.baseline_scores == tuple(brightness(video, "") for video in plain)
    assert found.scores == tuple(brightness(video, "") for video in fast)
    assert min(map(abs, found.drops)) > 0
    assert told == [(2, 6), (4, 6), (6, 6)]
    with pabtune.broadcast(pipeline, pyramid()) as run:
        generate(pipeline, PROMPTS[::3], Settings(steps=STEPS))
    assert found.most_stored_bytes == run.summary()["most_stored_bytes"] > 0


def test_times_are_those_without_and_with_the_policy(pipeline) -> None:
    """Every computed MLP waits for 10 ms: 32 of them without the policy, 4 with it."""
    for blocks in (pipeline.transformer.spatial_blocks, pipeline.transformer.temporal_blocks):
        for block in blocks:
            block.mlp.fc1.register_forward_hook(lambda *_: time.sleep(0.01))
    policy = Policy(name="mlp", rules=(Rule(kind="mlp", range=99, window=(1, STEPS)),))
    (found,) = evaluate(pipeline, [policy], PROMPTS[:1], STEPS, score="none")
    assert found.baseline_latency_s >= 0.32
    assert found.baseline_latency_s - found.latency_s > 0.1
    assert found.speedup == found.baseline_latency_s / found.latency_s


def test_further_measures_are_those_of_the_videos_raw_or_through_the_codec(pipeline) -> None:
    videos: dict[str, list] = {}
    raw, coded = (
        evaluate(
            pipeline, [pyramid()], PROMPTS[:2], STEPS, batch_size=2, measures=["temporal", "vmaf"], through_codec=through,
            on_videos=lambda name, batch, made: videos.setdefault(name, []).extend(made),
        )[0]
        for through in (False, True)
    )  # fmt: skip
    plain, fast = videos["reference"][:2], videos["pyramid"][:2]
    for found, codec in ((raw, lambda video: video), (coded, load_codec())):
        pairs = [(codec(video), codec(reference)) for video, reference in zip(fast, plain, strict=True)]
        assert found.psnr_db == tuple(psnr_db(*pair) for pair in pairs)
        assert found.ssim == tuple(ssim(*pair) for pair in pairs)
        for name, figure in (("temporal", "temporal_error"), ("vmaf", "vmaf")):
            compare = load_measures([name])[name]
            assert found.measures[figure].values == tuple(compare(*pair) for pair in pairs)
    assert raw.scores == coded.scores
    assert (raw.codec, coded.codec) == (None, DESCRIPTION)
    assert raw.psnr_db != coded.psnr_db
    assert {figure: found.enlarged for figure, found in raw.measures.items()} == {"temporal_error": 1, "vmaf": 8}


def test_variants_are_chosen_by_what_the_prompts_say(pipeline) -> None:
    """The label says `still`, the text `slowly`."""
    rules = {name: (Rule(kind="mlp", range=count, window=(1, STEPS)),) for name, count in (("slow", 99), ("still", 2))}
    classifier = PromptClassifier(
        bias={"slow": 0.0, "still": 0.0}, words={"slow": {"slowly": 2.0}, "still": {"still": 2.0}}, margin=1.0
    )
    policy, plain = Policy(name="v", variants=rules, classifier=classifier), Policy(name="plain")
    prompts = [replace(PROMPTS[0], content="still")]

    def broadcast(content: str | None) -> list[dict[str, int]]:
        found = evaluate(pipeline, [policy, plain], prompts, STEPS, content=content)
        return [each.broadcast_calls for each in found]

    assert broadcast(None) == broadcast("still") == [{"mlp": 4 * STEPS // 2}, {}]
    assert broadcast("auto") == broadcast("slow") == [{"mlp": 4 * (STEPS - 1)}, {}]
    for content in ("wild", "auto"):
        with pytest.raises(PolicyError, match="'plain' has no"):
            evaluate(pipeline, [plain], prompts, STEPS, content=content)
