"""A site: one place in a model whose output can be broadcast."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Kind = Literal["spatial", "temporal", "cross", "full", "mlp", "block", "stack"]
"""What a site computes. A `block` is a whole transformer block; its residual is what is broadcast: output less input. A
`stack` is a run of blocks, of which the sum of residuals is."""

UNITS: tuple[Kind, ...] = ("block", "stack")
"""Kinds that hold other sites."""

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a broadcast can happen.

    Attributes:
        transformer: name of the pipeline's component, for example `transformer` or `transformer_2`.
        path: module path inside that component; the output of this module is what is broadcast.
        kind: what the module computes.
        layer: index of its block in its list of blocks.
        feeders: module paths that serve this site alone and are skipped with it (its pre-norm); of a stack, its other blocks.
        state: names of arguments; a call that is given one of them has an effect besides its output, and always computes.
    """

    transformer: str = "transformer"
    path: str
    kind: Kind
    layer: int
    feeders: tuple[str, ...] = ()
    state: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Unique name inside a pipeline."""
        return f"{self.transformer}.{self.path}"

    def to_document(self) -> dict[str, Any]:
        """The site as JSON."""
        document = asdict(self) | {"feeders": list(self.feeders)}
        state = document.pop("state")
        return document | ({"state": list(state)} if state else {})

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Site":
        """The site of a JSON document."""
        values: dict[str, Any] = {
            key: tuple(each) if isinstance(each, list) else each for key, each in document.items()
        }
        return cls(**values)
