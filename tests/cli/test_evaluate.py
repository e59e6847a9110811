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
    assert none["fidelity"] == {"psnr_db": 100.0, "ssim": pytest.approx(1.0)}
    assert none["score"]["drop"] == 0.0
    assert set(paper["score"]) == {"name", "baseline", "policy", "drop"}


def test_evaluate_draws_a_table(pabtune, tmp_path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2, 5)
    done = pabtune("evaluate", "shapes", "--policy", "pab246", "--prompts", prompts, "--steps", "3")
    assert done.returncode == 0
    assert not done.stdout
    assert "pab246" in done.stderr
    assert "PSNR dB" in done.stderr
