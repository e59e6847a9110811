import json

import pytest

from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from tests.cli.conftest import POLICY


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


def test_a_policy_of_which_nothing_can_be_expressed_exits_with_one(pabtune) -> None:
    done = pabtune("export", "every:2", "--to", "diffusers")
    assert done.returncode == 1
    assert "not expressed: transformer" in done.stderr


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
