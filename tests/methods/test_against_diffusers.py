"""Methods that diffusers has too: the same steps compute, and the same video comes out, up to rounding."""

import numpy as np
import pytest
import torch
from diffusers.hooks import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
    apply_mag_cache,
    apply_taylorseer_cache,
)
from diffusers.hooks.sea_cache import apply_sea_cache

import pabtune
from pabtune.methods.fbcache import FirstBlockCache
from pabtune.methods.magcache import MagCache
from pabtune.methods.seacache import SeaCache
from pabtune.methods.taylorseer import taylor_policy
from tests.methods.wan import STEPS, build, by_diffusers, draw, recordings, under

pytestmark = pytest.mark.filterwarnings("ignore")
ROUNDING = 2e-5


@pytest.mark.parametrize("threshold", [0.05, 0.06, 0.1])
def test_first_block_cache(threshold) -> None:
    frames, steps = under(build(), FirstBlockCache().at(threshold, None, STEPS))
    expected, expected_steps = by_diffusers(apply_first_block_cache, FirstBlockCacheConfig(threshold=threshold))
    assert steps == expected_steps
    assert 0 < len(steps["cond"]) < STEPS
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("threshold", [0.02, 0.04, 0.3])
def test_mag_cache(threshold) -> None:
    pipeline = build()
    calibration = MagCache().calibrate(recordings(pipeline), ())
    (cond, uncond) = calibration["ratios"]
    # diffusers knows one list for both branches.
    uncond["by_step"] = cond["by_step"]
    frames, steps = under(pipeline, MagCache(most=3).at(threshold, calibration, STEPS))
    ratios = [1.0, *(cond["by_step"][str(step)] for step in range(1, STEPS))]
    config = MagCacheConfig(
        threshold=threshold, max_skip_steps=3, retention_ratio=0.2, num_inference_steps=STEPS, mag_ratios=ratios
    )
    expected, expected_steps = by_diffusers(apply_mag_cache, config)
    assert steps == expected_steps
    assert 2 < len(steps["cond"]) < STEPS
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


def test_mag_cache_calibrates_as_diffusers_does(capsys) -> None:
    pipeline = build()
    config = MagCacheConfig(calibrate=True, num_inference_steps=STEPS)
    apply_mag_cache(pipeline.transformer, config)
    other = recordings(pipeline)
    arguments = dict(other.settings.arguments)
    generator = torch.Generator().manual_seed(0)
    pipeline(prompt=other.batches[0][0].prompt, num_inference_steps=STEPS, generator=generator, **arguments)
    printed = [eval(line) for line in capsys.readouterr().out.splitlines() if line.startswith("[1.0")]  # noqa: S307
    calibration = MagCache().calibrate(recordings(build()), ())
    assert len(printed) == len(calibration["ratios"]) == 2
    for theirs, ours in zip(printed, calibration["ratios"], strict=True):
        np.testing.assert_allclose(theirs[1:], [ours["by_step"][str(step)] for step in range(1, STEPS)], rtol=1e-4)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("interval", [2, 3])
def test_taylorseer(order, interval) -> None:
    warm_up = 3
    # diffusers' first interval is two steps longer than the paper's.
    computed = [step for step in range(STEPS) if step < warm_up or (step - warm_up - 1) % interval == 0]
    pipeline = build()
    with pabtune.broadcast(
        pipeline, taylor_policy("taylor", ["full", "cross", "mlp"], computed, STEPS, order)
    ) as active:
        frames = draw(pipeline)
    config = TaylorSeerCacheConfig(
        cache_interval=interval, disable_cache_before_step=warm_up, max_order=order, taylor_factors_dtype=torch.float32,
        cache_identifiers=[r"blocks\.\d+\.(attn1|attn2|ffn)"],
    )  # fmt: skip
    expected, expected_steps = by_diffusers(apply_taylorseer_cache, config)
    assert tuple(computed) == expected_steps["cond"] == expected_steps["uncond"]
    assert [*active.mask.compute[0].nonzero()[0]] == computed
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 1.5])
def test_sea_cache(threshold, order) -> None:
    frames, steps = under(build(), SeaCache(order=order).at(threshold, None, STEPS))
    config = SeaCacheConfig(threshold=threshold, residual_order=order)
    expected, expected_steps = by_diffusers(apply_sea_cache, config)
    assert steps == expected_steps
    assert 1 < len(steps["cond"]) < STEPS
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)
