import numpy as np
import pytest
import torch
from diffusers.models import CacheMixin
from torch import nn

import pabtune
from pabtune.catalog import CATALOG, ModelCard, SitePattern
from pabtune.catalog.card import sites_in
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


class Gated(nn.Module):
    """Scales its feeder's and its site's outputs and adds to its input, in place or not."""

    is_in_place = False

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(3), Doubling()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Adds the site's output, times a gate that is different in each step."""
        gate = 0.5 + hidden.mean() / 100
        fed = self.norm(hidden)
        output = self.attn(fed.mul_(gate).add_(0.1) if self.is_in_place else fed * gate + 0.1)
        scaled = output.mul_(gate) if self.is_in_place else output * gate
        return hidden.add_(scaled) if self.is_in_place else hidden + scaled


class GatedTransformer(nn.Module, CacheMixin):
    """Blocks one after the other, on a copy of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Gated(), Gated()])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Runs the blocks."""
        hidden = hidden.clone()
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


GATED = CATALOG.with_card(ModelCard(transformer="GatedTransformer", sites=sites_in("blocks", attn=("full", "norm"))))


@pytest.mark.parametrize(
    ("kind", "store", "mode"),
    [
        (kind, store, mode)
        for kind, stores in (
            ("full", ("exact", "int8", "host")),
            ("block", ("exact",)),
            ("stack", ("exact", "host")),
            ("transformer", ("exact", "host")),
        )
        for store in stores
        for mode in ("no_grad", "inference_mode", "compiled")
        if (store, mode) != ("host", "compiled")  # a compiled model cannot fetch outputs from the host
    ],
)
def test_a_model_that_changes_tensors_in_place_gets_the_same_as_one_that_does_not(kind, store, mode) -> None:
    """Fault 5: `output.mul_(gate)` changed what later steps were served; so did a block that added to its input."""
    policy = Policy(name="thirds", rules=(Rule(kind=kind, range=3, window=(0, 9)),))

    def run(*, in_place: bool) -> tuple[torch.Tensor, dict[str, int]]:
        torch._dynamo.reset()
        model, outputs = GatedTransformer().eval(), []
        for block in model.blocks:
            block.is_in_place = in_place
        if mode == "compiled":
            model.compile(backend="aot_eager", fullgraph=True)
        no_gradients = torch.inference_mode if mode == "inference_mode" else torch.no_grad
        with no_gradients(), pabtune.broadcast(model, policy, store=store, catalog=GATED) as active:
            for step in range(9):
                with model.cache_context("all", step_index=step, num_inference_steps=9):
                    output = model((torch.arange(24.0) % 7 + step).reshape(1, 8, 3))
                outputs.append(output.clone())
                if in_place:
                    output.zero_()
        return torch.stack(outputs), active.summary()["broadcast_calls"]

    expected, calls = run(in_place=False)
    actual, actual_calls = run(in_place=True)
    assert actual_calls == calls == {kind: 12 if kind in ("full", "block") else 6}
    assert torch.equal(actual, expected)


def test_what_is_kept_costs_no_memory_until_the_model_changes_it() -> None:
    """Fault 5: the protection does not copy what nobody changes."""
    store, output = ExactStore(), torch.randn(2, 3)
    kept = store.pack((output, output[1:]))
    served = store.unpack(kept)
    both = [output, *kept, *served]
    assert store.nbytes(both) == output.nbytes
    served[0].zero_()
    assert store.nbytes(both) == 2 * output.nbytes
    assert (kept[0] == output).all()
    assert served[0].any() == 0
    assert (ExactStore().pack(torch.from_numpy(np.ones(3))) == 1).all()  # memory that is NumPy's
