"""What cards and configurations say of blocks is what the networks have."""

import pytest

from pabtune.engines.blocks import block_lists, held_layers
from pabtune.engines.engine import ENGINES
from pabtune.records.errors import PolicyError
from tests.pipelines.cases import CASES, cases, transformers_of


@pytest.mark.parametrize("name", cases(["wan-2.2", "hunyuan-distilled", "cogvideox-ddim", "mochi", "latte"]))
def test_lists_of_blocks_are_the_networks(name) -> None:
    for transformer in transformers_of(CASES[name].build()):
        lists = block_lists(type(transformer).__name__, transformer.config)
        if type(transformer).__name__ == "WanVACETransformer3DModel":  # a list tells which blocks are of this kind
            assert lists is None
            continue
        assert lists
        for each in lists:
            assert len(transformer.get_submodule(each.path)) == each.count
            assert [site.block for site in each.sites("t")] == [f"{each.path}.{index}" for index in range(each.count)]


def test_layers_go_on_from_a_list_to_the_next() -> None:
    dual, single = block_lists("HunyuanVideoTransformer3DModel", {"num_layers": 20, "num_single_layers": 40})
    assert (dual.layers, single.layers) == (range(20), range(20, 60))
    assert held_layers(ENGINES["diffusers"], (dual, single)) == tuple(range(60))
    assert held_layers(ENGINES["sglang"], (dual, single)) == (*range(1, 20), *range(21, 60))


def test_the_user_says_what_the_file_does_not() -> None:
    assert block_lists("WanTransformer3DModel", {}) is None
    assert block_lists(None, {"num_layers": 3}) is None
    (only,) = block_lists(None, {}, (30,))
    assert (only.path, only.layers) == ("blocks", range(30))
    (own,) = block_lists("WanTransformer3DModel", {"num_layers": 3}, (30,))
    assert own.count == 30
    with pytest.raises(PolicyError, match="has 2 lists of blocks .transformer_blocks, single_transformer_blocks."):
        block_lists("HunyuanVideoTransformer3DModel", {}, (30,))
