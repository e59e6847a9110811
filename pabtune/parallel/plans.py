"""Where the tokens of full-attention transformers can be split: which tensors are cut, and where they are put together.

diffusers' own plans (`_cp_plan`, https://huggingface.co/docs/diffusers, context parallelism) where a class has one; for
others, and where theirs would cut the text as well, plans of our own. Knows names of modules and arguments; knows nothing
of processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from torch import nn

from pabtune.planning.sharding import are_tokens_cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A tensor that has a place for each token.

    Attributes:
        module: path of the module that takes or returns it; `*` for every item of a list, empty for the transformer.
        of: name of the argument, or place among the outputs; of a tuple, every tensor is cut.
        dim: dimension with the tokens.
        ndim: it is cut only if it has so many dimensions, and a place for more than one token; None = always.
        item: of a tuple, the only one that is cut.
    """

    module: str
    of: str | int
    dim: int
    ndim: int | None = None
    item: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a class is split.

    Attributes:
        cuts: what is cut.
        end: path of the module whose output, or the first of its outputs, is put together; `-1` for the last of a list.
        dim: of that output, with the tokens.
        text_first: in a sequence of text and video, text comes first.
        mask_of_own: attention makes its mask itself, over the tokens that it gets, and the same for all of the video's.
        refused: arguments of the transformer's call under which the plan does not hold, and why.
    """

    cuts: tuple[Cut, ...]
    end: str = "proj_out"
    dim: int = 1
    text_first: bool = False
    mask_of_own: bool = False
    refused: tuple[tuple[str, str], ...] = ()


def _tokens(module: str, *names: str, dim: int = 1) -> tuple[Cut, ...]:
    """Arguments of a module."""
    return tuple(Cut(module=module, of=name, dim=dim) for name in names)


def _outputs(module: str, dim: int) -> tuple[Cut, ...]:
    """Cosine and sine of a rotary embedding."""
    return tuple(Cut(module=module, of=index, dim=dim) for index in (0, 1))


_HUNYUAN = (
    *_tokens("transformer_blocks.0", "hidden_states"), *_tokens("transformer_blocks.*", "freqs_cis", dim=0),
    *_tokens("single_transformer_blocks.*", "image_rotary_emb", dim=0),
)  # fmt: skip
_COGVIDEOX = Plan(
    cuts=(
        *_tokens("transformer_blocks.0", "hidden_states"), *_tokens("transformer_blocks.*", "image_rotary_emb", dim=0),
    ),
    text_first=True,
)  # fmt: skip
_OF_FRAMES = ("embedded_timestep", "temb")
"""Cosmos has these for each token where frames have timesteps of their own, else for a sample."""

PLANS: Mapping[str, Plan] = {
    "AllegroTransformer3DModel": Plan(
        cuts=(
            *_tokens("transformer_blocks.0", "hidden_states"),
            Cut(module="transformer_blocks.*", of="image_rotary_emb", dim=1, item=1),
        ),
        refused=(("attention_mask", "masks over tokens of the video cannot be split"),),
    ),
    "CogVideoXTransformer3DModel": _COGVIDEOX,
    "ConsisIDTransformer3DModel": _COGVIDEOX,
    "CosmosTransformer3DModel": Plan(
        cuts=(
            *_outputs("rope", 0),
            *_tokens("transformer_blocks.0", "hidden_states"),
            *_tokens("transformer_blocks.*", "extra_pos_emb", "controlnet_residual"),
            *(
                Cut(module=at, of=name, dim=1, ndim=3)
                for at in ("transformer_blocks.*", "norm_out")
                for name in _OF_FRAMES
            ),
        ),
    ),
    "EasyAnimateTransformer3DModel": Plan(
        cuts=(*_outputs("rope_embedding", 0), *_tokens("transformer_blocks.0", "hidden_states")), text_first=True
    ),
    "HunyuanVideoTransformer3DModel": Plan(cuts=_HUNYUAN),
    "HunyuanVideoFramepackTransformer3DModel": Plan(cuts=_HUNYUAN, end="single_transformer_blocks.-1"),
    "HunyuanVideo15Transformer3DModel": Plan(
        cuts=(*_outputs("rope", 0), *_tokens("transformer_blocks.0", "hidden_states")), mask_of_own=True
    ),
    "Kandinsky5Transformer3DModel": Plan(
        cuts=(
            *_tokens("visual_transformer_blocks.0", "visual_embed"),
            *_tokens("visual_transformer_blocks.*", "rope"),
        ),
        end="visual_transformer_blocks.-1",
        refused=(("sparse_params", "sparse attention looks at neighbours of a token in space"),),
    ),  # fmt: skip
    "LTXVideoTransformer3DModel": Plan(
        cuts=(
            *_outputs("rope", 1),
            Cut(module="proj_in", of=0, dim=1),
            *(Cut(module="", of="timestep", dim=1, ndim=ndim) for ndim in (2, 3)),
        ),
    ),
    "MochiTransformer3DModel": Plan(
        cuts=(*_outputs("rope", 0), *_tokens("transformer_blocks.0", "hidden_states")),
    ),
    "SkyReelsV2Transformer3DModel": Plan(
        cuts=(*_outputs("rope", 1), *_tokens("blocks.0", "hidden_states")),
        refused=(("enable_diffusion_forcing", "frames at steps of their own cannot be split"),),
    ),
    "WanVACETransformer3DModel": Plan(
        cuts=(
            *_outputs("rope", 1),
            *_tokens("vace_blocks.*", "hidden_states"),
            *_tokens("vace_blocks.0", "control_hidden_states"),
            *_tokens("blocks.0", "hidden_states"),
        ),
    ),  # fmt: skip
}
"""By class name of the transformer."""

BY_DIFFUSERS = ("WanTransformer3DModel", "ChronoEditTransformer3DModel")
"""Classes whose plan in diffusers cuts the video's tokens alone, in one place."""


def find_plan(transformer: nn.Module, pipeline: str = "") -> Plan | None:
    """The plan of a transformer; None if there is none, or it does not hold for a configuration or a pipeline.

    Args:
        transformer: any.
        pipeline: class name of the pipeline that calls it, if known.
    """
    name = type(transformer).__name__
    if not are_tokens_cut(name, getattr(transformer, "config", {}), pipeline):
        return None
    return _from_diffusers(transformer._cp_plan) if name in BY_DIFFUSERS else PLANS[name]  # type: ignore[arg-type]


def _from_diffusers(theirs: Mapping[str, object]) -> Plan:
    """Our words for a plan of diffusers'."""
    cuts, end = [], {}
    for module, entry in theirs.items():
        if isinstance(entry, ContextParallelOutput):
            end = {"end": module, "dim": entry.gather_dim}
        elif isinstance(entry, dict):
            cuts += [
                Cut(module=module, of=name, dim=each.split_dim, ndim=each.expected_dims)
                for name, each in entry.items()
                if isinstance(each, ContextParallelInput)
            ]
    return Plan(cuts=tuple(cuts), **end)
