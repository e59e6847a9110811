import numpy as np
import torch
from diffusers.hooks.hooks import CacheContext

from pabtune.runtime.locator import Locator
from pabtune.runtime.recorder import PROJECTIONS, WIDTH_PROJECTIONS, Recorder
from pabtune.runtime.recorder import record as record_run
from pabtune.runtime.targets import Target
from tests.conftest import PROMPT, STEPS, draw


def record(pipeline, prompt=PROMPT, memory=None, **arguments):
    target = Target.of(pipeline)
    recorder = Recorder(len(target.sites), torch.device("cpu"), memory)
    outputs = {index: [] for index in range(len(target.sites))}
    modules = dict(pipeline.transformer.named_modules())
    handles = [
        modules[site.path].register_forward_hook(
            lambda m, i, output, index=index: outputs[index].append(output.clone())
        )
        for index, site in enumerate(target.sites)
    ]
    try:
        frames = record_run(target, recorder, lambda: draw(pipeline, prompt, **arguments))
    finally:
        for handle in handles:
            handle.remove()
    return frames, recorder.recording(), outputs


def test_change_is_the_papers_measure_per_branch(pipeline) -> None:
    _, recording, outputs = record(pipeline)
    for index, steps in outputs.items():
        for half, branch in enumerate(("cond", "uncond")):
            series = [output.chunk(2)[half] for output in steps]
            for step in range(1, STEPS):
                exact = (series[step] - series[step - 1]).square().mean()
                torch.testing.assert_close(recording.mse[branch][index, step], exact)
                relative = exact / series[step].square().mean()
                torch.testing.assert_close(recording.change[branch][index, step], relative)
            assert recording.mse[branch][index, 0] == 0


def test_recording_does_not_change_the_video(pipeline) -> None:
    plain = draw(pipeline)
    frames, _, _ = record(pipeline)
    assert (frames == plain).all()


def test_branches_in_one_call_or_two_are_recorded_alike(pipeline) -> None:
    _, together, _ = record(pipeline)
    _, apart, _ = record(pipeline, batched_guidance=False)
    for branch in ("cond", "uncond"):
        torch.testing.assert_close(together.change[branch], apart.change[branch], rtol=1e-2, atol=1e-7)


def test_sketched_distances_are_near_the_exact_ones(pipeline) -> None:
    _, recording, outputs = record(pipeline, [PROMPT, "a blue circle rises quickly"])
    assert recording.sketch_error.median() < 0.2
    for index, steps in outputs.items():
        series = torch.stack([output.chunk(2)[0] for output in steps])
        exact = (series[:, None] - series[None]).square().mean((3, 4, 5))
        squares = series.square().mean((2, 3, 4))
        relative = (exact / ((squares[:, None] + squares[None]) / 2)).mean(-1)
        sketched = recording.distance["cond"][index]
        off = ~torch.eye(STEPS, dtype=torch.bool)
        ratio = (sketched[off] / relative[off]).log().abs()
        assert float(ratio.median()) < 0.25
        assert torch.allclose(sketched.diagonal(), torch.zeros(STEPS), atol=1e-6)
        torch.testing.assert_close(sketched, sketched.T)


def test_times_add_up(pipeline) -> None:
    _, recording, _ = record(pipeline)
    assert recording.seconds.shape == (len(Target.of(pipeline).sites), STEPS)
    assert (recording.seconds > 0).all()
    assert (recording.step_seconds > 0).all()
    assert recording.seconds.sum() < recording.step_seconds.sum()


def test_a_second_run_does_not_see_the_first(pipeline) -> None:
    target = Target.of(pipeline)
    recorder = Recorder(len(target.sites), torch.device("cpu"))
    changes = []
    for seed in (0, 1, 0):
        record_run(target, recorder, lambda seed=seed: draw(pipeline, seed=seed))
        changes.append(recorder.recording().change["cond"].numpy())
    np.testing.assert_array_equal(changes[0], changes[2])
    assert (changes[0] != changes[1]).any()


def test_a_limit_of_memory_changes_nothing_but_the_place(pipeline) -> None:
    free, limited = record(pipeline)[1], record(pipeline, memory=20_000)[1]
    for branch in free.mse:
        assert torch.equal(free.mse[branch], limited.mse[branch])
        assert torch.equal(free.distance[branch], limited.distance[branch])


def test_sketches_do_not_grow_with_the_model() -> None:
    """Fault 15: for Wan 14B (40 layers of three sites, 5120 wide, two branches, 50 steps) they took 15 GiB."""
    generator, width, steps = torch.Generator().manual_seed(0), 1024, 4
    outputs = torch.randn(steps, 2, 300, width, generator=generator).cumsum(0)
    recorder = Recorder(1, torch.device("cpu"))
    locator = Locator(lambda: None)
    for step in range(steps):
        context = CacheContext("cond", step_index=step, num_inference_steps=steps)
        position = locator.locate("transformer", torch.nn.Identity(), context, (), {})
        locator.advance(position, context)
        recorder.begin(position, torch.zeros(2, 300, width))
        recorder.site(0, lambda step=step: outputs[step], (), {})
        recorder.end(position, None)
    (history,) = recorder._histories.values()
    sketch_bytes = [observation.sketch[0].nbytes for observation in history.observations.values()]
    assert sketch_bytes == [PROJECTIONS * WIDTH_PROJECTIONS * 4] * steps
    assert max(sketch_bytes) * 40 * 3 * 2 * 50 < 2**29
    exact = (outputs[:, None] - outputs[None]).square().mean((3, 4))
    squares = outputs.square().mean((2, 3))
    relative = (exact / ((squares[:, None] + squares[None]) / 2)).mean(-1)
    torch.testing.assert_close(recorder.recording().distance["cond"][0], relative, rtol=0.25, atol=1e-5)


def test_an_output_that_is_changed_in_place_afterwards_is_recorded_as_it_was(pipeline) -> None:
    """Blocks may scale their attention's output in place."""
    _, expected, _ = record(pipeline)

    def scale_in_place(module, args, output):
        output.mul_(3.0)

    original = {}
    for block in pipeline.transformer.spatial_blocks:
        original[block] = block.forward

        def forward(*args, block=block, **kwargs):
            handle = block.attn.register_forward_hook(scale_in_place)
            try:
                return original[block](*args, **kwargs)
            finally:
                handle.remove()

        block.forward = forward
    recording = record(pipeline)[1]
    first = next(index for index, site in enumerate(Target.of(pipeline).sites) if site.kind == "spatial")
    torch.testing.assert_close(recording.change["cond"][first][1], expected.change["cond"][first][1])
