from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pabtune.planning.presets import PRESETS
from pabtune.quality.budget import Budget
from pabtune.quality.floors import Floor
from pabtune.quality.scores import VideoScore
from pabtune.quality.verdict import judge, look_error
from pabtune.records.evaluations import Evaluation, Measured
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.records.splits import Split, in_chance_order
from pabtune.records.trials import Candidate, Measurement, Outcome
from pabtune.runtime.engine import broadcast
from pabtune.tuning import confirm as module
from pabtune.tuning import judging
from pabtune.tuning.confirm import FINALISTS, STANDINGS, assess, choose_finalists, claim_of, confirm
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.judging import judgement_of
from pabtune.tuning.videos import VideoMeter
from tests.conftest import PROMPTS, make_pipeline
from tests.tuning.test_request import config

RULE = Rule(kind="mlp", range=2, window=(2, 6))
BUDGET = Budget(score="shapes", largest_drop=1.0)


def candidate(number: int, predicted_time: float, under_floor_db: float, **changes) -> Candidate:
    measured = Measurement(
        prompts=4, seconds=1.0, psnr_db=40.0 - under_floor_db, drop=0.0, drop_upper=0.5,
        over_budget=changes.pop("over_budget", -0.5), under_floor_db=under_floor_db,
    )  # fmt: skip
    outcome = Outcome(
        status="complete", predicted_time=predicted_time, compute_fraction=predicted_time, measured=measured
    )
    policy = Policy(name=str(number), rules=(RULE,))
    return Candidate(number=number, origin="sampler", policy=policy, parameters={}, outcome=replace(outcome, **changes))


def evaluation(drops: list[float], psnr_db: float) -> Evaluation:
    count = len(drops)
    return Evaluation(
        policy="p", compute_fraction=0.5, latency_s=1.0, baseline_latency_s=2.0, psnr_db=(psnr_db,) * count,
        ssim=(0.9,) * count, score_name="shapes", baseline_scores=(90.0,) * count,
        scores=tuple(90.0 - drop for drop in drops), computed_calls={}, broadcast_calls={}, most_stored_bytes=0,
    )  # fmt: skip


def test_finalists_are_the_front_of_time_and_margin_the_fastest_first() -> None:
    fast, dominated, safe = candidate(1, 0.5, -0.1), candidate(2, 0.6, 0.0), candidate(3, 0.7, -2.0)
    assert [each.number for each in choose_finalists([safe, dominated, fast])] == [1, 3]


def test_a_candidate_given_up_for_a_faster_one_may_be_a_finalist() -> None:
    fast, safe = candidate(1, 0.5, -0.1), candidate(2, 0.7, -2.0, status="stopped early")
    assert [each.number for each in choose_finalists([fast, safe])] == [1, 2]


def test_nothing_that_broadcasts_nothing_or_breaks_a_limit_is_a_finalist() -> None:
    idle = replace(candidate(1, 1.0, -60.0), policy=Policy(name="none"))
    far, costly = candidate(2, 0.3, 3.0), candidate(3, 0.4, -1.0, over_budget=0.2)
    assert choose_finalists([idle, far, costly]) == []


def test_there_are_at_most_so_many_finalists() -> None:
    every = [candidate(number, 0.2 + 0.05 * number, -float(number)) for number in range(13)]
    assert [each.number for each in choose_finalists(every, most=4)] == [0, 1, 5, 12]
    assert [each.number for each in choose_finalists(every[:5], most=4)] == [0, 1, 2, 4]
    assert [each.number for each in choose_finalists(every, most=2)] == [0, 12]
    assert [each.number for each in choose_finalists(every, most=1)] == [0]
    for count in range(2, 14):
        found = [each.number for each in choose_finalists(every, most=count)]
        assert (found, found[0], found[-1], len(set(found))) == (sorted(found), 0, 12, count)
    assert len(choose_finalists(every)) == FINALISTS


def test_the_preset_of_the_floor_takes_the_place_of_what_is_slower() -> None:
    """Else a search whose fast finalists fail on unseen prompts returns a policy slower than the preset it started from."""
    preset = replace(candidate(1, 0.7, 0.0), origin="preset pab246")
    fast, slow = candidate(2, 0.5, -0.1), candidate(3, 0.9, -9.0)
    assert [each.number for each in choose_finalists([preset, fast, slow], "pab246")] == [2, 1]
    assert [each.number for each in choose_finalists([preset, fast, slow])] == [2, 3]
    many = [candidate(number, 0.1 * number, -float(number)) for number in range(2, 7)]
    assert [each.number for each in choose_finalists([preset, *many], "pab246")] == [2, 3, 4, 6, 1]
    assert len(choose_finalists([preset, *many], "pab246")) == FINALISTS


def test_without_a_floor_the_margin_on_the_budget_stands_behind_the_fastest() -> None:
    """Fault 9: without a floor there was one finalist, so that nothing was left when it failed on unseen prompts."""

    def unbounded(number: int, time: float, over_budget: float) -> Candidate:
        found = candidate(number, time, 0.0, over_budget=over_budget)
        return replace(
            found, outcome=replace(found.outcome, measured=replace(found.outcome.measured, under_floor_db=None))
        )

    fast, dominated, safe = unbounded(1, 0.5, -0.1), unbounded(2, 0.6, -0.1), unbounded(3, 0.7, -0.8)
    assert [each.number for each in choose_finalists([safe, dominated, fast])] == [1, 3]
    every = [unbounded(number, 0.3 + 0.1 * number, -0.1 * number) for number in range(6)]
    assert [each.number for each in choose_finalists(every)] == [0, 1, 2, 3, 5]


NOISE = [-0.9, 0.9] * 18
FLOOR = Floor(preset="pab246")


@pytest.mark.parametrize(
    ("drops", "psnr_db", "expected"),
    [
        ([0.0] * 36, 41.0, "holds"),
        ([0.5 + noise for noise in NOISE], 41.0, "loses more than the floor"),
        ([1.1 + 3 * noise for noise in NOISE], 41.0, "over the budget"),
        ([0.0] * 36, 39.0, "rejected"),
        ([5.0] * 36, 41.0, "rejected"),
        ([0.0] * 4, 39.0, "holds"),
    ],
)
def test_a_finalist_stands_against_the_budget_and_the_floor(drops, psnr_db, expected) -> None:
    """Few prompts reject nothing for its closeness."""
    of_preset = evaluation([0.0] * len(drops), 40.0)
    assert assess(evaluation(drops, psnr_db), FLOOR, of_preset, BUDGET) == expected
    plain = assess(evaluation(drops, psnr_db), Floor.parse("psnr>=40"), None, BUDGET)
    assert plain == ("holds" if expected == "loses more than the floor" else expected)
    assert assess(evaluation([0.0] * 36, 39.0), Floor(), None, BUDGET) == "holds"


@pytest.mark.parametrize("gained", [0.0, 0.2])
def test_nothing_is_worse_for_a_floor_that_happens_to_score_higher(gained) -> None:
    """A search took 21 of 30 steps for 10: nearly the unaccelerated videos lost 0.2 points to a floor that gains as much."""
    same, of_preset = (
        [0.01 * noise - gained / 10 for noise in NOISE],
        evaluation([noise - 0.5 for noise in NOISE], 40.0),
    )
    assert assess(evaluation(same, 50.0), FLOOR, of_preset, BUDGET) == "holds"
    lost = [0.1 + each for each in same]
    assert assess(evaluation(lost, 50.0), FLOOR, of_preset, BUDGET) == "loses more than the floor"


@pytest.mark.parametrize(
    ("floor", "is_rejected"),
    [("temporal<=2", False), ("temporal<=1.9", True), ("worst-temporal<=2.5", True), ("ssim>=0.91", True)],
)
def test_a_finalist_is_held_to_a_floor_on_any_measure(floor, is_rejected) -> None:
    measured = Measured(values=(1.0, 3.0) * 18, is_higher_better=False)
    found = replace(evaluation([0.0] * 36, 41.0), measures={"temporal_error": measured})
    assert (assess(found, Floor.parse(floor), None, BUDGET) == "rejected") == is_rejected


def test_noise_does_not_make_a_slower_finalist_win() -> None:
    """Standings are equal where nothing is shown; among equals the first, which is the fastest, is judged."""
    other = evaluation([0.0] * 36, 40.0)
    for mean in (0.1, -0.1):
        assert assess(evaluation([mean + noise for noise in NOISE], 41.0), FLOOR, other, BUDGET) == "holds"
    assert STANDINGS == ("holds", "loses more than the floor", "over the budget", "rejected")


def named(name: str, policy: Policy, time: float, under_floor_db: float, **changes) -> Candidate:
    return replace(candidate(0, time, under_floor_db, **changes), policy=replace(policy, name=name))


RECKLESS = Policy(name="reckless", rules=tuple(Rule(kind=kind, range=9, window=(1, 8)) for kind in ("spatial", "mlp")))
UNSEEN = tuple(Prompt(prompt=f"a {color} {shape} {motion}", seed=9, content="slow")
               for color in ("red", "blue", "green") for shape in ("square", "cross", "circle")
               for motion in ("moves left", "moves right"))  # fmt: skip
SPLIT = Split(tune=tuple(PROMPTS), validate=UNSEEN[:9], test=UNSEEN[9:])


def test_the_finalist_that_holds_where_they_are_compared_is_judged(profile, pipeline, tmp_path) -> None:
    """Fault 27: the fastest looked good on the search's prompts, but is further from the reference than the floor on these."""
    preset = replace(named("preset", PRESETS["pab246"], 0.8, 0.0), origin="preset pab246", number=7)
    fast = named("fast", RECKLESS, 0.3, -0.1)
    request = config(tmp_path, floor=Floor(preset="pab246"))
    confirmation = confirm(pipeline, profile, [fast, preset], SPLIT, request, "study", lambda unseen, claim: 3)
    assert confirmation.verdict == "undecided"  # nine prompts are too few
    assert (confirmation.best.evidence["finalists"], confirmation.best.evidence["looks"]) == (2, 3)
    assert confirmation.judgement.error == look_error(3)
    assert confirmation.best.rules == PRESETS["pab246"].rules
    assert confirmation.best.provenance["trial"] == 7
    assert [each.policy for each in confirmation.evaluations] == ["preset", "pab246", "steps:6"]
    stood = [(each.evaluation.policy, each.standing) for each in confirmation.finalists]
    assert stood == [("fast", "rejected"), ("preset", "holds")]
    texts = [{prompt.prompt for prompt in part} for part in (SPLIT.validate, SPLIT.test)]
    assert [set(each.prompts) for each in (confirmation.evaluations[0], confirmation.judged)] == texts


def test_the_faster_of_two_that_hold_is_judged(profile, pipeline, tmp_path) -> None:
    """Fault 27: the last finalist, which is always the preset of the floor, passed as the one that is confirmed."""
    preset = replace(named("preset", PRESETS["pab579"], 0.8, 0.0), origin="preset pab579", number=7)
    careful = named("careful", Policy(name="careful", rules=(Rule(kind="mlp", range=2, window=(6, 8)),)), 0.3, -0.1)
    request = config(tmp_path, floor=Floor(preset="pab579"))
    confirmation = confirm(pipeline, profile, [careful, preset], SPLIT, request, "study")
    assert confirmation.verdict == "undecided"
    assert confirmation.best.rules == careful.policy.rules


def test_what_is_rejected_is_not_the_best(profile, pipeline, tmp_path) -> None:
    """Fault 8: it was returned as `.best`."""
    fast = named("fast", RECKLESS, 0.3, -0.1)
    request = config(tmp_path, floor=Floor(preset="pab246"))
    confirmation = confirm(pipeline, profile, [fast], SPLIT, request, "study")
    assert (confirmation.best, confirmation.verdict, confirmation.judged) == (None, "reject", None)
    assert [each.policy for each in confirmation.evaluations] == ["fast", "pab246", "steps:2"]
    assert [each.standing for each in confirmation.finalists] == ["rejected"]
    assert confirm(pipeline, profile, [], SPLIT, config(tmp_path), "study").verdict is None


def falling(video, prompt: str) -> float:
    """A score that a reckless policy loses where it is judged, not where finalists are compared."""
    is_judged = any(prompt == each.prompt for each in SPLIT.test)
    return 50.0 if is_judged and video.std() in FALLEN else 100.0


FALLEN: set[float] = set()


@pytest.mark.slow
def test_a_finalist_that_is_rejected_gives_way_to_the_next_which_pays_for_the_second_look(
    profile, pipeline, tmp_path
) -> None:
    fast, careful = (
        named(name, RECKLESS, time, margin) for name, time, margin in (("fast", 0.3, -0.1), ("careful", 0.8, -9.0))
    )
    careful = replace(careful, policy=Policy(name="careful", rules=(Rule(kind="mlp", range=2, window=(6, 8)),)))
    FALLEN.clear()
    for prompt in SPLIT.test:
        settings = Settings(steps=profile.steps, batch_size=1)
        with broadcast(pipeline, fast.policy, any_steps=True):
            FALLEN.add(float(generate(pipeline, [prompt], settings).videos[0].std()))
    request = config(tmp_path, floor=None, budget=Budget.parse("tests.tuning.test_confirm:falling>=-1"), batch_size=1)
    looks = iter((1, 2))
    confirmation = confirm(
        pipeline, profile, [fast, careful], SPLIT, request, "study", lambda unseen, claim: next(looks)
    )
    assert confirmation.judged.policy == "careful"
    assert confirmation.judgement.error == look_error(2)
    assert confirmation.best.evidence["looks"] == 2


@pytest.mark.slow
def test_where_the_last_videos_reject_a_finalist_no_other_one_is_judged(
    profile, pipeline, tmp_path, monkeypatch
) -> None:
    """The search ended with an error that asked for more videos, and without what it had found."""
    fast, careful = (
        named(name, RECKLESS, time, margin) for name, time, margin in (("fast", 0.3, -0.1), ("careful", 0.8, -9.0))
    )
    judged, looked = [], []

    def count_look(unseen, claim) -> int:
        looked.append(unseen)
        return len(looked)

    def judge_policy(pipeline, policy, unseen, profile, config, error, meter):
        judged.append((policy.name, len(unseen)))
        assert unseen == looked[-1] == in_chance_order(SPLIT.test)[: len(unseen)]
        meter.add(2 * len(unseen), profile.steps)
        found = evaluation([80.0] * 36, 30.0)
        return judgement_of(found, config.budget, error), found

    monkeypatch.setattr(module, "judge_policy", judge_policy)
    request = config(tmp_path, floor=None, batch_size=1)
    meter = VideoMeter(steps=profile.steps, limit=10_000)
    asked = (pipeline, profile, [fast, careful], SPLIT, request, "study", count_look)
    assert confirm(*asked, meter=meter).verdict == "reject"
    assert [name for name, _ in judged] == ["fast", "careful"]
    spent = meter.generated - sum(2 * count for _, count in judged)
    judged.clear()
    meter = VideoMeter(steps=profile.steps, limit=int(spent) + 8)
    confirmation = confirm(*asked, meter=meter)
    assert (confirmation.verdict, [name for name, _ in judged]) == ("reject", ["fast"])
    assert 1 <= judged[0][1] <= 4
    assert in_chance_order(SPLIT.test)[:4] != list(SPLIT.test[:4])


def test_the_evidence_of_a_policy_is_what_was_measured_of_it(profile, pipeline, tmp_path) -> None:
    """Fault 27: gains and costs in the file are those of the evaluation."""
    request = config(
        tmp_path, floor=None, budget=Budget(score="tests.tuning.test_candidates:scored", largest_drop=60.0)
    )
    confirmation = confirm(pipeline, profile, [named("fast", RECKLESS, 0.3, 0.0)], SPLIT, request, "study")
    evidence, measured = confirmation.best.evidence, confirmation.judged
    judgement = judge(measured.drops, request.budget, error=look_error(1))
    assert abs(judgement.mean) > 1
    assert evidence["score_drop"]["mean"] == pytest.approx(judgement.mean, abs=1e-4)
    assert evidence["score_drop"]["ci95"] == pytest.approx(judgement.interval, abs=1e-4)
    assert evidence["speedup"]["measured"] == pytest.approx(measured.baseline_latency_s / measured.latency_s, abs=1e-4)
    assert evidence["fidelity"]["psnr_db"] == pytest.approx(np.mean(measured.psnr_db), abs=1e-4)
    assert evidence["fidelity"]["ssim"] == pytest.approx(np.mean(measured.ssim), abs=1e-4)
    assert evidence["compute_fraction"] == pytest.approx(measured.compute_fraction, abs=1e-4)
    assert (evidence["budget"], evidence["verdict"]) == (str(request.budget), confirmation.verdict)
    assert evidence["prompts"] == len(SPLIT.test)
    assert evidence["prompts_needed"] == judgement.needed > 9  # fault 9: how many an accept needs


def test_a_video_beyond_the_largest_loss_rejects_a_finalist_and_ends_no_search() -> None:
    """One bad video of any finalist ended the search in an error after all its trials, again and again."""
    drops = [0.1] * 23 + [25.0]
    known = replace(Budget.parse("shapes>=-5"), known_loss=20.0)
    assert assess(evaluation(drops, 41.0), Floor(), None, known) == "rejected"
    assert assess(evaluation(drops, 41.0), Floor(), None, replace(known, known_loss=None)) == "holds"


def test_without_a_video_for_a_verdict_the_finalist_is_undecided(profile, pipeline, tmp_path) -> None:
    """A search that was killed in its verdict had spent its videos, and ended in an error for ever."""
    fast = named("fast", RECKLESS, 0.3, -0.1)
    request, counted = config(tmp_path, floor=None, batch_size=1), []
    meter = VideoMeter(steps=profile.steps, limit=10_000)
    monkey = replace(SPLIT, test=SPLIT.test[:1])
    confirm(pipeline, profile, [fast], monkey, request, "study", meter=meter)
    meter = VideoMeter(steps=profile.steps, limit=int(meter.generated) - 2)
    confirmation = confirm(
        pipeline, profile, [fast], monkey, request, "study", lambda *look: counted.append(look), meter=meter
    )
    assert (confirmation.verdict, confirmation.judged, counted) == ("undecided", None, [])
    assert confirmation.best.rules == fast.policy.rules
    assert confirmation.best.evidence["verdict"] == "undecided"
    assert {"prompts", "compared_on"} <= set(confirmation.best.provenance)  # which `evaluate` leaves out


def test_a_claim_is_what_a_policy_does_and_is_to_hold(profile, pipeline, tmp_path) -> None:
    first, request = named("fast", RECKLESS, 0.3, -0.1).policy, config(tmp_path, floor=None)
    claim = claim_of(first, pipeline, profile, request)
    assert claim == claim_of(replace(first, name="other", provenance={"trial": 3}), pipeline, profile, request)
    others = [
        claim_of(replace(first, rules=first.rules[:1]), pipeline, profile, request)
        if len(first.rules) > 1
        else claim_of(replace(first, store="int8"), pipeline, profile, request),
        claim_of(first, pipeline, profile, replace(request, budget=Budget.parse("shapes>=-2"))),
        claim_of(first, pipeline, profile, replace(request, floor=Floor.parse("worst-psnr>=30"))),
        claim_of(first, pipeline, profile, replace(request, arguments={"guidance_scale": 2.0})),
    ]
    others.append(claim_of(first, pipeline, profile, replace(request, batch_size=2)))
    mended = VideoScore("mine", lambda video, prompt: 1.0, version="another")
    others.append(claim_of(first, pipeline, profile, replace(request, score=mended)))
    fine_tuned = make_pipeline()
    with torch.no_grad():
        next(fine_tuned.transformer.parameters()).add_(1.0)
    others.append(claim_of(first, fine_tuned, profile, request))
    rescheduled = make_pipeline()
    rescheduled.scheduler = type(rescheduled.scheduler)(shift=7.0)
    others.append(claim_of(first, rescheduled, profile, request))
    assert len({claim, *others}) == 9


def test_a_video_beyond_the_largest_loss_rejects_the_judged_policy_and_ends_no_search(monkeypatch) -> None:
    """Among the prompts to test with one such video lost all that a search had found, with an error."""
    found, asked = evaluation([0.0] * 30 + [25.0], 41.0), []

    def evaluate_unseen(*_, is_done, **__):
        asked.append(is_done(found))
        return [found]

    monkeypatch.setattr(judging, "evaluate_unseen", evaluate_unseen)
    request = SimpleNamespace(budget=replace(BUDGET, known_loss=20.0), floor=None)
    judgement, judged = judging.judge_policy(None, Policy(name="p"), [], None, request, 0.04)
    assert (judgement.verdict, judged, asked) == ("reject", found, [True])
