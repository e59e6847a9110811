"""Output stores: exact, in 8 bits, or in the host's memory."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from pabtune.libraries.torch_internals import storage_bytes
from pabtune.records.policies import Store
from pabtune.runtime.offload import CpuOffloader, KeepingSite
from pabtune.runtime.payloads import copied
from pabtune.runtime.quantize import dequantize, quantize, quantized_bytes


class OutputStore(Protocol):
    """Store for the outputs of one transformer's sites.

    What the model gets of an output, it may change in place: neither `pack` nor `unpack` shares memory that is written to.
    """

    def pack(self, output: Any) -> Any:
        """Stored form of an output."""

    def fetch(self, site: KeepingSite, call: int) -> Any:
        """Stored output of a call of the site, in the form in which the site returned it."""

    def unpack(self, stored: Any) -> Any:
        """An output from its stored form, in the form in which the site returned it."""

    def nbytes(self, tensors: Sequence[Tensor]) -> int:
        """Bytes that storing these tensors, the parts of one output, takes."""

    def begin(self, broadcasting: set[int]) -> None:
        """Called before a forward in which the hooks with these ids broadcast."""

    def record(self, site: KeepingSite) -> None:
        """Called at the first call of a site in a forward."""

    def clear(self) -> None:
        """Called after a forward."""


class ExactStore:
    """Store that keeps outputs unchanged on their device."""

    def pack(self, output: Any) -> Any:
        """The output (see `OutputStore`)."""
        return copied(output)

    def fetch(self, site: KeepingSite, call: int) -> Any:
        """The output (see `OutputStore`)."""
        return self.unpack(site.outputs[call])

    def unpack(self, stored: Any) -> Any:
        """The output (see `OutputStore`)."""
        return copied(stored)

    def nbytes(self, tensors: Sequence[Tensor]) -> int:
        """Bytes of the storages, which parts of an output may share and not fill (see `OutputStore`)."""
        return storage_bytes(tensors)

    def begin(self, broadcasting: set[int]) -> None:
        """Nothing to prepare (see `OutputStore`)."""

    def record(self, site: KeepingSite) -> None:
        """Nothing to note (see `OutputStore`)."""

    def clear(self) -> None:
        """Nothing to forget (see `OutputStore`)."""


class Int8Store(ExactStore):
    """Store that keeps outputs on their device in 8 bits."""

    def pack(self, output: Any) -> Any:
        """The output in 8 bits (see `OutputStore`)."""
        return quantize(output)

    def unpack(self, stored: Any) -> Any:
        """The dequantized output (see `OutputStore`)."""
        return dequantize(stored)

    def nbytes(self, tensors: Sequence[Tensor]) -> int:
        """One byte per number and four per row (see `OutputStore`)."""
        return quantized_bytes(tensors)


class HostStore(CpuOffloader):
    """Store that keeps outputs in the host's memory."""

    def pack(self, output: Any) -> Any:
        """The output, copied to the host's memory (see `OutputStore`)."""
        return self.save(output)

    def unpack(self, stored: Any) -> Any:
        """The output, copied back to its device (see `OutputStore`)."""
        return self.load(stored)

    def nbytes(self, tensors: Sequence[Tensor]) -> int:
        """Sum of the parts' bytes, because each is copied (see `OutputStore`)."""
        return sum(tensor.nbytes for tensor in tensors)


STORES: dict[Store, type[OutputStore]] = {"exact": ExactStore, "int8": Int8Store, "host": HostStore}


def kept_bytes(tensors: Sequence[Tensor], store: Store) -> int:
    """Bytes that these tensors, the parts of one output, take in a store."""
    return STORES[store]().nbytes(tensors)
