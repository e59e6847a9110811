"""The reference by hand, on a transformer that returns a bare tensor."""

import pytest
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.cache_utils import CacheMixin
from torch import nn

import pabtune
from pabtune.catalog.card import sites_in
from pabtune.records.errors import ModelError
from pabtune.records.rules import Rule
from pabtune.testing import check_card
from pabtune.testing.oracle import calls_by_hand

STEPS = 5


class Block(nn.Module):
    """Two residuals; the second norm feeds nothing but `ff`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.mixer = nn.LayerNorm(8), nn.Linear(8, 8)
        self.norm2, self.ff = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        x = x + self.mixer(self.norm1(x))
        return x + self.ff(self.norm2(x))


class BareTransformer(ModelMixin, ConfigMixin, CacheMixin):
    """Returns its tensor as it is."""

    @register_to_config
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(layers))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


SITES = {"mixer": ("full", "norm1"), "ff": ("mlp", "norm2")}


@pytest.fixture
def transformer() -> BareTransformer:
    torch.manual_seed(0)
    return BareTransformer().eval()


def denoise(transformer) -> torch.Tensor:
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for step in range(STEPS):
            with transformer.cache_context("cond", step_index=step, num_inference_steps=STEPS):
                x = x - 0.1 * transformer(x)
    return x


def test_a_card_of_it_is_checked(transformer) -> None:
    card = pabtune.ModelCard(transformer="BareTransformer", sites=sites_in("blocks", **SITES))
    check_card(card, transformer, lambda: denoise(transformer))
    wrong = pabtune.ModelCard(transformer="BareTransformer", sites=sites_in("blocks", mixer=("full", "norm2")))
    with pytest.raises(ModelError, match="the broadcast of full by the card of BareTransformer differs"):
        check_card(wrong, transformer, lambda: denoise(transformer))


def test_whole_calls_by_hand_are_those_of_the_engine(transformer) -> None:
    computed = (0, 2, 4)
    card = pabtune.ModelCard(transformer="BareTransformer", sites=sites_in("blocks", **SITES))
    held = pabtune.Policy(name="held", rules=(Rule(kind="transformer", compute=computed),))
    with pabtune.broadcast(transformer, held, catalog=pabtune.CATALOG.with_card(card), any_steps=True):
        fast = denoise(transformer)

    class Holder:
        """Has the transformer as an attribute, as a pipeline does."""

    holder = Holder()
    holder.transformer = transformer
    with calls_by_hand(holder, computed, {1: (1.0,), 3: (1.0,)}, 1) as steps:
        assert (denoise(transformer) == fast).all()
    assert steps == list(computed)
