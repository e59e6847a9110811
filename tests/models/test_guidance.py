"""That the numbers are right, tests/pipelines/test_memory.py shows on every pipeline."""

from types import SimpleNamespace
from typing import Any

import pytest

from pabtune.catalog import find_card
from pabtune.models.guidance import calls_per_step

LTX_2 = ("do_classifier_free_guidance", "do_spatio_temporal_guidance", "do_modality_isolation_guidance")


@pytest.mark.parametrize(
    ("transformer_class", "pipeline", "expected"),
    [
        ("WanTransformer3DModel", {"do_classifier_free_guidance": True}, 2),
        ("WanTransformer3DModel", {"do_classifier_free_guidance": False}, 1),
        ("WanTransformer3DModel", {"do_classifier_free_guidance": None}, 1),
        ("WanTransformer3DModel", {}, 1),
        ("Kandinsky5Transformer3DModel", {"guidance_scale": 1.0}, 1),
        ("Kandinsky5Transformer3DModel", {"guidance_scale": 1.1}, 2),
        ("HunyuanVideo15Transformer3DModel", {"guider": SimpleNamespace(num_conditions=3)}, 3),
        ("CogVideoXTransformer3DModel", {"do_classifier_free_guidance": True}, 1),
        ("LTX2VideoTransformer3DModel", dict.fromkeys(LTX_2, False), 1),
        ("LTX2VideoTransformer3DModel", dict.fromkeys(LTX_2, True), 2),
        ("LTX2VideoTransformer3DModel", {**dict.fromkeys(LTX_2, True), LTX_2[0]: False}, 3),
        ("Mine", {"do_classifier_free_guidance": True}, 1),
    ],
)
def test_calls_follow_from_what_each_pipeline_says(transformer_class, pipeline, expected) -> None:
    assert calls_per_step(find_card(transformer_class), SimpleNamespace(**pipeline), {}) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"true_cfg_scale": 6.0, "negative_prompt": ""}, 2),
        ({"true_cfg_scale": 1.0, "negative_prompt": "blurry"}, 1),
        ({"true_cfg_scale": 6.0}, 1),
        ({"true_cfg_scale": 6.0, "negative_prompt_embeds": 0}, 1),
        ({"true_cfg_scale": 6.0, "negative_prompt_embeds": 0, "negative_pooled_prompt_embeds": 0}, 2),
        ({"negative_prompt": "blurry"}, 1),
        ({}, 1),
    ],
)
def test_hunyuan_guides_as_the_arguments_of_its_call_say(arguments, expected) -> None:
    """As `do_true_cfg` in diffusers' pipeline_hunyuan_video.py."""

    class Pipeline:
        def __call__(self, true_cfg_scale: float = 1.0, negative_prompt: Any = None) -> None:
            """Has the defaults of HunyuanVideoPipeline."""

    assert calls_per_step(find_card("HunyuanVideoTransformer3DModel"), Pipeline(), arguments) == expected


def test_defaults_of_the_call_count() -> None:
    """HunyuanSkyreelsImageToVideoPipeline guides with a scale of 6 if nothing else is said."""

    class Pipeline:
        def __call__(self, true_cfg_scale: float = 6.0, negative_prompt: Any = None) -> None:
            """Nothing."""

    assert calls_per_step(find_card("HunyuanVideoTransformer3DModel"), Pipeline(), {"negative_prompt": "blurry"}) == 2
