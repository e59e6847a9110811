import json

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
