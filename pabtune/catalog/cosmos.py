"""Cosmos-Predict 1 and 2: arXiv 2501.03575, https://github.com/nvidia-cosmos. Class as in diffusers 0.42.

Its norms return the gates of the block and must run. Some of its pipelines compute the input of the scheduler from the first
result before they make the second call.
"""

from pabtune.catalog.card import (
    ByProperties,
    Cut,
    Guidance,
    ModelCard,
    TokenSplit,
    argument_cuts,
    rotary_cuts,
    sites_in,
)

PER_TOKEN = ("embedded_timestep", "temb")
"""Arguments with one entry per token if frames have timesteps of their own, else one per sample."""

COSMOS = ModelCard(
    transformer="CosmosTransformer3DModel",
    sites=sites_in("transformer_blocks", attn1="full", attn2="cross", ff="mlp"),
    guidance=Guidance(
        order="interleaved", when=ByProperties(names=("do_classifier_free_guidance",)), conditional="first"
    ),
    split=TokenSplit(
        cuts=(
            *rotary_cuts("rope", dim=0),
            *argument_cuts("transformer_blocks.0", "hidden_states"),
            *argument_cuts("transformer_blocks.*", "extra_pos_emb", "controlnet_residual"),
            *(
                Cut(module=module, of=name, dim=1, ndim=3)
                for module in ("transformer_blocks.*", "norm_out")
                for name in PER_TOKEN
            ),
        ),
    ),
)
