"""A site: one place in a model whose output can be broadcast."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Kind = Literal["spatial", "temporal", "cross", "full", "mlp", "block"]
"""What a site computes. A `block` is a whole transformer block; its residual is what is broadcast: output less input."""

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


def blocks_of(sites: Sequence[Site]) -> tuple[Site, ...]:
    """The blocks that hold sites, as sites of kind `block`, in the order of their first sites."""
    blocks: dict[tuple[str, str], Site] = {}
    for site in sites:
        in_a_block = re.match(r"(.+?\.\d+)\.", site.path)
        if in_a_block is not None:
            block = Site(transformer=site.transformer, path=in_a_block[1], kind="block", layer=site.layer)
            blocks.setdefault((block.transformer, block.path), block)
    return tuple(blocks.values())
