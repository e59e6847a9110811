"""SANA-Video: arXiv 2509.24695, https://github.com/NVlabs/Sana. Class as in diffusers 0.42.

Its attention is linear, and its MLP convolves over frames and takes its norm's output in another shape: no feeder there.
"""

from pabtune.catalog.card import ModelCard, sites_in

SANA_VIDEO = ModelCard(
    transformer="SanaVideoTransformer3DModel",
    sites=sites_in("transformer_blocks", attn1=("full", "norm1"), attn2="cross", ff="mlp"),
)
