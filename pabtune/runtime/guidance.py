"""Guidance branches of a run: which of them a call computes, and the difference between them.

Where both branches share a call, half of it is left out; where each has a call of its own, the unconditional one is.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pabtune.models.guidance import Role, calls_per_step, conditional_half, is_guided, role_of
from pabtune.records.errors import PabtuneWarning, PolicyError
from pabtune.runtime.interception import shares_branches, shares_samples
from pabtune.runtime.locator import UNNAMED_BRANCH, CallPosition
from pabtune.runtime.payloads import copied, half_of, weighted_sum
from pabtune.runtime.pipeline_calls import current_call
from pabtune.runtime.targets import Target


@dataclass(frozen=True, slots=True)
class Conditional:
    """The output of a conditional call, which waits for the unconditional call of its step.

    Attributes:
        step: step of the call.
        shape: shape of the first tensor of the call.
        parts: parts of the output. They share memory with what the pipeline holds until that is written to.
    """

    step: int
    shape: tuple[int, ...]
    parts: tuple[Any, ...]


class GuidanceBranches:
    """The guidance branches of one run, under a policy with a rule for guidance.

    Args:
        policy: name of the policy, for messages.
        target: the model.
        sites: index of the site of the guidance difference, by transformer.
    """

    def __init__(self, policy: str, target: Target, sites: Mapping[str, int]) -> None:
        self._source = f"policy {policy!r}: the rule for guidance"
        self._target, self.sites = target, sites
        self._waiting: dict[tuple[str, int], Conditional] = {}
        self._has_said_order = self._is_called = self._has_guidance = False

    def role(self, position: CallPosition, sample: Tensor) -> Role:
        """Guidance branches that a call computes; calls of a transformer without a rule are `other`.

        Args:
            position: of the call.
            sample: first tensor of the call.

        Raises:
            PolicyError: the run has no unconditional branch, nothing tells which call is of it, or processes share branches.
        """
        if position.transformer not in self.sites:
            return "other"
        transformer, call = self._target.transformers[position.transformer], current_call()
        card, name = self._target.maps[position.transformer].card, _name_of(position)
        guided, calls = None, 1.0
        if call is not None and self._target.pipeline is not None:
            guided = is_guided(card, call.pipeline, call.arguments)
            calls = calls_per_step(card, call.pipeline, call.arguments) if name is None else 1.0
        if guided is False and self._has_guidance:
            return "other"  # guidance was turned off during the run
        if guided is False:
            raise PolicyError(
                f"{self._source}: the run has no guidance branches; turn guidance on, or leave the rule out"
            )
        role = role_of(card, name, position.repeat, calls)
        if role is None or (role == "both" and name is None and guided is None):
            raise PolicyError(
                f"{self._source}: nothing tells which branch a call of {type(transformer).__name__} is of; the pipeline has "
                "to name its calls (transformer.cache_context), or the model's card to say it (Guidance(conditional=…))"
            )
        if shares_branches(transformer) or (role == "both" and shares_samples(transformer)):
            raise PolicyError(
                f"{self._source}: its branches are on different processes; split the sequence alone, or leave the rule out"
            )
        if role == "both" and (sample.ndim == 0 or len(sample) % 2):
            raise PolicyError(
                f"{self._source}: a call of both branches has {tuple(sample.shape)}, which has no two halves"
            )
        self._is_called = True
        self._has_guidance |= role in ("unconditional", "both")
        return role

    def go_on_from(self, earlier: "GuidanceBranches") -> None:
        """Takes over what was seen of the same run, and said, under other rules for guidance."""
        if self.sites and earlier.sites:
            self._has_said_order = earlier._has_said_order
            self._is_called, self._has_guidance = earlier._is_called, earlier._has_guidance

    def half(self, position: CallPosition) -> int:
        """Which half of the samples of a call with both branches is conditional: 0 or 1."""
        return conditional_half(self._target.maps[position.transformer].card, _name_of(position))

    def wait(self, position: CallPosition, shape: tuple[int, ...], parts: tuple[Any, ...]) -> None:
        """Holds the output of a conditional call until the unconditional call of its step.

        Args:
            position: of the call.
            shape: shape of the first tensor of the call.
            parts: parts of its output.
        """
        self._waiting[_pair_of(position)] = Conditional(position.step, shape, copied(parts))

    def conditional(self, position: CallPosition, shape: tuple[int, ...]) -> tuple[Any, ...] | None:
        """Parts of the conditional output of an unconditional call's step; None if the pipeline asks for that one later.

        Raises:
            PolicyError: the two calls have other shapes.
        """
        waiting = self._waiting.get(_pair_of(position))
        if waiting is None or waiting.step != position.step:
            self._say_order()
            return None
        if waiting.shape != shape:
            raise PolicyError(
                f"{self._source}: its branches have other shapes, {waiting.shape} and {shape}; leave it out"
            )
        return waiting.parts

    def release(self, position: CallPosition) -> None:
        """Frees the conditional output that waited for an unconditional call."""
        self._waiting.pop(_pair_of(position), None)

    def _say_order(self) -> None:
        """Warns once in a run that the pipeline asks for the unconditional branch first."""
        if not self._has_said_order:
            self._has_said_order = True
            warnings.warn(
                f"{self._source}: the pipeline asks for the unconditional branch before the conditional one, so its own last "
                "output is broadcast, not its difference to the conditional one",
                PabtuneWarning,
                stacklevel=2,
            )

    def finish(self, *, is_complete: bool) -> None:
        """Ends the run: frees what waits, and warns if a run that was not stopped had no unconditional branch."""
        self.forget()
        has_none = self._is_called and not self._has_guidance
        self._is_called = self._has_guidance = self._has_said_order = False
        if has_none and is_complete:
            warnings.warn(
                f"{self._source}: the run had no unconditional branch, and computed what the rule is for; turn guidance on",
                PabtuneWarning,
                stacklevel=2,
            )

    def forget(self) -> None:
        """Frees what waits."""
        self._waiting.clear()


def _name_of(position: CallPosition) -> str | None:
    """The name that the pipeline gives a call."""
    return None if position.label == UNNAMED_BRANCH else position.label


def _pair_of(position: CallPosition) -> tuple[str, int]:
    """What the two calls of a pair have in common; calls without a name are told apart by their order alone."""
    return position.transformer, 0 if position.label == UNNAMED_BRANCH else position.repeat


def conditional_part(output: Any, half: int) -> Any:
    """The conditional half of an output of a site, along the first dimension.

    Raises:
        PolicyError: an output has no two halves.
    """
    for tensor in output if isinstance(output, tuple | list) else (output,):
        if isinstance(tensor, Tensor) and (tensor.ndim == 0 or len(tensor) % 2):
            raise PolicyError(
                f"a site returns {tuple(tensor.shape)}, which is not one half per guidance branch; leave out its rule or "
                "that for guidance"
            )
    return half_of(output, half)


def difference_of(parts: tuple[Any, ...], half: int) -> tuple[Any, ...]:
    """Unconditional less conditional, for the parts of a transformer's output that holds both."""
    return difference_between(half_of(parts, 1 - half), half_of(parts, half))


def difference_between(unconditional: tuple[Any, ...], conditional: tuple[Any, ...]) -> tuple[Any, ...]:
    """Unconditional less conditional, part by part."""
    return tuple(weighted_sum((unconditional, conditional), (1.0, -1.0)))


def put_together(difference: tuple[Any, ...], conditional: tuple[Any, ...]) -> tuple[Any, ...]:
    """The unconditional output, part by part: difference plus conditional."""
    return tuple(weighted_sum((difference, conditional), (1.0, 1.0)))
