"""CogVideoX, and ConsisID, which is built from its blocks.

CogVideoX: arXiv 2408.06072, https://github.com/zai-org/CogVideo. ConsisID: arXiv 2411.17440,
https://github.com/PKU-YuanGroup/ConsisID. Classes as in diffusers 0.42.
"""

from pabtune.catalog.card import Guidance, ModelCard, SitePattern, TokenSplit, argument_cuts, sites_in

SITES = sites_in("transformer_blocks", attn1=("full", "norm1.norm"), ff=("mlp", "norm2.norm"))
SPLIT = TokenSplit(
    cuts=(
        *argument_cuts("transformer_blocks.0", "hidden_states"),
        *argument_cuts("transformer_blocks.*", "image_rotary_emb", dim=0),
    ),
    text_first=True,
)

COGVIDEOX = ModelCard(
    transformer="CogVideoXTransformer3DModel", sites=SITES, guidance=Guidance(conditional="last"), split=SPLIT
)
CONSISID = ModelCard(
    transformer="ConsisIDTransformer3DModel",
    # Attention to the face, if the model has it, lies between blocks, in a separate list.
    sites=(*SITES, SitePattern(blocks="perceiver_cross_attention", child="", kind="cross", optional=True)),
    guidance=Guidance(conditional="last"),
    split=SPLIT,
)
