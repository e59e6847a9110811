"""DBCache as cache-dit computes it: the same steps compute, and the same video comes out, up to rounding."""

from importlib.util import find_spec

import numpy as np
import pytest

from pabtune.methods.dbcache import DBCache
from tests.methods.wan import STEPS, build, draw, under

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        find_spec("cache_dit") is None, reason="cache-dit is not installed: pip install 'pabtune[peers]'"
    ),
]


@pytest.mark.parametrize(
    ("threshold", "method"),
    [
        (0.06, DBCache(front=1, back=0, warm_up=2)),
        (0.1, DBCache(front=1, back=1, warm_up=3, most=2)),
        # cache-dit takes no differences before the fourth step of a pipeline's first run, the third of later ones.
        (0.1, DBCache(front=2, back=0, warm_up=4, most=3, order=1)),
    ],
)
def test_the_same_steps_and_video(threshold, method) -> None:
    import cache_dit  # noqa: PLC0415, only where it is installed

    frames, steps = under(build(), method.at(threshold, method.front, STEPS))
    pipeline = build()
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=method.front, Bn_compute_blocks=method.back, max_warmup_steps=method.warm_up,
        residual_diff_threshold=threshold, max_continuous_cached_steps=-1 if method.most is None else method.most,
    )  # fmt: skip
    series = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=method.order) if method.order else None
    cache_dit.enable_cache(pipeline, cache_config=config, calibrator_config=series)
    expected = draw(pipeline)
    stats = cache_dit.summary(pipeline, logging=False)[0]
    served = {"cond": stats.cached_steps, "uncond": stats.cfg_cached_steps}
    assert steps == {branch: tuple(s for s in range(STEPS) if s not in each) for branch, each in served.items()}
    assert method.warm_up <= len(steps["cond"]) < STEPS
    np.testing.assert_allclose(frames, expected, atol=2e-5, rtol=0)
