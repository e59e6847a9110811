import json

from tests.cli.conftest import POLICY


def test_export_writes_a_configuration_and_says_what_is_lost(pabtune, tmp_path) -> None:
    made = pabtune("export", "pab357", "--to", "videosys", "--json").document()
    assert made["config"]["temporal_range"] == 5
    out = tmp_path / "config.json"
    done = pabtune("export", POLICY, "--to", "diffusers", "--out", str(out))
    assert done.returncode == 0
    assert not done.stdout
    assert "not expressed: mlp" in done.stderr
    json.loads(out.read_text())
    assert (
        json.loads(pabtune("export", "pab246", "--to", "diffusers").stdout)["spatial_attention_block_skip_range"] == 2
    )
