"""SANA-Video: arXiv 2509.24695, https://github.com/NVlabs/Sana. Class as in diffusers 0.42.

Its attention is linear. Its MLP convolves over frames and takes the output of its norm in another shape, so the norm is no
feeder.
"""

from pabtune.catalog.card import Guidance, ModelCard, sites_in

SANA_VIDEO = ModelCard(
    transformer="SanaVideoTransformer3DModel",
    sites=sites_in("transformer_blocks", attn1=("full", "norm1"), attn2="cross", ff="mlp"),
    guidance=Guidance(conditional="last"),
)
