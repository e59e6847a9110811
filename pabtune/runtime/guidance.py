"""Guidance branches of a call: whether it has both, its conditional half, and the difference in its output."""

from typing import Any

from torch import Tensor

from pabtune.models.guidance import conditional_half
from pabtune.records.errors import PolicyError
from pabtune.runtime.interception import is_split
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.payloads import half_of, taken_apart, weighted_sum
from pabtune.runtime.pipeline_calls import current_call
from pabtune.runtime.targets import Target


def check_guided(policy: str, target: Target, position: CallPosition, sample: Tensor | None) -> int:
    """Which half of the samples of a call is the conditional one: 0 or 1.

    Args:
        policy: name of the policy, for messages.
        target: the model.
        position: of the call.
        sample: first tensor of the call; None = known to hold both branches.

    Raises:
        PolicyError: the call does not hold both guidance branches, or is split over processes.
    """
    transformer, call = position.transformer, current_call()
    source = f"policy {policy!r}: the rule for guidance"
    if is_split(target.transformers[transformer]):
        raise PolicyError(f"{source}: {transformer} is split over processes; run it on one, or leave the rule out")
    if position.branch in ("cond", "uncond"):
        raise PolicyError(
            f"{source}: the run has no guidance branches in one call; turn guidance on, in one call for both branches, or "
            "leave the rule out"
        )
    pipeline = call.pipeline if call is not None and target.pipeline is not None else None
    half = conditional_half(target.maps[transformer].card, pipeline, position.branch)
    if half is None or (sample is not None and (sample.ndim == 0 or len(sample) % 2)):
        raise PolicyError(f"{source}: the run has no guidance branches; turn guidance on, or leave the rule out")
    return half


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


def difference_of(output: Any, half: int) -> tuple[Any, ...]:
    """Unconditional less conditional, for the parts of a transformer's output that holds both."""
    _, parts = taken_apart(output)
    return tuple(weighted_sum((half_of(parts, 1 - half), half_of(parts, half)), (1.0, -1.0)))
