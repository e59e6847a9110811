"""Kandinsky 5: arXiv 2511.14993, https://github.com/kandinskylab/kandinsky-5. Class as in diffusers 0.42."""

from pabtune.catalog.card import (
    ByProperties,
    Guidance,
    ModelCard,
    TokenSplit,
    WhenArgument,
    WhenConfig,
    argument_cuts,
    sites_in,
)

SPARSE = "sparse attention looks at neighbours of a token in space"

KANDINSKY_5 = ModelCard(
    transformer="Kandinsky5Transformer3DModel",
    sites=sites_in(
        "visual_transformer_blocks",
        self_attention=("full", "self_attention_norm"),
        cross_attention=("cross", "cross_attention_norm"),
        feed_forward=("mlp", "feed_forward_norm"),
    ),
    guidance=Guidance(order="sequential", when=ByProperties(names=("guidance_scale",), above=1), conditional="first"),
    split=TokenSplit(
        cuts=(
            *argument_cuts("visual_transformer_blocks.0", "visual_embed"),
            *argument_cuts("visual_transformer_blocks.*", "rope"),
        ),
        end="visual_transformer_blocks.-1",
        unless=(WhenConfig("attention_type", "nabla", SPARSE), WhenArgument("sparse_params", SPARSE)),
    ),
)
