import json

import pytest

from pabtune.engines.reading.configuration import AttentionRange, AttentionRanges, FirstBlock, HeldSteps, ModuleSeries
from pabtune.engines.reading.diffusers import mag_cache_mask
from pabtune.engines.reading.files import read_configuration
from pabtune.records.errors import PolicyError


@pytest.fixture
def read(tmp_path):
    def of(name: str, **fields):
        path = tmp_path / "cache.json"
        path.write_text(json.dumps({"_class_name": name, **fields}), encoding="utf-8")
        return read_configuration(path)

    return of


def test_ratios_say_which_steps_mag_cache_computes() -> None:
    mask = (True, False, True, True, False, False)
    ratios = [1000.0 if computes else 1.0 for computes in mask]
    assert mag_cache_mask(0.5, len(mask), 0.0, ratios, len(mask)) == mask
    # errors of 2 % add up: 0.02, 0.02 + 0.0404, and so on; at most two steps in a row; a fifth of the steps first
    assert mag_cache_mask(0.07, 5, 0.2, [1.02] * 10, 10) == tuple(step in (0, 1, 4, 7) for step in range(10))
    assert mag_cache_mask(0.07, 1, 0.2, [1.02] * 10, 10) == tuple(step in (0, 1, 3, 5, 7, 9) for step in range(10))
    assert mag_cache_mask(0.5, 9, 0.0, [1000.0, 1.0], 4) == (True, True, False, False)
    assert mag_cache_mask(0.25, 9, 0.0, [1.25] * 3, 3) == (True, False, True)  # an error of just the threshold is held


def test_each_class_is_read(read) -> None:
    mag = read("MagCacheConfig", num_inference_steps=4, mag_ratios=[1.0, 1.0, 1.0, 1.0], _diffusers_version="0.42.1")
    assert (mag.rule, mag.steps, mag.engine) == (HeldSteps(mask=(True, False, False, False)), 4, "diffusers")
    assert read("FirstBlockCacheConfig").rule == FirstBlock(threshold=0.05)
    assert read("PyramidAttentionBroadcastConfig", cross_attention_block_skip_range=5).rule == AttentionRanges(
        ranges=(AttentionRange(kind="cross", range=5, window=(0.1, 0.8)),)
    )
    series = read("TaylorSeerCacheConfig", cache_identifiers=["blocks.*"], disable_cache_after_step=20)
    assert series.rule == ModuleSeries(interval=5, before=3, after=20, order=1, patterns=("blocks.*",))
    assert series.remarks == ("diffusers rounds what it keeps to bfloat16, pabtune keeps it as it is",)


def test_the_other_key_for_the_class_reads_the_same(tmp_path, read) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"cache_config": "FirstBlockCacheConfig", "threshold": 0.1}', encoding="utf-8")
    assert read_configuration(path).rule == read("FirstBlockCacheConfig", threshold=0.1).rule


def test_ratios_of_other_steps_are_carried_and_said(read) -> None:
    configuration = read("MagCacheConfig", num_inference_steps=4, mag_ratios=[1.0, 1.0])
    assert configuration.remarks == (
        "diffusers carries 2 mag_ratios to num_inference_steps 4, each step the nearest one's",
    )


def test_no_range_is_diffusers_own(read) -> None:
    configuration = read("PyramidAttentionBroadcastConfig")
    assert configuration.rule.ranges == (AttentionRange(kind="spatial", range=2, window=(0.1, 0.8)),)
    assert configuration.remarks == ("no range is set: diffusers then takes spatial_attention_block_skip_range 2",)


@pytest.mark.parametrize(
    ("name", "fields", "error"),
    [
        ("SeaCacheConfig", {}, "SeaCacheConfig cannot be judged; of diffusers' caches can: MagCacheConfig, "),
        ("MagCacheConfig", {}, "mag_ratios must hold numbers; diffusers refuses MagCache without them"),
        ("MagCacheConfig", {"calibrate": True}, "calibrate is true: diffusers measures and holds nothing"),
        ("MagCacheConfig", {"mag_ratios": [1.0], "num_inference_steps": 10**9}, "which no run has"),
        ("FirstBlockCacheConfig", {"treshold": 0.1}, "takes no argument treshold; diffusers stops at it"),
        ("FirstBlockCacheConfig", {"threshold": "low"}, "threshold must be a number, but is 'low'"),
        (
            "PyramidAttentionBroadcastConfig",
            {"spatial_attention_timestep_skip_range": [100]},
            "must hold two timesteps, not [100]",
        ),
        ("PyramidAttentionBroadcastConfig", {"cross_attention_block_identifiers": ["x"]}, "by the model's card"),
        ("TaylorSeerCacheConfig", {"use_lite_mode": True}, "pabtune does not replace modules by zeros"),
        ("TaylorSeerCacheConfig", {"skip_predict_identifiers": ["x"]}, "pabtune does not replace modules by zeros"),
        ("TaylorSeerCacheConfig", {"max_order": 3}, "max_order 3 cannot be judged, only 0 to 2"),
        ("TaylorSeerCacheConfig", {"cache_identifiers": ["("]}, "cache_identifiers must hold regular expressions"),
        ("TaylorSeerCacheConfig", {"cache_identifiers": ["a{99999999999}"]}, "must hold regular expressions"),
        ("TaylorSeerCacheConfig", {"cache_identifiers": ["(" * 5000 + ")" * 5000]}, "must hold regular expressions"),
    ],
)
def test_what_diffusers_or_pabtune_refuses(read, name, fields, error) -> None:
    with pytest.raises(PolicyError) as refused:
        read(name, **fields)
    assert error in str(refused.value)


def test_values_at_the_edge_are_read(read) -> None:
    """The first ended in an OverflowError; of the second the window went beyond the noise levels."""
    assert all(read("MagCacheConfig", mag_ratios=[1.0] * 28, retention_ratio=1e308).rule.mask)
    rule = read("PyramidAttentionBroadcastConfig", spatial_attention_timestep_skip_range=[-1, 1001]).rule
    assert rule.ranges[0].window == (0.0, 1.0)
