from pathlib import Path

import pytest
from diffusers import ModularPipeline, ModularPipelineBlocks
from torch import nn

from pabtune.catalog import CATALOG, Catalog, ModelCard
from pabtune.catalog.card import sites_in
from pabtune.models.registry import load_pipeline
from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target
from tests.conftest import make_pipeline, make_transformer

ROOT = Path(__file__).parent.parent.parent


def test_pipelines_and_bare_transformers_have_the_same_sites(pipeline) -> None:
    assert Target.of(pipeline).sites == Target.of(pipeline.transformer).sites
    assert Target.of(pipeline).model_class == "STDiT3Transformer3DModel"


def test_sites_are_those_of_the_catalog_that_is_passed(pipeline) -> None:
    card = ModelCard(transformer="STDiT3Transformer3DModel", sites=sites_in("spatial_blocks", mlp="mlp"))
    target = Target.of(pipeline, CATALOG.with_card(card))
    assert [site.path for site in target.sites] == ["spatial_blocks.0.mlp", "spatial_blocks.1.mlp"]
    assert target.maps["transformer"].card is card
    assert Target.of(pipeline, Catalog()).maps["transformer"].source == "structure"


def test_a_component_of_another_name_is_found_by_its_card(pipeline) -> None:
    card = ModelCard(transformer="WordEncoder", sites=sites_in("transformer", to_q="mlp"))
    with pytest.raises(ModelError, match="WordEncoder lacks the module 'transformer' that its card names"):
        Target.of(pipeline, CATALOG.with_card(card))


def test_the_fingerprint_of_the_shipped_model_stays_as_policies_hold_it() -> None:
    shipped = Policy.load(ROOT / "policies" / "shapes-30steps.json")
    assert Target.of(load_pipeline("shapes")).fingerprint() == shipped.made_for.fingerprint


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


def test_a_modular_pipeline_is_not_supported_and_says_what_to_do() -> None:
    """Fault 11: `ModularPipeline` is "any diffusers pipeline" to its users."""
    with pytest.raises(
        ModelError, match="ModularPipeline of diffusers, which pabtune does not support; load the model as"
    ):
        Target.of(ModularPipeline(ModularPipelineBlocks()))
