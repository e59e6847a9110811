"""Allegro: arXiv 2410.15458, https://github.com/rhymes-ai/Allegro. Class as in diffusers 0.42."""

from pabtune.catalog.card import Cut, ModelCard, TokenSplit, WhenArgument, argument_cuts, sites_in

ALLEGRO = ModelCard(
    transformer="AllegroTransformer3DModel",
    sites=sites_in("transformer_blocks", attn1=("full", "norm1"), attn2="cross", ff=("mlp", "norm2")),
    split=TokenSplit(
        cuts=(
            *argument_cuts("transformer_blocks.0", "hidden_states"),
            # A pair of frequencies and of positions' grids, of which the second has a place for each token.
            Cut(module="transformer_blocks.*", of="image_rotary_emb", dim=1, item=1),
        ),
        unless=(WhenArgument("attention_mask", "masks over tokens of the video cannot be split"),),
    ),
)
