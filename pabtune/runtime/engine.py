"""Enabling a policy on a model, and the handle of an enabled policy."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import nn

from pabtune.catalog import CATALOG, Catalog
from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PabtuneWarning, PolicyError
from pabtune.records.policies import AUTO_CONTENT, STORES, Policy, Store
from pabtune.records.sites import Site
from pabtune.runtime.broadcaster import Broadcaster, BroadcastSession
from pabtune.runtime.compatibility import check_fits
from pabtune.runtime.deciders import DynamicPolicy
from pabtune.runtime.dynamic_runs import DynamicRun, check_exact
from pabtune.runtime.interception import Interception, detach_from
from pabtune.runtime.plans import CallRecord
from pabtune.runtime.step_patterns import step_pattern
from pabtune.runtime.targets import Target


class Run:
    """Handle of a policy that is enabled on a model. Returned by `enable` and `broadcast`.

    Counts, mask and most bytes are those of the asking thread's own latest call of the pipeline or of one of its shallow
    copies, so that a server's request never sees those of another one. A bare transformer has one run for all threads.

    Attributes:
        policy: the policy.
        content: content class whose rules are used; None = the policy's general rules; `auto` = each call's own.
        memory: limit of stored bytes on the device; None = no limit.
    """

    def __init__(
        self,
        targets: Mapping[str | None, Target],
        policy: Policy,
        content: str | None,
        memory: int | None,
        store: Store,
        *,
        any_steps: bool,
    ) -> None:
        self.policy, self.content, self.memory = policy, content, memory
        self._broadcaster = Broadcaster(targets, policy, content, store, memory, any_steps=any_steps)
        self._interception = Interception(self._broadcaster.target, self._broadcaster)

    @property
    def mask(self) -> ComputeMask | None:
        """The compute mask of this thread's latest call; None before its first step."""
        return self._session.plan.mask if self._session is not None and self._session.plan is not None else None

    @property
    def records(self) -> tuple[CallRecord, ...]:
        """One record for each transformer call, in call order."""
        return tuple(self._session.records) if self._session is not None else ()

    @property
    def called(self) -> NDArray[np.bool_]:
        """Whether each site's transformer was called in each step, (sites, steps)."""
        steps = range(self.mask.steps if self.mask is not None else 0)
        calls = {(record.transformer, record.step) for record in self.records}
        return np.array([[(site.transformer, step) in calls for step in steps] for site in self._sites])

    @property
    def patterns(self) -> int:
        """Number of graphs that a compiled model needs per shape; 0 before the first call."""
        return self._session.plan.patterns if self._session is not None and self._session.plan is not None else 0

    @property
    def computed_calls(self) -> dict[tuple[str, str], int]:
        """Number of site calls that computed, by (branch, site name)."""
        return self._calls("computed")

    @property
    def broadcast_calls(self) -> dict[tuple[str, str], int]:
        """Number of site calls that were served by a broadcast, by (branch, site name)."""
        return self._calls("broadcast")

    @property
    def stored_bytes(self) -> int:
        """Bytes held now by all calls in progress: on the device, or on the host if outputs are stored there."""
        return sum(session.stored_bytes for session in tuple(self._broadcaster.ongoing.values()))

    @property
    def predicted_bytes(self) -> NDArray[np.float64]:
        """Predicted bytes held on the device in each step, (steps,), from the sizes of the first; needs a memory limit."""
        return self._session.predicted_bytes() if self._session is not None else np.zeros(0)

    def summary(self) -> dict[str, Any]:
        """What a server may monitor of this thread's latest call, or of the one it is in; never waits for the device.

        Returns:
            As JSON: `policy`, its name; `policy_digest`, the checksum of its file; `content`, the class whose rules were used,
            None for the general ones; `computed_calls` and `broadcast_calls` per kind; `step_pattern` per kind, one symbol per
            step: `#` computed, `-` broadcast, `+` some of each, `.` not called; `stored_bytes`, held now by all calls in
            progress in any thread; `most_stored_bytes`, the most that this call held. Without a call the counts are empty.
        """
        kinds = {site.name: site.kind for site in self._sites}
        computed: Counter[str] = Counter()
        broadcast: Counter[str] = Counter()
        for (_, name), count in self.computed_calls.items():
            computed[kinds[name]] += count
        for (_, name), count in self.broadcast_calls.items():
            broadcast[kinds[name]] += count
        return {
            "policy": self.policy.name,
            "policy_digest": self._digest,
            "content": self._session.sites.content if self._session is not None else None,
            "computed_calls": dict(computed),
            "broadcast_calls": dict(broadcast),
            "step_pattern": self._step_pattern(),
            "stored_bytes": self.stored_bytes,
            "most_stored_bytes": self._session.ledger.most_bytes if self._session is not None else 0,
        }

    def disable(self) -> None:
        """Detaches from the model, which is then as before, and frees all stored outputs."""
        self._interception.detach()

    @cached_property
    def _digest(self) -> str:
        return self.policy.digest

    @property
    def _session(self) -> BroadcastSession | None:
        return self._broadcaster.latest.get()

    @property
    def _sites(self) -> Sequence[Site]:
        """The sites under the rules of the latest call."""
        return (self._broadcaster if self._session is None else self._session.sites).target.sites

    def _step_pattern(self) -> dict[str, str]:
        if self._session is None or self.mask is None:
            return {}
        return dict(step_pattern(self.records, self._sites, self.mask.steps))

    def _calls(self, counter: str) -> dict[tuple[str, str], int]:
        counts: Counter[tuple[str, str]] = Counter()
        branches = self._session.branches.copy() if self._session is not None else {}  # the call may go on meanwhile
        for (_, branch_name), branch in branches.items():
            for index, count in getattr(branch, counter).copy().items():
                counts[branch_name, self._sites[index].name] += count
        return dict(counts)


def enable(
    model: DiffusionPipeline | nn.Module,
    policy: Policy | DynamicPolicy,
    content: str | None = None,
    memory: int | None = None,
    store: Store | None = None,
    catalog: Catalog = CATALOG,
    *,
    any_steps: bool = False,
) -> Run | DynamicRun:
    """Enables a policy on a pipeline, or on a bare transformer that is driven through `cache_context`.

    Shallow copies (`copy.copy`) that are made of the pipeline from then on are under the policy as well. Another pipeline
    that shares a transformer runs without the policy, with one warning, until it is enabled on that pipeline too.

    Args:
        model: diffusers pipeline or transformer.
        policy: the policy, fixed before the run or deciding in each call.
        content: content class whose variant of the policy is used; None = the general rules; `auto` = each call of the
            pipeline is under the variant of its prompt's class, as the policy's classifier tells it; under the general rules
            if that is not clear, if prompts of one call differ in it, or if the call has no prompt as text. Where the policy
            tells the class by the first steps, each denoising loop decides after these, once for all videos of the call.
        memory: limit of stored bytes on the device; None = no limit. A run that would exceed it is refused in its first
            step, which shows all sizes before anything is broadcast.
        store: how outputs are stored, see `Policy.store`; None = as the policy says.
        catalog: cards of known transformer classes.
        any_steps: carry a policy that was found at more steps to fewer than nine too, of which little sensible is left.

    Raises:
        ModelError: the model has no known sites, another cache is enabled on it, or pabtune is already attached.
        PolicyError: the policy was made for another model, does not fit its sites, or `store` is unknown; with `auto` it has
            no classifier, there is a limit of memory beside one of first steps, or the model is a bare transformer.
    """
    if isinstance(policy, DynamicPolicy):
        check_exact(policy, store, memory)
        return DynamicRun(Target.of(model, catalog), policy)
    target, choices = Target.of(model, catalog), policy.choices(content)
    if content == AUTO_CONTENT and target.pipeline is None:
        raise PolicyError(
            f"a bare transformer sees no prompts, so that content cannot be {AUTO_CONTENT!r}; name a class"
        )
    if content == AUTO_CONTENT and policy.first_steps is not None and memory is not None:
        raise PolicyError(
            f"policy {policy.name!r}: its first steps tell the content class, so that a limit of memory cannot be checked in "
            "the first one; name a class, or leave the limit out"
        )
    targets = {each: target.under(policy, each) for each in choices}
    for choice, own in targets.items():
        check_fits(policy, own, choice)
        warn_of_verdict(policy, choice)
    store = store or policy.store
    if store not in STORES:
        raise PolicyError(f"cannot store outputs as {store!r}; known: {', '.join(STORES)}")
    return Run(targets, policy, content, memory, store, any_steps=any_steps)


def warn_of_verdict(policy: Policy, content: str | None) -> None:
    """Warns of a policy whose own evidence says that its budget was not shown to hold; python shows it once.

    Args:
        policy: the policy.
        content: content class whose variant is used; None = the general rules.
    """
    evidence = policy.evidence
    if content is not None and isinstance(evidence.get("variants"), Mapping):
        evidence = evidence["variants"].get(content, evidence)
    verdict = evidence.get("verdict") if isinstance(evidence, Mapping) else None
    if verdict in ("reject", "undecided"):
        what = "was rejected" if verdict == "reject" else "could not be decided"
        needed = evidence.get("prompts_needed")
        advice = f"at least {needed} unseen prompts" if needed else "more trials or prompts, or a wider budget"
        warnings.warn(
            f"policy {policy.name!r}: its budget {evidence.get('budget', '')} {what} on unseen prompts, as its file says; "
            f"search with {advice}",
            PabtuneWarning,
            stacklevel=3,
        )


def disable(model: DiffusionPipeline | nn.Module) -> None:
    """Removes pabtune from a pipeline or transformer; does nothing if it is not attached."""
    detach_from(model)


@contextmanager
def broadcast(
    model: DiffusionPipeline | nn.Module,
    policy: Policy | DynamicPolicy,
    content: str | None = None,
    memory: int | None = None,
    store: Store | None = None,
    catalog: Catalog = CATALOG,
    *,
    any_steps: bool = False,
) -> Iterator[Run | DynamicRun]:
    """Enables a policy inside a `with` block; detaches and frees everything at its end, also after an error.

    Arguments and exceptions are those of `enable`.
    """
    run = enable(model, policy, content, memory, store, catalog, any_steps=any_steps)
    try:
        yield run
    finally:
        run.disable()
