"""A site: one place in a model whose output can be broadcast."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["spatial", "temporal", "cross", "full", "mlp"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a broadcast can happen.

    Attributes:
        transformer: name of the pipeline's component, for example `transformer` or `transformer_2`.
        path: module path inside that component; the output of this module is what is broadcast.
        kind: what the module computes.
        layer: index of its block in its list of blocks.
        feeders: module paths that serve this site alone and are skipped with it (its pre-norm).
    """

    transformer: str = "transformer"
    path: str
    kind: Kind
    layer: int
    feeders: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Unique name inside a pipeline."""
        return f"{self.transformer}.{self.path}"
