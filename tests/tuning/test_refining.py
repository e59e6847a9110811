"""Refining the factors of schedules on the small pipeline."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pabtune
from pabtune.quality.fidelity import psnr_db
from pabtune.records.policies import MadeFor
from pabtune.records.schedules import Schedule
from pabtune.runtime.targets import Target
from pabtune.tuning import schedules as module
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.refining import _weighed, places_of, refine
from pabtune.tuning.schedules import REFINED, find_schedules, fit
from pabtune.tuning.trajectories import LatentsWatch, record_trajectories
from tests.conftest import PROMPTS, make_pipeline
from tests.pipelines.cases import CASES, arguments_of, cases

SETTINGS = Settings(steps=12, batch_size=2)
COMPUTED = (0, 1, 2, 6, 10, 11)


@pytest.fixture(scope="module")
def recorded():
    pipeline = make_pipeline()
    target = Target.of(pipeline)
    runs = [record_trajectories(pipeline, target, PROMPTS[index : index + 2], SETTINGS) for index in (0, 2)]
    return pipeline, runs, fit(pipeline, target, runs, SETTINGS, COMPUTED)[0]


def errors_of(pipeline, runs, schedule: Schedule) -> list[float]:
    """Mean squared error of the final latents of each video."""
    errors = []
    with pabtune.broadcast(pipeline, schedule.policy("p", MadeFor())):
        for run in runs:
            watch = LatentsWatch()
            generate(pipeline, run.prompts, watch.settings(SETTINGS))
            errors += (watch.after[-1] - run.latents[-1]).square().flatten(1).mean(dim=1).tolist()
    return errors


def moved(schedule: Schedule, offset: float) -> Schedule:
    """A schedule with all factors of the last changes moved."""
    factors = tuple(
        tuple(factor + offset * (not back) for back, factor in enumerate(each)) for each in schedule.factors
    )
    return replace(schedule, factors=factors)


def test_each_gap_has_an_offset_for_each_of_its_factors(recorded) -> None:
    _, _, schedule = recorded
    places = places_of(schedule)
    assert [(place.steps, place.back) for place in places] == [
        ((3, 4, 5), 0), ((3, 4, 5), 1), ((7, 8, 9), 0), ((7, 8, 9), 1)
    ]  # fmt: skip
    factors = ((), (), (), (1.0, 2.0), (3.0, 4.0), (5.0,), (), (6.0, 7.0), (), (), (), ())
    assert places[1].moved(factors, 0.5) == ((), (), (), (1.0, 2.5), (3.0, 4.5), (5.0,), *factors[6:])
    assert places_of(replace(schedule, computed=tuple(range(12)), factors=((),) * 12)) == []


def test_wrong_factors_are_mended(recorded) -> None:
    """Most of what was done to them is undone, and what is said of the result is what a run shows."""
    pipeline, runs, fitted = recorded
    wrong = moved(fitted, 0.5)
    found = refine(pipeline, runs, SETTINGS, wrong)
    assert found.computed == wrong.computed
    before, after, best = (np.mean(errors_of(pipeline, runs, each)) for each in (wrong, found, fitted))
    assert after - best < 0.1 * (before - best)
    references = [video for run in runs for video in run.generation.videos]
    with pabtune.broadcast(pipeline, found.policy("p", MadeFor())):
        videos = [video for run in runs for video in generate(pipeline, run.prompts, SETTINGS).videos]
    psnrs = [psnr_db(*pair) for pair in zip(videos, references, strict=True)]
    assert (found.psnr_db, found.tail_psnr_db) == pytest.approx((np.mean(psnrs), np.min(psnrs)))


def test_an_offset_is_the_best_that_could_be_tried(recorded) -> None:
    """A schedule of one gap and one factor, whose final error is searched through by brute force."""
    pipeline, runs, _ = recorded
    computed = (0, 1, *range(6, 12))
    factors = tuple(() if step in computed else (0.4 * (step - 1),) for step in range(12))
    start = Schedule(computed=computed, factors=factors, psnr_db=0.0, tail_psnr_db=0.0)
    found = refine(pipeline, runs[:1], SETTINGS, start)
    shifts = {round(new[0] - old[0], 9) for new, old in zip(found.factors, factors, strict=True) if old}
    assert len(shifts) == 1
    # as each video counts by the root of its error, which is that of the start
    weights = 1 / np.sqrt(errors_of(pipeline, runs[:1], start))

    def error(offset: float) -> float:
        return float(np.mean(weights * errors_of(pipeline, runs[:1], moved(start, offset))))

    tried = {offset: error(offset) for offset in np.arange(-1.2, 1.21, 0.1)}
    (shift,) = shifts
    assert abs(shift) > 0.1
    assert error(shift) <= 1.05 * min(tried.values())


def test_a_video_counts_by_the_root_of_its_error() -> None:
    """Of two that lack 1 and 10 everywhere the second weighs a tenth: neither the mean, 5.5, nor the logarithm's 1.1."""
    matrix, target = _weighed([torch.ones(2, 3, 4)], torch.tensor([1.0, 10.0]).view(2, 1, 1).expand(2, 3, 4))
    assert matrix.shape == (24, 1)
    assert matrix[:, 0] @ target / (matrix[:, 0] @ matrix[:, 0]) == pytest.approx(2 / 1.1)


@pytest.mark.slow
def test_nothing_is_made_worse(recorded) -> None:
    """Nor is anything changed where nothing is broadcast, or where runs show no numbers."""
    pipeline, runs, fitted = recorded
    once = refine(pipeline, runs, SETTINGS, fitted)
    assert once.closeness >= refine(pipeline, runs, SETTINGS, replace(fitted, psnr_db=0.0)).closeness - 1e-6
    again = refine(pipeline, runs, SETTINGS, once)
    assert again.closeness >= once.closeness
    every = Schedule(computed=tuple(range(12)), factors=((),) * 12, psnr_db=0.0, tail_psnr_db=0.0)
    whole = refine(pipeline, runs, SETTINGS, every)
    assert (whole.factors, whole.tail_psnr_db) == (every.factors, 100.0)
    broken = [replace(run, latents=[torch.full_like(each, torch.nan) for each in run.latents]) for run in runs]
    assert refine(pipeline, broken, SETTINGS, fitted).factors == fitted.factors


@pytest.mark.slow
def test_schedules_that_are_far_are_refined(monkeypatch) -> None:
    """Unless that was not asked for, or videos differ by rounding alone."""
    refined = []
    monkeypatch.setattr(module, "refine", lambda *arguments: refined.append(arguments[3]) or arguments[3])
    asked = {"batches": [PROMPTS[:2]], "settings": SETTINGS, "shares": (0.75, 0.5)}
    plain = find_schedules(make_pipeline(), **asked, is_refined=False)
    assert refined == []
    assert find_schedules(make_pipeline(), **asked) == plain
    assert refined[::REFINED] == plain  # of each number of steps the closest first
    limit = (plain[0].psnr_db + plain[1].psnr_db) / 2
    monkeypatch.setattr(module, "ROUNDING_DB", limit)
    refined.clear()
    find_schedules(make_pipeline(), **asked)
    assert refined[::REFINED] == plain[1:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", cases(("wan-2.2",), ["wan-2.2", "wan-2.1", "cogvideox-dpm", "ltx", "kandinsky-5"]))
def test_other_pipelines_are_refined_too(name) -> None:
    """Two transformers, multistep schedulers, packed latents, calls that return objects."""
    pipeline, settings = CASES[name].build(), replace(SETTINGS, arguments=arguments_of(name))
    pipeline.set_progress_bar_config(disable=True)
    target = Target.of(pipeline)
    runs = [record_trajectories(pipeline, target, PROMPTS[: 2 if CASES[name].takes_batches else 1], settings)]
    computed = sorted({0, 1, 2, 5, 8, 11, *runs[0].takeovers})
    fitted, _ = fit(pipeline, target, runs, settings, computed)
    wrong = moved(fitted, 0.5)
    found, same = refine(pipeline, runs, settings, wrong), refine(pipeline, runs, settings, fitted)
    assert found.factors != wrong.factors
    assert found.psnr_db >= same.psnr_db - 3
