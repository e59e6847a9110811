"""Recording full runs of the small pipeline."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import pabtune
from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.trajectories import LatentsWatch, Trajectories, record_trajectories
from tests.conftest import PROMPTS, STEPS, make_pipeline
from tests.pipelines.cases import CASES, arguments_of
from tests.tuning.conftest import SETTINGS


def test_a_recording_finds_guidance_and_scheduler(runs) -> None:
    """Guidance 4 is 4 times the conditional branch less 3 times the other; Euler's steps keep all of the latents."""
    scheduler = make_pipeline().scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    steps = -np.diff(scheduler.sigmas.numpy())
    for run in runs:
        assert run.mixtures["transformer"] == pytest.approx((4.0, -3.0), abs=1e-3)
        assert run.keeps == pytest.approx(np.ones(STEPS), abs=1e-4)
        assert run.rates[1:] == pytest.approx(steps[1:], rel=1e-3)
        assert len(run.latents) == len(run.outputs) == STEPS
    plain = generate(make_pipeline(), PROMPTS[:2], SETTINGS)
    assert all((a == b).all() for a, b in zip(runs[0].generation.videos, plain.videos, strict=True))


def test_branches_in_calls_of_their_own_are_mixed_alike(runs) -> None:
    pipeline = make_pipeline()
    settings = Settings(steps=STEPS, batch_size=2, arguments={"batched_guidance": False})
    run = record_trajectories(pipeline, Target.of(pipeline), PROMPTS[:2], settings)
    assert run.mixtures["transformer"] == pytest.approx((4.0, -3.0), abs=1e-3)
    assert torch.allclose(run.outputs[3], runs[0].outputs[3], atol=1e-3)


def record_case(name: str, steps: int = 12) -> tuple[DiffusionPipeline, Trajectories, Settings]:
    """A small pipeline and a full run of it."""
    pipeline = CASES[name].build()
    pipeline.set_progress_bar_config(disable=True)
    settings = Settings(steps=steps, batch_size=2, arguments=arguments_of(name))
    prompts = PROMPTS[: 2 if CASES[name].takes_batches else 1]
    return pipeline, record_trajectories(pipeline, Target.of(pipeline), prompts, settings), settings


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["wan-2.1", "sana-video"])
def test_an_output_acts_as_was_found_with_schedulers_that_use_the_one_before_too(name) -> None:
    """UniPC and DPM-Solver++. By the step alone the effect of another output was found a quarter to a half too small."""
    pipeline, run, settings = record_case(name)
    for step in (3, 5):
        rule = Rule(kind="transformer", compute=tuple(each for each in range(12) if each != step))
        watch = LatentsWatch()
        with pabtune.broadcast(pipeline, Policy(name="probe", rules=(rule,))):
            generate(pipeline, run.prompts, watch.settings(settings))
        made, other = watch.after[step] - run.latents[step], run.outputs[step - 1] - run.outputs[step]
        assert (made - run.recurrences[step].rate * other).norm() < 0.02 * made.norm()
        assert (made - run.rates[step] * other).norm() > 0.2 * made.norm()


def test_two_transformers_have_mixtures_of_their_own() -> None:
    _, run, _ = record_case("wan-2.2")
    (takeover,) = run.takeovers
    assert run.transformers == ("transformer",) * takeover + ("transformer_2",) * (12 - takeover)
    for mixture in run.mixtures.values():
        assert mixture == pytest.approx((5.0, -4.0), abs=0.2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("helios", "HeliosPipeline has 3 denoising loops in one call"),
        ("skyreels-v2-forcing-asynchronous", "does not call one transformer in every step"),
        ("open-sora-plan-1.1", "makes 21 steps where 12 are asked for"),
        ("chronoedit-reasoning", r"puts out \(2, 16, 2, 2, 2\), but the latents are \(2, 16, 3, 2, 2\)"),
        ("hunyuan-1.5", "HunyuanVideo15Pipeline has no callback_on_step_end"),
    ],
)
def test_what_cannot_be_recorded_says_why(name, message) -> None:
    with pytest.raises(ModelError, match=message + ".*schedules of whole calls cannot be fitted"):
        record_case(name)


@pytest.mark.filterwarnings("ignore")  # of the video that is made of them
def test_latents_that_are_not_finite_are_refused() -> None:
    pipeline = make_pipeline()
    pipeline.transformer.final_layer.linear.bias.data.fill_(float("inf"))
    with pytest.raises(ModelError, match="the latents of ShapesPipeline are not finite"):
        record_trajectories(pipeline, Target.of(pipeline), PROMPTS[:2], SETTINGS)


def test_outputs_that_do_nothing_are_refused() -> None:
    pipeline = make_pipeline()
    for parameter in pipeline.transformer.final_layer.parameters():
        parameter.data.zero_()
    with pytest.raises(
        ModelError, match="the latents of ShapesPipeline do not follow from what its transformer puts out"
    ):
        record_trajectories(pipeline, Target.of(pipeline), PROMPTS[:2], SETTINGS)
