"""cache-dit itself loads what is exported for it: the same steps compute, and the same video comes out, run after run."""

import json
import sys
from bisect import bisect_right
from importlib.util import find_spec

import pytest

from pabtune.engines.checking import DYNAMIC, check
from pabtune.engines.engine import ENGINES
from pabtune.engines.exports import export
from pabtune.engines.plan import Facts
from pabtune.engines.sglang import bins
from pabtune.methods.taylorseer import taylor_factors
from tests.engines.running import BOUNDARY, ROUNDING, STEPS, build, draw, drawn_here, held, relative, write

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        find_spec("cache_dit") is None, reason="cache-dit is not installed: pip install 'pabtune[peers]'"
    ),
]


@pytest.fixture
def enable(tmp_path, monkeypatch):
    """Loads an export from disk as its users are told to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "policy", raising=False)

    def paste(pipeline, exported) -> None:
        write(exported, tmp_path)
        exec(exported.use, {"pipe": pipeline})  # noqa: S102, what users are told to paste

    yield paste
    sys.modules.pop("policy", None)


NAMES = [
    "wan-2.1", "wan-2.2", "hunyuan-true-cfg", "hunyuan-distilled", "cogvideox-ddim", "ltx", "mochi", "allegro", "chronoedit",
    "cosmos-1", "easyanimate", "hunyuan-1.5", "kandinsky-5", "skyreels-v2",
]  # fmt: skip


def test_the_table_has_what_is_run() -> None:
    models = {type(build(name).transformer).__name__ for name in NAMES}
    assert models == set(ENGINES["cache-dit"].models)


@pytest.mark.parametrize("name", NAMES)
def test_a_held_stack(name, enable) -> None:
    import cache_dit  # noqa: PLC0415, only where it is installed

    policy = held(name, without_the_first=True)
    exported = export(policy, "cache-dit", Facts(boundary=BOUNDARY))
    assert exported.losses == ()
    expected = drawn_here(name, policy)
    assert relative(draw(build(name), name), expected) > 5e-4
    pipeline = build(name)
    enable(pipeline, exported)
    for _ in range(2):
        assert relative(draw(pipeline, name), expected) < ROUNDING
        summary = cache_dit.summary(pipeline, logging=False)
        saved = json.dumps([vars(each) for each in summary], default=str)
        for text in (repr(summary), saved):
            assert check(exported, text, "summary").differences == ()
    cache_dit.disable_cache(pipeline)


def line_policy(name: str, computed: tuple[int, ...], first: int):
    """Held steps extrapolate along lines over steps, from the first computed step on that has some."""
    factors = []
    for step in range(STEPS):
        history = computed[: bisect_right(computed, step)]
        is_line = step not in computed and history[-1] >= first
        factors.append(taylor_factors(history, step, 1) if is_line else ())
    return held(name, without_the_first=True, computed=computed, payload="scaled", factors=tuple(factors))


@pytest.mark.parametrize("name", ["wan-2.1", "wan-2.2", "hunyuan-true-cfg", "cogvideox-ddim", "mochi"])
def test_a_line_over_steps_is_taylorseer_of_order_one(name, enable) -> None:
    import cache_dit  # noqa: PLC0415, only where it is installed

    first = 8 if name == "wan-2.2" else 3  # the second transformer, of which these are steps, begins at the fifth
    policy = line_policy(name, (0, 1, 3, 4, 5, 6, 8) if name == "wan-2.2" else (0, 1, 2, 5, 6, 8), first)
    exported = export(policy, "cache-dit", Facts(boundary=BOUNDARY))
    assert exported.losses == ()
    assert "enable_taylorseer" in exported.text
    expected = drawn_here(name, policy)
    pipeline = build(name)
    enable(pipeline, exported)
    for _ in range(2):
        assert relative(draw(pipeline, name), expected) < ROUNDING
    cache_dit.disable_cache(pipeline)
    if len(exported.masks) == 1:  # as SGLang and xDiT make it
        pipeline = build(name)
        (config,) = exported.document.values()
        plain = {key: value for key, value in config.items() if "taylorseer" not in key}
        series = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1)
        cache_dit.enable_cache(pipeline, cache_config=cache_dit.DBCacheConfig(**plain), calibrator_config=series)
        assert relative(draw(pipeline, name), expected) < ROUNDING
        cache_dit.disable_cache(pipeline)


def test_a_line_before_the_fourth_step_is_held_there() -> None:
    policy = line_policy("wan-2.1", (0, 1, 3, 5, 6, 8), 1)
    (loss,) = export(policy, "cache-dit").losses
    assert loss == (
        "payload: in 1 of 4 held steps (2) the policy serves something else than the line through the last two residuals"
    )


def test_a_run_without_the_file_is_told_from_one_with_it() -> None:
    import cache_dit  # noqa: PLC0415, only where it is installed

    exported = export(held("wan-2.1", without_the_first=True), "cache-dit")
    pipeline = build("wan-2.1")
    draw(pipeline, "wan-2.1")
    never = check(exported, repr(cache_dit.summary(pipeline, logging=False)), "summary")
    assert never.differences == ("nothing ran under cache-dit: it was not enabled, or no video was generated since",)
    cache_dit.enable_cache(pipeline, cache_config=cache_dit.DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=STEPS))
    draw(pipeline, "wan-2.1")
    idle = check(exported, repr(cache_dit.summary(pipeline, logging=False)), "summary")
    assert idle.differences == (
        "nothing was cached: all 10 steps computed, 4 should have been held",
        "second call of a step: nothing was cached: all 10 steps computed, 4 should have been held",
        DYNAMIC,
    )
    cache_dit.disable_cache(pipeline)


def test_a_threshold_is_told_from_the_mask(caplog) -> None:
    """The policy of the mask was forgotten: cache-dit's is `dynamic`, and here its threshold agrees."""
    import cache_dit  # noqa: PLC0415, only where it is installed

    exported = export(held("wan-2.1", without_the_first=True), "cache-dit")
    changed = {"steps_computation_policy": "dynamic", "residual_diff_threshold": 0.3}
    config = exported.document["cache_config"] | changed
    pipeline = build("wan-2.1")
    cache_dit.enable_cache(pipeline, cache_config=cache_dit.DBCacheConfig(**config))
    draw(pipeline, "wan-2.1")
    caplog.clear()
    summary = cache_dit.summary(pipeline, details=True)
    assert "Cache Steps: 4, [1, 3, 4, 7]" in caplog.text
    for text in (repr(summary), caplog.text):
        assert check(exported, text, "summary").differences == (DYNAMIC,)
    cache_dit.disable_cache(pipeline)


def test_bins_are_read_back_as_the_mask() -> None:
    """As SGLang reads them: both transformers of a model have their own number of steps."""
    import cache_dit  # noqa: PLC0415, only where it is installed
    import numpy as np  # noqa: PLC0415

    random = np.random.default_rng(0)
    for _ in range(500):
        mask = [1, *random.integers(0, 2, random.integers(1, 60)).tolist()]
        if all(mask):
            continue
        computed, held_bins = bins(mask)
        assert sum(computed) + sum(held_bins) == len(mask)
        for steps in (len(mask), int(random.integers(1, len(mask) + 1))):
            read = cache_dit.steps_mask(compute_bins=computed, cache_bins=held_bins, total_steps=steps)
            assert read == mask[:steps]
