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
        ndim: it is cut only if it has so many dimensions; None = always.
    """

    module: str
    of: str | int
    dim: int
    ndim: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a class is split.

    Attributes:
        cuts: what is cut.
        end: path of the module whose output is put together.
        dim: of that output, with the tokens.
        text_first: in a sequence of text and video, text comes first.
        refused: arguments of the transformer's call under which the plan does not hold, and why.
    """

    cuts: tuple[Cut, ...]
    end: str = "proj_out"
    dim: int = 1
    text_first: bool = False
    refused: tuple[tuple[str, str], ...] = ()


_ROPE = tuple(Cut(module="rope", of=index, dim=1) for index in (0, 1))

PLANS: Mapping[str, Plan] = {
    "HunyuanVideoTransformer3DModel": Plan(
        cuts=(
            Cut(module="transformer_blocks.0", of="hidden_states", dim=1),
            Cut(module="transformer_blocks.*", of="freqs_cis", dim=0),
            Cut(module="single_transformer_blocks.*", of="image_rotary_emb", dim=0),
        ),
    ),
    "CogVideoXTransformer3DModel": Plan(
        cuts=(
            Cut(module="transformer_blocks.0", of="hidden_states", dim=1),
            Cut(module="transformer_blocks.*", of="image_rotary_emb", dim=0),
        ),
        text_first=True,
    ),
    "LTXVideoTransformer3DModel": Plan(
        cuts=(*_ROPE, Cut(module="proj_in", of=0, dim=1), Cut(module="", of="timestep", dim=1, ndim=2)),
    ),
    "SkyReelsV2Transformer3DModel": Plan(
        cuts=(*_ROPE, Cut(module="blocks.0", of="hidden_states", dim=1)),
        refused=(("enable_diffusion_forcing", "frames at steps of their own cannot be split"),),
    ),
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
