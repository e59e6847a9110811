import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from pabtune.catalog import CATALOG, ModelCard, SitePattern
from pabtune.models.sites import find_sites
from pabtune.records.errors import ModelError
from tests.conftest import make_transformer


class Homemade(nn.Module):
    """A transformer that no table knows, with a text side."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BasicTransformerBlock(8, 2, 4, cross_attention_dim=8) for _ in range(3))
        self.temporal_layers = nn.ModuleList(BasicTransformerBlock(8, 2, 4) for _ in range(3))
        self.text_refiner = nn.ModuleList(BasicTransformerBlock(8, 2, 4) for _ in range(2))

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        """Runs all blocks."""
        for spatial, temporal in zip(self.layers, self.temporal_layers, strict=True):
            hidden_states = spatial(hidden_states, encoder_hidden_states=encoder_hidden_states)
            hidden_states = temporal(hidden_states)
        return hidden_states


def test_every_block_has_its_sites() -> None:
    site_map = find_sites(make_transformer())
    assert site_map.source == "catalog"
    assert site_map.card is CATALOG.find("STDiT3Transformer3DModel")
    assert len(site_map.sites) == 12 == len({site.name for site in site_map.sites})
    kinds = [site.kind for site in site_map.sites]
    assert {kind: kinds.count(kind) for kind in kinds} == {"spatial": 2, "temporal": 2, "cross": 4, "mlp": 4}
    by_path = {site.path: site for site in site_map.sites}
    assert by_path["temporal_blocks.1.attn"].kind == "temporal"
    assert by_path["temporal_blocks.1.attn"].block == "temporal_blocks.1"
    assert by_path["temporal_blocks.1.attn"].feeders == ("temporal_blocks.1.norm1",)
    assert by_path["spatial_blocks.0.cross_attn"].feeders == ()


def test_a_changed_model_is_an_error() -> None:
    broken = make_transformer()
    del broken.spatial_blocks[1].mlp
    with pytest.raises(ModelError, match="lacks the module 'spatial_blocks.1.mlp'"):
        find_sites(broken)


def test_an_unknown_class_is_told_by_its_structure_and_says_how_sure_it_is() -> None:
    site_map = find_sites(Homemade())
    assert site_map.source == "structure"
    assert site_map.card is None
    kinds = {site.path: site.kind for site in site_map.sites}
    assert kinds["layers.0.attn1"] == "full"
    assert kinds["layers.2.attn2"] == "cross"
    assert kinds["temporal_layers.1.attn1"] == "temporal"
    assert kinds["layers.0.ff"] == "mlp"
    assert not any(path.startswith("text_refiner") for path in kinds)
    assert "layers.*.attn1: full (unsure: an attention that is neither marked nor named otherwise)" in site_map.notes
    assert "layers.*.attn2: cross (sure: it says so)" in site_map.notes


def test_nothing_found_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"no sites are known for Linear, .* pabtune.ModelCard\(transformer='Linear'"):
        find_sites(nn.Linear(1, 1))


CARD = ModelCard(
    transformer="Homemade",
    sites=(
        SitePattern(blocks="layers", child="attn1", kind="spatial", feeders=("norm1",)),
        SitePattern(blocks="temporal_layers", child="attn1", kind="temporal", after=("layers",)),
        SitePattern(blocks="layers", child="audio", kind="full", optional=True),
        SitePattern(blocks="text_refiner", child="", kind="cross"),
    ),
)


def test_a_class_of_ones_own_is_found_by_its_card() -> None:
    site_map = find_sites(Homemade(), catalog=CATALOG.with_card(CARD))
    assert (site_map.source, site_map.card) == ("catalog", CARD)
    assert [site.layer for site in site_map.sites] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert [site.block for site in site_map.sites[:4]] == ["layers.0", "layers.1", "layers.2", "temporal_layers.0"]
    assert [(site.path, site.block) for site in site_map.sites[-2:]] == [("text_refiner.0", ""), ("text_refiner.1", "")]
    assert find_sites(Homemade()).source == "structure"


def test_a_feeder_that_is_not_there_is_an_error() -> None:
    site = SitePattern(blocks="layers", child="attn1", kind="full", feeders=("norm9",))
    card = ModelCard(transformer="Homemade", sites=(site,))
    with pytest.raises(ModelError, match=r"Homemade lacks the module 'layers.0.norm9' that its card names"):
        find_sites(Homemade(), catalog=CATALOG.with_card(card))


def test_what_is_no_list_of_blocks_is_an_error() -> None:
    """It was a TypeError of Python's, after the model was loaded."""
    card = ModelCard(transformer="Homemade", sites=(SitePattern(blocks="layers.0.attn1", child="", kind="full"),))
    with pytest.raises(ModelError, match=r"'layers.0.attn1' that a card names is no list of blocks, but Attention"):
        find_sites(Homemade(), catalog=CATALOG.with_card(card))
