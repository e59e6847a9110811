"""Any mask as made-up magnitude ratios, through the rules of the engines that read them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from pabtune.engines.exports import export
from tests.engines.policies import held, made_for


def lightx2v_decisions(config: Mapping[str, Any], runs: int) -> Iterator[tuple[int, bool, bool]]:
    """(step, is conditional, computes) of each call, as LightX2V decides (f8aee98, `WanTransformerInferMagCaching`).

    Sums are kept for each branch and from one video to the next; the last residual has no guard.
    """
    error, length, product = ({True: start, False: start} for start in (0.0, 0, 1.0))
    for _ in range(runs):
        for step in range(config["infer_steps"]):
            for branch in (True, False):
                if step < int(config["infer_steps"] * config["magcache_retention_ratio"]):
                    yield step, branch, True
                    continue
                product[branch] *= config["magcache_ratios"][0 if branch else 1][step]
                length[branch] += 1
                error[branch] += abs(1 - product[branch])
                is_held = error[branch] < config["magcache_thresh"] and length[branch] <= config["magcache_K"]
                if not is_held:
                    error[branch], length[branch], product[branch] = 0.0, 0, 1.0
                yield step, branch, not is_held


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_lightx2v_decides_as_the_mask_says(steps) -> None:
    random = np.random.default_rng(steps)
    for _ in range(100):
        mask = np.array([True, *(random.random(steps - 1) < random.random())])
        policy = held(computed=tuple(np.flatnonzero(mask).tolist()), made_for=made_for(steps=steps, sigmas=None))
        config = export(policy, "lightx2v").document
        calls = list(lightx2v_decisions(config, runs=2))
        assert len(calls) == 4 * steps
        assert all(computes == mask[step] for step, _, computes in calls)


def test_diffusers_decides_as_the_mask_says() -> None:
    """The real hooks, without a model: `tests/engines/test_in_diffusers.py` has one."""
    import torch  # noqa: PLC0415
    from diffusers import MagCacheConfig  # noqa: PLC0415

    random = np.random.default_rng(0)
    for steps in (2, 10, 50):
        mask = np.array([True, *(random.random(steps - 1) < 0.5)])
        policy = held(computed=tuple(np.flatnonzero(mask).tolist()), made_for=made_for(steps=steps, sigmas=None))
        ((_, arguments),) = export(policy, "diffusers").document.items()
        ratios = MagCacheConfig(**arguments).mag_ratios
        assert torch.equal(ratios > 1, torch.tensor(mask))
