"""A site: one place in a model whose output can be broadcast."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Kind = Literal["spatial", "temporal", "cross", "full", "mlp", "block", "stack", "transformer", "guidance"]
"""What a site computes. A `block` is a whole transformer block; its residual is what is broadcast: output less input. A
`stack` is a run of blocks, of which the sum of residuals is. `transformer` is a whole call, whose output is broadcast.
`guidance` is the difference between the guidance branches: the conditional one computes."""

BLOCKS: tuple[Kind, ...] = ("block", "stack")
"""Kinds that are whole blocks."""

WHOLE_CALLS: tuple[Kind, ...] = ("transformer", "guidance")
"""Kinds that are of whole calls of a transformer, and of no module in it."""

UNITS: tuple[Kind, ...] = (*BLOCKS, *WHOLE_CALLS)
"""Kinds that hold other sites. They are sites only under policies that name them."""

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a broadcast can happen.

    Attributes:
        transformer: name of the pipeline's component, for example `transformer` or `transformer_2`.
        path: module path inside that component, of which the output is broadcast; empty for the whole transformer.
        kind: what the module computes.
        layer: index of its block in its list of blocks.
        block: module path of the block that it stands in; empty if it stands in none.
        feeders: module paths that serve this site alone and are skipped with it (its pre-norm); of a stack, its other blocks.
    """

    transformer: str = "transformer"
    path: str
    kind: Kind
    layer: int
    block: str = ""
    feeders: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Unique name inside a pipeline."""
        if self.kind == "guidance":
            return f"{self.transformer}/guidance"
        return f"{self.transformer}.{self.path}" if self.path else self.transformer

    def to_document(self) -> dict[str, Any]:
        """The site as JSON."""
        return asdict(self) | {"feeders": list(self.feeders)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Site":
        """The site of a JSON document; one without `block` was written before sites had it."""
        block = document["block"] if "block" in document else _block_of(document["path"])
        return cls(**{**document, "block": block, "feeders": tuple(document["feeders"])})


def _block_of(path: str) -> str:
    """The block of a path in which blocks are items of a list: all up to the first number, if something follows."""
    block = re.match(r"(.+?\.\d+)\.", path)
    return block[1] if block else ""
