from dataclasses import replace
from pathlib import Path

import pytest

from pabtune.planning.presets import PRESETS
from pabtune.quality.budget import Budget
from pabtune.quality.verdict import least_prompts
from pabtune.records.policies import Policy
from pabtune.records.prompts import load_prompts
from pabtune.records.splits import split_of
from tests.cli.conftest import write_prompts


def test_evaluate_prints_the_promised_document(pabtune, tmp_path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 6, 5)
    words = ("evaluate", "shapes", "--policy", "none", "--policy", "pab246", "--prompts", prompts, "--steps", "8")
    none, paper = pabtune(*words, "--json").document()["policies"]
    assert set(none) >= {
        "policy", "compute_fraction", "latency_s", "speedup", "fidelity", "score", "computed_calls",
    }  # fmt: skip
    assert (none["policy"], paper["policy"]) == ("none", "pab246")
    assert none["compute_fraction"] == 1.0 > paper["compute_fraction"]
    assert none["fidelity"] == {"psnr_db": 100.0, "worst_psnr_db": 100.0, "ssim": pytest.approx(1.0)}
    assert none["score"]["drop"] == 0.0
    assert set(paper["score"]) == {"name", "baseline", "policy", "drop"}


def test_evaluate_draws_a_table(pabtune, tmp_path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2, 5)
    done = pabtune("evaluate", "shapes", "--policy", "pab246", "--prompts", prompts, "--steps", "3", "--any-steps")
    assert done.returncode == 0
    assert not done.stdout
    assert "pab246" in done.stderr
    assert "PSNR dB" in done.stderr
    assert "2 prompts, against" in done.stderr


def test_further_measures_are_told_with_what_was_done_to_the_frames(pabtune, tmp_path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2, 5)
    words = (
        "evaluate",
        "shapes",
        "--policy",
        "pab246",
        "--prompts",
        prompts,
        "--steps",
        "3",
        "--any-steps",
        "--measure",
        "vmaf",
    )
    done = pabtune(*words, "--measure", "temporal", "--through-codec", "--json")
    fidelity = done.document()["policies"][0]["fidelity"]
    assert set(fidelity) == {
        "psnr_db", "worst_psnr_db", "ssim", "vmaf", "worst_vmaf", "vmaf_enlarged", "temporal_error",
        "worst_temporal_error", "codec",
    }  # fmt: skip
    assert "vmaf: frames were enlarged 8 times, pixel by pixel" in done.stderr
    assert "fidelity through a codec: H.264, rate factor 23" in done.stderr
    assert "vmaf" in pabtune(*words).stderr


def test_a_measure_that_is_not_at_hand_is_refused_in_one_line(pabtune, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    done = pabtune("evaluate", "shapes", "--policy", "none", "--measure", "lpips")
    assert done.returncode == 2
    assert "LPIPS is not at hand" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_fewer_steps_and_every_second_step_are_policies_by_name(pabtune, tmp_path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1, 5)
    names = ["steps:10", "every:2", "every:2:linear:0.7", "every:3:quadratic"]
    arguments = [argument for name in names for argument in ("--policy", name)]
    done = pabtune("evaluate", "shapes", *arguments, "--prompts", prompts, "--steps", "15", "--json")
    rows = {row["policy"]: row for row in done.document()["policies"]}
    assert list(rows) == names
    assert rows["steps:10"]["compute_fraction"] == pytest.approx(10 / 15)
    assert rows["every:2"]["compute_fraction"] == pytest.approx(10 / 15)
    assert rows["every:3:quadratic"]["compute_fraction"] == pytest.approx(8 / 15)
    assert rows["every:2"]["fidelity"]["worst_psnr_db"] <= rows["every:2"]["fidelity"]["psnr_db"]


@pytest.mark.parametrize(
    "name", ["steps:0", "steps:x", "every:1", "every:2:cubic", "every:2:linear:9", "steps:5:linear"]
)
def test_a_name_that_says_nothing_is_refused_in_one_line(pabtune, name) -> None:
    done = pabtune("evaluate", "shapes", "--policy", name)
    assert done.returncode == 2
    assert name in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("score", ["vbench", "vbench-quality", "vbench:temporal_flickering"])
def test_a_score_that_lacks_its_environment_is_refused_before_a_model_is_loaded(pabtune, tmp_path, score) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1, 5)
    words = ("--policy", "none", "--prompts", prompts, "--score", score, "--vbench-home", str(tmp_path / "none"))
    line = pabtune("evaluate", str(tmp_path / "no model"), *words).refusal()
    assert line == (
        f"error: the score {score!r}: {tmp_path}/none: VBench is not installed here; run: pabtune vbench setup"
    )


def test_a_folder_of_vbench_is_no_use_to_other_scores(pabtune, tmp_path) -> None:
    words = ("evaluate", "shapes", "--policy", "none", "--prompts", write_prompts(tmp_path / "p.jsonl", 1, 5))
    for score in ("shapes", "none"):
        line = pabtune(*words, "--score", score, "--vbench-home", "folder").refusal()
        assert line == f"error: --vbench-home folder: the score {score!r} is not VBench's; leave it out"
    line = pabtune(*words, "--score", "vbench", "--vbench-home", "9" * 1000).refusal()
    assert "cannot look for VBench here: File name too long" in line


@pytest.mark.parametrize(
    "score",
    ["os:system", "os:nothing", "sys:version", "no_such_module:f", "raises:f", "leaves:f", "broken:f", ":f", "a:", ":",
     "..a:f", ".:f", "a b:f", "raises:", "\0:f", "é" * 300 + ":f"],
)  # fmt: skip
def test_what_is_no_score_is_refused_in_one_line(pabtune, tmp_path, monkeypatch, score) -> None:
    """Fault 25: any function may be named, and a module runs when it is loaded."""
    modules = {"raises": "1 / 0", "leaves": "raise SystemExit(0)", "broken": "def f(:"}
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    prompts = write_prompts(tmp_path / "p.jsonl", 1, 5)
    words = ("evaluate", "shapes", "--policy", "none", "--prompts", prompts, "--steps", "2")
    assert "score" in pabtune(*words, "--score", score).refusal()


@pytest.mark.slow
def test_a_budget_is_judged_until_the_verdict_is_clear(pabtune, tmp_path) -> None:
    """With a budget of 80 points the share of broken videos decides: after as many prompts as two policies take."""
    prompts = write_prompts(tmp_path / "p.jsonl", 90, 5)
    words = ("evaluate", "shapes", "--policy", "none", "--policy", "steps:3", "--steps", "4", "--prompts", prompts)
    done = pabtune(*words, "--json", "--budget", "shapes>=-80")
    rows = done.document()["policies"]
    assert [row["judgement"]["verdict"] for row in rows] == ["accept", "accept"]
    assert [row["judgement"]["error"] for row in rows] == [0.02, 0.02]
    needed = least_prompts(Budget.parse("shapes>=-80"), 0.02)
    assert needed <= rows[0]["judgement"]["prompts"] == rows[1]["prompts"] < needed + 12
    assert rows[0]["judgement"]["mean_drop"] == 0.0  # the same model twice
    assert set(rows[0]["judgement"]["classes"]) == {"still", "slow", "fast"}
    assert rows[0]["repeated"] == {"psnr_db": 100.0, "score_change": 0.0}
    assert "the unaccelerated model twice: identical videos" in done.stderr
    assert "steps:3: accept on" in done.stderr


def test_what_passes_the_budget_exits_with_one(pabtune, tmp_path) -> None:
    words = (
        "evaluate",
        "shapes",
        "--policy",
        "steps:1",
        "--steps",
        "5",
        "--any-steps",
        "--budget",
        "shapes>=-1",
        "--json",
    )
    (row,) = pabtune(*words).document(code=1)["policies"]
    assert row["judgement"]["verdict"] == "reject"
    assert row["judgement"]["prompts"] == 12  # one round: eight prompts are enough
    (row,) = pabtune(*words[:-3], "--budget", "shapes>=-90", "--floor", "worst-psnr>=60", "--json").document(code=1)[
        "policies"
    ]
    assert row["judgement"]["broken_share"] == 1.0


@pytest.mark.slow
def test_a_table_of_verdicts_tells_how_many_prompts_they_took(pabtune, tmp_path) -> None:
    """Policies end at different numbers; their names stay whole, however narrow the terminal is."""
    policy = tmp_path / "a-policy-with-a-long-name-20of30.json"
    Policy(name=policy.stem, steps=1).save(policy)
    words = ("--policy", "none", "--policy", str(policy), "--steps", "10", "--any-steps", "--budget", "shapes>=-1")
    prompts = write_prompts(tmp_path / "p.jsonl", 24, 5)
    done = pabtune("evaluate", "shapes", *words, "--prompts", prompts)
    assert done.returncode == 1
    assert "12 to 24 prompts" in done.stderr
    column = [line.split("\u2502")[1].strip() for line in done.stderr.splitlines() if line.count("\u2502") > 5]
    assert "".join(column) == f"none{policy.stem}"


@pytest.mark.slow
def test_a_policy_of_a_search_is_judged_on_prompts_to_test_with_alone(pabtune, tmp_path) -> None:
    policy = tmp_path / "found.json"
    Policy(name="found", rules=PRESETS["pab246"].rules, provenance={"judged_on": "sha256:0"}).save(policy)
    prompts = write_prompts(tmp_path / "p.jsonl", 8, 5)
    words = ("evaluate", "shapes", "--policy", str(policy), "--steps", "9", "--prompts", prompts)
    tested = sum(split_of(prompt.prompt) == "test" for prompt in load_prompts(Path(prompts)))
    done = pabtune(*words, "--budget", "shapes>=-80", "--json")
    assert done.document()["policies"][0]["judgement"]["prompts"] == tested < 8
    assert f"{8 - tested} of 8 prompts are to tune on or to validate with, and are left out" in done.stderr
    assert pabtune(*words, "--json").document()["policies"][0]["prompts"] == 8  # without a verdict
    between = replace(Policy.load(policy), provenance={"prompts": "sha256:0", "between": ["a", "b"]})
    between.save(policy)  # made of what was searched, and judged on nothing yet
    again = pabtune(*words, "--budget", "shapes>=-80", "--json").document()
    assert again["policies"][0]["judgement"]["prompts"] == tested
    alone = write_prompts(tmp_path / "q.jsonl", 3, 5, part="tune")
    line = pabtune(*words[:-1], alone, "--budget", "shapes>=-80").refusal()
    assert "none of the prompts is to test with" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--budget", "shapes>=-1", "--score", "none"), "leave --score out"),
        (("--budget", "shapes<=1"), "a budget reads SCORE>=-DROP"),
        (("--budget", "shapes>=-1", "--largest-loss", "0.5"), "lies between the budget and 100 points"),
        (("--budget", "shapes>=-1", "--floor", "worst-psnr>=200"), "a floor on psnr lies between"),
        (
            ("--budget", "shapes>=-1", "--floor", "psnr>=30"),
            "limits on the worst video, such as worst-psnr>=30, not psnr>=30",
        ),
        (("--budget", "shapes>=-1", "--floor", "pab246"), "limits on the worst video"),
        (("--floor", "worst-psnr>=30"), "belong to a verdict; name its --budget"),
        (("--largest-loss", "20"), "belong to a verdict; name its --budget"),
    ],
)
def test_wrong_budgets_are_refused_in_one_line(pabtune, words, told) -> None:
    assert told in pabtune("evaluate", "shapes", "--policy", "none", *words).refusal()


def test_a_content_class_that_no_policy_knows_is_refused_before_a_model_is_loaded(pabtune) -> None:
    words = ("evaluate", "no-such-model", "--policy", "pab246", "--content")
    assert "no variant for content 'wild'" in pabtune(*words, "wild").refusal()
    assert "has no classifier of prompts" in pabtune(*words, "auto").refusal()
