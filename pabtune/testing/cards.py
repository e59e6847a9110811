"""Conformance check of a card: its statements are compared with runs of a real model."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from pabtune.catalog import CATALOG, Catalog, ModelCard
from pabtune.models.guidance import calls_per_step
from pabtune.parallel.plans import find_plan
from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.engine import broadcast
from pabtune.runtime.targets import Target
from pabtune.testing.oracle import broadcast_by_hand, mask_by_hand

LEAST_STEPS = 3
"""Fewest steps of a check: one before the window, one that computes in it, and one that is broadcast."""


def check_card(
    card: ModelCard,
    model: DiffusionPipeline | nn.Module,
    call: Callable[[], Any],
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Checks a card on a model, which may be small and have random weights.

    It checks that the card's sites exist and are called; that range 1 changes nothing; that broadcasting each kind equals, bit
    for bit, an independent implementation that skips no feeder; that the model is as before without a policy; that the modules
    and arguments of the split exist; and, with `arguments`, that the pipeline makes as many calls as the guidance says. That
    the split gives the same video on several GPUs is checked by `pabtune generate --gpus 2 --compare`.

    Args:
        card: the card, used in place of the shipped one for its class.
        model: a pipeline, or a transformer that `call` drives through `cache_context`.
        call: runs the model with a fixed seed over at least 3 steps and returns its output.
        arguments: arguments of the pipeline call that `call` makes; None = the guidance is not checked.

    Raises:
        ModelError: a statement of the card is wrong; the message says what was observed instead.
    """
    catalog = CATALOG.with_card(card)
    target = Target.of(model, catalog)
    transformers = {name: part for name, part in target.transformers.items() if type(part).__name__ == card.transformer}
    if not transformers:
        classes = ", ".join(type(part).__name__ for part in target.transformers.values())
        raise ModelError(f"the card is of {card.transformer}, but the model's transformers are {classes}")
    for part in transformers.values():
        find_plan(part, type(model).__name__, catalog)
    samples, expected = Counter[int](), set[float]()
    plain = _call_and_count(
        target,
        call,
        samples,
        lambda: expected.update([] if arguments is None else [calls_per_step(card, model, arguments)]),
    )
    steps = _check_idle(card, target, model, catalog, call, plain)
    if arguments is not None:
        calls = samples.total() / samples[0] / steps
        if expected != {calls}:
            raise ModelError(
                f"the card of {card.transformer} says {_listed(sorted(expected))} calls per step, but the pipeline made "
                f"{calls:g}"
            )
    for kind in dict.fromkeys(pattern.kind for pattern in card.sites):
        rule = Rule(kind=kind, range=2, window=(1, steps))
        policy = Policy(name=kind, rules=(rule,))
        with broadcast(model, policy, catalog=catalog):
            output = call()
        mask = mask_by_hand(policy, target.sites, steps)
        with broadcast_by_hand(SimpleNamespace(**target.transformers), mask, len(samples) // steps):
            reference = call()
        if not _is_same(output, reference):
            raise ModelError(
                f"the broadcast of {kind} by the card of {card.transformer} differs from one that skips no feeder: something "
                "else reads a feeder, or more than shift, scale and gate lies between a feeder and its site"
            )
        if not _is_same(call(), plain):
            raise ModelError(f"{card.transformer} is not as before after a broadcast of {kind}")


def _check_idle(
    card: ModelCard,
    target: Target,
    model: DiffusionPipeline | nn.Module,
    catalog: Catalog,
    call: Callable[[], Any],
    plain: Any,
) -> int:
    """Checks runs without a policy and with policies that broadcast nothing; returns the number of steps."""
    if not _is_same(call(), plain):
        raise ModelError(
            "two calls without a policy differ: `call` must give the same output each time, with a fixed seed"
        )
    with broadcast(model, Policy(name="none"), catalog=catalog) as run:
        call()
    steps = 0 if run.mask is None else run.mask.steps
    if steps < LEAST_STEPS:
        raise ModelError(f"a card is checked over at least {LEAST_STEPS} steps, but `call` made {steps}")
    kinds = dict.fromkeys(site.kind for site in target.sites)
    idle = Policy(name="range 1", rules=tuple(Rule(kind=kind, range=1, window=(0, steps)) for kind in kinds))
    with broadcast(model, idle, catalog=catalog) as run:
        output = call()
    if not _is_same(output, plain):
        raise ModelError(f"hooks on the sites of {card.transformer} change its output though nothing is broadcast")
    called = {site for _, site in run.computed_calls}
    for pattern in card.sites:
        path_pattern = re.compile(
            rf"{re.escape(pattern.blocks)}\.\d+{re.escape(f'.{pattern.child}' if pattern.child else '')}"
        )
        names = {site.name for site in target.sites if path_pattern.fullmatch(site.path)}
        if names and not names & called:
            raise ModelError(f"the card of {card.transformer} names {sorted(names)[0]}, but it is never called")
    return steps


def _call_and_count(target: Target, call: Callable[[], Any], samples: Counter[int], note: Callable[[], None]) -> Any:
    """Makes the call; fills in the samples of each transformer call, by its index, and runs `note` at each."""

    def watch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        samples[len(samples)] = next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        note()

    handles = [part.register_forward_pre_hook(watch, with_kwargs=True) for part in target.transformers.values()]
    try:
        return call()
    finally:
        for handle in handles:
            handle.remove()


def _listed(numbers: list[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two outputs are equal bit for bit: tensors, arrays, images, and containers of them."""
    if isinstance(one, Mapping):
        return _is_same([*one.values()], [*other.values()])
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
