"""Finding schedules of whole calls on the small pipeline."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from torch import nn

import pabtune
from pabtune.catalog import CATALOG
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.planning.surrogate import best_schedule
from pabtune.quality.fidelity import psnr_db
from pabtune.records.errors import ModelError
from pabtune.records.policies import MadeFor
from pabtune.records.schedules import Fitted, FittedSoFar, Schedule
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.schedules import FIRSTS, REFINED, FewVideos, WholeCalls, _bisect, find_schedules, fit, measure_gains
from pabtune.tuning.trajectories import record_trajectories, surrogate_of
from tests.conftest import PROMPTS, STEPS, make_pipeline
from tests.pipelines.cases import CASES, arguments_of, cases
from tests.tuning.conftest import SETTINGS


@pytest.mark.slow
def test_a_schedule_is_found_for_each_number_of_computed_steps() -> None:
    done = []
    schedules = find_schedules(
        make_pipeline(), [PROMPTS[:2]], Settings(steps=12, batch_size=2), shares=(0.75, 0.5),
        progress=lambda *each: done.append(each),
    )  # fmt: skip
    assert [len(each.computed) for each in schedules] == [9, 6]
    assert done == [(1, 2), (2, 2)]
    assert schedules[0].psnr_db > schedules[1].psnr_db


def test_gains_are_those_of_an_error_made_by_hand(runs) -> None:
    gains = measure_gains(make_pipeline(), runs[0], SETTINGS)
    assert all(len(each) == 2 for each in gains.values())
    assert all(0 < gain < 100 for each in gains.values() for gain in each)
    assert set(gains) <= set(range(1, STEPS - 1))


def test_few_steps_and_silent_pipelines_get_no_schedules() -> None:
    pipeline = make_pipeline()
    assert find_schedules(pipeline, [PROMPTS[:2]], SETTINGS) == []

    class Silent(type(pipeline)):
        def __call__(self, prompt, num_inference_steps=8, generator=None, output_type="np"):
            return super().__call__(prompt, num_inference_steps=num_inference_steps, generator=generator)

    pipeline.__class__ = Silent
    with pytest.raises(ModelError, match="callback_on_step_end"):
        find_schedules(pipeline, [PROMPTS[:2]], Settings(steps=12, batch_size=2))


def test_the_schedule_that_is_taken_is_the_closest_of_those_that_were_fitted() -> None:
    """Fault 27: one for each number of first steps."""
    pipeline, settings = make_pipeline(), Settings(steps=12, batch_size=2)
    target = Target.of(pipeline)
    (found,) = find_schedules(pipeline, [PROMPTS[:2]], settings, shares=(0.5,), is_refined=False)
    run = record_trajectories(pipeline, target, PROMPTS[:2], settings)
    surrogate = surrogate_of([run], [measure_gains(pipeline, run, settings)])
    computed = {best_schedule(surrogate, 6, first) for first in FIRSTS if first < 5}
    fitted = [fit(pipeline, target, [run], settings, each)[0] for each in computed]
    assert len(fitted) == 2
    assert found.closeness == max(each.closeness for each in fitted)


class Turned(WholeCalls):
    """Refines the closest schedule least."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Schedule] = []

    def refine(self, pipeline, runs, settings, schedule) -> Schedule:
        self.given.append(schedule)
        closer = 50.0 + len(self.given)
        return replace(schedule, psnr_db=closer, tail_psnr_db=closer)


def test_of_the_two_closest_the_one_that_is_closer_when_it_is_refined_is_taken() -> None:
    """Of two searches of one model each was closer at other numbers of steps, after refining what was closest before."""
    unit, settings = Turned(), Settings(steps=12, batch_size=2)
    (found,) = find_schedules(make_pipeline(), [PROMPTS[:2]], settings, shares=(0.5,), unit=unit)
    (plain,) = find_schedules(make_pipeline(), [PROMPTS[:2]], settings, shares=(0.5,), is_refined=False)
    assert len(unit.given) == REFINED
    assert unit.given[0].closeness == plain.closeness >= unit.given[1].closeness
    assert (found.computed, found.psnr_db) == (unit.given[1].computed, 52.0)


class OwnTransformer(STDiT3Transformer3DModel):
    """A class that no built-in card is of, and whose blocks are in no list that could be guessed."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.spatial_blocks = nn.Sequential(*self.spatial_blocks)
        self.temporal_blocks = nn.Sequential(*self.temporal_blocks)


def test_a_class_of_ones_own_gets_schedules_by_its_card() -> None:
    pipeline, settings = make_pipeline(), Settings(steps=12, batch_size=2)
    plain = find_schedules(pipeline, [PROMPTS[:2]], settings, shares=(0.5,), is_refined=False)
    own = OwnTransformer(**{key: value for key, value in pipeline.transformer.config.items() if key[0] != "_"}).eval()
    own.load_state_dict(pipeline.transformer.state_dict())
    pipeline.transformer = own
    with pytest.raises(ModelError, match="no sites are known for OwnTransformer"):
        find_schedules(pipeline, [PROMPTS[:2]], settings, shares=(0.5,), is_refined=False)
    card = replace(CATALOG.find("STDiT3Transformer3DModel"), transformer="OwnTransformer")
    catalog = CATALOG.with_card(card)
    assert find_schedules(pipeline, [PROMPTS[:2]], settings, shares=(0.5,), is_refined=False, catalog=catalog) == plain


REFUSED = {
    "chronoedit-reasoning", "helios", "hunyuan-1.5", "hunyuan-framepack", "open-sora-plan-1.1",
    "skyreels-v2-forcing-asynchronous", "skyreels-v2-forcing-long",
}  # fmt: skip
"""Small pipelines without schedules; `test_trajectories.py` has the reasons."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    cases(
        ("wan-2.1", "wan-2.2", "cogvideox-dpm", "kandinsky-5"),
        [name for name, case in CASES.items() if case.takes_prompt],
    ),
)
def test_every_pipeline_gets_schedules_or_says_why_not(name) -> None:
    """And a run under the policy is as close to the full run as the one that was fitted."""
    pipeline, settings = CASES[name].build(), Settings(steps=12, batch_size=2, arguments=arguments_of(name))
    pipeline.set_progress_bar_config(disable=True)
    if name == "allegro":
        pipeline.vae.enable_tiling()  # it decodes in no other way
    prompts = PROMPTS[: 2 if CASES[name].takes_batches else 1]
    if name in REFUSED:
        with pytest.raises(ModelError, match="schedules of whole calls cannot be fitted"):
            find_schedules(pipeline, [prompts], settings, shares=(0.5,))
        return
    (schedule,) = find_schedules(pipeline, [prompts], settings, shares=(0.5,), is_refined=False)
    assert len(schedule.computed) == 6
    references = generate(pipeline, prompts, settings).videos
    with pabtune.broadcast(pipeline, schedule.policy("p", MadeFor())) as active:
        videos = generate(pipeline, prompts, settings).videos
    steps = {record.step for record in active.records if record.computed is not None}
    assert steps == set(schedule.computed)
    psnrs = [psnr_db(video, reference) for video, reference in zip(videos, references, strict=True)]
    assert np.mean(psnrs) == pytest.approx(schedule.psnr_db, abs=0.5)


@pytest.mark.slow
def test_a_killed_fit_goes_on_with_the_next_number_of_steps(tmp_path) -> None:
    """Twenty minutes of fitting were lost to a kill in the twenty-first."""
    path, fitted = tmp_path / "s.part.json", list[int]()
    asked = {"batches": [PROMPTS[:2]], "settings": Settings(steps=12, batch_size=2), "shares": (0.75, 0.5)}
    whole = find_schedules(make_pipeline(), **asked, is_refined=False)

    def killed(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_schedules(make_pipeline(), **asked, is_refined=False, progress=killed, kept=FittedSoFar(path))

    class Noted(WholeCalls):
        def fit(self, *arguments):
            fitted.append(len(arguments[-1].computed))
            return super().fit(*arguments)

    again = find_schedules(make_pipeline(), **asked, is_refined=False, unit=Noted(), kept=FittedSoFar(path))
    assert (again, set(fitted)) == (whole, {6})
    fitted.clear()
    assert find_schedules(make_pipeline(), **asked, is_refined=False, unit=Noted(), kept=FittedSoFar(path)) == whole
    assert fitted == []


def test_a_killed_fit_of_few_videos_goes_on_with_what_it_lacked(tmp_path) -> None:
    """What was fitted is taken even where no more videos may be generated."""
    asked = {"batches": [PROMPTS[:2]], "settings": Settings(steps=12, batch_size=2), "shares": (0.75, 0.5)}
    lacking = {9: -inf, 6: 3.0}
    shortfalls: list[int] = []

    def shortfall(schedule: Schedule, generations: Sequence) -> float:
        shortfalls.append(len(schedule.computed))
        return lacking[len(schedule.computed)]

    def few(most: int) -> FewVideos:
        return FewVideos(
            probed=(0.4,), candidates=1, on_recorded=lambda runs: None, shortfall=shortfall,
            is_affordable=lambda: len(shortfalls) < most,
        )  # fmt: skip

    path = tmp_path / "s.part.json"
    whole = find_schedules(make_pipeline(), **asked, few=few(2), kept=FittedSoFar(path))
    assert ([len(each.computed) for each in whole], sorted(shortfalls)) == ([9, 6], [6, 9])
    assert find_schedules(make_pipeline(), **asked, few=few(0), kept=FittedSoFar(path)) == whole
    assert len(shortfalls) == 2


def schedule_of(count: int) -> Schedule:
    return Schedule(computed=tuple(range(count)), factors=(), psnr_db=0.0, tail_psnr_db=0.0)


def bisected(shortfalls: Mapping[int, float], predicted_db: Sequence[float], most: int = 99) -> list[int]:
    """The numbers of computed steps that are fitted, in their order, where a number lacks so much."""
    fitted: list[int] = []

    def fit_count(count: int) -> Fitted:
        fitted.append(count)
        return Fitted(schedule=schedule_of(count), shortfall_db=shortfalls[count])

    schedules = _bisect(list(shortfalls), fit_count, predicted_db, lambda count: len(fitted) < most, None)
    assert [len(each.computed) for each in schedules] == sorted(fitted, reverse=True)
    return fitted


def test_the_fewest_steps_that_lack_nothing_are_found_where_the_surrogate_says() -> None:
    """Counts 9 and above are good; a surrogate that is right by dB needs three fits, whatever level it starts from."""
    shortfalls = {count: 2.0 * (8.5 - count) for count in range(24, 3, -2)}
    right = [-shortfall + 30 for shortfall in shortfalls.values()]
    fitted = bisected(shortfalls, right)
    assert {10, 8} <= set(fitted)
    assert len(fitted) <= 3
    assert {10, 8} <= set(bisected(shortfalls, [0.0] * len(shortfalls)))


def test_without_a_floor_or_over_the_budget_the_middle_is_tried() -> None:
    shortfalls = {count: -inf if count > 10 else inf for count in range(24, 3, -1)}
    fitted = bisected(shortfalls, [0.0] * len(shortfalls))
    assert {11, 10} <= set(fitted)
    assert len(fitted) <= 5


def test_bisecting_ends_when_no_more_videos_may_be_generated() -> None:
    shortfalls = {count: 2.0 * (8.5 - count) for count in range(24, 3, -2)}
    assert len(bisected(shortfalls, [0.0] * len(shortfalls), most=2)) == 2
    assert bisected(shortfalls, [0.0] * len(shortfalls), most=0) == []
    assert bisected({24: 1.0}, [0.0]) == [24]
