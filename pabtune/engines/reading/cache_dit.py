"""cache-dit's YAML (https://github.com/vipshop/cache-dit 1.5.3, `load_configs.py`): `cache_config:` with DBCache's fields.

Read as `cache_dit.load_configs` reads it: a field that is missing, or null, has its default, and an unknown one is ignored in
silence, which is said here. A `dynamic` mask lets the threshold decide in its zeros, a `static` one holds there.
"""

from collections.abc import Mapping
from typing import Any

from pabtune.engines.reading.configuration import Configuration, DualBlocks, Values
from pabtune.records.errors import PolicyError

FORM = "cache-dit YAML (cache_config: with Fn_compute_blocks, residual_diff_threshold, steps_computation_mask …)"
KEY = "cache_config"
PRESETS = ("slow", "medium", "fast", "ultra")
MOST_ORDER = 2

DEFAULTS: Mapping[str, Any] = {
    "cache_type": "DBCache", "Fn_compute_blocks": 8, "Bn_compute_blocks": 0, "residual_diff_threshold": 0.08,
    "max_warmup_steps": 8, "warmup_interval": 1, "max_cached_steps": -1, "max_continuous_cached_steps": -1,
    "cfg_compute_first": False, "cfg_diff_compute_separate": True, "steps_computation_policy": "dynamic",
    "enable_taylorseer": False, "enable_encoder_taylorseer": False, "taylorseer_cache_type": "residual",
    "taylorseer_order": 1,
}  # fmt: skip
"""Of DBCacheConfig, and of what the loader takes for TaylorSeer."""

CALIBRATORS = ("enable_dmd", "enable_foca")
"""Other payloads of cache-dit."""

OF_OTHER_PAYLOADS = (
    "enable_encoder_dmd", "dmd_history", "dmd_rank", "dmd_ridge", "dmd_svd_precision", "enable_encoder_foca",
    "calibrator_cache_type",
)  # fmt: skip
"""Read by the loader, and of no effect without their calibrator."""

NOT_FOR_STATIC = (
    "residual_diff_threshold", "max_accumulated_residual_diff_threshold", "max_cached_steps", "max_continuous_cached_steps",
)  # fmt: skip
"""What a static mask does not consult."""

NOT_JUDGED: Mapping[str, str] = {
    "parallelism_config": "pabtune judges on one device",
    "attention_backend": "pabtune runs the model's own attention",
    "quantize_config": "pabtune runs the weights as they are, so that the loss by quantizing is not seen",
}

OF_OTHER_ENGINES: Mapping[str, str] = {
    "scm_policy": "xDiT", "scm_steps_mask_policy": "vLLM-Omni or TensorRT-LLM",
    "scm_steps_policy": "vLLM-Omni or TensorRT-LLM", "cache_backend": "vLLM-Omni or TensorRT-LLM",
}  # fmt: skip
"""Keys beside DBCache's fields that tell another engine."""


def recognizes(document: Any) -> bool:
    """Whether a document is one of cache-dit's: with `cache_config`, or the older form with the fields at its top."""
    return isinstance(document, dict) and (
        isinstance(document.get(KEY), dict)
        or bool(NOT_JUDGED.keys() & document.keys())
        or any(key in document for key in ("Fn_compute_blocks", "residual_diff_threshold", "steps_computation_mask"))
    )


def read(document: Mapping[str, Any], name: str) -> Configuration:
    """The configuration of a document.

    Args:
        document: of which `recognizes` says yes.
        name: of the file.

    Raises:
        PolicyError: cache-dit would stop at it, or pabtune cannot judge what it says.
    """
    is_nested = KEY in document
    if not is_nested and not set(document) - NOT_JUDGED.keys():
        raise PolicyError(
            f"{name}: there is no cache_config, so that cache-dit caches nothing; there is nothing to judge"
        )
    remarks = [f"{key}: not judged: {why}" for key, why in NOT_JUDGED.items() if key in document]
    if is_nested:
        others = sorted(str(key) for key in document if key != KEY and key not in NOT_JUDGED)
        remarks += [f"cache-dit ignores {', '.join(others)} beside cache_config"] if others else []
    if is_nested and not isinstance(document[KEY], dict):
        raise PolicyError(f"{name}: cache_config must be an object, but is {document[KEY]!r}")
    fields = document[KEY] if is_nested else {key: document[key] for key in document if key not in NOT_JUDGED}
    if foreign := sorted(OF_OTHER_ENGINES.keys() & fields.keys()):
        raise PolicyError(
            f"{name}: {foreign[0]} is {OF_OTHER_ENGINES[foreign[0]]}'s, whose files are not read: its defaults are not "
            "cache-dit's; write what it says as cache_config of cache-dit"
        )
    values = Values(fields, name, DEFAULTS)
    if (kind := values.take("cache_type")) != "DBCache":
        raise PolicyError(f"{name}: cache_type {kind!r} cannot be judged, only DBCache")
    mask, preset = _mask(values, is_nested=is_nested)
    policy = values.take("steps_computation_policy")
    if policy not in ("static", "dynamic"):
        raise PolicyError(f"{name}: steps_computation_policy must be static or dynamic, but is {policy!r}")
    rule = dual_blocks(values, mask, preset, is_static=policy == "static")
    steps = None if values.take("num_inference_steps") is None else values.whole("num_inference_steps", 1)
    separate = None if values.take("enable_separate_cfg") is None else values.truth("enable_separate_cfg")
    _refuse_others(values)
    remarks += _remarks(values, fields, rule)
    return Configuration(
        engine="cache-dit", name=name, form=FORM, rule=rule, steps=steps, has_separate_calls=separate, remarks=tuple(remarks)
    )  # fmt: skip


def dual_blocks(values: Values, mask: tuple[bool, ...] | None, preset: str | None, *, is_static: bool) -> DualBlocks:
    """The rule in the words of DBCacheConfig.

    Args:
        values: of DBCacheConfig.
        mask: per step, whether it must compute.
        preset: name of a mask.
        is_static: whether the mask's zeros are held without a look at the threshold.

    Raises:
        PolicyError: a value is wrong, or pabtune cannot judge it.
    """
    if is_static and mask is not None and not mask[0]:
        raise PolicyError(
            f"{values.source}: the mask holds step 0, where nothing was computed yet: the engine stops there; begin the mask "
            "with 1"
        )
    most_change = None
    if values.take("max_accumulated_residual_diff_threshold") is not None:
        most_change = values.number("max_accumulated_residual_diff_threshold")
    order = values.whole("taylorseer_order", 0) if values.truth("enable_taylorseer") else 0
    if order > MOST_ORDER:
        raise PolicyError(f"{values.source}: taylorseer_order {order} cannot be judged, only 0 to {MOST_ORDER}")
    values.take("taylorseer_order")
    return DualBlocks(
        front=values.whole("Fn_compute_blocks", 1),
        back=values.whole("Bn_compute_blocks", 0),
        threshold=values.number("residual_diff_threshold"),
        warm_up=values.whole("max_warmup_steps", 0),
        warm_up_interval=values.whole("warmup_interval", 1),
        most=values.limit("max_cached_steps"),
        most_in_row=values.limit("max_continuous_cached_steps"),
        most_change=most_change if most_change is not None and most_change > 0 else None,
        order=order,
        continues_text=values.truth("enable_encoder_taylorseer") or order == 0,
        takes_one_decision=not values.truth("cfg_diff_compute_separate"),
        mask=mask,
        preset=preset,
        is_static=is_static,
    )


def _mask(values: Values, *, is_nested: bool) -> tuple[tuple[bool, ...] | None, str | None]:
    """The mask, or the name of one."""
    mask, source = values.take("steps_computation_mask"), values.source
    if mask is None:
        return None, None
    if isinstance(mask, str):
        if mask not in PRESETS:
            raise PolicyError(
                f"{source}: steps_computation_mask must be a list, or one of {', '.join(PRESETS)}, not {mask!r}"
            )
        if not is_nested:
            raise PolicyError(
                f"{source}: cache-dit reads the mask {mask!r} by name only inside of cache_config; put it there"
            )
        if values.take("num_inference_steps") is None:
            raise PolicyError(
                f"{source}: a mask by name ({mask!r}) needs num_inference_steps: cache-dit stops without it"
            )
        return None, mask
    if not isinstance(mask, list) or not mask or any(each not in (0, 1) for each in mask):
        raise PolicyError(
            f"{source}: steps_computation_mask must hold a 1 (compute) or a 0 for each step, but is {mask!r}"
        )
    return tuple(bool(each) for each in mask), None


def _refuse_others(values: Values) -> None:
    """Refuses what changes the videos and that pabtune does not do.

    Raises:
        PolicyError: names it.
    """
    for key in CALIBRATORS:
        values.refuse(key, False, "pabtune does not have that payload")
    values.refuse("cfg_compute_first", False, "cache-dit then counts the steps of the second branch")
    values.refuse("force_refresh_step_hint", None, "pabtune does not begin a run anew in its middle")
    values.take("force_refresh_step_policy")
    if values.truth("enable_taylorseer"):
        values.refuse("taylorseer_cache_type", "residual", "pabtune continues residuals")
    for key in ("taylorseer_cache_type", *OF_OTHER_PAYLOADS):
        values.take(key)


def _remarks(values: Values, fields: Mapping[str, Any], rule: DualBlocks) -> list[str]:
    """What cache-dit ignores, and what is judged otherwise."""
    remarks = []
    if "cache_type" in fields:
        remarks.append("cache-dit 1.5.3 stops at cache_type in a file (`Unsupported cache_type`); leave it out there")
    if values.unknown:
        remarks.append(f"cache-dit does not know, and ignores: {', '.join(values.unknown)}")
    unused = [key for key in NOT_FOR_STATIC if fields.get(key) is not None]
    if rule.is_fixed and unused:
        remarks.append(f"a static mask does not consult {', '.join(unused)}")
    if not rule.has_mask and "steps_computation_policy" in fields:
        remarks.append("steps_computation_policy says nothing without steps_computation_mask")
    return remarks
