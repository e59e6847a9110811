"""Judging schedules beside runs of fewer steps."""

from dataclasses import replace

import numpy as np
import pytest

import pabtune
from pabtune.quality.budget import Budget
from pabtune.quality.verdict import ERROR
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.schedules import Schedule
from pabtune.records.splits import Split, in_chance_order
from pabtune.runtime import flops
from pabtune.tuning import evaluate as evaluating
from pabtune.tuning import front as module
from pabtune.tuning.front import judge_front
from pabtune.tuning.generation import Settings
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.schedules import find_schedules
from tests.conftest import PROMPT, PROMPTS, make_pipeline
from tests.tuning.test_confirm import evaluation

OTHERS = tuple(Prompt(prompt=f"{PROMPT} {index}", content="slow", seed=50 + index) for index in range(5))
SPLIT = Split(tune=tuple(PROMPTS[:2]), validate=OTHERS[:2], test=OTHERS[2:])
SETTINGS = Settings(steps=12, batch_size=2)


@pytest.fixture(scope="module")
def profile():
    return pabtune.profile(make_pipeline(), PROMPTS[:2], 12, name="twelve", batch_size=2)


def config(folder) -> SearchConfig:
    return SearchConfig(
        budget=Budget.parse("shapes>=-50"), trials=1, floor=None, storage="", folder=folder, name="f", arguments={},
        batch_size=2,
    )  # fmt: skip


@pytest.mark.slow
def test_schedules_are_judged_beside_fewer_steps(profile, tmp_path) -> None:
    pipeline = make_pipeline()
    schedules = find_schedules(pipeline, [PROMPTS[:2]], SETTINGS, shares=(0.75, 0.5), is_refined=False)
    points = judge_front(pipeline, profile, schedules, SPLIT, config(tmp_path), ERROR)
    assert [point.policy.name for point in points] == ["f-9of12", "f-6of12"]
    assert [point.fewer_steps.policy for point in points] == ["steps:9", "steps:6"]
    for point in points:
        assert point.compared.compute_fraction == pytest.approx(point.fewer_steps.compute_fraction, abs=1e-6)
        assert point.policy.evidence["fidelity"]["worst_psnr_db"] <= point.policy.evidence["fidelity"]["psnr_db"]
        assert (len(point.compared.psnr_db), len(point.evaluation.psnr_db)) == (2, 3)
        assert point.policy.evidence["verdict"] == "undecided"  # three prompts
    ours, theirs = np.mean(points[0].compared.psnr_db), np.mean(points[0].fewer_steps.psnr_db)
    assert points[0].is_useful == bool(ours > theirs and ours > np.mean(points[1].compared.psnr_db))


def test_only_what_is_closer_than_fewer_steps_and_than_cheaper_policies_is_useful(
    profile, tmp_path, monkeypatch
) -> None:
    """Fault 27: of two alike the one behind is not useful; one whose factors are wrong is not, whatever it computes.

    FLOPs are counted once for each number of steps, which takes a video: both evaluations counted all of them.
    """
    pipeline, counted = make_pipeline(), []

    def count_flops(target, run):
        counted.append(run)
        return flops.count_flops(target, run)

    monkeypatch.setattr(evaluating, "count_flops", count_flops)
    (good,) = find_schedules(pipeline, [PROMPTS[:2]], SETTINGS, shares=(0.75,), is_refined=False)
    wrong = Schedule(
        computed=(0, 1, 11), factors=((), (), *((30.0,),) * 9, ()), psnr_db=0.0, tail_psnr_db=0.0
    )  # fmt: skip
    points = judge_front(pipeline, profile, [good, good, wrong], SPLIT, config(tmp_path), ERROR)
    psnrs = [[np.mean(each.psnr_db) for each in (point.compared, point.fewer_steps)] for point in points]
    assert psnrs[0][0] == psnrs[1][0] > psnrs[1][1]
    assert psnrs[2][0] < psnrs[2][1]
    assert [point.is_useful for point in points] == [False, True, False]
    assert sorted(run.args[2].steps for run in counted) == [3, 9, 12]


@pytest.mark.slow
def test_verdicts_of_a_front_are_in_a_fixed_order(profile, tmp_path) -> None:
    """After the first that is no accept none is one, and none at all where the search's winner was not accepted."""
    pipeline = make_pipeline()
    good = Schedule(computed=tuple(range(11)), factors=((),) * 12, psnr_db=0.0, tail_psnr_db=0.0)
    wrong = Schedule(computed=(0, 1, 11), factors=((), (), *((30.0,),) * 9, ()), psnr_db=0.0, tail_psnr_db=0.0)
    fewer = Schedule(computed=tuple(range(10)), factors=((),) * 12, psnr_db=0.0, tail_psnr_db=0.0)
    many = tuple(Prompt(prompt=f"{PROMPT} {index}", content="slow", seed=index) for index in range(44))
    request = replace(config(tmp_path), budget=Budget.parse("tests.tuning.test_front:closeness>=-40"), batch_size=8)
    split = replace(SPLIT, test=many)

    def verdicts(schedules, error):
        points = judge_front(pipeline, profile, schedules, split, request, error)
        return [point.policy.evidence["verdict"] for point in points], [len(each.evaluation.psnr_db) for each in points]

    assert verdicts([good, wrong, fewer], ERROR) == (["accept", "reject", "undecided"], [40, 8, 8])
    assert verdicts([good], 0.0)[0] == ["undecided"]
    # not on the first prompts of a file, which may be of one theme
    (point,) = judge_front(pipeline, profile, [good], split, request, 0.0)
    assert (
        set(point.evaluation.prompts)
        == {each.prompt for each in in_chance_order(many)[:2]}
        != {each.prompt for each in many[:2]}
    )


def closeness(video, prompt) -> float:
    """A score that a video of much noise fails."""
    return 100.0 if video.std() < 102 else 0.0


def test_a_video_beyond_the_largest_loss_rejects_its_policy_and_loses_no_other(monkeypatch, tmp_path) -> None:
    """All policies of the front were lost in an error."""
    good = replace(evaluation([0.0] * 400, 41.0), policy="a")
    bad = replace(evaluation([0.0] * 10 + [25.0], 41.0), policy="b")
    done = []

    def evaluate_unseen(*_, is_done):
        done.extend(is_done(each) for each in (good, bad))
        return [good, bad]

    monkeypatch.setattr(module, "evaluate_unseen", evaluate_unseen)
    known = replace(config(tmp_path), budget=replace(Budget.parse("shapes>=-5"), known_loss=20.0))
    judged = module._judged(None, [Policy(name="a"), Policy(name="b")], [], None, known, 0.04, None)
    assert (done, [judgement.verdict for judgement, _ in judged]) == ([True, True], ["accept", "reject"])
