import pytest

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
