"""Timeline of a policy: what each kind of site and each layer does at every step, as a record to print or draw.

The rows are those of the compute mask that the engine runs by. A policy has no sites of its own: they are those of a profile,
or else those that its rules name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.masks import ComputeMask, layers_of, resolve
from pabtune.planning.payloads import Payload
from pabtune.planning.rule_sites import rule_sites
from pabtune.planning.schedules import NoiseSchedule, same_schedule
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.profiles import Profile
from pabtune.records.sites import KINDS, UNITS, WHOLE_CALLS, Kind, Site

State = Literal["compute", "half", "broadcast", "inside", "idle"]
"""What a site does in a step. `half`: it computes for one guidance branch. `inside`: it is not reached, since what is around
it broadcasts. `idle`: the model does not call it in this step, for example because its other transformer has its turn."""

STATES: tuple[State, ...] = get_args(State)
COMPUTE, HALF, BROADCAST, INSIDE, IDLE = range(len(STATES))

USUAL_STEPS = 30
"""Steps where neither the user, nor the policy, nor a profile says how many."""

MOST_STEPS = 10_000
"""More denoising steps in a file are a slip."""

KIND_ORDER: tuple[Kind, ...] = (*WHOLE_CALLS, "stack", "block", *(kind for kind in KINDS if kind not in UNITS))
"""What is around comes before what is inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Sites of one kind that do the same at every step.

    Attributes:
        transformer: name of their transformer.
        kind: their kind.
        layers: their layers in words, for example `all layers` or `layers 0-4, 7+`; empty for whole calls.
        states: what they do, per step.
        payload: what their broadcasts serve; None if they have none.
    """

    transformer: str
    kind: Kind
    layers: str
    states: tuple[State, ...]
    payload: Payload | None

    @property
    def computed(self) -> float:
        """Number of steps that compute; those of one guidance branch count half."""
        return self.states.count("compute") + self.states.count("half") / 2

    @property
    def called(self) -> int:
        """Number of steps in which the model, without the policy, calls the sites."""
        return len(self.states) - self.states.count("idle")

    def to_document(self) -> dict[str, Any]:
        """The row as JSON: per state, the steps that are in it."""
        payload = self.payload
        return {
            "transformer": self.transformer,
            "kind": self.kind,
            "layers": self.layers,
            "computed": self.computed,
            "called": self.called,
            "payload": None if payload is None else {"kind": payload.kind, "damping": payload.damping},
            "steps": {
                state: [step for step, each in enumerate(self.states) if each == state]
                for state in STATES
                if state in self.states
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What a policy does at every step.

    Attributes:
        policy: the policy.
        content: content class whose rules are shown; None = the general ones.
        steps: number of denoising steps.
        noise_levels: per step; None = unknown.
        is_assumed: whether the noise levels are assumed rather than those of the policy or of the profile.
        is_carried: whether the policy was made for another schedule.
        rows: outermost kinds first.
        called_steps: number of steps in which a transformer is called.
        full_steps: number of steps in which everything computes.
        site_call_share: share of the calls of sites that compute, 0..1; None = it depends on the model.
    """

    policy: Policy
    content: str | None
    steps: int
    noise_levels: tuple[float, ...] | None
    is_assumed: bool
    is_carried: bool
    rows: tuple[Row, ...]
    called_steps: int
    full_steps: int
    site_call_share: float | None

    @property
    def has_several_transformers(self) -> bool:
        """Whether the rows are of more than one transformer."""
        return len({row.transformer for row in self.rows}) > 1

    @property
    def evidence(self) -> dict[str, Any]:
        """What the policy's file says was measured, for the content class if one is chosen."""
        if self.content is None:
            return {key: value for key, value in self.policy.evidence.items() if key != "variants"}
        variants = self.policy.evidence.get("variants")
        evidence = variants.get(self.content) if isinstance(variants, dict) else None
        return evidence if isinstance(evidence, dict) else {}

    def to_document(self) -> dict[str, Any]:
        """The timeline as JSON."""
        made_for = self.policy.made_for
        return {
            "policy": self.policy.name,
            "content": self.content,
            "made_for": {"model": made_for.model, "steps": _steps_of(made_for), "scheduler": made_for.scheduler},
            "store": self.policy.store,
            "steps": self.steps,
            "noise_levels": None if self.noise_levels is None else list(self.noise_levels),
            "noise_levels_assumed": self.is_assumed,
            "carried": self.is_carried,
            "rows": [row.to_document() for row in self.rows],
            "called_steps": self.called_steps,
            "full_steps": self.full_steps,
            "site_call_share": self.site_call_share,
            "evidence": self.evidence,
        }


def timeline_of(
    policy: Policy, steps: int | None = None, profile: Profile | None = None, content: str | None = None
) -> Timeline:
    """The timeline of a policy.

    Args:
        policy: the policy.
        steps: number of denoising steps; None = the policy's own, the profile's, those that it was made for, or 30.
        profile: profile of the model whose sites and schedule are shown; None = the sites that the rules name.
        content: use the policy's variant for this content class.

    Raises:
        PolicyError: policy, steps and profile do not fit one another, or there is no such variant.
    """
    schedule, is_assumed = _schedule(policy, steps, profile, content)
    if profile is None:
        named = rule_sites(policy, content)
        mask, last_layer = resolve(policy, named.sites, schedule, content), named.last_layer
    else:
        mask, last_layer = _mask_of_profile(policy, profile, schedule, content), None
    codes = _codes(mask)
    computes = (codes == COMPUTE) | (codes == IDLE)
    has_rules = bool(policy.rules_for(content))
    return Timeline(
        policy=policy,
        content=content,
        steps=schedule.steps,
        noise_levels=schedule.sigmas,
        is_assumed=is_assumed,
        is_carried=has_rules and not same_schedule(policy.made_for, schedule),
        rows=_rows(mask, codes, last_layer),
        called_steps=mask.called_steps,
        full_steps=int(computes.all(axis=0).sum()),
        site_call_share=_site_call_share(mask, codes, is_model_known=profile is not None),
    )


def _mask_of_profile(policy: Policy, profile: Profile, schedule: NoiseSchedule, content: str | None) -> ComputeMask:
    if policy.made_for.fingerprint not in (None, profile.made_for.fingerprint):
        raise PolicyError(f"policy {policy.name!r} was made for another model than that of profile {profile.name!r}")
    sites = (*profile.sites, *units_of(policy, profile.sites, content))
    return resolve(policy, sites, schedule, content).where_called(profile.arrays["seconds"] > 0)


def _steps_of(made_for: MadeFor) -> int | None:
    return made_for.steps or (len(made_for.sigmas) if made_for.sigmas else None)


def _schedule(
    policy: Policy, steps: int | None, profile: Profile | None, content: str | None
) -> tuple[NoiseSchedule, bool]:
    """The schedule that is shown, and whether its noise levels are assumed."""
    made_for = policy.made_for
    count = steps or policy.steps or (profile.steps if profile else None) or _steps_of(made_for) or USUAL_STEPS
    if policy.steps not in (None, count):
        raise PolicyError(f"policy {policy.name!r} is a run of {policy.steps} denoising steps, not of {count}")
    if profile is not None and profile.steps != count:
        raise PolicyError(f"profile {profile.name!r} is of {profile.steps} denoising steps, not of {count}")
    if count > MOST_STEPS:
        raise PolicyError(f"policy {policy.name!r} is for {count} steps, but at most {MOST_STEPS} can be shown")
    sigmas = made_for.sigmas if profile is None else profile.made_for.sigmas
    if sigmas is not None and len(sigmas) == count:
        return NoiseSchedule(steps=count, sigmas=sigmas), False
    if _needs_noise_levels(policy, count, content):
        return NoiseSchedule(steps=count, sigmas=_assumed_levels(made_for.sigmas, count)), True
    return NoiseSchedule(steps=count), False


def _needs_noise_levels(policy: Policy, steps: int, content: str | None) -> bool:
    """Whether the rules say nothing about steps without their noise levels."""
    is_other = policy.made_for.sigmas is not None and _steps_of(policy.made_for) != steps
    return any(
        rule.noise_window is not None or (is_other and (rule.window or rule.compute or rule.factors))
        for rule in policy.rules_for(content)
    )


def _assumed_levels(sigmas: Sequence[float] | None, steps: int) -> tuple[float, ...]:
    """Known noise levels of another number of steps, interpolated over the run; without these an even fall from 1."""
    known = [1.0] if sigmas is None else sigmas
    progress = np.arange(len(known) + 1) / len(known)
    levels = np.interp(np.arange(steps) / steps, progress, [*known, 0.0])
    return tuple(round(float(level), 6) for level in levels)


def _codes(mask: ComputeMask) -> NDArray[np.int8]:
    """(sites, steps): indices into `STATES`."""
    halved = mask.halved
    for index, site in enumerate(mask.sites):
        if site.kind == "transformer":
            for other, row in zip(mask.sites, mask.broadcasts, strict=True):
                if other.kind == "guidance" and other.transformer == site.transformer:
                    halved[index] |= row
    codes = np.full(mask.compute.shape, BROADCAST, dtype=np.int8)
    codes[mask.compute] = COMPUTE
    codes[mask.compute & halved] = HALF
    codes[~mask.reached] = INSIDE
    if mask.called is not None:
        codes[~mask.called] = IDLE
    return codes


def _rows(mask: ComputeMask, codes: NDArray[np.int8], last_layer: int | None) -> tuple[Row, ...]:
    """Sites of one transformer and kind that do the same, as one row."""
    groups: dict[Row, set[int]] = {}
    layers_of_kind: dict[tuple[str, str], set[int]] = {}
    for index, site in enumerate(mask.sites):
        states = tuple(STATES[code] for code in codes[index])
        payload = mask.payload(index) if "broadcast" in states else None
        row = Row(transformer=site.transformer, kind=site.kind, layers="", states=states, payload=payload)
        groups.setdefault(row, set()).update(layers_of(site))
        layers_of_kind.setdefault((site.transformer, site.kind), set()).update(layers_of(site))
    rows = [
        (
            (row.transformer, KIND_ORDER.index(row.kind), min(layers)),
            replace(row, layers=_in_words(row.kind, layers, layers_of_kind[row.transformer, row.kind], last_layer)),
        )
        for row, layers in groups.items()
    ]
    return tuple(row for _, row in sorted(rows, key=lambda each: each[0]))


def _in_words(kind: Kind, layers: set[int], every: set[int], last_layer: int | None) -> str:
    """Layers of a row; `last_layer` stands for all that follow."""
    if kind in WHOLE_CALLS:
        return ""
    if layers == every and (last_layer is None or last_layer in layers):
        return "all layers"
    runs = [
        f"{start}+" if stop == last_layer else f"{start}" if start == stop else f"{start}-{stop}"
        for start, stop in _runs(sorted(layers))
    ]
    is_one = len(layers) == 1 and last_layer not in layers
    return f"layer{'' if is_one else 's'} {', '.join(runs)}"


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of numbers that follow one another."""
    breaks = [index for index, (low, high) in enumerate(pairwise(numbers), start=1) if high != low + 1]
    for start, stop in pairwise([0, *breaks, len(numbers)]):
        yield numbers[start], numbers[stop - 1]


def _site_call_share(mask: ComputeMask, codes: NDArray[np.int8], *, is_model_known: bool) -> float | None:
    """Computed over all calls of sites; without a model it is known of policies of whole calls alone."""

    def is_counted(site: Site) -> bool:
        return site.kind not in UNITS if is_model_known else site.kind == "transformer"

    if not is_model_known and any(site.kind not in WHOLE_CALLS for site in mask.sites):
        return None
    rows = codes[[is_counted(site) for site in mask.sites]]
    called = (rows != IDLE).sum()
    computed = (rows == COMPUTE).sum() + (rows == HALF).sum() / 2
    return float(computed / called) if called else None
