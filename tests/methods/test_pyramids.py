"""Masks of FORA, T-GATE, Delta-DiT and PAB, as their papers and code say."""

import numpy as np
import pytest

from pabtune.methods.delta_dit import DeltaDiT, delta_dit_policy
from pabtune.methods.fora import fora_policy
from pabtune.methods.pab import PAB, pab_policy
from pabtune.methods.tgate import TGATE, tgate_policy
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.presets import OPEN_SORA_SHIFT
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target
from tests.conftest import make_pipeline
from tests.pipelines.cases import CASES

KINDS = ("spatial", "temporal", "cross", "mlp")


def mask_of(policy: Policy, steps: int, sigmas: tuple[float, ...] | None = None) -> ComputeMask:
    target = Target.of(make_pipeline()).under(policy)
    return resolve(policy, target.sites, NoiseSchedule(steps=steps, sigmas=sigmas))


def computed(mask: ComputeMask, kind: str, layer: int = 0) -> list[int]:
    rows = [row for site, row in zip(mask.sites, mask.compute, strict=True) if (site.kind, site.layer) == (kind, layer)]
    assert all(np.array_equal(row, rows[0]) for row in rows)
    return np.flatnonzero(rows[0]).tolist()


@pytest.mark.parametrize("interval", [2, 3, 5])
def test_fora_computes_multiples_of_its_interval_in_every_module(interval) -> None:
    mask = mask_of(fora_policy(interval, KINDS, 11), 11)
    assert all(computed(mask, kind, layer) == list(range(0, 11, interval)) for kind in KINDS for layer in (0, 1))


def test_tgate_as_it_was_run_on_open_sora() -> None:
    """Gate 12 of 30: self-attention broadcasts at 1, 3, … 11, cross-attention from 13 on (6 and 17 steps)."""
    mask = mask_of(tgate_policy(12, KINDS, 30), 30)
    for kind in ("spatial", "temporal"):
        assert sorted(set(range(30)) - set(computed(mask, kind))) == [1, 3, 5, 7, 9, 11]
    assert sorted(set(range(30)) - set(computed(mask, "cross"))) == list(range(13, 30))
    assert computed(mask, "mlp") == list(range(30))


def test_delta_dit_leaves_out_rear_blocks_early_and_front_blocks_late() -> None:
    mask = mask_of(delta_dit_policy(3, 2, 12), 12)
    assert computed(mask, "stack", 1) == [0, 3, 6, 7, 8, 9, 10, 11]  # rear, of two blocks
    assert computed(mask, "stack", 0) == [0, 1, 2, 3, 4, 5, 6, 9]  # front


def test_pab_skips_as_many_steps_as_the_papers_code() -> None:
    """Spatial 9, temporal 13, cross 14 of 30 steps under Open-Sora's schedule; 11, 13, 15; 13, 15, 15."""
    uniform = [1 - step / 30 for step in range(30)]
    sigmas = tuple(OPEN_SORA_SHIFT * level / (1 + (OPEN_SORA_SHIFT - 1) * level) for level in uniform)
    for digits, skipped in {246: (9, 13, 14), 357: (11, 13, 15), 579: (13, 15, 15)}.items():
        mask = mask_of(pab_policy(digits, KINDS), 30, sigmas)
        assert tuple(30 - len(computed(mask, kind)) for kind in ("spatial", "temporal", "cross")) == skipped


def test_full_attention_gets_the_range_of_spatial_attention() -> None:
    rules = {rule.kind: rule.range for rule in pab_policy(246, ("full", "cross", "mlp")).rules}
    assert rules == {"full": 2, "cross": 6}


def test_a_model_that_cannot_carry_a_method_says_why() -> None:
    cog, shapes = Target.of(CASES["cogvideox-dpm"].build()), Target.of(make_pipeline())
    assert TGATE().misfit(cog) == "it has no cross-attention"
    assert TGATE().misfit(shapes) is DeltaDiT().misfit(shapes) is PAB().misfit(cog) is None
