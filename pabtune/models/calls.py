"""How often a pipeline calls its transformer in a step, known before it has done so.

Knows in which words pipelines of diffusers say that they guide; knows nothing of what is done with the number.
"""

from collections.abc import Callable, Mapping
from typing import Any

from diffusers import DiffusionPipeline

Telling = Callable[[Any, Mapping[str, Any]], float]
"""From a pipeline that runs, and the local variables of its call, to calls per step."""


def _by_property(pipeline: Any, _values: Mapping[str, Any]) -> float:
    return 1 + bool(getattr(pipeline, "do_classifier_free_guidance", False))


def _by_scale(pipeline: Any, _values: Mapping[str, Any]) -> float:
    return 1 + bool(pipeline.guidance_scale > 1)


def _by_variable(_pipeline: Any, values: Mapping[str, Any]) -> float:
    return 1 + bool(values.get("do_true_cfg", False))


def _by_guider(pipeline: Any, _values: Mapping[str, Any]) -> float:
    return pipeline.guider.num_conditions


def _by_three_properties(pipeline: Any, _values: Mapping[str, Any]) -> float:
    """Both usual branches share the first call; each further one has half of its samples."""
    further = bool(pipeline.do_spatio_temporal_guidance) + bool(pipeline.do_modality_isolation_guidance)
    return 1 + further / (1 + bool(pipeline.do_classifier_free_guidance))


TELLING: Mapping[str, Telling] = {
    "WanTransformer3DModel": _by_property,
    "WanVACETransformer3DModel": _by_property,
    "ChronoEditTransformer3DModel": _by_property,
    "SkyReelsV2Transformer3DModel": _by_property,
    "HeliosTransformer3DModel": _by_property,
    "CosmosTransformer3DModel": _by_property,
    "Kandinsky5Transformer3DModel": _by_scale,
    "HunyuanVideoTransformer3DModel": _by_variable,
    "HunyuanVideoFramepackTransformer3DModel": _by_variable,
    "HunyuanVideo15Transformer3DModel": _by_guider,
    "MotifVideoTransformer3DModel": _by_guider,
    "LTX2VideoTransformer3DModel": _by_three_properties,
}
"""By class name of the transformer, where pipelines call it once per branch. All others are taken to call it once."""


def calls_per_step(transformer_class: str, pipeline: DiffusionPipeline, values: Mapping[str, Any]) -> float:
    """How many calls like the first a step of this run has; a call with half of the samples counts half.

    Args:
        transformer_class: class name of the transformer.
        pipeline: that runs.
        values: local variables of its call.
    """
    telling = TELLING.get(transformer_class)
    return 1 if telling is None else telling(pipeline, values)
