"""What must hold on every pipeline class: exact equalities, on small models of the real classes."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import pabtune
from pabtune.runtime.targets import Target
from pabtune.testing.oracle import broadcast_by_hand, mask_by_hand
from tests.pipelines.cases import CASES, COUNTED, EVERYDAY, Aborted, abort, cases, idle, policy, run, transformers_of
from tests.pipelines.parts import OTHER_PROMPT

pytestmark = pytest.mark.filterwarnings("ignore")
on_every_case = pytest.mark.parametrize("name", CASES)
on_everyday_cases = pytest.mark.parametrize("name", cases(EVERYDAY))


@on_every_case
def test_the_sites_are_found(name, load) -> None:
    sites = Target.of(load(name)).sites
    assert Counter(site.kind for site in sites) == CASES[name].sites
    assert len({site.name for site in sites}) == len(sites)


@on_every_case
def test_range_one_changes_nothing_and_disabling_restores(name, load) -> None:
    pipeline = load(name)
    plain = run(pipeline, name)
    assert np.isfinite(plain).all()
    before = marks(pipeline)
    with pabtune.broadcast(pipeline, idle(name)) as active:
        assert (run(pipeline, name) == plain).all()
    assert not active.broadcast_calls
    with pabtune.broadcast(pipeline, policy(name)):
        assert (run(pipeline, name) != plain).any()
    assert (run(pipeline, name) == plain).all()
    assert marks(pipeline) == before
    assert "set_timesteps" not in vars(pipeline.scheduler)


def marks(pipeline: DiffusionPipeline) -> list[set[str]]:
    """What hooks leave on modules; diffusers leaves some of its own."""
    return [
        vars(module).keys() & {"forward", "_diffusers_hook", "__deepcopy__", "pabtune_hook", "_compiled_call_impl"}
        for module in modules(pipeline)
    ]


def modules(pipeline: DiffusionPipeline) -> list[nn.Module]:
    return [each for part in pipeline.components.values() if isinstance(part, nn.Module) for each in part.modules()]


@pytest.mark.parametrize("name", COUNTED)
def test_it_equals_broadcasting_by_hand(name, load) -> None:
    """Fault 27: by hand also means that the steps that compute are told from the rules, not by the engine's mask."""
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name)) as active:
        fast = run(pipeline, name)
    assert {(site.split(".")[0], branch) for branch, site in active.computed_calls} == CASES[name].branches
    calls = Counter()
    for (_, site), count in active.computed_calls.items():
        calls[site] += count
    calls_per_step = len({branch for _, branch in CASES[name].branches})
    mask = mask_by_hand(policy(name), Target.of(pipeline).sites, len(pipeline.scheduler.timesteps))
    assert (active.mask.compute == mask.compute).all()
    with broadcast_by_hand(pipeline, mask, calls_per_step) as computed:
        assert (run(pipeline, name) == fast).all()
    assert calls == computed


@on_everyday_cases
def test_every_run_is_like_the_first(name, load) -> None:
    """After the same run, an aborted one, another prompt and seed, another number of steps: always as on a fresh model."""
    pipeline = load(name)
    steps = CASES[name].call["num_inference_steps"]
    with pabtune.broadcast(pipeline, policy(name)):
        first = run(pipeline, name)
        assert (run(pipeline, name) == first).all()
        abort(pipeline, name, at_call=3)
        assert (run(pipeline, name) == first).all()
        run(pipeline, name, prompt=OTHER_PROMPT, seed=1)
        assert (run(pipeline, name) == first).all()
        run(pipeline, name, num_inference_steps=steps + 1)
        abort(pipeline, name, at_call=4)
        other = run(pipeline, name, prompt=OTHER_PROMPT, seed=1)
    fresh = load(name)
    with pabtune.broadcast(fresh, policy(name)):
        assert (run(fresh, name, prompt=OTHER_PROMPT, seed=1) == other).all()


@on_everyday_cases
def test_what_is_held_is_gone_before_the_video_is_decoded(name, load) -> None:
    pipeline = load(name)
    during, after = [], []
    with pabtune.broadcast(pipeline, policy(name)) as active:
        for each in transformers_of(pipeline):
            each.register_forward_hook(lambda *_: during.append(active.stored_bytes))

        def spy(*args, **kwargs):
            after.append(active.stored_bytes)
            raise Aborted

        pipeline.vae.decode = spy
        with pytest.raises(Aborted):
            run(pipeline, name, output_type="np")
        assert active.summary()["most_stored_bytes"] == max(during) > 0
    assert after == [0]


@on_everyday_cases
def test_a_copy_made_under_a_policy_is_a_model_of_its_own(name, load) -> None:
    pipeline = load(name)
    plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy(name)):
        fast = run(pipeline, name)
        copied = copy.deepcopy(pipeline)
        with torch.no_grad():
            for part in transformers_of(pipeline):
                for parameter in part.parameters():
                    parameter.zero_()
        assert (run(copied, name) == plain).all()
        with pabtune.broadcast(copied, policy(name)):
            assert (run(copied, name) == fast).all()


@on_everyday_cases
def test_a_transformer_may_serve_two_pipelines(name, load) -> None:
    """The other pipeline runs as if the policy were not there, before and after runs and in the middle of an aborted one."""
    first = load(name)
    other = type(first)(
        **{**first.components, "scheduler": type(first.scheduler).from_config(first.scheduler.config)},
        **settings(first),
    )
    other.set_progress_bar_config(disable=True)
    plain = run(other, name, prompt=OTHER_PROMPT)
    with pabtune.broadcast(first, policy(name)):
        assert (run(other, name, prompt=OTHER_PROMPT) == plain).all()
        fast = run(first, name)
        assert (run(other, name, prompt=OTHER_PROMPT) == plain).all()
        abort(first, name, at_call=3)
        assert (run(other, name, prompt=OTHER_PROMPT) == plain).all()
        assert (run(first, name) == fast).all()


def settings(pipeline: DiffusionPipeline) -> dict:
    """Arguments of the pipeline's constructor that are no components."""
    names = set(type(pipeline)._get_signature_keys(type(pipeline))[1])
    return {key: value for key, value in pipeline.config.items() if key in names}


LOOK_UP_READS = 1
"""Reads of the host in a forward whose step is looked up by its timestep."""


class Syncs(TorchDispatchMode):
    """Counts reads of a tensor's value by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@on_everyday_cases
def test_a_policy_adds_no_host_syncs(name, load) -> None:
    pipeline = load(name)
    counts = []
    for each in (None, policy(name)):
        if each is not None:
            pabtune.enable(pipeline, each)
        with Syncs() as syncs:
            run(pipeline, name)
        counts.append(syncs.count)
    case = CASES[name]
    calls = case.call["num_inference_steps"] * len({branch for _, branch in case.branches}) * case.loops
    # A scheduler without a step index, or one that is never stepped, is asked for the timestep's place.
    is_looked_up = not hasattr(pipeline.scheduler, "step_index") or name.startswith("skyreels-v2-forcing")
    # Where nobody tells a loop's first step, each branch is asked for it once.
    first_calls = len(case.branches) * case.loops
    assert counts[1] - counts[0] <= 2 * LOOK_UP_READS * (calls if is_looked_up else first_calls)
