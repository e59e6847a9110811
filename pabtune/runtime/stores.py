"""The ways of keeping outputs for later steps: as they are, in 8 bits, in the host's memory."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from pabtune.libraries.torch_internals import storage_bytes
from pabtune.records.policies import Store
from pabtune.runtime.offload import CpuOffloader, KeepingSite
from pabtune.runtime.quantize import dequantize, quantize, quantized_bytes


class OutputStore(Protocol):
    """Keeps the outputs of one transformer's sites."""

    def pack(self, output: Any) -> Any:
        """What is kept of an output."""

    def fetch(self, site: KeepingSite, call: int) -> Any:
        """What a site kept of its call, as the site returned it."""

    def nbytes(self, tensors: Sequence[Tensor]) -> int:
        """Bytes that are held when these tensors, parts of one output, are kept."""

    def begin(self, broadcasting: set[int]) -> None:
        """A forward starts in which the sites with these ids broadcast."""

    def record(self, site: KeepingSite) -> None:
        """A site is called for the first time in this forward."""

    def clear(self) -> None:
        """The forward is over."""


class ExactStore:
    """Keeps outputs on their device as they are."""

    def pack(self, output: Any) -> Any:
        """The output (see `OutputStore`)."""
        return output

    def fetch(self, site: KeepingSite, call: int) -> Any:
        """The output (see `OutputStore`)."""
        return site.outputs[call]

    def nbytes(self, tensors: Sequence[Tensor]) -> int:
        """Parts of one output are often views of one storage, which may be larger than they are (see `OutputStore`)."""
        return storage_bytes(list(tensors))

    def begin(self, broadcasting: set[int]) -> None:
        """Nothing to prepare (see `OutputStore`)."""

    def record(self, site: KeepingSite) -> None:
        """Nothing to note (see `OutputStore`)."""

    def clear(self) -> None:
        """Nothing to forget (see `OutputStore`)."""


class Int8Store(ExactStore):
    """Keeps outputs on their device in 8 bits."""

    def pack(self, output: Any) -> Any:
        """The output in 8 bits (see `OutputStore`)."""
        return quantize(output)

    def fetch(self, site: KeepingSite, call: int) -> Any:
        """The output, as near as 8 bits are (see `OutputStore`)."""
        return dequantize(site.outputs[call])

    def nbytes(self, tensors: Sequence[Tensor]) -> int:
        """A byte for each number, four for each row (see `OutputStore`)."""
        return quantized_bytes(tensors)


class HostStore(CpuOffloader):
    """Keeps outputs in the host's memory."""

    def pack(self, output: Any) -> Any:
        """The output in the host's memory (see `OutputStore`)."""
        return self.save(output)

    def nbytes(self, tensors: Sequence[Tensor]) -> int:
        """What each part takes: it is copied (see `OutputStore`)."""
        return sum(tensor.nbytes for tensor in tensors)


STORES: dict[Store, type[OutputStore]] = {"exact": ExactStore, "int8": Int8Store, "host": HostStore}


def kept_bytes(tensors: Sequence[Tensor], store: Store) -> int:
    """Bytes that are held when these tensors, parts of one output, are kept in a store."""
    return STORES[store]().nbytes(tensors)
