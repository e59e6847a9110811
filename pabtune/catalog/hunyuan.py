"""HunyuanVideo, FramePack and HunyuanVideo 1.5.

HunyuanVideo: arXiv 2412.03603, https://github.com/Tencent-Hunyuan/HunyuanVideo. FramePack: arXiv 2504.12626.
HunyuanVideo 1.5: arXiv 2511.18870. Classes as in diffusers 0.42.

Dual blocks process text and video in parallel streams; single blocks fuse attention and MLP, of which the attention is a
site. The distilled models embed the guidance scale and have one branch; "true" guidance is enabled by arguments of the
pipeline's call (`pipeline_hunyuan_video.py`: `do_true_cfg`).
"""

from pabtune.catalog.card import (
    ByArguments,
    ByCount,
    Guidance,
    ModelCard,
    TokenSplit,
    WhenConfig,
    argument_cuts,
    rotary_cuts,
    sites_in,
)

DUAL_SITES = sites_in(
    "transformer_blocks",
    attn=("full", "norm1.norm", "norm1_context.norm"),
    ff=("mlp", "norm2"),
    ff_context=("mlp", "norm2_context"),
)
SITES = (*DUAL_SITES, *sites_in("single_transformer_blocks", after=("transformer_blocks",), attn="full"))
CUTS = (
    *argument_cuts("transformer_blocks.0", "hidden_states"),
    *argument_cuts("transformer_blocks.*", "freqs_cis", dim=0),
    *argument_cuts("single_transformer_blocks.*", "image_rotary_emb", dim=0),
)
TRUE_GUIDANCE = Guidance(
    order="sequential",
    when=ByArguments(
        name="true_cfg_scale",
        above=1,
        given=(("negative_prompt",), ("negative_prompt_embeds", "negative_pooled_prompt_embeds")),
    ),
    conditional="first",
)

HUNYUAN_VIDEO = ModelCard(
    transformer="HunyuanVideoTransformer3DModel",
    sites=SITES,
    guidance=TRUE_GUIDANCE,
    split=TokenSplit(
        cuts=CUTS,
        unless=(WhenConfig("image_condition_type", "token_replace", "tokens of the first frame are modulated apart"),),
    ),
)
HUNYUAN_FRAMEPACK = ModelCard(
    transformer="HunyuanVideoFramepackTransformer3DModel",
    sites=SITES,
    guidance=TRUE_GUIDANCE,
    split=TokenSplit(
        cuts=CUTS,
        end="single_transformer_blocks.-1",
        unless=(WhenConfig("image_condition_type", "token_replace", "tokens of the first frame are modulated apart"),),
    ),
)
HUNYUAN_VIDEO_15 = ModelCard(
    transformer="HunyuanVideo15Transformer3DModel",
    sites=DUAL_SITES,
    guidance=Guidance(order="sequential", when=ByCount(attribute="guider.num_conditions"), conditional="first"),
    split=TokenSplit(
        cuts=(*rotary_cuts("rope", dim=0), *argument_cuts("transformer_blocks.0", "hidden_states")), has_local_mask=True
    ),
)
