import pytest
import torch
from diffusers.models import CacheMixin
from torch import nn

import pabtune
from pabtune.catalog import CATALOG, ModelCard, SitePattern
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site
from pabtune.runtime.plans import Plan
from pabtune.runtime.site_hooks import BROADCAST, FeederHook, SiteHook
from pabtune.runtime.stores import ExactStore


class Doubling(nn.Module):
    """A site."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Doubles."""
        return 2 * hidden


class Block(nn.Module):
    """Calls its one site twice."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Doubling()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Both calls, told apart by what they add."""
        return self.attn(hidden) + 100 * self.attn(hidden + 1)


class Twice(nn.Module, CacheMixin):
    """A transformer of such blocks, driven by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block()])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Runs the blocks."""
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


TWICE = CATALOG.with_card(
    ModelCard(transformer="Twice", sites=(SitePattern(blocks="blocks", child="attn", kind="full"),))
)
POLICY = Policy(name="halves", rules=(Rule(kind="full", range=2, window=(0, 4), anchor="start"),))


def steps(model: Twice) -> list[torch.Tensor]:
    """Four steps, each with another input."""
    outputs = []
    for step in range(4):
        with model.cache_context("cond", step_index=step, num_inference_steps=4):
            outputs.append(model(torch.full((1, 2, 3), float(step))))
    return outputs


def test_each_call_of_a_site_in_a_forward_is_served_with_its_own_output() -> None:
    twice = Twice()
    plain = steps(twice)
    with pabtune.broadcast(twice, POLICY, catalog=TWICE) as run:
        fast = steps(twice)
    assert [bool((a == b).all()) for a, b in zip(fast, [plain[0], plain[0], plain[2], plain[2]], strict=True)] == [
        True
    ] * 4
    assert run.summary()["broadcast_calls"] == {"full": 2}


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_one_token_stands_in_for_a_skipped_feeder(ndim) -> None:
    site, norm = SiteHook(ExactStore()), nn.LayerNorm(4)
    hook = FeederHook(site)
    hook.direct_forward = nn.LayerNorm.forward
    hidden = torch.randn(*(2, 5, 6)[: ndim - 1], 4)
    assert (hook.new_forward(norm, hidden) == norm(hidden)).all()
    site.mode = BROADCAST
    skipped = hook.new_forward(norm, input=hidden)
    assert skipped.shape == ((2, 1, *hidden.shape[2:]) if ndim > 2 else hidden.shape)


def test_a_plan_counts_the_distinct_things_its_sites_do() -> None:
    sites = tuple(Site(transformer="t", path=f"b.{kind}", kind=kind, layer=0) for kind in ("full", "cross"))
    policy = Policy(name="p", rules=(Rule(kind="full", range=3, window=(0, 7), anchor="start"),))
    plan = Plan.of(resolve(policy, sites, NoiseSchedule(steps=7)))
    assert [each[0] for each in plan.computes] == [True, False, False, True, False, False, True]
    assert [each[0] for each in plan.held] == [1, 1, 0, 1, 1, 0, 0]
    assert all(computes[1] and not held[1] for computes, held in zip(plan.computes, plan.held, strict=True))
    assert plan.patterns == 4  # compute and keep, serve and keep, serve and free, compute without keeping


class Scaling(Block):
    """Scales its site's output by a gate, in place or not."""

    is_in_place = True

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Adds the scaled output."""
        output, gate = self.attn(hidden), 0.5 + hidden.mean() / 100
        scaled = output.mul_(gate) if self.is_in_place else output * gate
        return hidden + scaled


@pytest.mark.parametrize("store", ["exact", "int8", "host"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_outputs_that_a_block_changes_in_place_are_served_as_they_were(store, mode) -> None:
    """Fault 5: `output.mul_(gate)` changed what later steps were served."""
    policy = Policy(name="thirds", rules=(Rule(kind="full", range=3, window=(0, 9)),))

    def run(*, in_place: bool) -> tuple[list[torch.Tensor], int]:
        model = Twice()
        model.blocks[0] = Scaling()
        model.blocks[0].is_in_place = in_place
        outputs = []
        with mode(), pabtune.broadcast(model, policy, store=store, catalog=TWICE) as active:
            for _ in range(2):  # what was learned in the first run holds in the second
                outputs = []
                for step in range(9):
                    with model.cache_context("all", step_index=step, num_inference_steps=9):
                        outputs.append(model(torch.arange(8.0)[None, :, None] + step))
        return outputs, sum(active.broadcast_calls.values())

    expected, served = run(in_place=False)
    changed, served_in_place = run(in_place=True)
    assert served_in_place == served == 6
    assert all(torch.allclose(a, b) for a, b in zip(changed, expected, strict=True))
