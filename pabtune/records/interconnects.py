"""Interconnects between GPUs: published kinds by name, measured ones as files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pabtune.records.errors import ParallelError
from pabtune.records.files import load_json, save_json

SCHEMA = "pabtune.link/1"
"""The file's keys are those of its first version: `seconds` is the latency."""

LONGEST_S, MOST_BYTES_PER_SECOND = 3600.0, 1e30
"""Beyond these a measurement went wrong; predicted times stay numbers within them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interconnect:
    """Alpha-beta model of an interconnect: latency + bytes / bandwidth.

    Attributes:
        name: for people.
        latency_s: of a collective, however small.
        bytes_per_second: that leave a process.
        provenance: of a measured one: device, processes, versions, what was measured.

    Raises:
        ParallelError: the latency is not of 0 s to an hour, or the bandwidth is not of 1 to 1e30 bytes per second.
    """

    name: str
    latency_s: float
    bytes_per_second: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (0 <= self.latency_s <= LONGEST_S and 1 <= self.bytes_per_second <= MOST_BYTES_PER_SECOND):
            raise ParallelError(
                f"interconnect {self.name!r}: the latency must be 0 to {LONGEST_S:g} s, and the bandwidth 1 to "
                f"{MOST_BYTES_PER_SECOND:g} bytes per second, but they are {self.latency_s} s and {self.bytes_per_second} "
                "bytes per second"
            )

    def seconds(self, messages: int, sent_bytes: float) -> float:
        """Time of a number of collectives with this many bytes in all."""
        return messages * self.latency_s + sent_bytes / self.bytes_per_second

    def to_document(self) -> dict[str, Any]:
        """The interconnect as JSON."""
        document = {
            "schema": SCHEMA, "name": self.name, "seconds": self.latency_s, "bytes_per_second": self.bytes_per_second,
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
        return cls(
            name=document["name"],
            latency_s=document["seconds"],
            bytes_per_second=document["bytes_per_second"],
            provenance=document.get("provenance", {}),
        )


INTERCONNECTS: Mapping[str, Interconnect] = {
    each.name: each
    for each in (
        Interconnect(name="nvlink", latency_s=15e-6, bytes_per_second=300e9),
        Interconnect(name="pcie", latency_s=20e-6, bytes_per_second=25e9),
        Interconnect(name="infiniband", latency_s=30e-6, bytes_per_second=45e9),
        Interconnect(name="25gbe", latency_s=60e-6, bytes_per_second=2.8e9),
    )
}
"""What all-to-alls reach on such interconnects, roughly: not measured by us."""


def find_interconnect(name_or_path: str) -> Interconnect:
    """A published kind of interconnect by name, or the file of a measured one.

    Raises:
        ParallelError: neither.
    """
    if name_or_path in INTERCONNECTS:
        return INTERCONNECTS[name_or_path]
    if not os.path.exists(name_or_path):  # says no to names that no file can have
        raise ParallelError(
            f"{name_or_path!r} is neither a link file nor a kind of link; kinds: {', '.join(INTERCONNECTS)}"
        )
    return Interconnect.load(name_or_path)
