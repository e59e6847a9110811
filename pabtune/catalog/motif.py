"""Motif-Video: arXiv 2604.16503, https://huggingface.co/Motif-Technologies. Class as in diffusers 0.42.

Its pipeline copies each result before it makes the next call. Only some blocks have cross-attention.
"""

from pabtune.catalog.card import ByCount, Guidance, ModelCard, sites_in

MOTIF_VIDEO = ModelCard(
    transformer="MotifVideoTransformer3DModel",
    sites=(
        *sites_in(
            "transformer_blocks",
            optional=("cross_attn",),
            attn=("full", "norm1.norm"),
            cross_attn="cross",
            ff=("mlp", "norm2"),
            ff_context=("mlp", "norm2_context"),
        ),
        *sites_in(
            "single_transformer_blocks",
            after=("transformer_blocks",),
            optional=("cross_attn",),
            attn="full",
            cross_attn="cross",
        ),
    ),
    guidance=Guidance(order="interleaved", when=ByCount(attribute="guider.num_conditions"), conditional="first"),
)
