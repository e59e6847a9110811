"""Open-Sora 1.2 on its real classes: the reference's whole loop, and the pipeline at small size."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

import pabtune
from pabtune.models.open_sora import AutoencoderKLOpenSora, OpenSoraPipeline
from pabtune.models.open_sora.pipeline import schedule_shift
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.records.errors import PromptError
from tests.models.golden import load_golden, relative_error
from tests.pipelines.parts import t5, tokenizer

VAE = {
    "filters": 8, "num_res_blocks": 1, "num_groups": 4, "spatial_block_out_channels": (8, 8),
    "spatial_layers_per_block": 1, "spatial_norm_num_groups": 4,
}  # fmt: skip
TRANSFORMER = {"depth": 2, "hidden_size": 24, "num_heads": 2, "caption_channels": 32, "model_max_length": 16}
CALL = {"num_frames": 20, "height": 16, "width": 20, "num_inference_steps": 6}
PROMPT = "a cat"


def make_pipeline(transformer: STDiT3Transformer3DModel | None = None) -> OpenSoraPipeline:
    torch.manual_seed(0)
    pipeline = OpenSoraPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=AutoencoderKLOpenSora(**VAE).eval(),
        transformer=transformer or STDiT3Transformer3DModel(**TRANSFORMER).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline() -> OpenSoraPipeline:
    return make_pipeline()


def draw(pipeline: OpenSoraPipeline, prompt=PROMPT, seed: int = 0, **changes):
    return pipeline(prompt, generator=torch.Generator().manual_seed(seed), **{**CALL, **changes}).frames


def test_the_papers_workload_has_its_schedule() -> None:
    """51 frames of 480x854 in 30 steps: what the reference shows, as whole numbers in bfloat16."""
    seen = (
        "1000 992 984 976 968 960 952 940 932 920 908 892 880 864 848 828 808 788 764 736 708 676 636 596 548 492 426 "
        "350 258 143"
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=schedule_shift(51, 480, 854))
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 30, 30))
    assert schedule_shift(51, 480, 854) == 4.84375
    assert [int(value) for value in scheduler.timesteps.bfloat16()] == [int(value) for value in seen.split()]


@torch.no_grad()
def test_the_whole_loop_is_the_references(monkeypatch) -> None:
    tensors, weights, config = load_golden("stdit3-tiny")
    names = ("depth", "hidden_size", "num_heads", "caption_channels", "model_max_length")
    transformer = STDiT3Transformer3DModel(**{name: config[name] for name in names}).eval()
    transformer.load_state_dict(weights)
    pipeline = make_pipeline(transformer)
    encoded = tensors["sample.y"].flatten(1, 2), tensors["input.mask"]
    monkeypatch.setattr(OpenSoraPipeline, "encode_prompt", lambda *_: encoded)
    seen = []
    latents = pipeline(
        PROMPT, num_frames=config["frames"], height=config["height"], width=config["width"], fps=config["fps"],
        num_inference_steps=config["steps"], guidance_scale=config["guidance"], latents=tensors["sample.noise"],
        output_type="latent", callback_on_step_end=lambda pipe, step, timestep, _: seen.append(int(timestep)),
    ).frames  # fmt: skip
    assert seen == tensors["sample.timesteps_seen"].int().tolist()
    assert relative_error(latents, tensors["sample.latents"]) < 1e-5


def test_videos_have_the_asked_size_and_follow_prompt_and_seed(pipeline) -> None:
    frames = draw(pipeline)
    assert frames.shape == (1, 20, 16, 20, 3)
    assert frames.min() >= 0
    assert frames.max() <= 1
    assert (draw(pipeline) == frames).all()
    for other in (draw(pipeline, seed=1), draw(pipeline, "a dog"), draw(pipeline, aesthetic_score=None)):
        assert (other != frames).any()
    assert draw(pipeline, [PROMPT, "a dog"], output_type="pt").shape == (2, 20, 3, 16, 20)
    with pytest.raises(PromptError, match="at least one prompt"):
        draw(pipeline, [])


def test_without_guidance_there_is_one_branch(pipeline) -> None:
    policy = pabtune.Policy.from_document(
        {"schema": "pabtune.policy/2", "name": "p", "rules": [{"kind": "cross", "range": 2, "window": [1, 6]}]}
    )
    for scale, branch in ((1.0, "cond"), (7.0, "cond+uncond")):
        with pabtune.broadcast(pipeline, policy) as run:
            draw(pipeline, guidance_scale=scale)
        assert {name for name, _ in run.computed_calls} == {branch}


def test_a_first_image_is_held(pipeline) -> None:
    image = Image.radial_gradient("L").resize((20, 16)).convert("RGB")
    seen = []
    draw(pipeline, image=image, callback_on_step_end=lambda *arguments: seen.append(arguments[3]["latents"].clone()))
    assert all((each[:, :, :1] == seen[0][:, :, :1]).all() for each in seen)
    assert (seen[1][:, :, 1:] != seen[0][:, :, 1:]).any()
    inverse = Image.eval(image, lambda value: 255 - value)
    assert (draw(pipeline, image=image) != draw(pipeline, image=inverse)).any()


def test_a_saved_pipeline_is_the_same(pipeline, tmp_path) -> None:
    pipeline.save_pretrained(tmp_path)
    loaded = pabtune.load_pipeline(str(tmp_path))
    assert type(loaded) is OpenSoraPipeline
    assert (draw(loaded) == draw(pipeline)).all()
