"""MiniMax-H3: https://github.com/MiniMax-AI. Class as in diffusers 0.42, which drives it by modular blocks."""

from pabtune.catalog.card import ModelCard, sites_in

MINIMAX_H3 = ModelCard(
    transformer="MiniMaxH3Transformer3DModel",
    sites=sites_in("transformer_blocks", attn=("full", "norm1"), ff=("mlp", "norm2")),
)
