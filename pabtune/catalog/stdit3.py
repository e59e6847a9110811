"""STDiT3, the network of Open-Sora 1.2 and of the embedded model: alternating spatial and temporal blocks.

Open-Sora: arXiv 2412.20404, https://github.com/hpcaitech/Open-Sora (v1.2); class from pabtune (`models/stdit3.py`).
"""

from pabtune.catalog.card import FrameSplit, Guidance, ModelCard, sites_in

STDIT3 = ModelCard(
    transformer="STDiT3Transformer3DModel",
    sites=(
        *sites_in("spatial_blocks", attn=("spatial", "norm1"), cross_attn="cross", mlp=("mlp", "norm2")),
        *sites_in("temporal_blocks", attn=("temporal", "norm1"), cross_attn="cross", mlp=("mlp", "norm2")),
    ),
    guidance=Guidance(conditional="first"),
    split=FrameSplit(axes=("frames", "tokens")),
)
