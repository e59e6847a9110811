"""What only a CUDA device can show; `make test-gpu` runs it."""

import pytest
import torch
from diffusers.hooks import apply_group_offloading

import pabtune
from tests.pipelines.cases import CASES, policy, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]

NAMES = ["wan-2.1", "hunyuan-true-cfg", "cogvideox-ddim", "ltx"]


@pytest.mark.parametrize("name", NAMES)
def test_cuda_graphs_do_not_overwrite_what_is_stored(name, load) -> None:
    """Replays write to the memory of the run before: outputs that are kept must be copies."""
    pipeline = load(name).to("cuda")
    with pabtune.broadcast(pipeline, policy(name)):
        expected = run(pipeline, name)
    pipeline.transformer.compile(mode="reduce-overhead")
    with pabtune.broadcast(pipeline, policy(name)):
        for _ in range(3):
            torch.testing.assert_close(
                torch.from_numpy(run(pipeline, name)), torch.from_numpy(expected), atol=1e-3, rtol=1e-3
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_adds_no_synchronisation(name, load) -> None:
    pipeline = load(name).to("cuda")

    def synchronisations() -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            run(pipeline, name)
        return sum(event.count for event in profiled.key_averages() if "Synchronize" in event.key)

    run(pipeline, name)
    plain = synchronisations()
    with pabtune.broadcast(pipeline, policy(name)):
        run(pipeline, name)
        assert synchronisations() <= plain + 2  # the levels of noise are read once, when a run starts


@pytest.mark.parametrize("name", NAMES)
def test_group_offload_with_streams(name, load) -> None:
    """Prefetching follows the order of the first forward; a skipped site must not break the chain."""
    pipeline = load(name).to("cuda")
    with pabtune.broadcast(pipeline, policy(name)):
        expected = run(pipeline, name)
    apply_group_offloading(
        pipeline.transformer, onload_device=torch.device("cuda"), offload_device=torch.device("cpu"),
        offload_type="block_level", num_blocks_per_group=1, use_stream=True,
    )  # fmt: skip
    with pabtune.broadcast(pipeline, policy(name)):
        assert (run(pipeline, name) == expected).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_times_sites_with_events_and_holds_outputs_on_the_host(name, load) -> None:
    pipeline = load(name).to("cuda")
    given = ("num_inference_steps", "output_type")
    arguments = {key: value for key, value in CASES[name].call.items() if key not in given}
    profile = pabtune.profile(pipeline, ["a cat", "a dog"], 6, batch_size=1, arguments=arguments, memory=0)
    assert (profile.arrays["seconds"] > 0).all()
    assert profile.made_for.settings["device"] == torch.cuda.get_device_name(0)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_on_the_host_give_the_same_video(name, load) -> None:
    """Copies go both ways on a stream of their own, while the next sites compute."""
    pipeline = load(name).to("cuda")
    with pabtune.broadcast(pipeline, policy(name)):
        expected = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy(name), store="host") as active:
        for _ in range(3):
            assert (run(pipeline, name) == expected).all()
        pinned = []
        pipeline.transformer.register_forward_hook(
            lambda *_: pinned.extend(
                tensor.values.is_pinned()
                for branch in active._branches.values()
                for outputs in branch.stored.values()
                for tensor in outputs
                if hasattr(tensor, "values")
            )
        )
        run(pipeline, name)
    assert pinned
    assert all(pinned)
