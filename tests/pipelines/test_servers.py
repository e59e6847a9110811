"""What servers do: threads, a pipeline per request around one transformer, copies, aborts, calls by hand."""

import copy
import gc
import threading
import tracemalloc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import WanPipeline, WanVideoToVideoPipeline

import pabtune
from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.records.errors import ModelError, PabtuneWarning
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from tests.conftest import STEPS, around, draw, make_pipeline, make_transformer, pyramid
from tests.pipelines.parts import OTHER_PROMPT, PROMPT

ROUNDS = 12


def race(*works) -> list[list[np.ndarray]]:
    """Each work several times, all at once."""
    barrier = threading.Barrier(len(works))

    def repeat(work):
        results = []
        for _ in range(ROUNDS):
            barrier.wait()
            results.append(work())
        return results

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(repeat, works))


@pytest.mark.filterwarnings("ignore::pabtune.records.errors.PabtuneWarning")
def test_two_threads_around_one_transformer_do_not_meet(pipeline) -> None:
    """Fault 1: one of two pipelines is under a policy; each draws what it draws alone."""
    other = around(pipeline.transformer, pipeline)
    plain = draw(other, seed=3)
    with pabtune.broadcast(pipeline, pyramid()):
        fast = draw(pipeline)
        drawn_fast, drawn_plain = race(lambda: draw(pipeline), lambda: draw(other, seed=3))
    assert all((each == fast).all() for each in drawn_fast)
    assert all((each == plain).all() for each in drawn_plain)


@pytest.mark.parametrize("batched", [True, False])
def test_two_policies_on_two_pipelines_around_one_transformer(pipeline, batched) -> None:
    """Fault 1: each request may have a policy of its own; they end in another order than they began."""
    other = around(pipeline.transformer, pipeline)
    rules = (Rule(kind="spatial", range=3, window=(2, STEPS)), Rule(kind="block", range=2, window=(3, STEPS)))
    second = Policy(name="second", rules=rules)
    expected, plain = [], draw(pipeline)
    for each, used in ((pipeline, pyramid()), (other, second)):
        with pabtune.broadcast(each, used):
            expected.append(draw(each, batched_guidance=batched))
    before = [set(vars(module)) for module in pipeline.transformer.modules()]
    runs = [pabtune.enable(pipeline, pyramid()), pabtune.enable(other, second)]
    drawn = race(lambda: draw(pipeline, batched_guidance=batched), lambda: draw(other, batched_guidance=batched))
    for videos, alone in zip(drawn, expected, strict=True):
        assert all((video == alone).all() for video in videos)
    runs[0].disable()
    assert (draw(other, batched_guidance=batched) == expected[1]).all()
    with pytest.warns(PabtuneWarning, match="shares a transformer with a pipeline that pabtune is attached to"):
        assert (draw(pipeline) == plain).all()
    runs[1].disable()
    assert (draw(other) == plain).all()
    assert [set(vars(module)) for module in pipeline.transformer.modules()] == before


def test_a_shallow_copy_is_under_the_policy(pipeline) -> None:
    """Fault 2: one copy per request, each with a scheduler of its own, in threads."""
    plain = draw(pipeline)
    with pabtune.broadcast(pipeline, pyramid()) as active:
        expected = [draw(pipeline, seed=seed) for seed in range(3)]
        counts = active.summary()["broadcast_calls"]
        copies = [copy.copy(pipeline) for _ in range(3)]
        for each in copies:
            each.scheduler = copy.copy(pipeline.scheduler)
        drawn = race(*(lambda each=each, seed=seed: draw(each, seed=seed) for seed, each in enumerate(copies)))
        for videos, alone in zip(drawn, expected, strict=True):
            assert all((video == alone).all() for video in videos)
        assert active.summary()["broadcast_calls"] == counts
        assert active.stored_bytes == 0
    assert (draw(copies[0]) == plain).all()


def test_the_end_of_a_copys_call_leaves_the_originals_alone(pipeline) -> None:
    """Fault 2: it wiped what the original's running call held, which became another video."""
    with pabtune.broadcast(pipeline, pyramid()):
        expected = draw(pipeline)
        copied = copy.copy(pipeline)
        copied.scheduler = copy.copy(pipeline.scheduler)

        def draw_another(pipe, step, timestep, arguments):
            if step == STEPS // 2 and pipe is pipeline:
                draw(copied, seed=7)
            return arguments

        assert (draw(pipeline, callback_on_step_end=draw_another) == expected).all()


def test_another_pipeline_around_the_transformer_says_once_that_it_is_plain(pipeline) -> None:
    """Fault 2: `from_pipe`, one per request, was not accelerated without a word."""
    plain = draw(pipeline)
    other = ShapesPipeline.from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    with pabtune.broadcast(pipeline, pyramid()):
        with pytest.warns(PabtuneWarning, match=r"call pabtune.enable\(…\) for this pipeline too"):
            assert (draw(other) == plain).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert (draw(other) == plain).all()


def test_a_replaced_transformer_is_said(pipeline) -> None:
    """Fault 2: a fine-tune that was swapped in ran plain, and the summary showed the run before."""
    with pabtune.broadcast(pipeline, pyramid()):
        draw(pipeline)
        pipeline.transformer = make_transformer(seed=5)
        with pytest.raises(ModelError, match="transformer of the pipeline was replaced"):
            draw(pipeline)


def test_copies_of_the_scheduler_are_their_own(pipeline) -> None:
    """Fault 3: `set_timesteps` on a copy that was made under a policy."""
    with pabtune.broadcast(pipeline, pyramid()):
        draw(pipeline)
        copied = copy.copy(pipeline.scheduler)
        copied.set_timesteps(5)
        assert len(pipeline.scheduler.timesteps) == STEPS
    copied.set_timesteps(6)
    assert (len(copied.timesteps), len(pipeline.scheduler.timesteps)) == (6, STEPS)


def stop(pipe, step, timestep, arguments):
    if step == STEPS // 2:
        raise KeyboardInterrupt
    return arguments


def test_a_run_that_fails_holds_nothing_and_counts_for_itself(pipeline) -> None:
    """Fault 13: also one that fails inside the transformer."""
    with pabtune.broadcast(pipeline, pyramid()) as active:
        draw(pipeline)
        counts = active.summary()
        handle = None
        for error, callback in ((KeyboardInterrupt, stop), (ZeroDivisionError, None)):
            if callback is None:
                handle = pipeline.transformer.temporal_blocks[1].mlp.register_forward_hook(divide_by_zero_at(3))
            with pytest.raises(error):
                draw(pipeline, callback_on_step_end=callback)
            assert active.stored_bytes == 0
            assert all(hook.outputs == () for hook in active._broadcaster.hooks)
            assert active.summary()["computed_calls"]["mlp"] < counts["computed_calls"]["mlp"]
        handle.remove()
        draw(pipeline)
        assert active.summary() == counts


def test_what_a_run_kept_is_freed_at_its_end_also_where_it_was_stopped(pipeline) -> None:
    """Fault 27: nothing but the reset at the pipeline's end frees it, as the next call may never come."""
    outputs: list[weakref.ref] = []
    for site in Target.of(pipeline).sites:
        module = pipeline.transformer.get_submodule(site.path)
        module.register_forward_hook(lambda module, args, output: outputs.append(weakref.ref(output)))

    def count_and_stop(pipe, step, timestep, arguments):
        if step == STEPS // 2:
            kept.append(active.stored_bytes)
        return stop(pipe, step, timestep, arguments)

    kept: list[int] = []
    with pabtune.broadcast(pipeline, pyramid()) as active:
        with pytest.raises(KeyboardInterrupt):
            draw(pipeline, callback_on_step_end=count_and_stop)
        gc.collect()
        assert kept[0] > 0
        assert active.stored_bytes == 0
        assert not any(output() is not None for output in outputs)
        assert not active._broadcaster.ongoing


def divide_by_zero_at(call: int):
    calls = []

    def hook(*_) -> None:
        calls.append(1)
        if len(calls) == call:
            _ = 1 / 0

    return hook


def test_a_transformer_that_is_called_by_hand_computes(pipeline) -> None:
    """Fault 14: before a run, after one, and in between; nothing is held, and the next run is as ever."""
    generator = torch.Generator().manual_seed(0)
    arguments = {
        "hidden_states": torch.randn(2, 4, 8, 24, 24, generator=generator),
        "timestep": torch.full((2,), 500.0),
        "encoder_hidden_states": torch.randn(2, 24, 16, generator=generator),
        "return_dict": False,
    }
    with torch.no_grad():
        expected = pipeline.transformer(**arguments)[0]
        with pabtune.broadcast(pipeline, pyramid()) as active:
            with pytest.warns(PabtuneWarning, match="not by the pipeline that pabtune is attached to"):
                pipeline.transformer(**arguments)
            for _ in range(3):
                for _ in range(STEPS + 2):
                    assert (pipeline.transformer(**arguments)[0] == expected).all()
                assert active.stored_bytes == 0
                fast = draw(pipeline)
            counts = active.summary()
    with pabtune.broadcast(pipeline, pyramid()) as active:
        assert (draw(pipeline) == fast).all()
        assert active.summary() == counts


def test_a_pipeline_that_is_dropped_under_a_policy_is_freed() -> None:
    pipeline = make_pipeline()
    pabtune.enable(pipeline, pyramid())
    draw(pipeline)
    gone = weakref.ref(pipeline)
    del pipeline
    gc.collect()
    assert gone() is None


@pytest.mark.slow
def test_dynamos_limits_are_given_back(pipeline) -> None:
    """They are raised to the patterns of the policy, once and not for every call."""
    config = torch._dynamo.config
    before = (config.recompile_limit, config.accumulated_recompile_limit)
    pipeline.transformer.compile(backend="eager")
    spatial = Policy(name="spatial", rules=(Rule(kind="spatial", range=2, window=(1, 4)),))
    with pabtune.broadcast(pipeline, spatial) as active:
        for _ in range(2):
            draw(pipeline, num_inference_steps=4)
        assert config.recompile_limit == max(before[0], 8 * active.patterns)
        assert len(active._broadcaster._restore_limits) == 1
    assert (config.recompile_limit, config.accumulated_recompile_limit) == before
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_video_to_video_begins_where_its_noise_does(load) -> None:
    """Fault 6: with strength 0.4, the first of 20 steps that is denoised is step 12, and windows lie accordingly."""
    base = load("wan-2.1")
    assert isinstance(base, WanPipeline)
    components = {name: part for name, part in base.components.items() if name in ("vae", "text_encoder", "tokenizer")}
    pipeline = WanVideoToVideoPipeline(transformer=base.transformer, scheduler=base.scheduler, **components)
    pipeline.set_progress_bar_config(disable=True)
    late = Policy(name="late", rules=(Rule(kind="full", range=2, window=(14, 20)),))
    video = [np.zeros((16, 16, 3), dtype=np.uint8)] * 9
    with pabtune.broadcast(pipeline, late) as active:
        pipeline(
            video=video, prompt=PROMPT, negative_prompt=OTHER_PROMPT, height=16, width=16, num_inference_steps=20,
            strength=0.4, max_sequence_length=16, output_type="latent", generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    steps = [record.step for record in active.records if record.branch == "all"]
    assert steps == list(range(12, 20))
    full = {index for index, site in enumerate(active._sites) if site.kind == "full"}
    computed = [record.step for record in active.records if record.branch == "all" and full & record.computed]
    assert computed == [12, 13, 15, 17, 19]


@pytest.mark.slow
def test_a_thousand_requests_from_several_threads(pipeline) -> None:
    """Fault 1: the right videos, flat memory, right counts."""

    def request(seed: int) -> bool:
        copied = copy.copy(pipeline)
        copied.scheduler = copy.copy(pipeline.scheduler)
        return bool((draw(copied, seed=seed % 4) == expected[seed % 4]).all())

    with pabtune.broadcast(pipeline, pyramid()) as active, ThreadPoolExecutor(4) as threads:
        expected = [draw(pipeline, seed=seed) for seed in range(4)]
        counts = active.summary()
        tracemalloc.start()
        held = []
        for _ in range(10):
            assert all(threads.map(request, range(100)))
            gc.collect()  # whether cycles were collected just now is no leak
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert active.stored_bytes == 0
        assert not active._broadcaster.ongoing
        assert active.summary() == counts
    assert held[-1] - held[2] < 100_000
