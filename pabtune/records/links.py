"""How fast processes exchange: published kinds of links by name, and measured ones as files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pabtune.records.errors import ParallelError
from pabtune.records.files import check_document, load_json, save_json

SCHEMA = "pabtune.link/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Between the processes of a run.

    Attributes:
        name: for people.
        seconds: that a collective takes, however small.
        bytes_per_second: that leave a process.
        provenance: of a measured one: device, processes, versions, what was measured.
    """

    name: str
    seconds: float
    bytes_per_second: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_document(self.to_document(), f"link {self.name!r}", SCHEMA, ParallelError)

    def to_document(self) -> dict[str, Any]:
        """The link as JSON."""
        document = {
            "schema": SCHEMA, "name": self.name, "seconds": self.seconds, "bytes_per_second": self.bytes_per_second,
        }  # fmt: skip
        return document | ({"provenance": dict(self.provenance)} if self.provenance else {})

    def save(self, path: str | Path) -> None:
        """Writes the link file, atomically.

        Raises:
            FileError: the place cannot be written to.
        """
        save_json(Path(path), self.to_document())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a link file.

        Raises:
            ParallelError: the file is missing, broken, of another schema, or holds an unknown key or a wrong value.
        """
        document = load_json(Path(path), SCHEMA, ParallelError)
        return cls(**{key: value for key, value in document.items() if key != "schema"})


LINKS: Mapping[str, Link] = {
    link.name: link
    for link in (
        Link(name="nvlink", seconds=15e-6, bytes_per_second=300e9),
        Link(name="pcie", seconds=20e-6, bytes_per_second=25e9),
        Link(name="infiniband", seconds=30e-6, bytes_per_second=45e9),
        Link(name="25gbe", seconds=60e-6, bytes_per_second=2.8e9),
    )
}
"""What all-to-alls reach on such links, roughly: not measured by us."""


def find_link(name_or_path: str) -> Link:
    """A kind of link by name, or the file of a measured one.

    Raises:
        ParallelError: neither.
    """
    if name_or_path in LINKS:
        return LINKS[name_or_path]
    if not Path(name_or_path).exists():
        raise ParallelError(f"{name_or_path!r} is neither a link file nor a kind of link; kinds: {', '.join(LINKS)}")
    return Link.load(name_or_path)
