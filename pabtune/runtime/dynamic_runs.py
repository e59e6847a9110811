"""The handle of a policy that decides in each call, while it is enabled on a model."""

from collections import Counter
from typing import Any

from pabtune.records.errors import PolicyError
from pabtune.runtime.deciders import DynamicPolicy
from pabtune.runtime.deciding import Deciding, DecidingSession
from pabtune.runtime.interception import Interception
from pabtune.runtime.plans import CallRecord
from pabtune.runtime.step_patterns import COMPUTED, SERVED, line_of
from pabtune.runtime.targets import Target


class DynamicRun:
    """Handle of a policy that decides in each call, enabled on a model.

    Its counts are of the asking thread's own latest call of the pipeline (see `Run`).

    Attributes:
        policy: the policy.
    """

    def __init__(self, target: Target, policy: DynamicPolicy) -> None:
        self.policy = policy
        self._listener = Deciding(target, policy)
        self._interception = Interception(self._listener.hooked, self._listener)

    @property
    def records(self) -> tuple[CallRecord, ...]:
        """One record for each transformer call, in call order."""
        return tuple(self._session.records) if self._session is not None else ()

    @property
    def computed_steps(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Steps that computed, by transformer and branch."""
        steps: dict[tuple[str, str], tuple[int, ...]] = {}
        for record in self.records:
            key = (record.transformer, record.branch)
            steps[key] = (*steps.get(key, ()), record.step) if self._computes(record) else steps.get(key, ())
        return steps

    @property
    def stored_bytes(self) -> int:
        """Bytes held now by all calls in progress."""
        return sum(session.stored_bytes for session in tuple(self._listener.ongoing.values()))

    def summary(self) -> dict[str, Any]:
        """What a server may monitor (see `Run.summary`); a policy that is a program has no digest and no content classes."""
        kind = "stack" if self.policy.unit == "stack" else "transformer"
        branches = tuple(self._session.branches.values()) if self._session is not None else ()  # the call may go on
        counts: dict[str, Counter[str]] = {"computed": Counter(), "broadcast": Counter()}
        for branch in branches:
            for name, counter in counts.items():
                counter[kind] += getattr(branch, name)[0]
        return {
            "policy": self.policy.name,
            "policy_digest": None,
            "content": None,
            **{f"{name}_calls": dict(+counter) for name, counter in counts.items()},
            "step_pattern": {kind: self._step_pattern()} if self.records else {},
            "stored_bytes": self.stored_bytes,
            "most_stored_bytes": self._session.most_bytes if self._session is not None else 0,
        }

    def disable(self) -> None:
        """Detaches from the model, which is then as before, and frees all that is held."""
        self._interception.detach()

    @property
    def _session(self) -> DecidingSession | None:
        return self._listener.latest.get()

    def _computes(self, record: CallRecord) -> bool:
        """Whether all sites computed in a call."""
        own = sum(site.transformer == record.transformer for site in self._listener.target.sites)
        return record.computed is not None and len(record.computed) == own

    def _step_pattern(self) -> str:
        assert self._session is not None
        calls = ((record.step, COMPUTED if self._computes(record) else SERVED) for record in self.records)
        return line_of(calls, self._session.steps)


def check_exact(policy: DynamicPolicy, store: str | None, memory: int | None) -> None:
    """Refuses what a policy that decides in each call cannot do.

    Raises:
        PolicyError: a store other than `exact`, or a limit of memory.
    """
    if store not in (None, "exact") or memory is not None:
        raise PolicyError(
            f"{policy.name} decides in each call: it keeps outputs as they are, without a limit of memory"
        )
