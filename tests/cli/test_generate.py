from dataclasses import replace
from pathlib import Path

import pytest

from pabtune.cli.options import LARGEST_SEED
from pabtune.records.classifiers import PromptClassifier
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from tests.cli.conftest import POLICY, write_prompts


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_generate_says_what_it_did(pabtune, tmp_path, suffix) -> None:
    out = tmp_path / f"v{suffix}"
    done = pabtune(
        "generate", "shapes", "--policy", POLICY, "--prompt", "a red square moves slowly to the left", "--seed", "3",
        "--out", str(out), "--compare", "--json",
    )  # fmt: skip
    row = done.document()["videos"][0]
    assert out.stat().st_size > 500
    assert sum(row["broadcast_calls"].values()) > 0
    assert row["psnr_db"] > 20
    assert row["speedup"] > 0
    assert row["stored_bytes"] == 0
    assert "broadcast" in done.stderr


def test_generate_numbers_several_prompts(pabtune, tmp_path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 3, 5)
    words = ("generate", "shapes", "--prompts", prompts, "--prompt", "red", "--steps", "2")
    rows = pabtune(*words, "--out", str(tmp_path / "v.gif"), "--json").document()["videos"]
    assert [Path(row["out"]).name for row in rows] == [f"v-{index:03d}.gif" for index in range(4)]
    assert [row["seed"] for row in rows] == [0, 1, 2, 3]
    assert all(Path(row["out"]).exists() for row in rows)


MODEL_VERBS = {
    "generate": ("shapes", "--prompt", "red", "--out", "v.gif"),
    "evaluate": ("shapes", "--policy", "none", "--prompts", "one.txt"),
    "profile": ("shapes", "--prompts", "one.txt", "--out", "p.json"),
}
"""Verbs that run a model, and words with which they would."""


@pytest.fixture(params=MODEL_VERBS)
def run_with(request, pabtune, tmp_path, monkeypatch):
    """Each verb that runs a model in turn, two steps long, with further words."""
    (tmp_path / "one.txt").write_text("red\n")
    monkeypatch.chdir(tmp_path)
    return lambda *words: pabtune(request.param, *MODEL_VERBS[request.param], "--steps", "2", *words)


@pytest.mark.parametrize("device", ["meta", "cuda:99", "xla", "privateuseone"])
def test_a_device_that_nothing_can_be_computed_on_is_refused(run_with, device) -> None:
    """Fault 23: also those that torch knows by name."""
    assert "device" in run_with("--device", device).refusal()


@pytest.mark.parametrize("seed", [2**63, 2**64, 10**30, -1])
def test_a_seed_beyond_64_bits_is_refused(run_with, seed) -> None:
    """Fault 23: on the command line and in a prompt file; the prompts that follow count on from it."""
    assert "--seed" in run_with("--seed", str(seed)).refusal()
    Path("seeds.jsonl").write_text(f'{{"prompt": "red", "seed": {seed}}}\n')
    assert "seeds.jsonl" in run_with("--prompts", "seeds.jsonl").refusal()


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf", "1e400"])
def test_a_guidance_scale_that_is_not_finite_is_refused(run_with, scale) -> None:
    """Fault 23: what is no number for a device is none for a model."""
    assert "is not a finite number" in run_with("--guidance-scale", scale).refusal()


def test_the_largest_seed_draws(pabtune, tmp_path) -> None:
    words = ("generate", "shapes", "--prompt", "red", "--prompt", "blue", "--steps", "2", "--json")
    for seed in (LARGEST_SEED, 0):
        assert pabtune(*words, "--seed", str(seed), "--out", str(tmp_path / "v.gif")).document()["videos"]


@pytest.mark.parametrize("argument", ["prompt=red", "generator=3", "output_type=pil", "num_inference_steps=9"])
def test_arguments_that_pabtune_sets_are_refused(run_with, argument) -> None:
    """Fault 24: `prompt` came twice, and `output_type` made what is no video."""
    assert "is set by pabtune itself" in run_with("--pipeline-arg", argument).refusal()


@pytest.mark.parametrize(
    "argument",
    ["return_dict=false", "guidance_scale=red", "guidance_scale=[1, 2]", "guidance_scale=null", "latents=3",
     'latents={"a": 1}', "callback_on_step_end=7", "self=1", "=1", "guidance_scale"],
)  # fmt: skip
def test_arguments_of_another_type_are_refused(run_with, argument) -> None:
    """Fault 24: what the pipeline says when it refuses is one line."""
    run_with("--pipeline-arg", argument).refusal()


def test_a_pipeline_of_one_size_says_so(pabtune, tmp_path) -> None:
    """It named `num_frames`, which nobody had typed."""
    words = ("generate", "shapes", "--prompt", "a red square", "--size", "9x32x32", "--out", str(tmp_path / "v.gif"))
    assert "ShapesPipeline takes no num_frames; leave --size out" in pabtune(*words).refusal()


@pytest.mark.parametrize("words", [("--size", "1x7x7"), ("--size", "99999x99999x99999"), ("--size", "1x1x1")])
def test_a_size_that_the_pipeline_refuses_is_refused_in_its_words(run_with, words) -> None:
    """Fault 22: of a folder's pipeline too, and sizes that no memory holds (`test_diffusers.py`)."""
    run_with(*words).refusal()


def test_the_content_class_is_told_by_each_prompt(pabtune, tmp_path) -> None:
    rule = Rule(kind="mlp", range=2, first=2, last=2)
    policy = Policy(
        name="told",
        variants={"slow": (rule,), "fast": (replace(rule, range=4),)},
        classifier=PromptClassifier(
            bias={"slow": 0.0, "fast": 0.0}, words={"slow": {"slowly": 2.0}, "fast": {"quickly": 2.0}}, margin=1.0
        ),
    )
    policy.save(tmp_path / "told.json")
    prompts = [word for text in ("slowly", "quickly", "") for word in ("--prompt", f"a red square moves left {text}")]
    words = ("generate", "shapes", "--policy", str(tmp_path / "told.json"), *prompts, "--steps", "9", "--content")
    done = pabtune(*words, "auto", "--out", str(tmp_path / "v.gif"), "--json")
    rows = done.document()["videos"]
    assert [row["content"] for row in rows] == ["slow", "fast", None]
    assert [bool(row["broadcast_calls"]) for row in rows] == [True, True, False]
    assert " s as fast; " in done.stderr
    assert "no variant for content 'wild'" in pabtune(*words, "wild", "--out", str(tmp_path / "w.gif")).refusal()
    named = (*words[:2], "--policy", "pab246", "--prompt", "red", "--out", str(tmp_path / "w.gif"), "--content", "auto")
    assert "has no classifier" in pabtune(*named).refusal()
