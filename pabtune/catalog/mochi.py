"""Mochi 1: https://github.com/genmoai/mochi. Class as in diffusers 0.42; its last block has no MLP for the text."""

from pabtune.catalog.card import Guidance, ModelCard, TokenSplit, argument_cuts, rotary_cuts, sites_in

MOCHI = ModelCard(
    transformer="MochiTransformer3DModel",
    sites=sites_in(
        "transformer_blocks",
        optional=("ff_context",),
        attn1=("full", "norm1.norm"),
        ff=("mlp", "norm3"),
        ff_context=("mlp", "norm3_context"),
    ),
    guidance=Guidance(conditional="last"),
    split=TokenSplit(
        cuts=(*rotary_cuts("rope", dim=0), *argument_cuts("transformer_blocks.0", "hidden_states")),
    ),
)
