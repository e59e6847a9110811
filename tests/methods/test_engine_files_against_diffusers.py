"""Caches of diffusers as diffusers runs them and as pabtune reads them from JSON: the same steps, and the same video."""

import json
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import MagCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from diffusers.hooks import (
    FirstBlockCacheConfig,
    apply_first_block_cache,
    apply_mag_cache,
    apply_pyramid_attention_broadcast,
    apply_taylorseer_cache,
)

import pabtune
from pabtune.engines.exports import export
from pabtune.engines.reading.files import read_configuration
from pabtune.methods.engine_files import engine_policy
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from tests.methods.wan import STEPS, build, by_diffusers, draw, under
from tests.pipelines.cases import CASES
from tests.pipelines.cases import run as run_case

pytestmark = pytest.mark.filterwarnings("ignore")
ROUNDING = 2e-5
RATIOS = [1.0, 1.04, 1.03, 1.02, 1.01, 1.01, 0.99, 0.98, 0.99, 0.97, 0.95, 0.9]


def policy_of(pipeline: Any, path, steps: int = STEPS, **fields: Any) -> Any:
    """The policy of a file with these fields."""
    path.write_text(json.dumps(fields), encoding="utf-8")
    configuration = read_configuration(path)
    assert configuration is not None
    return engine_policy(configuration, Target.of(pipeline), steps).policy


def computed_by(active: Any) -> tuple[int, ...]:
    return tuple(np.flatnonzero(active.mask.compute.all(axis=0)).tolist())


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": 0.06, "max_skip_steps": 3, "mag_ratios": RATIOS, "num_inference_steps": STEPS},
        {"threshold": 0.3, "retention_ratio": 0.4, "mag_ratios": RATIOS[::2], "num_inference_steps": STEPS},
        # a mask, as pabtune writes it for diffusers
        {
            "threshold": 0.5, "max_skip_steps": STEPS, "retention_ratio": 0.0, "num_inference_steps": STEPS,
            "mag_ratios": [1000.0 if step in (0, 2, 5, 6, 8, 9) else 1.0 for step in range(STEPS)],
        },
    ],
)  # fmt: skip
def test_mag_cache_is_fixed_before_the_run(fields, tmp_path) -> None:
    pipeline = build()
    policy = policy_of(pipeline, tmp_path / "mag.json", _class_name="MagCacheConfig", **fields)
    assert isinstance(policy, Policy)
    with pabtune.broadcast(pipeline, policy) as active:
        frames = draw(pipeline)
    expected, expected_steps = by_diffusers(apply_mag_cache, MagCacheConfig(**fields))
    assert computed_by(active) == expected_steps["cond"] == expected_steps["uncond"]
    assert 2 < len(computed_by(active)) < STEPS - 2
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


def test_first_block_cache(tmp_path) -> None:
    pipeline = build()
    policy = policy_of(pipeline, tmp_path / "fb.json", cache_config="FirstBlockCacheConfig", threshold=0.06)
    frames, steps = under(pipeline, policy)
    expected, expected_steps = by_diffusers(apply_first_block_cache, FirstBlockCacheConfig(threshold=0.06))
    assert steps == expected_steps
    assert 0 < len(steps["cond"]) < STEPS
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("after", [None, 9])
def test_taylorseer(after, tmp_path) -> None:
    fields = {
        "cache_interval": 3, "disable_cache_before_step": 3, "disable_cache_after_step": after, "max_order": 2,
        "cache_identifiers": [r"blocks\.\d+\.(attn1|attn2|ffn)"],
    }  # fmt: skip
    pipeline = build()
    policy = policy_of(
        pipeline, tmp_path / "ts.json", _class_name="TaylorSeerCacheConfig", taylor_factors_dtype="float32", **fields
    )
    with pabtune.broadcast(pipeline, policy) as active:
        frames = draw(pipeline)
    config = TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, **fields)
    expected, expected_steps = by_diffusers(apply_taylorseer_cache, config)
    assert computed_by(active) == expected_steps["cond"]
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("window", [(100, 800), (0, 950)])
def test_pyramid_attention_broadcast(window, tmp_path) -> None:
    name, case, steps = "cogvideox-ddim", CASES["cogvideox-ddim"], 12
    fields = {
        "spatial_attention_block_skip_range": 3,
        "spatial_attention_timestep_skip_range": list(window),
    }
    pipeline = case.build()
    policy = policy_of(pipeline, tmp_path / "p.json", steps, _class_name="PyramidAttentionBroadcastConfig", **fields)
    with pabtune.broadcast(pipeline, policy) as active:
        frames = run_case(pipeline, name, num_inference_steps=steps)
    computed = computed_by(active)
    assert 3 < len(computed) < steps
    other = case.build()
    calls = []
    config = PyramidAttentionBroadcastConfig(**fields, current_timestep_callback=lambda: other.current_timestep)
    other.transformer.transformer_blocks[0].attn1.to_q.register_forward_pre_hook(lambda *_: calls.append(None))
    apply_pyramid_attention_broadcast(other.transformer, config)
    expected = run_case(other, name, num_inference_steps=steps)
    assert len(calls) == len(computed)
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


FOUR_RANGES = {
    f"{kind}_attention_{key}": value
    for kind, count in (("spatial", 2), ("temporal", 4), ("cross", 5))
    for key, value in (("block_skip_range", count), ("timestep_skip_range", [100, 950]))
}


def test_diffusers_takes_temporal_attention_for_spatial(tmp_path) -> None:
    """By the names of Latte's blocks it gets the spatial range, which neither the judged policy nor an export said."""
    latte, steps = CASES["latte"], 12

    def counted(pipeline) -> dict[str, int]:
        calls = {}
        for kind, blocks in (("spatial", "transformer_blocks"), ("temporal", "temporal_transformer_blocks")):
            part = getattr(pipeline.transformer, blocks)[0].attn1.to_q
            part.register_forward_pre_hook(lambda *_, kind=kind: calls.update({kind: calls.get(kind, 0) + 1}))
        run_case(pipeline, "latte", num_inference_steps=steps)
        return calls

    def by_diffusers_with(fields) -> dict[str, int]:
        pipeline = latte.build()
        config = PyramidAttentionBroadcastConfig(**fields, current_timestep_callback=lambda: pipeline.current_timestep)
        apply_pyramid_attention_broadcast(pipeline.transformer, config)
        return counted(pipeline)

    pipeline = latte.build()
    (tmp_path / "p.json").write_text(json.dumps({"_class_name": "PyramidAttentionBroadcastConfig", **FOUR_RANGES}))
    judged = engine_policy(read_configuration(tmp_path / "p.json"), Target.of(pipeline), steps)
    assert "takes temporal attention for spatial" in judged.remarks[0]
    with pabtune.broadcast(pipeline, judged.policy):
        calls = counted(pipeline)
    assert calls == by_diffusers_with(FOUR_RANGES)
    assert calls["spatial"] == calls["temporal"]
    rules = tuple(
        Rule(kind=kind, range=count, noise_window=(0.1, 0.95), anchor="start")
        for kind, count in (("spatial", 2), ("temporal", 4), ("cross", 5))
    )
    apart = Policy(name="apart", rules=rules)
    exported = export(apart, "diffusers").document
    pipeline = latte.build()
    with pabtune.broadcast(pipeline, apart):
        calls = counted(pipeline)
    assert by_diffusers_with(exported) == calls
    assert calls["temporal"] < calls["spatial"]
    (tmp_path / "p.json").write_text(json.dumps({"_class_name": "PyramidAttentionBroadcastConfig", **exported}))
    again = engine_policy(read_configuration(tmp_path / "p.json"), Target.of(pipeline), steps)
    assert set(again.policy.rules) == set(rules)


def test_names_of_the_classes_are_diffusers() -> None:
    from pabtune.engines.reading.diffusers import DEFAULTS, READERS  # noqa: PLC0415, only for this

    for name in READERS:
        fields = getattr(diffusers, name, None) or FirstBlockCacheConfig
        known = {key: field.default for key, field in fields.__dataclass_fields__.items()}
        for key, value in DEFAULTS[name].items():
            default = known[key]
            assert value in (
                list(default) if isinstance(default, tuple) else default,
                str(default).removeprefix("torch."),
            )
