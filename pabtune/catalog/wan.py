"""Wan 2.1 and 2.2, and the networks built from Wan's blocks.

Wan: arXiv 2503.20314, https://github.com/Wan-Video/Wan2.1 and Wan2.2. VACE: arXiv 2503.07598. ChronoEdit: arXiv 2510.04290.
SkyReels-V2: arXiv 2504.13074. Helios: arXiv 2603.04379. Classes as in diffusers 0.42.
"""

from pabtune.catalog.card import (
    ByProperties,
    Guidance,
    ModelCard,
    TokenSplit,
    WhenArgument,
    WhenPipeline,
    argument_cuts,
    rotary_cuts,
    sites_in,
)

SITES = sites_in("blocks", attn1=("full", "norm1"), attn2=("cross", "norm2"), ffn=("mlp", "norm3"))
GUIDANCE = Guidance(order="sequential", when=ByProperties(names=("do_classifier_free_guidance",)), conditional="first")

WAN = ModelCard(
    transformer="WanTransformer3DModel", sites=SITES, guidance=GUIDANCE, split=TokenSplit(from_diffusers=True)
)
CHRONOEDIT = ModelCard(
    transformer="ChronoEditTransformer3DModel", sites=SITES, guidance=GUIDANCE, split=TokenSplit(from_diffusers=True)
)
WAN_VACE = ModelCard(
    transformer="WanVACETransformer3DModel",
    sites=(*SITES, *sites_in("vace_blocks", attn1=("full", "norm1"), attn2=("cross", "norm2"), ffn=("mlp", "norm3"))),
    guidance=GUIDANCE,
    split=TokenSplit(
        cuts=(
            *rotary_cuts("rope", dim=1),
            *argument_cuts("vace_blocks.*", "hidden_states"),
            *argument_cuts("vace_blocks.0", "control_hidden_states"),
            *argument_cuts("blocks.0", "hidden_states"),
        ),
    ),
)
SKYREELS_V2 = ModelCard(
    transformer="SkyReelsV2Transformer3DModel",
    sites=SITES,
    guidance=GUIDANCE,
    split=TokenSplit(
        cuts=(*rotary_cuts("rope", dim=1), *argument_cuts("blocks.0", "hidden_states")),
        unless=(
            WhenPipeline("SkyReelsV2DiffusionForcing", "frames at steps of their own cannot be split"),
            WhenArgument("enable_diffusion_forcing", "frames at steps of their own cannot be split"),
        ),
    ),
)
HELIOS = ModelCard(transformer="HeliosTransformer3DModel", sites=SITES, guidance=GUIDANCE)
