"""Allegro: arXiv 2410.15458, https://github.com/rhymes-ai/Allegro. Class as in diffusers 0.42."""

from pabtune.catalog.card import Cut, Guidance, ModelCard, TokenSplit, WhenArgument, argument_cuts, sites_in

ALLEGRO = ModelCard(
    transformer="AllegroTransformer3DModel",
    # Cross-attention reads the hidden states without a norm; `norm2` feeds the MLP.
    sites=sites_in("transformer_blocks", attn1=("full", "norm1"), attn2="cross", ff=("mlp", "norm2")),
    guidance=Guidance(conditional="last"),
    split=TokenSplit(
        cuts=(
            *argument_cuts("transformer_blocks.0", "hidden_states"),
            # A tuple of frequency tables and the position of each token in them, (1, N); attention looks these up.
            Cut(module="transformer_blocks.*", of="image_rotary_emb", dim=1, item=1),
        ),
        unless=(WhenArgument("attention_mask", "masks over tokens of the video cannot be split"),),
    ),
)
