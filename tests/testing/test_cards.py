"""A card of one's own, checked on small real pipelines."""

from dataclasses import replace

import pytest
import torch

from pabtune.catalog import CATALOG, Guidance, ModelCard, find_card
from pabtune.catalog.card import ByProperties, TokenSplit, argument_cuts, sites_in
from pabtune.records.errors import ModelError
from pabtune.testing import check_card
from tests.pipelines.cases import CASES, run
from tests.pipelines.parts import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore")


class MyTransformer(CASES["wan-2.1"].build().transformer.__class__):
    """A class of one's own, which no card describes."""


MINE = ModelCard(
    transformer="MyTransformer",
    sites=sites_in("blocks", attn1=("full", "norm1"), attn2=("cross", "norm2"), ffn=("mlp", "norm3")),
    guidance=Guidance(order="sequential", when=ByProperties(names=("do_classifier_free_guidance",))),
    split=TokenSplit(from_diffusers=True),
)


@pytest.fixture(scope="module")
def pipeline():
    wan_pipeline = CASES["wan-2.1"].build()
    mine = MyTransformer.from_config(wan_pipeline.transformer.config).eval()
    mine.load_state_dict(wan_pipeline.transformer.state_dict())
    wan_pipeline.register_modules(transformer=mine)
    wan_pipeline.set_progress_bar_config(disable=True)
    return wan_pipeline


def check(card: ModelCard, pipeline, **changes) -> None:
    arguments = {"prompt": PROMPT, **CASES["wan-2.1"].call, **changes}
    check_card(card, pipeline, lambda: run(pipeline, "wan-2.1", **changes), arguments)


def test_a_true_card_passes_and_leaves_nothing(pipeline) -> None:
    check(MINE, pipeline)
    check(MINE, pipeline, guidance_scale=1.0)
    assert "MyTransformer" not in CATALOG
    assert not any("forward" in vars(module) for module in pipeline.transformer.modules())


@pytest.mark.parametrize("name", ["allegro", "open-sora-1.2", "ltx-2"])
def test_shipped_cards_pass(name) -> None:
    small = CASES[name].build()
    small.set_progress_bar_config(disable=True)
    card = find_card(type(small.transformer).__name__)
    check_card(card, small, lambda: run(small, name), {"prompt": PROMPT, **CASES[name].call})


def test_a_feeder_that_others_read_is_found_out(pipeline) -> None:
    sites = sites_in("blocks", attn1=("full", "norm1"), attn2=("cross", "norm3"))
    with pytest.raises(ModelError, match="the broadcast of cross by the card of MyTransformer differs"):
        check(replace(MINE, sites=sites), pipeline)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": Guidance()}, "says 1 calls per step, but the pipeline made 2"),
        ({"sites": sites_in("blocks", attn3="full")}, "MyTransformer lacks the module 'blocks.0.attn3'"),
        (
            {"split": TokenSplit(cuts=argument_cuts("blocks.0", "tokens"))},
            "cuts 'tokens' of 'blocks.0', but WanTransformerBlock takes hidden_states",
        ),
        ({"transformer": "Another"}, "the card is of Another, but the model's transformers are MyTransformer"),
    ],
)
def test_what_a_card_says_falsely_is_told(changes, message, pipeline) -> None:
    with pytest.raises(ModelError, match=message):
        check(replace(MINE, **changes), pipeline)


def test_a_site_that_is_never_called_is_told(pipeline) -> None:
    pipeline.transformer.blocks[0].unused = torch.nn.Identity()
    pipeline.transformer.blocks[1].unused = torch.nn.Identity()
    try:
        sites = (*MINE.sites, *sites_in("blocks", unused="full"))
        with pytest.raises(ModelError, match=r"names transformer\.blocks\.0\.unused, but it is never called"):
            check(replace(MINE, sites=sites), pipeline)
    finally:
        for block in pipeline.transformer.blocks:
            del block.unused


def test_a_call_must_be_repeatable_and_long_enough(pipeline) -> None:
    with pytest.raises(ModelError, match="two calls without a policy differ"):
        check_card(MINE, pipeline, lambda: torch.rand(2))
    with pytest.raises(ModelError, match="checked over at least 3 steps, but `call` made 2"):
        check(MINE, pipeline, num_inference_steps=2)
