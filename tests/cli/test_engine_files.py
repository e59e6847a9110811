"""Files of other engines where verbs take a policy."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import PROFILE, write_prompts

STATIC = (
    "cache_config:\n  Fn_compute_blocks: 1\n  steps_computation_mask: [1, 1, 1, 0, 1, 0, 0, 1]\n"
    "  steps_computation_policy: static\n  enable_sperate_cfg: true\n"
)
ENVIRONMENT = (
    "export SGLANG_CACHE_DIT_ENABLED=1 SGLANG_CACHE_DIT_WARMUP=2 SGLANG_CACHE_DIT_RDT=1.0 SGLANG_CACHE_DIT_MC=1"
)


@pytest.fixture
def static(tmp_path) -> Path:
    path = tmp_path / "team.yaml"
    path.write_text(STATIC, encoding="utf-8")
    return path


def test_evaluate_judges_files_of_several_engines_beside_policies(pabtune, tmp_path, static) -> None:
    environment, mag = tmp_path / "serve.env", tmp_path / "mag.json"
    environment.write_text(ENVIRONMENT, encoding="utf-8")
    mag.write_text(json.dumps({
        "_class_name": "MagCacheConfig", "num_inference_steps": 8, "mag_ratios": [1.0] * 8, "max_skip_steps": 1,
        "retention_ratio": 0.5,
    }))  # fmt: skip
    words = [word for path in (static, environment, mag) for word in ("--policy", str(path))]
    prompts = write_prompts(tmp_path / "p.jsonl", 2, 5)
    done = pabtune("evaluate", "shapes", *words, "--policy", "none", "--prompts", prompts, "--steps", "8", "--json")
    rows = done.document()["policies"]
    assert [row["policy"] for row in rows] == ["team.yaml", "serve.env", "mag.json", "none"]
    stacks = 2  # of spatial and of temporal blocks
    assert [row["computed_calls"].get("stack") for row in rows] == [5 * stacks, 5, 6 * stacks, None]
    assert [row["broadcast_calls"].get("stack") for row in rows] == [3 * stacks, 3, 2 * stacks, None]
    # Three steps without two of three layers are two steps without all three.
    assert rows[0]["compute_fraction"] == pytest.approx(rows[2]["compute_fraction"])
    assert 0.7 < rows[0]["compute_fraction"] < 0.8
    assert rows[0]["fidelity"]["psnr_db"] < 90
    assert rows[0]["read"]["rule"]["mask"] == [1, 1, 1, 0, 1, 0, 0, 1]
    assert rows[1]["read"]["engine"] == "sglang"
    assert "read" not in rows[3]
    assert "team.yaml: cache-dit does not know, and ignores: enable_sperate_cfg" in done.stderr.splitlines()


def test_a_budget_judges_another_engines_file(pabtune, tmp_path, static) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2, 5)
    words = ("evaluate", "shapes", "--policy", str(static), "--prompts", prompts, "--steps", "8")
    done = pabtune(*words, "--budget", "shapes>=-1.0", "--json")
    (row,) = done.document(done.returncode)["policies"]
    assert row["judgement"]["verdict"] in ("undecided", "reject")
    assert "team.yaml: " in done.stderr


def test_generate_runs_it(pabtune, tmp_path, static) -> None:
    out = str(tmp_path / "v.gif")
    words = ("generate", "shapes", "--prompt", "a red square moves slowly to the left", "--out", out, "--steps", "8")
    (row,) = pabtune(*words, "--policy", str(static), "--json").document()["videos"]
    assert (row["policy"], row["broadcast_calls"]) == ("team.yaml", {"stack": 6})
    (tmp_path / "serve.env").write_text(ENVIRONMENT, encoding="utf-8")
    (row,) = pabtune(*words, "--policy", str(tmp_path / "serve.env"), "--json").document()["videos"]
    assert (row["policy"], row["computed_calls"], row["broadcast_calls"]) == ("serve.env", {"stack": 5}, {"stack": 3})
    refused = pabtune(*words, "--policy", str(static), "--content", "still").refusal()
    assert "policy 'team.yaml' has no variant for content 'still'" in refused


def test_policies_show_shows_it(pabtune, static) -> None:
    done = pabtune("policies", "show", str(static), "--json")
    (row,) = done.document()["rows"]
    assert (row["kind"], row["steps"]) == ("stack", {"compute": [0, 1, 2, 4, 7], "broadcast": [3, 5, 6]})
    assert "the first 1 and the last 0 blocks compute in all steps; a --profile" in done.stderr
    assert "for 8 denoising steps, but the run has 30" in pabtune(
        "policies", "show", str(static), "--profile", PROFILE
    ).refusal()  # fmt: skip


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("evaluate", "shapes", "--steps", "9"), "the mask is for 8 denoising steps, but the run has 9"),
        (("generate", "shapes", "--prompt", "a", "--out", "v.gif", "--steps", "9"), "but the run has 9"),
        (("policies", "show", "--steps", "9"), "but the run has 9"),
    ],
)
def test_a_file_for_other_steps_is_refused(pabtune, tmp_path, monkeypatch, static, words, error) -> None:
    monkeypatch.chdir(tmp_path)
    flag = () if words[0] == "policies" else ("--policy",)
    assert error in pabtune(*words, *flag, str(static)).refusal()


def test_other_steps_are_refused_before_a_model_is_loaded(pabtune, tmp_path) -> None:
    path = tmp_path / "team.yaml"
    path.write_text("cache_config: {num_inference_steps: 50}", encoding="utf-8")
    for words in (("evaluate",), ("generate", "--prompt", "a", "--out", str(tmp_path / "v.gif"))):
        refused = pabtune(*words, "no/such-model", "--policy", str(path)).refusal()
        assert (
            "team.yaml is for 50 denoising steps (num_inference_steps), but the run has 30; say --steps 50" in refused
        )


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe", b"a: &a 1\nb: *a", b"hello: world", b"[" * 2000])
def test_broken_files_are_refused_before_a_model_is_loaded(pabtune, tmp_path, content) -> None:
    (tmp_path / "team.yaml").write_bytes(content)
    for words in (("evaluate", "no/such-model", "--policy"), ("policies", "show")):
        assert "team.yaml: " in pabtune(*words, str(tmp_path / "team.yaml")).refusal()
