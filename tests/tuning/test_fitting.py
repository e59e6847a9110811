"""Fitting the factors of a schedule while it runs on the small pipeline."""

import numpy as np

import pabtune
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from pabtune.tuning.fitting import fit_factors
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.schedules import fit
from pabtune.tuning.trajectories import LatentsWatch, record_trajectories
from tests.conftest import PROMPTS, make_pipeline
from tests.pipelines.cases import CASES, arguments_of
from tests.tuning.conftest import SETTINGS

COMPUTED = (0, 1, 2, 4, 7)


def test_a_fitted_policy_does_in_production_what_it_did_while_it_was_fitted(runs) -> None:
    """One batch: the factors that the fit ended with are those that it used."""
    pipeline = make_pipeline()
    factors, ((generation, _),) = fit_factors(pipeline, Target.of(pipeline), runs[:1], SETTINGS, COMPUTED)
    assert [len(each) for each in factors] == [0, 0, 0, 2, 0, 2, 2, 0]
    schedule, _ = fit(pipeline, Target.of(pipeline), runs[:1], SETTINGS, COMPUTED)
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


def test_factors_of_a_second_transformer_are_of_its_own_outputs() -> None:
    """The run of the fitted policy is the one that was fitted, though its rule says nothing of the change."""
    pipeline = CASES["wan-2.2"].build()
    pipeline.set_progress_bar_config(disable=True)
    target, settings = Target.of(pipeline), Settings(steps=12, arguments=arguments_of("wan-2.2"))
    run = record_trajectories(pipeline, target, PROMPTS[:2], settings)
    assert run.takeovers == {6}
    factors, ((_, fitted),) = fit_factors(pipeline, target, [run], settings, (0, 1, 2, 6, 9, 11))
    assert [len(each) for each in factors] == [0, 0, 0, 2, 2, 2, 0, 0, 0, 0, 1, 0]
    rule = Rule(kind="transformer", compute=(0, 1, 2, 6, 9, 11), payload="scaled", factors=factors)
    watch = LatentsWatch()
    with pabtune.broadcast(pipeline, Policy(name="p", rules=(rule,))) as active:
        generate(pipeline, run.prompts, watch.settings(settings))
    assert active.summary()["computed_calls"]["transformer"] == 2 * 6
    assert (watch.after[-1] - fitted).abs().max() < 1e-5
