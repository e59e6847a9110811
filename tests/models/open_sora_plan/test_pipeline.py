"""Open-Sora-Plan v1.1 on its real classes at small size."""

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

import pabtune
from pabtune.models.open_sora_plan import AutoencoderKLOpenSoraPlan, LatteT2VTransformer3DModel, OpenSoraPlanPipeline
from pabtune.planning.presets import find_policy
from pabtune.records.errors import PromptError
from tests.pipelines.parts import t5, tokenizer

TRANSFORMER = {
    "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "cross_attention_dim": 24,
    "sample_size": (8, 8), "caption_channels": 32, "video_length": 3,
}  # fmt: skip
VAE = {"hidden_size": 8, "num_res_blocks": 1, "num_groups": 4}
CALL = {"num_frames": 9, "height": 32, "width": 48, "num_inference_steps": 6}
PROMPT = "a cat"


def make_pipeline() -> OpenSoraPlanPipeline:
    torch.manual_seed(0)
    pipeline = OpenSoraPlanPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=AutoencoderKLOpenSoraPlan(**VAE).eval(),
        transformer=LatteT2VTransformer3DModel(**TRANSFORMER).eval(),
        scheduler=PNDMScheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline() -> OpenSoraPlanPipeline:
    return make_pipeline()


def draw(pipeline: OpenSoraPlanPipeline, prompt=PROMPT, seed: int = 0, **changes):
    return pipeline(prompt, generator=torch.Generator().manual_seed(seed), **{**CALL, **changes}).frames


def test_videos_have_the_asked_size_and_follow_prompt_and_seed(pipeline) -> None:
    frames = draw(pipeline)
    assert frames.shape == (1, 9, 32, 48, 3)
    assert frames.min() >= 0
    assert frames.max() <= 1
    assert (draw(pipeline) == frames).all()
    for other in (draw(pipeline, seed=1), draw(pipeline, "a dog"), draw(pipeline, negative_prompt="blur")):
        assert (other != frames).any()
    assert draw(pipeline, [PROMPT, "two dogs"], output_type="pt").shape == (2, 9, 3, 32, 48)
    assert draw(pipeline, num_frames=8).shape[1] == 8
    with pytest.raises(PromptError, match="at least one prompt"):
        draw(pipeline, [])


def test_prompts_of_a_batch_do_not_see_each_other(pipeline) -> None:
    """Nor the padding, which has features too."""
    noise = torch.randn(2, 4, 3, 4, 6)
    pair = draw(pipeline, [PROMPT, "two boats on a lake"], latents=noise, output_type="latent")
    for index, prompt in enumerate((PROMPT, "two boats on a lake")):
        alone = draw(pipeline, prompt, latents=noise[index : index + 1], output_type="latent")
        torch.testing.assert_close(pair[index : index + 1], alone, rtol=1e-3, atol=1e-3)


def test_schedulers_that_call_more_often_have_more_steps(pipeline) -> None:
    policy = pabtune.Policy.from_document(
        {"schema": "pabtune.policy/2", "name": "p", "rules": [{"kind": "cross", "range": 2, "window": [1, 6]}]}
    )
    calls = []
    with pabtune.broadcast(pipeline, policy) as run:
        draw(pipeline, callback_on_step_end=lambda *arguments: calls.append(arguments[1]))
    assert run.mask.steps == len(calls) == len(pipeline.scheduler.timesteps) == 15
    assert {name for name, _ in run.computed_calls} == {"cond+uncond"}
    with pabtune.broadcast(pipeline, policy) as run:
        draw(pipeline, guidance_scale=1.0)
    assert {name for name, _ in run.computed_calls} == {"cond"}


def test_the_published_preset_runs(pipeline) -> None:
    preset = find_policy("open-sora-plan-1.1/pab246")
    rules = tuple(rule for rule in preset.rules if rule.layers is None)
    with pabtune.broadcast(pipeline, pabtune.Policy(name="small", rules=rules, made_for=preset.made_for)) as run:
        draw(pipeline, num_inference_steps=50)
    summary = run.summary()
    assert summary["broadcast_calls"]["temporal"] > summary["broadcast_calls"]["spatial"] > 0


def test_a_saved_pipeline_is_the_same(pipeline, tmp_path) -> None:
    pipeline.save_pretrained(tmp_path)
    loaded = pabtune.load_pipeline(str(tmp_path))
    assert type(loaded) is OpenSoraPlanPipeline
    assert (draw(loaded) == draw(pipeline)).all()


def test_other_schedulers_serve_too(pipeline) -> None:
    plain = pipeline.scheduler
    pipeline.scheduler = DDIMScheduler()
    assert draw(pipeline).shape == (1, 9, 32, 48, 3)
    pipeline.scheduler = plain
