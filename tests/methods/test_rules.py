"""The rules of methods by themselves: which steps compute for given changes, against the published rules done by hand."""

import numpy as np
import pytest
import torch

from pabtune.methods.adacache import AdaCacheDecider
from pabtune.methods.easycache import EasyCacheDecider
from pabtune.methods.magcache import MagCacheDecider
from pabtune.methods.teacache import TeaCacheDecider
from pabtune.planning.schedules import NoiseSchedule
from pabtune.runtime.deciders import Moment

STEPS = 40
SCHEDULE = NoiseSchedule(steps=STEPS)
OPEN_SORA = (2.17546007e02, -1.18329252e02, 2.68662585e01, -4.59364272e-02, 4.84426240e-02)
"""TeaCache's published coefficients for Open-Sora 1.2."""


def signals(seed: int) -> list[torch.Tensor]:
    """What is seen, step by step: the changes vary."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 0.02 + 0.2 * torch.rand(STEPS, generator=generator)
    values = [torch.randn(2, 5, 7, generator=generator)]
    for size in sizes[1:]:
        values.append(values[-1] + size * torch.randn(2, 5, 7, generator=generator))
    return values


def computed_steps(decider, seen, outputs=None) -> list[int]:
    """Steps that compute when a decider's answers are followed."""
    computed: list[int] = []
    for step, value in enumerate(seen):
        moment = Moment(step=step, schedule=SCHEDULE, kept=tuple(computed[-1:]))
        if not computed or decider.decide(moment, value).computes:
            if not computed:
                decider.decide(moment, value)
            computed.append(step)
            decider.computed(moment, outputs[step] if outputs is not None else None)
    return computed


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.6])
def test_teacache(threshold) -> None:
    seen = signals(0)
    expected, total = [], 0.0
    for step in range(STEPS):
        if step in (0, STEPS - 1):
            should_compute, total = True, 0.0
        else:
            now, before = seen[step].numpy(), seen[step - 1].numpy()
            total += abs(np.poly1d(OPEN_SORA)(np.abs(now - before).mean() / np.abs(before).mean()))
            should_compute = total >= threshold
            total = 0.0 if should_compute else total
        if should_compute:
            expected.append(step)
    assert computed_steps(TeaCacheDecider(threshold, OPEN_SORA), seen) == expected
    assert 2 < len(expected) < STEPS


@pytest.mark.parametrize(("threshold", "most"), [(0.06, 1), (0.12, 3), (0.12, 5)])
def test_magcache(threshold, most) -> None:
    ratios = (1.0, *np.random.default_rng(0).normal(1.0, 0.03, STEPS - 1))
    retained = 8
    expected, product, error, count = [], 1.0, 0.0, 0
    for step, ratio in enumerate(ratios):
        if step >= retained:
            product, count = product * ratio, count + 1
            error += abs(1 - product)
            if error < threshold and count <= most:
                continue
            product, error, count = 1.0, 0.0, 0
        expected.append(step)
    seen = [torch.zeros(1)] * STEPS
    assert computed_steps(MagCacheDecider(threshold, most, ratios, retained), seen) == expected
    assert retained < len(expected) < STEPS


@pytest.mark.parametrize("threshold", [0.1, 0.3])
def test_easycache(threshold) -> None:
    inputs, outputs, warm_up = signals(1), signals(2), 6
    expected, total, rate = [], 0.0, None
    for step in range(STEPS):
        computes = step < warm_up or step == STEPS - 1
        if not computes:
            change = (inputs[step] - inputs[step - 1]).abs().mean()
            total += float(rate * change / outputs[expected[-1]].abs().mean())
            computes = total >= threshold
        if computes:
            total = 0.0
            if expected:
                last = expected[-1]
                rate = (outputs[step] - outputs[last]).abs().mean() / (inputs[step] - inputs[last]).abs().mean()
            expected.append(step)
    assert computed_steps(EasyCacheDecider(threshold, warm_up), inputs, outputs) == expected
    assert warm_up < len(expected) < STEPS


def test_adacache() -> None:
    attention, table = signals(3), {0.04: 6, 0.05: 3, 0.06: 2}
    expected, due, last = [], 0, None
    for step in range(STEPS):
        if step < due and step < STEPS - 2:
            continue
        rate = 1
        if last is not None:
            change = (attention[step] - attention[last]).abs().sum() / attention[last].abs().sum() / (step - last)
            rate = 6 if change < 0.04 else 3 if change < 0.05 else 2 if change < 0.06 else 1
        expected.append(step)
        due, last = step + rate, step
    assert computed_steps(AdaCacheDecider(table, 1), attention, attention) == expected
    assert 3 < len(expected) < STEPS
