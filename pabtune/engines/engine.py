"""The engines by name, and what each of them can say of a schedule.

Almost all of them hold the summed residual of a run of blocks between the steps that compute, which is pabtune's kind `stack`;
they differ in which blocks that is, in what a held step serves, and in whether each transformer has steps of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pabtune.records.errors import PolicyError

Held = Literal["all", "behind the first", "attention", "preset"]
"""Which blocks an engine holds: all of them; all but the first, which always runs; none, but attention in ranges; all but the
first, by one of a few masks that the engine knows by name."""


RUN_IN_BOTH = (
    "WanTransformer3DModel", "CogVideoXTransformer3DModel", "HunyuanVideoTransformer3DModel", "LTXVideoTransformer3DModel",
    "MochiTransformer3DModel",
)  # fmt: skip
"""Transformers that cache-dit and diffusers' MagCache both hold as the policy says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that takes a schedule from its users.

    Attributes:
        name: as `--to` and `--for` take it.
        version: that was read or run.
        held: which blocks it holds.
        takes_line: whether a held step may serve the line through the last two computed ones, over steps (TaylorSeer of
            order 1), not only the last one.
        has_masks_by_transformer: whether each transformer of a model with two may have steps of its own.
        compiling: when torch.compile comes.
        models: transformers whose exports pabtune's tests run in it, with the video that the policy gives; empty = it is read,
            not run.
    """

    name: str
    version: str
    held: Held
    takes_line: bool = False
    has_masks_by_transformer: bool = False
    compiling: str = "torch.compile is the engine's own affair"
    models: tuple[str, ...] = ()

    @property
    def is_run(self) -> bool:
        """Whether pabtune's tests run it."""
        return bool(self.models)

    @property
    def takes_masks(self) -> bool:
        """Whether it takes any steps that a policy names."""
        return self.held in ("all", "behind the first")


ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            name="cache-dit",
            version="1.5.3",
            held="behind the first",
            takes_line=True,
            has_masks_by_transformer=True,
            compiling="enable the cache first, then torch.compile, without fullgraph",
            models=(
                *RUN_IN_BOTH,
                "AllegroTransformer3DModel",
                "ChronoEditTransformer3DModel",
                "CosmosTransformer3DModel",
                "EasyAnimateTransformer3DModel",
                "HunyuanVideo15Transformer3DModel",
                "Kandinsky5Transformer3DModel",
                "SkyReelsV2Transformer3DModel",
            ),
        ),
        Engine(name="sglang", version="0.5.23", held="behind the first", takes_line=True),
        Engine(name="xdit", version="0.7.0", held="behind the first", takes_line=True),
        Engine(
            name="diffusers",
            version="0.42.1",
            held="all",
            has_masks_by_transformer=True,
            compiling="enable the cache first; its hooks stay outside of compiled graphs, so no fullgraph",
            models=(
                *RUN_IN_BOTH,
                "AllegroTransformer3DModel",
                "HunyuanVideo15Transformer3DModel",
                "SkyReelsV2Transformer3DModel",
            ),
        ),
        Engine(name="lightx2v", version="f8aee98", held="all", has_masks_by_transformer=True),
        Engine(
            name="stable-diffusion.cpp",
            version="master of 2026-11",
            held="behind the first",
            compiling="nothing is compiled by torch",
        ),
        Engine(name="vllm-omni", version="0.30.0", held="preset", takes_line=True),
        Engine(
            name="tensorrt-llm",
            version="main of 2026-11",
            held="preset",
            takes_line=True,
            compiling="it compiles first and enables the cache then",
        ),
        Engine(name="videosys", version="2.0.0", held="attention", compiling="not compiled"),
    )
}
"""In the order of the documentation."""


def find_engine(name: str) -> Engine:
    """An engine by name.

    Raises:
        PolicyError: it is unknown.
    """
    if name not in ENGINES:
        raise PolicyError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}")
    return ENGINES[name]
