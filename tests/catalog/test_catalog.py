"""The shipped cards: complete, and in agreement with the classes and with the small pipelines of the tests."""

from importlib import import_module

import diffusers
import pytest

import pabtune
from pabtune.catalog import CATALOG, Catalog, ModelCard, find_card
from pabtune.catalog.card import ByProperties, sites_in
from tests.pipelines.cases import CASES, transformers_of

OURS = {"STDiT3Transformer3DModel": "stdit3", "LatteT2VTransformer3DModel": "open_sora_plan"}
MINE = ModelCard(transformer="Mine", sites=sites_in("blocks", attn="full"))


def test_a_catalog_is_a_value() -> None:
    more = CATALOG.with_card(MINE)
    assert more.find("Mine") is MINE
    assert "Mine" in more
    assert len(more) == len(CATALOG) + 1
    assert "Mine" not in CATALOG
    assert CATALOG.find("Mine") is None
    assert [*more] == [*CATALOG, MINE]
    with pytest.raises(TypeError):
        CATALOG.cards["Mine"] = MINE


def test_a_card_replaces_the_one_for_its_class() -> None:
    wan = ModelCard(transformer="WanTransformer3DModel", sites=MINE.sites)
    assert CATALOG.with_card(wan).find("WanTransformer3DModel") is wan
    assert len(CATALOG.with_card(wan)) == len(CATALOG)
    assert find_card("WanTransformer3DModel") is not wan
    assert Catalog.of(MINE, wan).find("Mine") is MINE


def test_it_is_public() -> None:
    assert pabtune.CATALOG is CATALOG
    assert pabtune.ModelCard is ModelCard


def test_every_class_is_there() -> None:
    for card in CATALOG:
        module = import_module(f"pabtune.models.{OURS[card.transformer]}") if card.transformer in OURS else diffusers
        assert hasattr(module, card.transformer)


def test_every_small_pipeline_has_a_card_and_every_card_a_small_pipeline() -> None:
    classes = {type(each).__name__ for case in CASES.values() for each in transformers_of(case.build())}
    assert classes == {card.transformer for card in CATALOG} - {"MiniMaxH3Transformer3DModel"}


def test_properties_that_guidance_is_read_from_are_those_of_pipelines() -> None:
    for name, case in CASES.items():
        pipeline = case.build()
        card = find_card(type(pipeline.transformer).__name__)
        if isinstance(card.guidance.when, ByProperties):
            missing = [each for each in card.guidance.when.names if not hasattr(type(pipeline), each)]
            assert not missing, name
