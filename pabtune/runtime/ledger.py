"""Accounting of stored bytes: sizes of outputs, the prediction for each step, and the memory limit.

Knows sizes; knows nothing of hooks. The first step of a loop computes everything and so shows every size. A transformer that
takes over later is assumed to store outputs like those of its predecessor until its own first step shows its sizes.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pabtune.planning.costs.memory import format_bytes, held_bytes
from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Store
from pabtune.records.sites import Site

BranchKey = tuple[str, str]
"""Names of a transformer and of a guidance branch."""


class Meter:
    """Counts the bytes of outputs in a call, and stops the call as soon as it exceeds the limit.

    Args:
        nbytes: function from the tensors of one output to their stored bytes.
        held: bytes already held by other calls.
        limit: most bytes that may be held; None = no limit.
        policy: name of the policy, for the message.
        step: the denoising step, for the message.
    """

    def __init__(
        self, nbytes: Callable[[Sequence[Tensor]], int], *, held: int, limit: int | None, policy: str, step: int
    ) -> None:
        self._nbytes, self._held, self._limit, self._policy, self._step = nbytes, held, limit, policy, step

    def read(self, tensors: Sequence[Tensor], *, is_kept: bool) -> int:
        """Bytes of one output; adds them to the bytes held if the output is kept.

        Raises:
            PolicyError: the bytes held exceed the limit.
        """
        size = self._nbytes(tensors)
        if is_kept and self._limit is not None:
            self._held += size
            if self._held > self._limit:
                raise too_much(self._policy, self._held, self._step, self._limit)
        return size


class CacheLedger:
    """Sizes of outputs by transformer, branch and site during one call of a pipeline.

    Args:
        sites: sites of the target.
        store: how outputs are stored.
        limit: limit of stored bytes on the device; None = no limit.
        policy: name of the policy, for messages.

    Attributes:
        most_bytes: most bytes held at the end of a call so far.
    """

    def __init__(self, sites: Sequence[Site], store: Store, limit: int | None, policy: str) -> None:
        self._sites, self._store, self._policy = sites, store, policy
        self.limit = limit
        self.most_bytes = 0
        self._sizes: dict[BranchKey, dict[int, int]] = {}

    def note_held(self, nbytes: int) -> None:
        """Updates the most bytes held so far."""
        self.most_bytes = max(self.most_bytes, nbytes)

    def note_size(self, key: BranchKey, index: int, nbytes: int) -> None:
        """Notes the size of a site's output; if the video changes its length during the run, the largest size counts."""
        sizes = self._sizes.setdefault(key, {})
        sizes[index] = max(nbytes, sizes.get(index, 0))

    def predict(self, mask: ComputeMask, called: Mapping[str, Sequence[int]]) -> NDArray[np.float64]:
        """Predicted bytes held on the device in each step, (steps,), from the sizes noted so far.

        Args:
            mask: the compute mask.
            called: steps in which each transformer was called so far.
        """
        held = {
            name: held_bytes(mask, self._site_bytes(name).tolist(), self._store)
            for name in dict.fromkeys(site.transformer for site in self._sites)
        }
        steps = [step for each in called.values() for step in set(each)]
        # A transformer that takes over frees the outputs of the other one; two that share a step both hold theirs.
        is_sequential = len(steps) == len(set(steps))
        rows = np.array(list(held.values()))
        return np.asarray(rows.max(axis=0) if is_sequential else rows.sum(axis=0))

    def check(self, mask: ComputeMask, called: Mapping[str, Sequence[int]]) -> None:
        """Checks the prediction against the limit.

        Raises:
            PolicyError: a step is predicted to hold more bytes than the limit.
        """
        held = self.predict(mask, called)
        if self.limit is not None and held.max() > self.limit:
            raise too_much(self._policy, float(held.max()), int(held.argmax()), self.limit)

    def _site_bytes(self, transformer: str) -> NDArray[np.float64]:
        """Bytes of an output per site, (sites,), summed over branches; 0 for sites of other transformers."""
        sizes = np.zeros(len(self._sites))
        for (name, _), branch_sizes in self._sizes.items():
            if name == transformer:
                sizes[list(branch_sizes)] += np.array(list(branch_sizes.values()))
        if sizes.any() or not self._sizes:
            return sizes
        # Not called yet: its outputs are assumed to be as large as the largest of their kind.
        largest: dict[str, float] = {}
        for name in {name for name, _ in self._sizes}:
            for site, size in zip(self._sites, self._site_bytes(name), strict=True):
                largest[site.kind] = max(largest.get(site.kind, 0.0), float(size))
        return np.array(
            [largest.get(site.kind, 0.0) if site.transformer == transformer else 0.0 for site in self._sites]
        )


def too_much(policy: str, nbytes: float, step: int, limit: int) -> PolicyError:
    """The error for a run that would exceed the memory limit.

    Args:
        policy: name of the policy.
        nbytes: bytes that the run would hold.
        step: step in which it would hold them.
        limit: most bytes that may be held.
    """
    return PolicyError(
        f"policy {policy!r} would hold {format_bytes(nbytes)} in step {step}, more than the limit of {format_bytes(limit)}; "
        "allow more, or search a policy with this limit"
    )


def plain_bytes(tensors: Sequence[Tensor]) -> int:
    """Sum of the tensors' bytes, regardless of shared storages."""
    return sum(tensor.nbytes for tensor in tensors)
