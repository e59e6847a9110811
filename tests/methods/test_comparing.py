"""Comparing methods on the small pipeline."""

import importlib
import sys
from dataclasses import asdict, replace
from functools import partial

import pytest

from pabtune.methods import keeping
from pabtune.methods.comparing import CompareConfig, choose, compare
from pabtune.methods.fewer_steps import FewerSteps
from pabtune.methods.fora import FORA
from pabtune.methods.keeping import Calibrated, ComparisonFolder
from pabtune.methods.lemica import LeMiCa
from pabtune.methods.pab import PAB
from pabtune.methods.pabtune import Pabtune, PabtuneFront
from pabtune.methods.registry import METHODS
from pabtune.records.comparisons import CalibrationCost
from pabtune.records.errors import PolicyError
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.records.schedules import Schedule
from pabtune.runtime.pipeline_calls import PipelineCall, observe
from pabtune.tuning.generation import Settings
from tests.conftest import PROMPTS, make_pipeline
from tests.pipelines.cases import CASES, arguments_of

STEPS = 9
UNSEEN = [replace(prompt, seed=prompt.seed + 100) for prompt in PROMPTS]


class Calls:
    """Counts the calls of a pipeline, and ends them at a limit, as a kill does."""

    def __init__(self, limit: int | None = None) -> None:
        self.count, self.limit = 0, limit

    def begin_call(self, call: PipelineCall) -> None:
        self.count += 1
        if self.limit is not None and self.count > self.limit:
            raise KeyboardInterrupt

    def end_call(self, call: PipelineCall) -> None:
        pass


def config(folder, **values) -> CompareConfig:
    return CompareConfig(
        **{"steps": STEPS, "grids": {}, "batch_size": 4, "arguments": {}, "score": "shapes", "folder": folder} | values
    )


def evaluation(compute: float, psnr: float, time: float = 1.0) -> Evaluation:
    return Evaluation(
        policy="p", compute_fraction=compute, latency_s=2 * time, baseline_latency_s=2.0, psnr_db=(psnr, psnr),
        ssim=(1.0, 1.0), score_name="none", baseline_scores=(), scores=(), computed_calls={}, broadcast_calls={},
        most_stored_bytes=0,
    )  # fmt: skip


def chosen(evaluations: dict[float, Evaluation], *shares: float) -> list[tuple[float, float | None, str, float]]:
    return [(each.setting, each.share, each.share_of, each.psnr_db) for each in choose(evaluations, shares)]


def test_for_each_share_the_closest_setting_within_it_is_chosen() -> None:
    found = {
        1.0: evaluation(0.70, 50.0),
        2.0: evaluation(0.51, 30.0),
        3.0: evaluation(0.40, 35.0),
        4.0: evaluation(0.2, 20.0),
    }
    assert chosen(found, 0.63, 0.5, 0.33, 0.1) == [
        (3.0, 0.63, "compute", 35.0), (3.0, 0.5, "compute", 35.0), (4.0, 0.33, "compute", 20.0),
    ]  # fmt: skip
    assert chosen({1.0: found[1.0], 5.0: evaluation(0.8, 60.0)}, 0.63, 0.5) == [(1.0, None, "compute", 50.0)]


def test_settings_are_chosen_by_measured_time_too() -> None:
    """A setting that computes too much for a share may take less time than one that computes little."""
    found = {
        1.0: evaluation(0.6, 50.0, time=0.49),
        2.0: evaluation(0.4, 40.0, time=0.6),
        3.0: evaluation(0.3, 20.0, time=0.31),
    }
    assert chosen(found, 0.5, 0.3) == [
        (2.0, 0.5, "compute", 40.0), (3.0, 0.3, "compute", 20.0), (1.0, 0.5, "time", 50.0), (3.0, 0.3, "time", 20.0),
    ]  # fmt: skip
    assert chosen({1.0: found[1.0]}, 0.5) == [(1.0, None, "compute", 50.0), (1.0, 0.5, "time", 50.0)]


def test_methods_are_tuned_on_some_prompts_and_judged_on_others(tmp_path) -> None:
    notes = []
    found = compare(
        make_pipeline(), [FewerSteps(), FORA()], config(tmp_path, shares=(9.0, 0.63, 0.45), grids={"fewer-steps": (0.6, 0.4)}),
        PROMPTS[:2], UNSEEN[2:], model="small", progress=lambda *note: notes.append(note),
    )  # fmt: skip
    rows = {(each.method, each.share): each for each in found.settings if each.share_of == "compute"}
    assert set(rows) == {(method, share) for method in ("fewer-steps", "fora") for share in (9.0, 0.63, 0.45)}
    by_time = {(each.method, each.share) for each in found.settings if each.share_of == "time"}
    assert by_time >= {("fewer-steps", 9.0), ("fora", 9.0)}  # nothing takes longer, however busy the machine is
    assert [each.share_of for each in found.at_share(9.0)] == ["compute"] * 2
    row = rows["fewer-steps", 0.63]
    assert row.evaluation.compute_fraction == pytest.approx(5 / STEPS)
    assert len(row.evaluation.psnr_db) == 2
    assert row.calibration.videos == 2 * (5 + 4) / STEPS  # two settings on two prompts, by their share of the steps
    assert rows["fora", 0.45].evaluation.compute_fraction < 0.47
    assert found.unfit == {}
    assert (0, 2, ": fewer-steps, calibration") in notes
    document = found.to_document()
    assert document["prompts"] == document["calibration_prompts"] == 2
    assert document["environment"]["device"] == "cpu"
    assert {each["share_of"] for each in document["settings"]} == {"compute", "time"}
    assert 0 < document["settings"][0]["time_share"] < 2
    assert found.at_share(0.63)[0].evaluation.psnr_db >= found.at_share(0.63)[1].evaluation.psnr_db


def test_a_comparison_goes_on_where_a_killed_one_was(tmp_path) -> None:
    methods = [FewerSteps(), FORA()]
    pipeline, killed = make_pipeline(), Calls(limit=None)
    settings = config(tmp_path, shares=(0.5,))
    arguments = (settings, PROMPTS[:1], UNSEEN[:1])
    stop = observe(pipeline, killed)
    first = compare(pipeline, methods[:1], *arguments, model="small")
    killed.limit, whole = killed.count + 4, killed.count
    with pytest.raises(KeyboardInterrupt):
        compare(pipeline, methods, *arguments, model="small")
    assert killed.count == whole + 5  # nothing of the first method was made again
    stop()
    calls = Calls()
    stop = observe(pipeline, calls)
    found = compare(pipeline, methods, *arguments, model="small")
    again = compare(pipeline, methods, *arguments, model="small")
    stop()
    assert found == again
    assert found.settings[0] == first.settings[0]
    other = replace(settings, steps=STEPS + 1)
    before = calls.count
    stop = observe(pipeline, calls)
    compare(pipeline, methods[:1], other, PROMPTS[:1], UNSEEN[:1], model="small")
    stop()
    assert calls.count > before  # other steps are another comparison


@pytest.mark.slow
def test_other_weights_are_another_comparison(tmp_path) -> None:
    one, other = (
        compare(
            make_pipeline(seed), [FewerSteps()], config(tmp_path, shares=(0.5,)), PROMPTS[:1], UNSEEN[:1], model="small"
        )
        for seed in (0, 1)
    )
    assert one.settings[0].evaluation.psnr_db != other.settings[0].evaluation.psnr_db


@pytest.mark.filterwarnings("ignore")
def test_what_a_model_cannot_carry_is_said_and_the_others_run(tmp_path) -> None:
    """Before it runs where that is known, else when it is tried: this Wan's scheduler is not Euler's."""
    pipeline = CASES["wan-2.1"].build()
    pipeline.set_progress_bar_config(disable=True)
    settings = config(
        tmp_path, shares=(0.5,), score="none", arguments=arguments_of("wan-2.1"), batch_size=1,
        grids={"pab": (246,), "lemica": (0.5,)},
    )  # fmt: skip
    methods = [METHODS["best-spacing"], PAB(), LeMiCa()]
    found = compare(
        pipeline, methods, settings, [Prompt(prompt="a cat", seed=1)], [Prompt(prompt="a dog", seed=2)], model="wan"
    )
    assert set(found.unfit) == {"best-spacing"}
    assert "UniPCMultistepScheduler" in found.unfit["best-spacing"]
    assert {each.method for each in found.settings} == {"pab", "lemica"}
    assert all(each.evaluation.scores == () for each in found.settings)


def test_what_was_measured_with_another_device_or_kernel_is_not_taken(tmp_path, monkeypatch) -> None:
    """Times of one GPU stood in a comparison that named another."""
    folder = partial(ComparisonFolder, tmp_path, make_pipeline(), Settings(steps=STEPS), "shapes")
    cost = CalibrationCost(videos=1.0, seconds=1.0, bytes=0)
    folder().keep_calibration("teacache", [0.1], PROMPTS[:1], Calibrated(values=[1], cost=cost))
    assert folder().calibration("teacache", [0.1], PROMPTS[:1]).values == [1]
    for name in ("attention_in_use", "device_name"):
        with monkeypatch.context() as other:
            other.setattr(keeping, name, lambda *_: "other")
            assert folder().calibration("teacache", [0.1], PROMPTS[:1]) is None
    assert folder().calibration("teacache", [0.1], PROMPTS[:1]) is not None


def test_a_setting_without_a_policy_is_left_out_and_the_others_are_judged(tmp_path) -> None:
    """With few steps LeMiCa's gaps would be too long at a quarter of them, and the whole method was dropped."""
    pipeline = make_pipeline()
    settings = config(tmp_path, shares=(0.6,), grids={"lemica": (0.6, 0.12)})
    found = compare(pipeline, [LeMiCa()], settings, PROMPTS[:1], UNSEEN[:1], model="shapes")
    assert not found.unfit
    assert {each.setting for each in found.settings} == {0.6}
    none = config(tmp_path, shares=(0.6,), grids={"lemica": (0.12,)})
    assert set(compare(pipeline, [LeMiCa()], none, PROMPTS[:1], UNSEEN[:1], model="shapes").unfit) == {"lemica"}


def test_what_no_schedule_was_fitted_for_is_left_out() -> None:
    """With 16 steps the standard settings ask for 4 of them, fewer than a schedule has, and the whole comparison ended."""
    calibration = {"6": asdict(Schedule(computed=(0, 1, 2, 3, 5, 7), factors=((),) * 8, psnr_db=1.0, tail_psnr_db=1.0))}
    assert Pabtune().at(0.75, calibration, 8).rules[0].compute == (0, 1, 2, 3, 5, 7)
    with pytest.raises(PolicyError, match=r"no schedule with 4 of 8 steps was fitted \(fitted: 6\)"):
        Pabtune().at(0.5, calibration, 8)
    with pytest.raises(PolicyError, match="fitted: none"):
        Pabtune().at(0.5, {}, 8)


def test_what_a_score_said_before_it_was_changed_is_not_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for points in (1, 2):
        (tmp_path / "compared_scores.py").write_text(f"def points(video, prompt):\n    return {points}\n")
        sys.modules.pop("compared_scores", None)
        importlib.invalidate_caches()
        folder = ComparisonFolder(tmp_path, make_pipeline(), Settings(steps=STEPS), "compared_scores:points")
        assert folder.evaluation("fora", 2, None, PROMPTS[:1]) is None
        folder.keep_evaluation("fora", 2, None, PROMPTS[:1], evaluation(0.5, 40.0))
        assert folder.evaluation("fora", 2, None, PROMPTS[:1]) is not None


def test_a_front_whose_files_changed_is_another_one(tmp_path) -> None:
    """The checksums of the old files were taken from the folder, and with them the old figures."""
    found = []
    for steps in ((0, 2, 4, 6, 8), (0, 8)):
        front = PabtuneFront([Policy(name="one", rules=(Rule(kind="transformer", compute=steps),))])
        (row,) = compare(
            make_pipeline(), [front], config(tmp_path, shares=(0.9,)), PROMPTS[:1], UNSEEN[:1], model="small"
        ).at_share(0.9)
        found.append(row.evaluation.compute_fraction)
    assert found == [pytest.approx(5 / STEPS), pytest.approx(2 / STEPS)]
