"""Judging schedules beside runs of fewer steps."""

import numpy as np
import pytest

import pabtune
from pabtune.quality.budget import Budget
from pabtune.records.prompts import Prompt
from pabtune.records.schedules import Schedule
from pabtune.tuning.front import judge_front
from pabtune.tuning.generation import Settings
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.schedules import find_schedules
from tests.conftest import PROMPT, PROMPTS, make_pipeline

SETTINGS = Settings(steps=12, batch_size=2)


@pytest.fixture(scope="module")
def profile():
    return pabtune.profile(make_pipeline(), PROMPTS[:2], 12, name="twelve", batch_size=2)


def config(folder) -> SearchConfig:
    return SearchConfig(
        budget=Budget.parse("shapes>=-50"), trials=1, floor=None, storage="", folder=folder, name="f", arguments={},
        batch_size=2,
    )  # fmt: skip


def test_schedules_are_judged_beside_fewer_steps(profile, tmp_path) -> None:
    pipeline = make_pipeline()
    schedules = find_schedules(pipeline, [PROMPTS[:2]], SETTINGS, shares=(0.75, 0.5))
    unseen = [Prompt(prompt=PROMPT, content="slow", seed=seed) for seed in (50, 51)]
    points = judge_front(pipeline, profile, schedules, unseen, config(tmp_path))
    assert [point.policy.name for point in points] == ["f-9of12", "f-6of12"]
    assert [point.fewer_steps.policy for point in points] == ["steps:9", "steps:6"]
    for point in points:
        assert point.evaluation.compute_fraction == pytest.approx(point.fewer_steps.compute_fraction, abs=1e-6)
        assert point.policy.evidence["fidelity"]["worst_psnr_db"] <= point.policy.evidence["fidelity"]["psnr_db"]
    ours, theirs = np.mean(points[0].evaluation.psnr_db), np.mean(points[0].fewer_steps.psnr_db)
    assert points[0].is_useful == bool(ours > theirs and ours > np.mean(points[1].evaluation.psnr_db))


def test_only_what_is_closer_than_fewer_steps_and_than_cheaper_policies_is_useful(profile, tmp_path) -> None:
    """Fault 27: of two alike the one behind is not useful; one whose factors are wrong is not, whatever it computes."""
    pipeline = make_pipeline()
    (good,) = find_schedules(pipeline, [PROMPTS[:2]], SETTINGS, shares=(0.75,))
    wrong = Schedule(
        computed=(0, 1, 11), factors=((), (), *((30.0,),) * 9, ()), psnr_db=0.0, worst_psnr_db=0.0
    )  # fmt: skip
    points = judge_front(pipeline, profile, [good, good, wrong], PROMPTS[:2], config(tmp_path))
    psnrs = [[np.mean(each.psnr_db) for each in (point.evaluation, point.fewer_steps)] for point in points]
    assert psnrs[0][0] == psnrs[1][0] > psnrs[1][1]
    assert psnrs[2][0] < psnrs[2][1]
    assert [point.is_useful for point in points] == [False, True, False]
