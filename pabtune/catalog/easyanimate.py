"""EasyAnimate 5.1: arXiv 2405.18991, https://github.com/aigc-apps/EasyAnimate. Class as in diffusers 0.42."""

from pabtune.catalog.card import Guidance, ModelCard, TokenSplit, argument_cuts, rotary_cuts, sites_in

EASYANIMATE = ModelCard(
    transformer="EasyAnimateTransformer3DModel",
    sites=sites_in("transformer_blocks", optional=("txt_ff",), attn1=("full", "norm1.norm"), ff="mlp", txt_ff="mlp"),
    guidance=Guidance(conditional="last"),
    split=TokenSplit(
        cuts=(*rotary_cuts("rope_embedding", dim=0), *argument_cuts("transformer_blocks.0", "hidden_states")),
        text_first=True,
    ),
)
