"""Engines that take none but cache-dit's masks by name: vLLM-Omni, and visual generation in TensorRT-LLM.

They get the preset that differs in the fewest steps. Each of two transformers gets the preset for its own number of steps.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from pabtune.engines.export import Export, export_of, header
from pabtune.engines.plan import Plan
from pabtune.engines.step_masks import StepMask
from pabtune.planning.scm import TEMPLATES, preset_mask


def nearest_preset(masks: Sequence[StepMask]) -> tuple[str, int]:
    """The preset that differs in the fewest steps, the slower of equals, and in how many.

    Args:
        masks: of the transformers.

    Raises:
        PolicyError: a transformer has so few steps that there are no presets for it.
    """
    distances = {
        preset: sum(
            own != preset_own
            for mask in masks
            for own, preset_own in zip(mask.computes, preset_mask(preset, len(mask.computes)), strict=True)
        )
        for preset in TEMPLATES
    }
    nearest = min(distances, key=lambda each: distances[each])
    return nearest, distances[nearest]


def _as_preset(mask: StepMask, preset: str) -> StepMask:
    """What a preset makes of a transformer's steps."""
    return replace(mask, computes=preset_mask(preset, len(mask.computes)))


def write(plan: Plan) -> Export:
    """The nearest preset: JSON for vLLM-Omni, YAML for TensorRT-LLM.

    Raises:
        PolicyError: a transformer has so few steps that there are no presets for it.
    """
    is_useful = plan.held > 0  # a policy that holds no block has nothing of a preset that does
    preset, distance = nearest_preset(plan.masks)
    plan = replace(plan, masks=tuple(_as_preset(mask, preset) for mask in plan.masks))
    if distance:
        plan = plan.with_loss(
            f"mask: {plan.engine.name} takes presets alone; {preset!r} is the nearest, and differs in {distance} of "
            f"{plan.steps} steps"
        )
    config: dict[str, Any] = {
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
        "max_warmup_steps": 1,
        "scm_steps_mask_policy": preset,
        "scm_steps_policy": "static",
    }
    if any(mask.is_line for mask in plan.masks):
        config |= {"enable_taylorseer": True, "taylorseer_order": 1}
    if plan.engine.name == "vllm-omni":
        use = 'vllm serve … --omni --cache-backend cache_dit --cache-config "$(cat policy.json)"'
        return replace(export_of(plan, config, json.dumps(config) + "\n", use, ".json"), is_useful=is_useful)
    document = {"cache_config": {"cache_backend": "cache_dit", **config}}
    use = 'VisualGenArgs.from_yaml("policy.yaml", model="…")'
    text = header(plan, use) + yaml.safe_dump(document, sort_keys=False)
    return replace(export_of(plan, document, text, use, ".yaml"), is_useful=is_useful)
