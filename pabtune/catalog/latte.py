"""Latte, and Open-Sora-Plan 1.1, which is built from its blocks: alternating spatial and temporal blocks.

Latte: arXiv 2401.03048, https://github.com/Vchitect/Latte; class as in diffusers 0.42. Open-Sora-Plan 1.1: arXiv 2412.00131,
https://github.com/PKU-YuanGroup/Open-Sora-Plan (v1.1.0); class from pabtune (`models/open_sora_plan/`).
"""

from pabtune.catalog.card import FrameSplit, Guidance, ModelCard, sites_in

SITES = (
    *sites_in("transformer_blocks", attn1=("spatial", "norm1"), attn2="cross", ff=("mlp", "norm2")),
    *sites_in("temporal_transformer_blocks", attn1=("temporal", "norm1"), ff=("mlp", "norm2")),
)

LATTE = ModelCard(
    transformer="LatteTransformer3DModel",
    sites=SITES,
    guidance=Guidance(conditional="last"),
    split=FrameSplit(axes=("frames",)),
)
LATTE_T2V = ModelCard(
    transformer="LatteT2VTransformer3DModel",
    sites=SITES,
    guidance=Guidance(conditional="first"),
    split=FrameSplit(axes=("frames",)),
)
