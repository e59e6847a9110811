import json
from dataclasses import replace

import pytest
import yaml

from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from tests.cli.conftest import POLICY, PROFILE


def test_export_writes_a_configuration_and_says_what_is_lost(pabtune, tmp_path) -> None:
    made = pabtune("export", "pab357", "--to", "videosys", "--json").document()
    assert made["config"]["temporal_range"] == 5
    out = tmp_path / "config.json"
    rules = (Rule(kind="mlp", range=2, window=(3, 20)), Rule(kind="cross", range=4, window=(3, 20)))
    Policy(name="mixed", rules=rules, made_for=Policy.load(POLICY).made_for).save(tmp_path / "mixed.json")
    done = pabtune("export", str(tmp_path / "mixed.json"), "--to", "diffusers", "--out", str(out))
    assert done.returncode == 0
    assert not done.stdout
    assert "not expressed: mlp" in done.stderr
    json.loads(out.read_text())
    assert (
        json.loads(pabtune("export", "pab246", "--to", "diffusers").stdout)["spatial_attention_block_skip_range"] == 2
    )


def test_a_policy_of_which_nothing_can_be_expressed_exits_with_one_and_leaves_no_file(pabtune, tmp_path) -> None:
    done = pabtune("export", "steps:22", "--to", "diffusers")
    assert done.returncode == 1
    nothing = pabtune("export", "none", "--to", "sglang", "--steps", "12")
    assert nothing.returncode == 1
    assert nothing.stdout.endswith("SGLANG_CACHE_DIT_ENABLED=false\n")
    done = pabtune("export", "steps:22", "--to", "diffusers", "--out", str(tmp_path / "useless.json"))
    assert done.returncode == 1
    assert "useless.json is not written: nothing of the policy would be in it" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_mask_is_written_for_an_engine(pabtune, tmp_path) -> None:
    out = tmp_path / "policy.yaml"
    done = pabtune("export", "every:3", "--to", "cache-dit", "--steps", "12", "--calls", "2", "--out", str(out))
    assert (done.returncode, done.stdout) == (0, "")
    config = yaml.safe_load(out.read_text())["cache_config"]
    assert config["steps_computation_mask"] == [1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1]
    assert config["enable_separate_cfg"] is True
    assert "not expressed: transformer: its 5 skipped calls are exported as held blocks" in done.stderr
    document = pabtune("export", "every:3", "--to", "xdit", "--steps", "12", "--json").document()
    assert document["config"]["steps_computation_mask"] == config["steps_computation_mask"]
    assert document["computed_steps"] == {"transformer": [0, 1, 2, 5, 8, 10, 11]}
    assert document["exact"] is False


def test_what_is_to_be_pasted_names_the_file(pabtune, tmp_path) -> None:
    """It named `policy.yaml` whatever the file was called: copying it failed."""
    for to, name, used in (
        ("cache-dit", "mine.yaml", 'load_configs("mine.yaml")'),
        ("xdit", "mine.json", "$(cat mine.json)"),
    ):
        out = tmp_path / name
        done = pabtune("export", "every:3", "--to", to, "--steps", "12", "--calls", "1", "--out", str(out))
        assert used in done.stderr
        assert used in out.read_text() or to == "xdit"
        assert "policy." not in done.stderr


def test_transformers_that_take_turns_and_a_profile_are_heard(pabtune, tmp_path) -> None:
    rule = Rule(kind="stack", compute=(0, 2, 5, 6, 8, 9), layers=(1, 2))
    made_for = MadeFor(
        model="WanTransformer3DModel", steps=10, sigmas=tuple(1 - step / 10 for step in range(10)),
        config={"transformer": {}, "transformer_2": {}},
    )  # fmt: skip
    Policy(name="two", rules=(rule,), made_for=made_for).save(tmp_path / "two.json")
    words = ("export", str(tmp_path / "two.json"), "--to", "cache-dit", "--boundary", "0.55", "--layers", "3", "--json")
    document = pabtune(*words).document()
    assert document["computed_steps"] == {"transformer": [0, 2], "transformer_2": [0, 1, 3, 4]}
    assert document["exact"] is True
    assert "which take turns" in pabtune(*words[:4]).refusal()
    odd = replace(made_for, config={"transformer": {}, "u\nerror: v": {}})
    Policy(name="two", rules=(Rule(kind="stack", compute=(0, 2, 9)),), made_for=odd).save(tmp_path / "two.json")
    assert not [line for line in pabtune(*words).stderr.splitlines() if line.startswith("error")]
    predicted = pabtune("export", POLICY, "--to", "cache-dit", "--profile", PROFILE, "--json").document()[
        "predicted_time"
    ]
    assert 0.25 < predicted["policy"] < predicted["engine"] < 1
    assert (
        predicted["policy"]
        == pabtune("cost", PROFILE, "--policy", POLICY, "--json").document()["predicted_time_fraction"]
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--to", "comfyui"), "unknown engine 'comfyui'; known: cache-dit, sglang, "),
        (("--to", "xdit", "--content", "fast"), "no variant for content 'fast'"),
        (("--to", "xdit", "--steps", "50"), "is for 30 steps, but --steps says 50"),
        (("--to", "xdit", "--layers", "20,40,x"), "is not a number of blocks from 1 to 1000"),
        (("--to", "xdit", "--layers", "2000"), "is not a number of blocks from 1 to 1000"),
        (("--to", "xdit", "--boundary", "nan"), "'nan' is not a finite number"),
        (("--to", "xdit", "--boundary", "2"), "is not in the range 0<=x<=1"),
        (("--to", "xdit", "--check", "run.log", "--out", "policy.yaml"), "--check compares and writes nothing"),
        (("--to", "cache-dit", "--layers", "3"), "has 2 lists of blocks (spatial_blocks, temporal_blocks)"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(pabtune, words, reason) -> None:
    assert reason in pabtune("export", POLICY, *words).refusal()


def test_a_run_is_checked(pabtune, tmp_path) -> None:
    log = tmp_path / "run.json"
    words = ("export", "every:3", "--to", "cache-dit", "--steps", "12", "--check", str(log))
    log.write_text("[0, 1, 2, 5, 8, 10, 11]")
    done = pabtune(*words)
    assert (done.returncode, done.stdout) == (0, "")
    assert "equal: the steps that computed" in done.stderr
    log.write_text("[0, 1, 2, 3, 8, 10, 11]")
    assert pabtune(*words, "--json").document(1) == {
        "equal": False,
        "differences": ["computed at steps 3, which the mask holds", "held at steps 5, which the mask computes"],
        "compared": "the steps that computed",
    }
    log.write_text("Traceback")
    assert "neither what cache_dit.summary returns" in pabtune(*words).refusal()
    log.unlink()
    assert "cannot read" in pabtune(*words).refusal()


@pytest.mark.parametrize("stop", ["31", "1e3", "1e19", "1e30", "9" * 30])
def test_a_window_beyond_the_steps_is_refused(pabtune, tmp_path, stop) -> None:
    """Fault 20: the noise levels of steps that a schedule does not have were looked up."""
    document = Policy(name="p", made_for=Policy.load(POLICY).made_for).to_document()
    document["rules"] = [{"kind": "spatial", "range": 2, "window": [3, "STOP"]}]
    (tmp_path / "p.json").write_text(json.dumps(document).replace('"STOP"', stop))
    assert "p" in pabtune("export", str(tmp_path / "p.json"), "--to", "diffusers").refusal()


@pytest.mark.parametrize("layers", [None, (1, 2)])
def test_two_rules_for_one_site_are_refused(pabtune, tmp_path, layers) -> None:
    """Fault 20: what no run takes was exported, with exit code 0."""
    rules = (Rule(kind="spatial", range=2, window=(3, 9)), Rule(kind="spatial", range=3, window=(9, 20), layers=layers))
    Policy(name="p", rules=rules, made_for=Policy.load(POLICY).made_for).save(tmp_path / "p.json")
    for to in ("diffusers", "videosys"):
        line = pabtune("export", str(tmp_path / "p.json"), "--to", to).refusal()
        assert "two rules are for the same spatial sites" in line
