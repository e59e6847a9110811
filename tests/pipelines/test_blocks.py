"""Broadcasting the residual of whole blocks, on real classes, against doing it by hand."""

from collections import defaultdict

import pytest

import pabtune
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import UNITS
from pabtune.runtime.targets import Target
from tests.pipelines.cases import CASES, run

BLOCKS = {
    "open-sora-1.2": ("spatial_blocks", "temporal_blocks"),
    "wan-2.1": ("blocks",),
    "cogvideox-ddim": ("transformer_blocks",),
    "hunyuan-distilled": ("transformer_blocks", "single_transformer_blocks"),
    "ltx": ("transformer_blocks",),
    "ltx-2": ("transformer_blocks",),
    "latte": ("transformer_blocks", "temporal_transformer_blocks"),
    "consisid": ("transformer_blocks",),
}
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.parametrize("name", BLOCKS)]


def policy(kind: str, steps: int) -> Policy:
    """A block; or all blocks of each list as one."""
    layers = (0,) if kind == "block" else None
    return Policy(name="blocks", rules=(Rule(kind=kind, range=2, window=(1, steps), layers=layers),))


@pytest.mark.parametrize("kind", ["block", "stack"])
def test_it_equals_adding_residuals_by_hand(name, kind, load, monkeypatch) -> None:
    pipeline, steps = load(name), CASES[name].call["num_inference_steps"]
    plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy(kind, steps)) as active:
        fast = run(pipeline, name)
        assert (run(pipeline, name) == fast).all()
    assert (fast != plain).any()
    assert (run(pipeline, name) == plain).all()
    assert set(active.summary()["broadcast_calls"]) == {kind}
    for path in BLOCKS[name]:
        blocks = list(pipeline.transformer.get_submodule(path))
        if kind == "stack":
            by_hand(name, blocks, monkeypatch)
        elif path != "single_transformer_blocks":  # its layers go on from those of the other list
            by_hand(name, blocks[:1], monkeypatch)
    # Range 2 from a window that opens at 1: every second step, from step 1 on.
    assert (run(pipeline, name) == fast).all()


def by_hand(name: str, blocks: list, monkeypatch) -> None:
    """The first of some blocks adds what all of them added in the step before, the others add nothing."""
    calls_per_step = len({branch for _, branch in CASES[name].branches})
    calls, residuals = defaultdict(int), {}

    def replace(index: int, block) -> None:
        original = block.forward

        def forward(*args, **kwargs):
            call = calls[index]
            calls[index] += 1
            branch, step = call % calls_per_step, call // calls_per_step
            second = "audio_hidden_states" if name == "ltx-2" else "encoder_hidden_states"
            streams = [*args[:2], *(kwargs[each] for each in ("hidden_states", second) if each in kwargs)]
            if step % 2 == 0:
                output = original(*args, **kwargs)
                parts = output if isinstance(output, tuple) else (output,)
                deltas = [part - before for part, before in zip(parts, streams, strict=False)]
                if index:
                    deltas = [one + other for one, other in zip(residuals[branch], deltas, strict=True)]
                residuals[branch] = deltas
                return output
            parts = tuple(
                before if index else before + delta for before, delta in zip(streams, residuals[branch], strict=False)
            )
            return parts if len(parts) > 1 else parts[0]

        monkeypatch.setattr(block, "forward", forward)

    for index, block in enumerate(blocks):
        replace(index, block)


def test_blocks_are_sites_only_for_policies_that_name_them(name, load) -> None:
    target = Target.of(load(name))
    assert not any(site.kind in UNITS for site in target.sites)
    named = target.under(policy("block", 6))
    blocks = [site for site in named.sites if site.kind == "block"]
    assert {site.path.rsplit(".", 1)[0] for site in blocks} == set(BLOCKS[name])
    assert named.fingerprint() == target.fingerprint()


def test_a_stack_holds_what_one_block_holds(name, load) -> None:
    pipeline, steps, held = load(name), CASES[name].call["num_inference_steps"], {}
    for kind in ("block", "stack"):
        rule = Rule(kind=kind, range=2, window=(1, steps))
        with pabtune.broadcast(pipeline, Policy(name="all", rules=(rule,)), memory=2**40) as active:
            run(pipeline, name)
        held[kind] = active.summary()["most_stored_bytes"]
        assert 0 < held[kind] <= active.predicted_bytes.max()
    assert held["stack"] == pytest.approx(held["block"] / 2, rel=0.5)


@pytest.mark.parametrize("store", ["int8", "host"])
def test_a_stack_is_kept_in_every_way(name, store, load) -> None:
    pipeline, steps = load(name), CASES[name].call["num_inference_steps"]
    chosen = policy("stack", steps)
    with pabtune.broadcast(pipeline, chosen):
        exact = run(pipeline, name)
    plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, chosen, store=store):
        other = run(pipeline, name)
    assert abs(other - exact).max() <= (0 if store == "host" else abs(exact - plain).max())
