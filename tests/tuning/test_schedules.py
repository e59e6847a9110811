"""Fitting schedules of whole calls on the small pipeline."""

import numpy as np
import pytest
import torch

import pabtune
from pabtune.planning.surrogate import best_schedule
from pabtune.records.errors import ModelError
from pabtune.records.prompts import Prompt
from pabtune.records.schedules import Schedule, load_schedules, save_schedules
from pabtune.runtime.targets import Target
from pabtune.tuning.fitting import fit_factors
from pabtune.tuning.front import judge_front
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.schedules import FIRSTS, find_schedules, fit, measure_gains
from pabtune.tuning.trajectories import record_trajectories, surrogate_of
from tests.conftest import PROMPT, PROMPTS, STEPS, make_pipeline

SETTINGS = Settings(steps=STEPS, batch_size=2)
COMPUTED = (0, 1, 2, 4, 7)


@pytest.fixture(scope="module")
def runs():
    pipeline = make_pipeline()
    target = Target.of(pipeline)
    return [record_trajectories(pipeline, target, PROMPTS[index : index + 2], SETTINGS) for index in (0, 2)]


def test_a_recording_finds_guidance_and_scheduler(runs) -> None:
    """Guidance 4 is 4 times the conditional branch less 3 times the other; Euler's steps keep all of the latents."""
    scheduler = make_pipeline().scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    steps = -np.diff(scheduler.sigmas.numpy())
    for run in runs:
        assert run.mixture == pytest.approx((4.0, -3.0), abs=1e-3)
        assert run.keeps == pytest.approx(np.ones(STEPS), abs=1e-4)
        assert run.rates[1:] == pytest.approx(steps[1:], rel=1e-3)
        assert len(run.latents) == len(run.outputs) == STEPS
    plain = generate(make_pipeline(), PROMPTS[:2], SETTINGS)
    assert all((a == b).all() for a, b in zip(runs[0].generation.videos, plain.videos, strict=True))


def test_branches_in_calls_of_their_own_are_mixed_alike(runs) -> None:
    pipeline = make_pipeline()
    settings = Settings(steps=STEPS, batch_size=2, arguments={"batched_guidance": False})
    run = record_trajectories(pipeline, Target.of(pipeline), PROMPTS[:2], settings)
    assert run.mixture == pytest.approx((4.0, -3.0), abs=1e-3)
    assert torch.allclose(run.outputs[3], runs[0].outputs[3], atol=1e-3)


def test_a_fitted_policy_does_in_production_what_it_did_while_it_was_fitted(runs) -> None:
    """One batch: the factors that the fit ended with are those that it used."""
    pipeline = make_pipeline()
    factors, ((generation, _),) = fit_factors(pipeline, Target.of(pipeline), runs[:1], SETTINGS, COMPUTED)
    assert [len(each) for each in factors] == [0, 0, 0, 2, 0, 2, 2, 0]
    schedule = fit(pipeline, Target.of(pipeline), runs[:1], SETTINGS, COMPUTED)
    assert schedule.factors == factors
    with pabtune.broadcast(pipeline, schedule.policy("p", pabtune.Policy(name="x").made_for)) as active:
        again = generate(pipeline, PROMPTS[:2], SETTINGS)
    assert active.summary()["computed_calls"]["transformer"] == len(COMPUTED)
    for ours, theirs in zip(again.videos, generation.videos, strict=True):
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_fitted_factors_are_closer_than_holding(runs) -> None:
    pipeline = make_pipeline()
    _, results = fit_factors(pipeline, Target.of(pipeline), runs, SETTINGS, COMPUTED)
    _, held = fit_factors(pipeline, Target.of(pipeline), runs, SETTINGS, COMPUTED, most=0)

    def error(outcome) -> float:
        return sum(
            float((latents - run.latents[-1]).square().mean()) for run, (_, latents) in zip(runs, outcome, strict=True)
        )

    assert error(results) < 0.7 * error(held)


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


def test_schedules_are_found_saved_and_judged_beside_fewer_steps(tmp_path) -> None:
    from pabtune.quality.budget import Budget
    from pabtune.tuning.request import SearchConfig

    pipeline, settings = make_pipeline(), Settings(steps=12, batch_size=2)
    done = []
    schedules = find_schedules(
        pipeline, [PROMPTS[:2]], settings, shares=(0.75, 0.5), progress=lambda *each: done.append(each)
    )
    assert [len(each.computed) for each in schedules] == [9, 6]
    assert done == [(1, 2), (2, 2)]
    assert schedules[0].psnr_db > schedules[1].psnr_db
    save_schedules(tmp_path / "schedules.json", schedules)
    assert load_schedules(tmp_path / "schedules.json") == schedules
    (tmp_path / "schedules.json").write_text("[{")
    assert load_schedules(tmp_path / "schedules.json") is None
    profile = pabtune.profile(pipeline, PROMPTS[:2], 12, name="twelve", batch_size=2)
    config = SearchConfig(
        budget=Budget.parse("shapes>=-50"), trials=1, floor=None, storage="", folder=tmp_path, name="f", arguments={},
        batch_size=2,
    )  # fmt: skip
    unseen = [Prompt(prompt=PROMPT, content="slow", seed=seed) for seed in (50, 51)]
    points = judge_front(pipeline, profile, schedules, unseen, config)
    assert [point.policy.name for point in points] == ["f-9of12", "f-6of12"]
    assert [point.fewer_steps.policy for point in points] == ["steps:9", "steps:6"]
    for point in points:
        assert point.evaluation.compute_fraction == pytest.approx(point.fewer_steps.compute_fraction, abs=1e-6)
        assert point.policy.evidence["fidelity"]["worst_psnr_db"] <= point.policy.evidence["fidelity"]["psnr_db"]
    ours, theirs = np.mean(points[0].evaluation.psnr_db), np.mean(points[0].fewer_steps.psnr_db)
    assert points[0].is_useful == bool(ours > theirs and ours > np.mean(points[1].evaluation.psnr_db))


def test_only_what_is_closer_than_fewer_steps_and_than_cheaper_policies_is_useful(tmp_path) -> None:
    """Fault 27: of two alike the one behind is not useful; one whose factors are wrong is not, whatever it computes."""
    from pabtune.quality.budget import Budget
    from pabtune.tuning.request import SearchConfig

    pipeline, settings = make_pipeline(), Settings(steps=12, batch_size=2)
    (good,) = find_schedules(pipeline, [PROMPTS[:2]], settings, shares=(0.75,))
    wrong = Schedule(
        computed=(0, 1, 11), factors=((), (), *((30.0,),) * 9, ()), psnr_db=0.0, worst_psnr_db=0.0
    )  # fmt: skip
    config = SearchConfig(
        budget=Budget.parse("shapes>=-50"), trials=1, floor=None, storage="", folder=tmp_path, name="f", arguments={},
        batch_size=2,
    )  # fmt: skip
    profile = pabtune.profile(pipeline, PROMPTS[:2], 12, name="twelve", batch_size=2)
    points = judge_front(pipeline, profile, [good, good, wrong], PROMPTS[:2], config)
    psnrs = [[np.mean(each.psnr_db) for each in (point.evaluation, point.fewer_steps)] for point in points]
    assert psnrs[0][0] == psnrs[1][0] > psnrs[1][1]
    assert psnrs[2][0] < psnrs[2][1]
    assert [point.is_useful for point in points] == [False, True, False]


def test_the_schedule_that_is_taken_is_the_closest_of_those_that_were_fitted() -> None:
    """Fault 27: one for each number of first steps."""
    pipeline, settings = make_pipeline(), Settings(steps=12, batch_size=2)
    target = Target.of(pipeline)
    (found,) = find_schedules(pipeline, [PROMPTS[:2]], settings, shares=(0.5,))
    run = record_trajectories(pipeline, target, PROMPTS[:2], settings)
    surrogate = surrogate_of([run], [measure_gains(pipeline, run, settings)])
    computed = {best_schedule(surrogate, 6, first) for first in FIRSTS if first < 5}
    fitted = [fit(pipeline, target, [run], settings, each) for each in computed]
    assert len(fitted) == 2
    assert found.psnr_db + found.worst_psnr_db == max(each.psnr_db + each.worst_psnr_db for each in fitted)
