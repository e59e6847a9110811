"""That the numbers are right, tests/pipelines/test_memory.py shows on every pipeline."""

from types import SimpleNamespace

import pytest

from pabtune.models.calls import TELLING, calls_per_step
from pabtune.models.site_tables import SITE_TABLE


@pytest.mark.parametrize(
    ("transformer_class", "pipeline", "values", "expected"),
    [
        ("WanTransformer3DModel", {"do_classifier_free_guidance": True}, {}, 2),
        ("WanTransformer3DModel", {"do_classifier_free_guidance": False}, {}, 1),
        ("WanTransformer3DModel", {}, {}, 1),
        ("Kandinsky5Transformer3DModel", {"guidance_scale": 1.0}, {}, 1),
        ("HunyuanVideoTransformer3DModel", {}, {"do_true_cfg": True}, 2),
        ("HunyuanVideoTransformer3DModel", {}, {}, 1),
        ("CogVideoXTransformer3DModel", {"do_classifier_free_guidance": True}, {}, 1),
    ],
)
def test_calls_are_told_as_each_pipeline_says_that_it_guides(transformer_class, pipeline, values, expected) -> None:
    assert calls_per_step(transformer_class, SimpleNamespace(**pipeline), values) == expected


def test_all_are_transformers_with_known_sites() -> None:
    assert TELLING.keys() <= SITE_TABLE.keys()
