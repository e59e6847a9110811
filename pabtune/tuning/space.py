"""The space of policies that is searched: parameters by name, and the way to a policy and back.

A schedule of whole calls, or of the blocks that an engine holds; per kind of site, for guidance differences and for a stack of
blocks a broadcast range and a window; for MLPs and stacks a run of layers too; and what ranges count from. Knows what a
profile suggests; knows nothing of trials.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabtune.engines.engine import Engine
from pabtune.planning.curves import ALL_CONTENTS, mean_of_known, mean_over_contents, rows_of
from pabtune.planning.few_steps import FEW_STEPS
from pabtune.planning.presets import PRESETS
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.windows import windows_of
from pabtune.records.errors import ProfileError
from pabtune.records.policies import Policy, Store
from pabtune.records.profiles import Profile
from pabtune.records.rules import Anchor, Rule
from pabtune.records.schedules import Schedule
from pabtune.records.sites import UNITS, Kind

LARGEST_RANGE = 9
"""Largest broadcast range that is tried: the largest of the paper's presets."""

SUGGESTED_CHANGES = (0.002, 0.003, 0.005, 0.01)
"""A suggestion takes, per kind, the largest range over whose steps the outputs move less than this (relative squared)."""

LAYERED: tuple[Kind, ...] = ("mlp", "stack")
"""Kinds of which a run of layers follows the rule."""

ATTENTION: tuple[Kind, ...] = ("spatial", "temporal", "cross", "full")

SCHEDULE = "schedule"
"""Parameter that chooses a schedule; 0 = every step computes."""

LEAST_STEPS = 4
"""Fewer steps leave no room for a window."""

Parameters = Mapping[str, int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """An integer from `low` to `high`, or one of `choices`."""

    name: str
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()


class Space:
    """The policies that can be made for a profile's model.

    Args:
        profile: gives kinds, layers, steps and the change of outputs.
        content: the content class to make suggestions for; None = all.
        stores: ways of keeping outputs that may be chosen.
        schedules: of whole calls or of an engine's blocks, that may be chosen, from the most computed steps to the fewest.
        has_guidance: whether guidance differences may be broadcast.
        is_frugal: whether trials are few: what is tried first is what is known already, the fastest first.
        engine: that the policies are for; None = pabtune's own. One that takes masks has the schedules alone, one that takes
            attention in ranges has these, counted from step 0.

    Raises:
        ProfileError: the profile has too few steps.
    """

    def __init__(
        self,
        profile: Profile,
        content: str | None = None,
        stores: tuple[Store, ...] = ("exact",),
        schedules: Sequence[Schedule] = (),
        *,
        has_guidance: bool = False,
        is_frugal: bool = False,
        engine: Engine | None = None,
    ) -> None:
        if profile.steps < LEAST_STEPS:
            raise ProfileError(
                f"profile {profile.name!r} has {profile.steps} steps; a search needs at least {LEAST_STEPS}: "
                f"pabtune profile … --steps 30"
            )
        self._profile = profile
        self._content = content
        self._kinds: list[Kind] = list(dict.fromkeys(site.kind for site in profile.sites))
        if has_guidance:
            self._kinds.append("guidance")
        if any(site.block for site in profile.sites):
            self._kinds.append("stack")
        if engine is not None:
            self._kinds = [kind for kind in self._kinds if engine.held == "attention" and kind in ATTENTION]
        self._engine = engine
        self._layers = {
            kind: 1 + max(site.layer for site in profile.sites if site.kind == kind or (kind == "stack" and site.block))
            for kind in LAYERED
            if kind in self._kinds
        }
        self._middle = profile.steps // 2
        self._stores = stores
        self._schedules = tuple(schedules)
        self._is_frugal = is_frugal

    @property
    def policies(self) -> int | None:
        """Number of all policies of the space, where it has schedules alone; None = it has more than anybody tries."""
        return None if self._kinds else 1 + len(self._schedules)

    def parameters(self) -> list[Parameter]:
        """All parameters; every combination of values is a policy."""
        steps, middle = self._profile.steps, self._middle
        parameters = [] if self._engine else [Parameter(name="anchor", choices=("window", "start"))]
        if len(self._stores) > 1:
            parameters.append(Parameter(name="store", choices=self._stores))
        if self._schedules:
            parameters.append(Parameter(name=SCHEDULE, low=0, high=len(self._schedules)))
        for kind in self._kinds:
            parameters.append(Parameter(name=f"{kind}.range", low=1, high=min(LARGEST_RANGE, steps - 1)))
            parameters.append(Parameter(name=f"{kind}.start", low=1, high=middle))
            parameters.append(Parameter(name=f"{kind}.stop", low=middle + 1, high=steps))
            if kind in LAYERED:
                parameters.append(Parameter(name=f"{kind}.first_layer", low=0, high=self._layers[kind] - 1))
                parameters.append(Parameter(name=f"{kind}.layers", low=1, high=self._layers[kind]))
        return parameters

    def policy(self, parameters: Parameters, name: str) -> Policy:
        """The policy that values of the parameters stand for."""
        rules = []
        chosen = int(parameters.get(SCHEDULE, 0))
        if chosen:
            rules.append(self._schedules[chosen - 1].rule)
        for kind in self._kinds:
            n = int(parameters[f"{kind}.range"])
            if n == 1:
                continue
            layers = None
            if kind in LAYERED:
                first, count = int(parameters[f"{kind}.first_layer"]), int(parameters[f"{kind}.layers"])
                run = tuple(range(first, min(first + count, self._layers[kind])))
                layers = run if len(run) < self._layers[kind] else None
            window = (int(parameters[f"{kind}.start"]), int(parameters[f"{kind}.stop"]))
            anchor: Anchor = "start" if parameters.get("anchor", "start") == "start" else "window"
            rules.append(Rule(kind=kind, range=n, window=window, layers=layers, anchor=anchor))
        store: Any = parameters.get("store", self._stores[0])
        return Policy(name=name, rules=tuple(rules), store=store, made_for=self._profile.made_for)

    def first_trials(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What to try first, with its origin: no broadcast, the presets, what the profile suggests."""
        if not self._is_frugal:
            yield "no broadcast", self._values({}, "window")
        for index, schedule in reversed([*enumerate(self._schedules, start=1)]):
            what = "whole calls" if schedule.kind == "transformer" else f"of {self._profile.steps} steps"
            yield f"{len(schedule.computed)} {what}", {**self._values({}, "window"), SCHEDULE: index}
        if (self._is_frugal and self._schedules) or not self._kinds:
            return
        for name, preset in PRESETS.items():
            if preset.rules:
                yield f"preset {name}", self._of_preset(preset)
        for limit in SUGGESTED_CHANGES:
            yield f"profile at {limit:g}", self._suggestion(limit)
        for store in self._stores[1:]:
            for limit in SUGGESTED_CHANGES:
                yield f"profile at {limit:g}, {store}", {**self._suggestion(limit), "store": store}
        if self._profile.steps <= FEW_STEPS and "stack" in self._kinds:
            yield from self._part_stacks()

    def _part_stacks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Parts of the blocks held in every other step of the second half: where steps are few, all blocks are too much."""
        count = self._layers["stack"]
        for first, layers in dict.fromkeys(
            (
                (0, count),
                (min(1, count - 1), max(count - 1, 1)),
                (count // 4, max(count // 2, 1)),
                (count // 2, count - count // 2),
            )
        ):
            rules = {"stack": (2, self._middle, self._profile.steps - 1)}
            values = {"stack.first_layer": first, "stack.layers": layers}
            yield f"layers {first}..{first + layers - 1} in turns", {**self._values(rules, "window"), **values}

    def schedule(self) -> NoiseSchedule:
        """The profile's schedule."""
        return NoiseSchedule(steps=self._profile.steps, sigmas=self._profile.made_for.sigmas)

    def _values(self, rules: Mapping[str, tuple[int, int, int]], anchor: Anchor) -> dict[str, Any]:
        """Parameters for (range, start, stop) per kind; kinds left out do not broadcast."""
        steps, middle = self._profile.steps, self._middle
        values: dict[str, Any] = {} if self._engine else {"anchor": anchor}
        if len(self._stores) > 1:
            values["store"] = self._stores[0]
        if self._schedules:
            values[SCHEDULE] = 0
        for kind in self._kinds:
            n, start, stop = rules.get(kind, (1, 1, steps))
            values[f"{kind}.range"] = min(n, LARGEST_RANGE, steps - 1)
            values[f"{kind}.start"] = int(np.clip(start, 1, middle))
            values[f"{kind}.stop"] = int(np.clip(stop, middle + 1, steps))
            if kind in LAYERED:
                values |= {f"{kind}.first_layer": 0, f"{kind}.layers": self._layers[kind]}
        return values

    def _of_preset(self, preset: Policy) -> dict[str, Any]:
        """A preset's parameters at this schedule: its noise window in steps, as far as the space reaches."""
        schedule = self.schedule()
        low, high = preset.rules[0].noise_window or (0.0, 1.0)
        inside = [step for step, sigma in enumerate(schedule.sigmas or ()) if low < sigma < high]
        window = (inside[0], inside[-1] + 1) if inside else (1, self._profile.steps)
        ranges = {rule.kind: (rule.range or 1, *window) for rule in preset.rules if rule.kind in self._kinds}
        return self._values(ranges, preset.rules[0].anchor)

    def _suggestion(self, limit: float) -> dict[str, Any]:
        """Per kind its stable window, and the largest range over which the outputs move less than `limit`."""
        profile = self._profile
        windows = windows_of(profile)[self._content or ALL_CONTENTS]
        distance_snn = mean_over_contents(profile, "distance", self._content)
        rules = {}
        for kind in (each for each in self._kinds if each not in UNITS):
            window = windows[kind]
            if window.start is None or window.stop is None:
                continue
            distance = mean_of_known(distance_snn[rows_of(kind, profile.sites)], 0)
            n = 1
            while n < min(LARGEST_RANGE, window.stop - window.start):
                apart = [distance[step, step - n] for step in range(window.start, window.stop) if step >= n]
                apart = [each for each in apart if not np.isnan(each)]
                if not apart or float(np.mean(apart)) > limit:
                    break
                n += 1
            rules[kind] = (n, window.start, window.stop)
        return self._values(rules, "window")
