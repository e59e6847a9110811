import pytest
from torch import nn

from pabtune.records.errors import ModelError
from pabtune.runtime.targets import Target
from tests.conftest import make_pipeline, make_transformer


def test_pipelines_and_bare_transformers_have_the_same_sites(pipeline) -> None:
    assert Target.of(pipeline).sites == Target.of(pipeline.transformer).sites
    assert Target.of(pipeline).model_class == "STDiT3Transformer3DModel"


def test_the_fingerprint_sees_the_configuration_not_the_weights() -> None:
    assert Target.of(make_pipeline(0)).fingerprint() == Target.of(make_pipeline(1)).fingerprint()
    other = make_transformer()
    other.register_to_config(input_sq_size=48)
    assert Target.of(other).fingerprint() != Target.of(make_transformer()).fingerprint()


def test_a_model_without_known_sites_is_an_error(pipeline) -> None:
    with pytest.raises(ModelError, match="no sites are known for Linear"):
        Target.of(nn.Linear(2, 2))
    del pipeline.transformer
    pipeline.register_modules(transformer=None)
    with pytest.raises(ModelError, match="no transformer with known sites; it has text_encoder: WordEncoder"):
        Target.of(pipeline)
