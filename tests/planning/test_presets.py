from pathlib import Path

import pytest

from pabtune.planning.presets import PRESET_LINES, PRESETS, find_policy
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy


def test_digits_are_spatial_temporal_cross() -> None:
    for name in ("pab246", "pab357", "pab579"):
        ranges = {rule.kind: rule.range for rule in PRESETS[name].rules}
        assert "pab" + "".join(str(ranges[kind]) for kind in ("spatial", "temporal", "cross")) == name
        assert {rule.noise_window for rule in PRESETS[name].rules} == {(0.45, 0.93)}
    assert not PRESETS["none"].rules
    assert set(PRESETS) == set(PRESET_LINES)


def test_names_and_files(tmp_path: Path) -> None:
    assert find_policy("pab246") is PRESETS["pab246"]
    Policy(name="mine").save(tmp_path / "mine.json")
    assert find_policy(str(tmp_path / "mine.json")).name == "mine"
    with pytest.raises(PolicyError, match="neither a policy file nor a preset; presets: none, pab246"):
        find_policy("pab999")
