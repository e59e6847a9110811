"""From a policy to a compute mask: which site computes at which step, known before the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.payloads import Lifetimes, Payload, check_history, lifetimes, with_history
from pabtune.planning.schedules import NoiseSchedule, carry_window, same_schedule
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule, counted_steps
from pabtune.records.sites import BLOCKS, WHOLE_CALLS, Site


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeMask:
    """What each site does in each step.

    Attributes:
        sites: one for each row.
        compute: (sites, steps), True = compute, False = broadcast; column 0 is all True.
        called: (sites, steps), whether a site is called at all; None = always.
        payloads: what the broadcasts of each site serve; empty = all hold.
        schedule: the loop's noise levels; None = unknown.
    """

    sites: tuple[Site, ...]
    compute: NDArray[np.bool_]
    called: NDArray[np.bool_] | None = None
    payloads: tuple[Payload, ...] = ()
    schedule: NoiseSchedule | None = None

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return int(self.compute.shape[1])

    @property
    def computes(self) -> NDArray[np.bool_]:
        """(sites, steps): calls that compute."""
        return self.compute if self.called is None else self.compute & self.called

    @property
    def broadcasts(self) -> NDArray[np.bool_]:
        """(sites, steps): calls that are served by a broadcast."""
        return ~self.compute if self.called is None else ~self.compute & self.called

    def payload(self, index: int) -> Payload:
        """What the broadcasts of a site serve."""
        return self.payloads[index] if self.payloads else Payload()

    def weights(self, index: int, history: Sequence[int], step: int) -> tuple[float, ...]:
        """Weights of the last outputs of a site in its broadcast at `step` (see `Payload.weights`)."""
        return self.payload(index).weights(history, step, self.schedule or NoiseSchedule(steps=self.steps))

    @property
    def calls_skipped(self) -> NDArray[np.bool_]:
        """(sites, steps): steps in which the whole call of a site's transformer is broadcast."""
        skipped = np.zeros_like(self.compute)
        for site, row in zip(self.sites, self.broadcasts, strict=True):
            if site.kind == "transformer":
                skipped |= np.array([[each.transformer == site.transformer] for each in self.sites]) & row
        return skipped

    @property
    def halved(self) -> NDArray[np.bool_]:
        """(sites, steps): steps in which the guidance difference around a site is broadcast: one branch computes."""
        halved = np.zeros_like(self.compute)
        for site, row in zip(self.sites, self.broadcasts, strict=True):
            if site.kind == "guidance":
                inside = [each.transformer == site.transformer and each.kind not in WHOLE_CALLS for each in self.sites]
                halved |= np.array(inside)[:, None] & row
        return halved & ~self.calls_skipped

    @property
    def called_steps(self) -> int:
        """Number of steps in which a transformer is called."""
        return self.steps - int(self.calls_skipped.any(axis=0).sum())

    def lifetimes(self) -> list[Lifetimes]:
        """For each site, which of its outputs are kept, and for how long."""
        outer = [np.zeros(self.steps, dtype=bool) for _ in self.sites]
        for index, above in outer_sites(self.sites).items():
            for each in above:
                outer[index] = outer[index] | self.broadcasts[each]
        computes = self.computes & ~self.halved  # half of an output is not kept
        return [
            lifetimes(self.payload(index), computes[index].tolist(), (self.broadcasts[index] & ~outer[index]).tolist())
            for index in range(len(self.sites))
        ]

    def where_called(self, called: NDArray[np.bool_]) -> "ComputeMask":
        """What runs when transformers take turns: a site whose transformer was not called in the step before computes.

        Args:
            called: (sites, steps), whether a site is called, for the first rows at least; rows behind them, of blocks and
                stacks, are called with the sites of their transformer.
        """
        names = np.array([site.transformer for site in self.sites])
        transformer_called = np.zeros_like(self.compute)
        for name in set(names.tolist()):
            transformer_called[names == name] = called[names[: len(called)] == name].any(axis=0)
        rows = transformer_called.copy()
        rows[: len(called)] = called[: len(rows)]
        takes_over = transformer_called.copy()
        takes_over[:, 1:] &= ~transformer_called[:, :-1]
        return replace(self, compute=self.compute | takes_over, called=rows)

    @property
    def reached(self) -> NDArray[np.bool_]:
        """(sites, steps): steps in which all that is around a site computes, so that the site is reached at all."""
        reached = np.ones_like(self.compute)
        for index, above in outer_sites(self.sites).items():
            for each in above:
                reached[index] &= self.compute[each]
        return reached

    def inside_blocks(self) -> "ComputeMask":
        """The mask without rows for blocks and stacks: a site computes only where what is around it does."""
        compute = self.compute & self.reached
        rows = [index for index, site in enumerate(self.sites) if site.kind not in BLOCKS]
        called = None if self.called is None else self.called[rows]
        payloads = tuple(self.payload(index) for index in rows)
        sites = tuple(self.sites[index] for index in rows)
        return replace(self, sites=sites, compute=compute[rows], called=called, payloads=payloads)

    def calls(self, *, computed: bool) -> dict[str, int]:
        """Computed or broadcast calls per kind, of one branch, over the run."""
        counts: dict[str, int] = {}
        for site, row in zip(self.sites, self.computes if computed else self.broadcasts, strict=True):
            counts[site.kind] = counts.get(site.kind, 0) + int(np.count_nonzero(row))
        return counts


def resolve(policy: Policy, sites: Sequence[Site], schedule: NoiseSchedule, content: str | None = None) -> ComputeMask:
    """The compute mask of a policy for these sites and this schedule.

    Raises:
        PolicyError: the policy names a kind or layer that no site has, two rules meet in a site, or it was made for
            other steps and cannot be carried over.
    """
    compute = np.ones((len(sites), schedule.steps), dtype=bool)
    payloads = [Payload()] * len(sites)
    owner: dict[str, Rule] = {}
    for rule in policy.rules_for(content):
        source = f"policy {policy.name!r}: the rule for {rule.kind}"
        payload = Payload.of(source, rule, policy.made_for, schedule, _own_steps(source, rule, policy.made_for))
        row = _computed_steps(source, rule, policy.made_for, schedule)
        if same_schedule(policy.made_for, schedule):
            check_history(source, payload, row.tolist())
        else:
            row = np.array(with_history(payload, row.tolist()))
        served = [index for index, site in enumerate(sites) if serves(rule, site)]
        _check_layers(policy.name, rule, sites)
        for index in served:
            if sites[index].name in owner:
                raise PolicyError(f"policy {policy.name!r}: two rules are for the same site {sites[index].name}")
            owner[sites[index].name] = rule
            compute[index], payloads[index] = row, payload
    _put_off(sites, compute, payloads, owner)
    return ComputeMask(sites=tuple(sites), compute=compute, payloads=tuple(payloads), schedule=schedule)


def without_idle_rules(policy: Policy, sites: Sequence[Site], schedule: NoiseSchedule) -> Policy:
    """The policy without its general rules that never broadcast: what they would leave out is left out around them.

    Args:
        policy: the policy.
        sites: of the model, with the units that the policy names.
        schedule: of the run.

    Raises:
        PolicyError: as `resolve`.
    """
    mask = resolve(policy, sites, schedule)
    busy = [site for site, row in zip(mask.sites, mask.broadcasts & mask.reached, strict=True) if row.any()]
    return replace(policy, rules=tuple(rule for rule in policy.rules if any(serves(rule, site) for site in busy)))


def outer_sites(sites: Sequence[Site]) -> dict[int, list[int]]:
    """For each site by index, the sites that it is inside of: its transformer, its block or stack."""
    transformers = {site.transformer: index for index, site in enumerate(sites) if site.kind == "transformer"}
    blocks = {
        (site.transformer, path): index
        for index, site in enumerate(sites)
        if site.kind in BLOCKS
        for path in (site.path, *site.feeders)
    }
    outer: dict[int, list[int]] = {}
    for index, site in enumerate(sites):
        if site.kind == "transformer":
            continue
        above = [transformers.get(site.transformer), blocks.get((site.transformer, site.block)) if site.block else None]
        outer[index] = [each for each in above if each is not None and each != index]
    return outer


def _put_off(
    sites: Sequence[Site], compute: NDArray[np.bool_], payloads: Sequence[Payload], owner: Mapping[str, Rule]
) -> None:
    """Changes rows in place: what is due while something around it broadcasts computes as soon as that computes again.

    Half of an output, of a step that broadcasts the guidance difference, is not kept: what is due there stays due. What has
    fewer outputs than its payload needs then is due too.
    """
    outer = outer_sites(sites)
    guidance = {site.transformer: index for index, site in enumerate(sites) if site.kind == "guidance"}
    order = ("guidance", *BLOCKS)
    for index in sorted(outer, key=lambda each: (sites[each].kind not in order, sites[each].kind != "guidance")):
        around = guidance.get(sites[index].transformer)
        is_inside = around is not None and around != index
        if not (outer[index] or is_inside) or sites[index].name not in owner:
            continue
        can_compute = np.ones(compute.shape[1], dtype=bool)
        for each in outer[index]:
            can_compute &= compute[each]
        is_whole = compute[around] if around is not None and is_inside else np.ones_like(can_compute)
        is_due, kept = False, 0
        for step in range(compute.shape[1]):
            is_due |= bool(compute[index, step]) or kept < payloads[index].needs(step)
            compute[index, step] = is_due and can_compute[step]
            if compute[index, step] and is_whole[step]:
                is_due, kept = False, kept + 1


def serves(rule: Rule, site: Site) -> bool:
    """Whether a rule is for a site."""
    return (
        site.kind == rule.kind
        and (rule.layers is None or site.layer in rule.layers)
        and rule.transformer in (None, site.transformer)
    )


def layers_of(site: Site) -> range:
    """Layers of a site; a stack has one for each of its blocks."""
    return range(site.layer, site.layer + 1 + (len(site.feeders) if site.kind == "stack" else 0))


def _check_layers(name: str, rule: Rule, sites: Sequence[Site]) -> None:
    meant = [site for site in sites if rule.transformer in (None, site.transformer)]
    whose = rule.transformer or "the model"
    layers = {layer for site in meant if site.kind == rule.kind for layer in layers_of(site)}
    if not layers:
        kinds = ", ".join(sorted({site.kind for site in meant}))
        raise PolicyError(f"policy {name!r}: {whose} has no {rule.kind!r} sites; it has: {kinds}")
    missing = sorted(set(rule.layers or ()) - layers)
    if missing:
        raise PolicyError(
            f"policy {name!r}: the rule for {rule.kind} names layer {missing[0]}, but {whose}'s {rule.kind} layers "
            f"are {min(layers)}..{max(layers)}"
        )


def _own_steps(source: str, rule: Rule, made_for: MadeFor) -> tuple[int, ...]:
    """Steps in which a rule with factors computes on the schedule that it was made for; empty where that is not known."""
    if not rule.factors or made_for.sigmas is None:
        return ()
    own = NoiseSchedule(steps=len(made_for.sigmas), sigmas=made_for.sigmas)
    return tuple(np.flatnonzero(_computed_steps(source, rule, made_for, own)).tolist())


def _computed_steps(source: str, rule: Rule, made_for: MadeFor, schedule: NoiseSchedule) -> NDArray[np.bool_]:
    """Steps in which the sites of a rule compute, (steps,)."""
    compute = np.ones(schedule.steps, dtype=bool)
    if rule.compute is not None:
        return _listed_steps(source, rule.compute, made_for, schedule)
    if rule.count is not None:
        return _counted_steps(source, rule, made_for, schedule)
    if rule.range is None:
        raise PolicyError(f"{source}: has no range")
    start, stop = _step_window(source, rule, made_for, schedule)
    last = 0
    for step in range(max(start, 1), stop):
        is_due = step % rule.range == 0 if rule.anchor == "start" else step - max(last, start - 1) >= rule.range
        if is_due:
            last = step
        compute[step] = is_due
    return compute


def _in_proportion(count: int, made_for: MadeFor, schedule: NoiseSchedule) -> int:
    """A number of steps of the schedule that a policy was made for, in proportion of the steps of this one."""
    steps = made_for.known_steps
    if not count or steps in (None, schedule.steps):
        return count
    return max(1, round(count * schedule.steps / (steps or 1)))


def _first_steps(rule: Rule, made_for: MadeFor, schedule: NoiseSchedule) -> int:
    """How many steps compute first: in proportion, but as many as the payload needs, if the rule has as many."""
    first = rule.first or 0
    return max(_in_proportion(first, made_for, schedule), min(first, schedule.steps, Payload(rule.payload).order))


def _counted_steps(source: str, rule: Rule, made_for: MadeFor, schedule: NoiseSchedule) -> NDArray[np.bool_]:
    """So many steps in all, the first and last ones among them, the others evenly between, (steps,)."""
    last, count = (_in_proportion(each or 0, made_for, schedule) for each in (rule.last, rule.count))
    first = _first_steps(rule, made_for, schedule)
    if count > schedule.steps:
        raise PolicyError(f"{source}: {count} steps are to compute, but the run has {schedule.steps}")
    compute = np.zeros(schedule.steps, dtype=bool)
    compute[list(counted_steps(schedule.steps, count, first, last))] = True
    return compute


def _listed_steps(source: str, listed: Sequence[int], made_for: MadeFor, schedule: NoiseSchedule) -> NDArray[np.bool_]:
    """The listed steps, (steps,); on another schedule, broadcasts happen at the same noise levels as on the first."""
    compute = np.ones(schedule.steps, dtype=bool)
    if same_schedule(made_for, schedule):
        if listed[-1] >= schedule.steps:
            raise PolicyError(f"{source}: computes at step {listed[-1]}, but the run has {schedule.steps} steps")
        compute[:] = False
        compute[list(listed)] = True
        return compute
    if made_for.sigmas is None or schedule.sigmas is None:
        raise PolicyError(
            f"{source}: its list of steps is for {made_for.known_steps} steps, the run has {schedule.steps}, and without the "
            f"noise levels of both it cannot be carried over; search again with --steps {schedule.steps}"
        )
    runs = [
        (step, end) for step, end in zip(listed, [*listed[1:], len(made_for.sigmas)], strict=True) if end > step + 1
    ]
    for step, end in runs:
        start, stop = carry_window((step + 1, end), made_for.sigmas, schedule.sigmas)
        if start == stop:  # steps are coarser here: the nearest one stands for all of them
            middle = (made_for.sigmas[step + 1] + made_for.sigmas[end - 1]) / 2
            start = int(np.abs(np.asarray(schedule.sigmas) - middle).argmin())
            stop = start + 1
        compute[max(start, 1) : stop] = False
    compute[-1] |= listed[-1] == len(made_for.sigmas) - 1
    # No output serves longer than it did, in steps or in noise level, whichever is more.
    most_steps = max((end - step - 1 for step, end in runs), default=0)
    farthest = max((made_for.sigmas[step] - made_for.sigmas[end - 1] for step, end in runs), default=0.0)
    last = 0
    for step in range(1, schedule.steps):
        is_far = schedule.sigmas[last] - schedule.sigmas[step] > farthest + 1e-6
        if compute[step] or (is_far and step - last > most_steps):
            compute[step], last = True, step
    return compute


def _step_window(source: str, rule: Rule, made_for: MadeFor, schedule: NoiseSchedule) -> tuple[int, int]:
    if rule.noise_window is not None:
        if schedule.sigmas is None:
            raise PolicyError(f"{source}: its window is in noise levels, but this run does not tell its noise levels")
        low, high = rule.noise_window
        inside = [step for step, sigma in enumerate(schedule.sigmas) if low < sigma < high]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)
    if rule.first is not None:
        first = _first_steps(rule, made_for, schedule)
        return first, max(schedule.steps - _in_proportion(rule.last or 0, made_for, schedule), first)
    start, stop = rule.window or (0, 0)
    if same_schedule(made_for, schedule):
        if stop > schedule.steps:
            raise PolicyError(
                f"{source}: window stops at step {stop}, but the run has {schedule.steps} steps; "
                "a window is half-open [start, stop) with stop <= steps"
            )
        return start, stop
    if made_for.sigmas is None or schedule.sigmas is None:
        raise PolicyError(
            f"{source}: its window is for {made_for.known_steps} steps, the run has {schedule.steps}, and without the noise "
            f"levels of both it cannot be carried over; search again with --steps {schedule.steps}"
        )
    start_here, stop_here = carry_window((start, stop), made_for.sigmas, schedule.sigmas)
    if stop < len(made_for.sigmas):
        stop_here = min(stop_here, schedule.steps - 1)  # the last step computes if it did
    return min(start_here, stop_here), stop_here
