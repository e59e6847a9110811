"""The denoising loops of a bare transformer: one after the other, given up, taking turns, and with other numbers of steps.

And what is asked of a run, and left of it, while others go on.
"""

import copy
import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

import pabtune
from pabtune.libraries.torch_internals import RECOMPILATIONS_PER_PATTERN, raise_recompile_limits
from pabtune.records.errors import ModelError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from tests.conftest import draw, make_pipeline, make_transformer

POLICY = Policy(name="bare", rules=(Rule(kind="transformer", compute=(0, 1, 4)),), made_for=MadeFor(steps=6))
POLICY_OF_EIGHT = Policy(name="eight", rules=POLICY.rules, made_for=MadeFor(steps=8))


@torch.no_grad()
def call(transformer, step: int, seed: int = 0, steps: int = 6, branch: str = "cond") -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * seed + step)
    latents = torch.randn(1, 4, 4, 16, 16, generator=generator)
    text = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(7))
    with transformer.cache_context(branch, step_index=step, num_inference_steps=steps):
        return transformer(latents, torch.tensor([900.0 - 100 * step]), text, return_dict=False)[0]


@pytest.mark.parametrize("steps", [(6, 6), (6, 7)])
def test_loops_that_take_turns_are_refused_when_the_second_one_goes_on_at_the_latest(steps) -> None:
    """In one thread nothing was said, and each got the latest output of the other."""

    def second_steps() -> None:
        for seed in (0, 1):
            call(transformer, 1, seed=seed, steps=steps[seed])

    transformer = make_transformer()
    policy = Policy(name="bare", rules=(Rule(kind="transformer", range=2, first=1, last=1),))
    with pabtune.broadcast(transformer, policy):
        call(transformer, 0, seed=0, steps=steps[0])
        call(transformer, 0, seed=1, steps=steps[1])
        with pytest.raises(ModelError, match=r"run loops one after the other.*_reset_stateful_cache\(\)"):
            second_steps()


def test_tiles_without_names_are_refused_and_with_names_have_outputs_of_their_own() -> None:
    transformer = make_transformer()
    with pabtune.broadcast(transformer, POLICY):
        for seed in (0, 1):
            call(transformer, 0, seed=seed)
        call(transformer, 1, seed=0)
        with pytest.raises(ModelError, match="give calls of one step different names"):
            call(transformer, 1, seed=1)
        transformer._reset_stateful_cache()
        turns = [[call(transformer, step, seed=seed, branch=f"tile {seed}") for seed in (0, 1)] for step in range(6)]
        for seed in (0, 1):
            alone = [call(transformer, step, seed=seed, branch=f"tile {seed}") for step in range(6)]
            assert all(torch.equal(both[seed], each) for both, each in zip(turns, alone, strict=True))


def test_a_loop_that_was_given_up_may_begin_again_or_inside_of_the_schedule_after_a_reset() -> None:
    transformer = make_transformer()
    with pabtune.broadcast(transformer, POLICY) as run:
        whole = [call(transformer, step) for step in range(6)]
        call(transformer, 0)
        call(transformer, 1)
        again = [call(transformer, step) for step in range(6)]
        assert all(torch.equal(one, other) for one, other in zip(again, whole, strict=True))
        call(transformer, 0)
        transformer._reset_stateful_cache()
        assert run.stored_bytes == 0
        late = [call(transformer, step) for step in range(2, 6)]
    plain = make_transformer()
    assert torch.equal(late[0], call(plain, 2)), "nothing of the loop before the reset serves"
    assert torch.equal(late[1], late[0])


def test_after_a_reset_the_policy_is_resolved_for_the_number_of_steps_of_the_next_loop() -> None:
    """The plan of the loop before stayed: the next one was broadcast by it, or refused in the middle."""
    policy = Policy(name="bare", rules=(Rule(kind="transformer", range=9, first=1, last=1),))
    transformer = make_transformer()
    with pabtune.broadcast(transformer, policy) as run:
        for steps in (6, 4, 5):
            call(transformer, 0, steps=6)
            transformer._reset_stateful_cache()
            for step in range(1, steps + 3):  # begins inside of the schedule
                call(transformer, step, steps=steps + 3)
            assert run.mask is not None
            assert run.mask.steps == steps + 3
            for step in range(steps):
                call(transformer, step, steps=steps)
            assert run.summary()["step_pattern"]["transformer"] == "#" + "-" * (steps - 2) + "#"
            for step in range(steps):  # without a reset as well
                call(transformer, step, steps=steps)
            assert run.mask.steps == steps


def test_a_transformer_that_is_called_without_a_tensor_says_so() -> None:
    transformer = make_transformer()
    with pabtune.broadcast(transformer, POLICY), transformer.cache_context("c", step_index=0, num_inference_steps=6):
        with pytest.raises(ModelError, match="without a tensor among its arguments"):
            transformer([torch.zeros(1)])


def test_counts_are_read_while_another_thread_runs(request) -> None:
    """They were read from the live tables: "dictionary changed size during iteration"."""
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)
    transformer = make_transformer()
    sites = tuple(Rule(kind=kind, range=2, first=1, last=1) for kind in ("spatial", "temporal", "cross", "mlp"))
    with (
        pabtune.broadcast(transformer, Policy(name="sites", rules=sites)) as run, ThreadPoolExecutor(1) as other
    ):  # fmt: skip

        def loops() -> None:
            for _ in range(4):
                for step in range(6):
                    for branch in "abcdefgh":
                        call(transformer, step, branch=branch)

        running = other.submit(loops)
        while not running.done():
            run.summary()
        running.result()


def test_a_run_that_is_over_keeps_no_copy_of_the_pipeline_alive() -> None:
    pipeline = make_pipeline()
    with pabtune.broadcast(pipeline, POLICY_OF_EIGHT) as run:
        request = copy.copy(pipeline)
        draw(request)
        of_request = weakref.ref(request)
        del request
        gc.collect()
        assert of_request() is None
        assert run.summary()["computed_calls"]


def test_recompile_limits_are_those_of_the_run_that_needs_most_and_end_with_the_last() -> None:
    """The end of one run took them from another, and the end of that one put back the first one's."""
    config = torch._dynamo.config
    before = (config.recompile_limit, config.accumulated_recompile_limit)
    many, few, more = (raise_recompile_limits(patterns) for patterns in (20, 5, 30))
    assert config.recompile_limit == 30 * RECOMPILATIONS_PER_PATTERN
    more()
    assert config.recompile_limit == 20 * RECOMPILATIONS_PER_PATTERN
    many()
    assert config.recompile_limit == 5 * RECOMPILATIONS_PER_PATTERN
    few()
    assert (config.recompile_limit, config.accumulated_recompile_limit) == before
    with torch._dynamo.config.patch(recompile_limit=999):
        raise_recompile_limits(2)()
        assert config.recompile_limit == 999, "a higher limit of others stays"
    assert (config.recompile_limit, config.accumulated_recompile_limit) == before


def test_detached_in_the_middle_of_a_call_nothing_is_kept() -> None:
    transformer = make_transformer()
    run = pabtune.enable(transformer, Policy(name="two", rules=(Rule(kind="transformer", compute=(0, 2)),)))
    handle = transformer.register_forward_hook(lambda *_: pabtune.disable(transformer))
    call(transformer, 0)
    handle.remove()
    assert run.summary()["most_stored_bytes"] == 0
    assert torch.equal(call(transformer, 1), call(make_transformer(), 1))
