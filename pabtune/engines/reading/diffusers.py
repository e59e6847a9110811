"""A cache of diffusers (0.42.1) as JSON: the name of its configuration class, and the arguments that are not the default.

    {"_class_name": "MagCacheConfig", "threshold": 0.06, "num_inference_steps": 30, "mag_ratios": [1.0, 1.02, …]}

`_class_name` is what diffusers' own JSON files call it; `cache_config` says the same. MagCache's decisions follow from its
ratios alone, so that its steps are known before the run.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pabtune.engines.reading.configuration import (
    OWN_BLOCKS,
    AttentionRange,
    AttentionRanges,
    Configuration,
    FirstBlock,
    HeldSteps,
    ModuleSeries,
    Rule,
    Values,
)
from pabtune.records.errors import PolicyError

FORM = "a cache of diffusers as JSON (_class_name: MagCacheConfig, FirstBlockCacheConfig, …, and its arguments)"
KEYS = ("_class_name", "cache_config")
EXPORTED, RATIOS = "MagCacheConfig", "mag_ratios"
"""The class that pabtune exports for, and the argument by which its files are known: they hold arguments by transformer."""

OWN = ("_diffusers_version",)
"""What diffusers' own files hold besides."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "MagCacheConfig": {
        "threshold": 0.06, "max_skip_steps": 3, "retention_ratio": 0.2, "num_inference_steps": 28, "calibrate": False,
    },
    "FirstBlockCacheConfig": {"threshold": 0.05},
    "PyramidAttentionBroadcastConfig": {
        f"{kind}_attention_timestep_skip_range": [100, 800] for kind in ("spatial", "temporal", "cross")
    },
    "TaylorSeerCacheConfig": {
        "cache_interval": 5, "disable_cache_before_step": 3, "max_order": 1, "taylor_factors_dtype": "bfloat16",
        "use_lite_mode": False,
    },
}  # fmt: skip
"""Of each configuration class that can be judged."""

TIMESTEPS = 1000
"""Of the training schedule, in which windows of Pyramid Attention Broadcast are."""

ATTENTION_PATTERNS = (
    "^blocks.*attn", "^transformer_blocks.*attn", "^single_transformer_blocks.*attn", "^temporal_transformer_blocks.*attn"
)  # fmt: skip
"""Of TaylorSeer, where its user names no modules."""

MOST_ORDER = 2
MOST_STEPS = 10_000


def recognizes(document: Any) -> bool:
    """Whether a document names a configuration class, or is what `pabtune export --to diffusers` writes."""
    return isinstance(document, dict) and (_class_of(document) is not None or bool(_by_transformer(document)))


def read(document: Mapping[str, Any], name: str) -> Configuration:
    """The configuration of a document.

    Args:
        document: of which `recognizes` says yes.
        name: of the file.

    Raises:
        PolicyError: diffusers would refuse it, or pabtune cannot judge what it says.
    """
    by_transformer = _by_transformer(document)
    if len(by_transformer) > 1:
        raise PolicyError(
            f"{name}: it has steps for {', '.join(by_transformer)}; judge the policy that it was exported from, which has both"
        )
    if by_transformer:
        document = {"_class_name": EXPORTED, **next(iter(by_transformer.values()))}
    kind = _class_of(document)
    if kind is None or kind not in READERS:
        raise PolicyError(f"{name}: {kind} cannot be judged; of diffusers' caches can: {', '.join(READERS)}")
    fields = {key: value for key, value in document.items() if key not in (*KEYS, *OWN)}
    values = Values(fields, name, DEFAULTS[kind])
    remarks: list[str] = []
    rule, steps = READERS[kind](values, remarks)
    if values.unknown:
        raise PolicyError(f"{name}: {kind} takes no argument {', '.join(values.unknown)}; diffusers stops at it")
    return Configuration(engine="diffusers", name=name, form=FORM, rule=rule, steps=steps, remarks=tuple(remarks))


def _class_of(document: Mapping[str, Any]) -> str | None:
    """The name of the configuration class."""
    named = [document[key] for key in KEYS if isinstance(document.get(key), str)]
    return next((each for each in named if re.fullmatch(r"\w+Config", each)), None)


def _by_transformer(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Arguments of MagCache by transformer, as an exported file has them; empty = it is none."""
    is_exported = all(isinstance(each, dict) and RATIOS in each for each in document.values())
    return dict(document) if is_exported else {}


def mag_cache_mask(
    threshold: float, most: int, retention: float, ratios: Sequence[float], steps: int
) -> tuple[bool, ...]:
    """The steps that MagCache computes: in them errors of the ratios have added up, or too many steps were held in a row.

    Args:
        threshold: up to which errors may add up.
        most: most steps that are held in a row.
        retention: share of the steps, from the first, that compute.
        ratios: change of the residual's size, carried to the nearest step where there are not as many as steps.
        steps: denoising steps.
    """
    places = np.round(np.arange(steps, dtype=np.float32) * np.float32((len(ratios) - 1) / max(steps - 1, 1))).astype(
        int
    )
    carried = np.asarray(ratios, dtype=np.float32)[places if steps > 1 else [-1]]  # diffusers reckons in float32
    retained = int(min(retention, 1.0) * steps + 0.5)
    mask: list[bool] = []
    ratio, error, held = np.float32(1), np.float32(0), 0
    for step in range(steps):
        computes = True
        if step >= retained:
            ratio, held = ratio * carried[step], held + 1
            error = error + abs(np.float32(1) - ratio)
            computes = not (mask and error <= np.float32(threshold) and held <= most)
            if computes:
                ratio, error, held = np.float32(1), np.float32(0), 0
        mask.append(computes)
    return tuple(mask)


def _mag_cache(values: Values, remarks: list[str]) -> tuple[Rule, int]:
    ratios, source = values.take("mag_ratios"), values.source
    if values.truth("calibrate"):
        raise PolicyError(
            f"{source}: calibrate is true: diffusers measures and holds nothing; judge what it was measured for"
        )
    if not isinstance(ratios, list) or not ratios or not all(_is_number(each) for each in ratios):
        raise PolicyError(f"{source}: mag_ratios must hold numbers; diffusers refuses MagCache without them")
    steps = values.whole("num_inference_steps", 1)
    if steps > MOST_STEPS:
        raise PolicyError(f"{source}: num_inference_steps is {steps}, which no run has")
    if len(ratios) != steps:
        remarks.append(
            f"diffusers carries {len(ratios)} mag_ratios to num_inference_steps {steps}, each step the nearest one's"
        )
    mask = mag_cache_mask(
        values.number("threshold"), values.whole("max_skip_steps", 0), values.number("retention_ratio"), ratios, steps
    )
    return HeldSteps(mask=mask), steps


def _first_block(values: Values, remarks: list[str]) -> tuple[Rule, None]:
    return FirstBlock(threshold=values.number("threshold")), None


def _attention_ranges(values: Values, remarks: list[str]) -> tuple[Rule, None]:
    values.refuse("current_timestep_callback", None, "a file holds no function")
    ranges, is_told_apart = [], False
    for kind in ("spatial", "temporal", "cross"):
        if (blocks := values.take(f"{kind}_attention_block_identifiers")) not in (None, list(OWN_BLOCKS.get(kind, ()))):
            values.refuse(f"{kind}_attention_block_identifiers", None, "pabtune tells attention by the model's card")
        is_told_apart |= kind == "spatial" and blocks is not None
        window = values.take(f"{kind}_attention_timestep_skip_range")
        if not isinstance(window, list) or len(window) != 2 or not all(_is_number(each) for each in window):
            raise PolicyError(
                f"{values.source}: {kind}_attention_timestep_skip_range must hold two timesteps, not {window!r}"
            )
        low, high = (min(max(each / TIMESTEPS, 0.0), 1.0) for each in window)
        if values.take(f"{kind}_attention_block_skip_range") is not None:
            each = values.whole(f"{kind}_attention_block_skip_range", 1)
            if low < high:
                ranges.append(AttentionRange(kind=kind, range=each, window=(low, high)))
    if not any(values.take(f"{kind}_attention_block_skip_range") for kind in ("spatial", "temporal", "cross")):
        remarks.append("no range is set: diffusers then takes spatial_attention_block_skip_range 2")
        low, high = (
            min(max(each / TIMESTEPS, 0.0), 1.0) for each in values.take("spatial_attention_timestep_skip_range")
        )
        if low < high:
            ranges.append(AttentionRange(kind="spatial", range=2, window=(low, high)))
    return AttentionRanges(ranges=tuple(ranges), is_told_apart=is_told_apart), None


def _module_series(values: Values, remarks: list[str]) -> tuple[Rule, None]:
    values.refuse("use_lite_mode", False, "pabtune does not replace modules by zeros")
    values.refuse("skip_predict_identifiers", None, "pabtune does not replace modules by zeros")
    order = values.whole("max_order", 0)
    if order > MOST_ORDER:
        raise PolicyError(f"{values.source}: max_order {order} cannot be judged, only 0 to {MOST_ORDER}")
    if (kind := values.take("taylor_factors_dtype")) not in ("float32", "torch.float32"):
        remarks.append(f"diffusers rounds what it keeps to {kind}, pabtune keeps it as it is")
    patterns = values.take("cache_identifiers") or list(ATTENTION_PATTERNS)
    if not isinstance(patterns, list) or not all(isinstance(each, str) and _compiles(each) for each in patterns):
        raise PolicyError(f"{values.source}: cache_identifiers must hold regular expressions, but is {patterns!r}")
    after = values.take("disable_cache_after_step")
    rule = ModuleSeries(
        interval=values.whole("cache_interval", 1),
        before=values.whole("disable_cache_before_step", 0),
        after=None if after is None else values.whole("disable_cache_after_step", 0),
        order=order,
        patterns=tuple(patterns),
    )
    return rule, None


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


READERS: Mapping[str, Callable[[Values, list[str]], tuple[Rule, int | None]]] = {
    "MagCacheConfig": _mag_cache,
    "FirstBlockCacheConfig": _first_block,
    "PyramidAttentionBroadcastConfig": _attention_ranges,
    "TaylorSeerCacheConfig": _module_series,
}
