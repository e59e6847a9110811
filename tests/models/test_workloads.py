import pytest

from pabtune.models.workloads import PAPER_RUNS, build_workload
from pabtune.planning.presets import MODEL_PRESETS
from pabtune.records.errors import ModelError


def test_the_same_models_have_presets_and_workloads() -> None:
    assert set(PAPER_RUNS) == set(MODEL_PRESETS)


@pytest.mark.parametrize(
    ("model", "frames", "tokens", "calls"),
    [("open-sora-1.2", 15, 1590, 30), ("latte", 16, 1024, 50), ("open-sora-plan-1.1", 17, 1024, 159)],
)
def test_the_papers_videos_have_their_sizes(model, frames, tokens, calls) -> None:
    workload = build_workload(model, *PAPER_RUNS[model])
    assert (workload.frames, workload.tokens, workload.schedule.steps) == (frames, tokens, calls)
    assert (workload.width, workload.heads) == (1152, 16)
    assert workload.activation_bytes == 2 * frames * tokens * 1152 * 2
    assert workload.padding_flops == 0
    assert all(parameter.is_meta for parameter in workload.transformer.parameters())


def test_longer_and_larger_videos_are_noisier_for_longer() -> None:
    sigmas = [
        build_workload("open-sora-1.2", size, 30).schedule.sigmas
        for size in ((51, 480, 854), (102, 480, 854), (51, 720, 1280))
    ]
    assert sigmas[0][15] < sigmas[1][15]
    assert sigmas[0][15] < sigmas[2][15]


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(ModelError, match="takes 1 to 300 text tokens, not 301"):
        build_workload("open-sora-1.2", (51, 480, 854), 30, 301)


@pytest.mark.parametrize(("model", "steps"), [("latte", 1001), ("open-sora-plan-1.1", 3), ("open-sora-plan-1.1", 1001)])
def test_numbers_of_steps_that_a_scheduler_does_not_know_are_refused(model, steps) -> None:
    """Fault 22: the same tracebacks as for sizes, of their schedulers."""
    with pytest.raises(ModelError, match=f"the scheduler of {model} takes . to 1000 steps, not {steps}"):
        build_workload(model, PAPER_RUNS[model][0], steps)


def test_the_fewest_steps_are_counted() -> None:
    assert build_workload("latte", PAPER_RUNS["latte"][0], 1).schedule.steps == 1
    assert build_workload("open-sora-plan-1.1", PAPER_RUNS["open-sora-plan-1.1"][0], 4).schedule.steps == 13
