"""That the numbers are right, tests/pipelines/test_memory.py shows on every pipeline."""

from types import SimpleNamespace
from typing import Any

import pytest

from pabtune.catalog import find_card
from pabtune.models.guidance import calls_per_step, conditional_half, is_guided, role_of

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


@pytest.mark.parametrize(
    ("transformer_class", "name", "ordinal", "calls", "expected"),
    [
        ("WanTransformer3DModel", "cond", 0, 1, "conditional"),
        ("WanTransformer3DModel", "uncond", 0, 2, "unconditional"),
        ("WanTransformer3DModel", None, 0, 2, "conditional"),
        ("WanTransformer3DModel", None, 1, 2, "unconditional"),
        ("WanTransformer3DModel", None, 0, 3, None),
        ("LatteTransformer3DModel", None, 0, 1, "both"),
        ("LatteTransformer3DModel", None, 1, 1, None),
        ("LTX2VideoTransformer3DModel", "cond_uncond", 0, 2, "both"),
        ("LTX2VideoTransformer3DModel", "uncond_stg", 0, 2, "other"),
        ("LTX2VideoTransformer3DModel", None, 0, 2, None),
        ("MotifVideoTransformer3DModel", "pred_cond_skip", 0, 3, "other"),
        ("Mine", None, 0, 2, None),
        ("Mine", "pred_uncond", 0, 2, "unconditional"),
    ],
)
def test_branches_are_told_by_names_or_by_the_card(transformer_class, name, ordinal, calls, expected) -> None:
    assert role_of(find_card(transformer_class), name, ordinal, calls) == expected


def test_our_pipelines_put_the_conditional_half_first() -> None:
    for transformer_class, name, half in (
        ("STDiT3Transformer3DModel", "cond+uncond", 0), ("CogVideoXTransformer3DModel", "cond_uncond", 1),
        ("LatteTransformer3DModel", None, 1), ("LatteT2VTransformer3DModel", None, 0),
    ):  # fmt: skip
        assert conditional_half(find_card(transformer_class), name) == half


@pytest.mark.parametrize(
    ("transformer_class", "pipeline", "expected"),
    [
        ("WanTransformer3DModel", {"do_classifier_free_guidance": True}, True),
        ("WanTransformer3DModel", {"do_classifier_free_guidance": False}, False),
        ("WanTransformer3DModel", {}, None),
        ("Kandinsky5Transformer3DModel", {"guidance_scale": 1.0}, False),
        ("MotifVideoTransformer3DModel", {"guider": SimpleNamespace(num_conditions=1)}, None),
        ("LTX2VideoTransformer3DModel", dict.fromkeys(LTX_2, True), True),
        ("LTX2VideoTransformer3DModel", {**dict.fromkeys(LTX_2, True), LTX_2[0]: False}, False),
        ("AllegroTransformer3DModel", {"guidance_scale": 7.5}, True),
        ("CogVideoXTransformer3DModel", {"do_classifier_free_guidance": False, "guidance_scale": 6.0}, False),
        ("STDiT3Transformer3DModel", {}, None),
    ],
)
def test_whether_a_run_is_guided_is_known_where_the_pipeline_says_it(transformer_class, pipeline, expected) -> None:
    assert is_guided(find_card(transformer_class), SimpleNamespace(**pipeline), {}) is expected
