"""LTX-Video and LTX-2.

LTX-Video: arXiv 2501.00103, https://github.com/Lightricks/LTX-Video. LTX-2: arXiv 2601.03233,
https://github.com/Lightricks/LTX-2. Classes as in diffusers 0.42.

LTX-2 computes both usual branches in one call; spatio-temporal guidance and modality-isolation guidance each add a call with
the conditional branch alone.
"""

from pabtune.catalog.card import ByProperties, Cut, Guidance, ModelCard, TokenSplit, rotary_cuts, sites_in

LTX_VIDEO = ModelCard(
    transformer="LTXVideoTransformer3DModel",
    sites=sites_in("transformer_blocks", attn1=("full", "norm1"), attn2="cross", ff=("mlp", "norm2")),
    guidance=Guidance(conditional="last"),
    split=TokenSplit(
        cuts=(
            *rotary_cuts("rope", dim=1),
            Cut(module="proj_in", of=0, dim=1),
            # With an input image, tokens have timesteps of their own.
            *(Cut(module="", of="timestep", dim=1, ndim=ndim) for ndim in (2, 3)),
        ),
    ),
)
LTX_2 = ModelCard(
    transformer="LTX2VideoTransformer3DModel",
    sites=sites_in(
        "transformer_blocks",
        attn1=("full", "norm1"),
        audio_attn1=("full", "audio_norm1"),
        attn2=("cross", "norm2"),
        audio_attn2=("cross", "audio_norm2"),
        audio_to_video_attn="cross",
        video_to_audio_attn="cross",
        ff=("mlp", "norm3"),
        audio_ff=("mlp", "audio_norm3"),
    ),
    guidance=Guidance(
        order="interleaved",
        when=ByProperties(
            names=("do_spatio_temporal_guidance", "do_modality_isolation_guidance"),
            batched="do_classifier_free_guidance",
        ),
    ),
)
