"""Bytes that a run holds for later steps: what its outputs take, what each step will hold, and the limit.

Knows sizes; knows nothing of hooks. The first step of a loop computes everything, and so tells every size; a transformer that
takes over later is taken to keep outputs like those of the one before, until its own first step tells.
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
"""Name of a transformer, and of a guidance branch."""


class Meter:
    """Counts the bytes of outputs in a call, and stops the call as soon as it keeps more than may be held.

    Args:
        nbytes: bytes that the tensors of one output take.
        held: bytes that are held by other calls.
        limit: bytes that may be held; None = the call goes on.
        policy: its name.
    """

    def __init__(self, nbytes: Callable[[Sequence[Tensor]], int], held: int, limit: int | None, policy: str) -> None:
        self._nbytes, self._held, self._limit, self._policy = nbytes, held, limit, policy

    def read(self, tensors: Sequence[Tensor], *, is_kept: bool) -> int:
        """Bytes of one output.

        Raises:
            PolicyError: the call keeps more than may be held.
        """
        size = self._nbytes(tensors)
        if is_kept and self._limit is not None:
            self._held += size
            if self._held > self._limit:
                raise too_much(self._policy, self._held, 0, self._limit)
        return size


class CacheLedger:
    """Sizes of outputs by transformer, branch and site, during one call of a pipeline.

    Args:
        sites: of the target.
        store: how outputs are kept.
        limit: bytes that may be held on the device; None = any.
        policy: its name.
    """

    def __init__(self, sites: Sequence[Site], store: Store, limit: int | None, policy: str) -> None:
        self._sites, self._store, self._policy = sites, store, policy
        self.limit = limit
        self.most_bytes = 0
        self._sizes: dict[BranchKey, dict[int, int]] = {}

    def note_held(self, nbytes: int) -> None:
        """Takes note of the bytes that are held now."""
        self.most_bytes = max(self.most_bytes, nbytes)

    def note_size(self, key: BranchKey, index: int, nbytes: int) -> None:
        """Takes note of what a site's output takes; where videos change their length, the longest counts."""
        sizes = self._sizes.setdefault(key, {})
        sizes[index] = max(nbytes, sizes.get(index, 0))

    def predict(self, mask: ComputeMask, called: Mapping[str, Sequence[int]]) -> NDArray[np.float64]:
        """Bytes that each step will hold on the device, (steps,), by the sizes noted so far.

        Args:
            mask: which site computes when.
            called: steps in which each transformer was called so far.
        """
        held = {
            name: held_bytes(mask, self._site_bytes(name).tolist(), self._store)
            for name in dict.fromkeys(site.transformer for site in self._sites)
        }
        steps = [step for each in called.values() for step in set(each)]
        # One that takes over frees what the other held; in one step, both hold.
        take_turns = len(steps) == len(set(steps))
        rows = np.array(list(held.values()))
        return np.asarray(rows.max(axis=0) if take_turns else rows.sum(axis=0))

    def check(self, mask: ComputeMask, called: Mapping[str, Sequence[int]]) -> None:
        """Refuses a run that will hold too much.

        Raises:
            PolicyError: more than the limit.
        """
        held = self.predict(mask, called)
        if self.limit is not None and held.max() > self.limit:
            raise too_much(self._policy, float(held.max()), int(held.argmax()), self.limit)

    def _site_bytes(self, transformer: str) -> NDArray[np.float64]:
        """(sites,) bytes of an output of each of a transformer's sites, all branches together; 0 for other sites."""
        sizes = np.zeros(len(self._sites))
        for (name, _), of_branch in self._sizes.items():
            if name == transformer:
                sizes[list(of_branch)] += np.array(list(of_branch.values()))
        if sizes.any() or not self._sizes:
            return sizes
        # Not called yet: its outputs are taken to be like the largest of their kind.
        largest: dict[str, float] = {}
        for name in {name for name, _ in self._sizes}:
            for site, size in zip(self._sites, self._site_bytes(name), strict=True):
                largest[site.kind] = max(largest.get(site.kind, 0.0), float(size))
        return np.array(
            [largest.get(site.kind, 0.0) if site.transformer == transformer else 0.0 for site in self._sites]
        )


def too_much(policy: str, nbytes: float, step: int, limit: int) -> PolicyError:
    """The error of a run that would hold too much.

    Args:
        policy: its name.
        nbytes: that it would hold.
        step: in which it would.
        limit: bytes that may be held.
    """
    return PolicyError(
        f"policy {policy!r} would hold {format_bytes(nbytes)} in step {step}, more than the limit of {format_bytes(limit)}; "
        "allow more, or search a policy with this limit"
    )
