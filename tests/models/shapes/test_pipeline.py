import numpy as np
import pytest
import torch

from pabtune.models.shapes.world import FRAME_SIZE, FRAMES
from pabtune.records.errors import PromptError
from tests.conftest import PROMPT, STEPS, draw


def test_frames_and_batches(pipeline) -> None:
    frames = draw(pipeline, [PROMPT, "a blue circle"])
    assert frames.shape == (2, FRAMES, FRAME_SIZE, FRAME_SIZE, 3)
    assert frames.dtype == np.float32
    assert 0 <= frames.min() <= frames.max() <= 1
    tensor = draw(pipeline, output_type="pt")
    assert tensor.shape == (1, FRAMES, 3, FRAME_SIZE, FRAME_SIZE)


def test_the_seed_decides(pipeline) -> None:
    assert (draw(pipeline, seed=1) == draw(pipeline, seed=1)).all()
    assert not (draw(pipeline, seed=1) == draw(pipeline, seed=2)).all()


def test_a_prompt_in_a_batch_is_drawn_as_alone(pipeline) -> None:
    alone = draw(pipeline, "a blue circle", seed=1)
    together = draw(pipeline, [PROMPT, "a blue circle"], seed=0)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)


def test_the_callback_may_change_the_latents(pipeline) -> None:
    steps = []

    def blank(pipe, step, timestep, arguments):
        steps.append(step)
        return {"latents": torch.zeros_like(arguments["latents"])} if step == STEPS - 1 else arguments

    assert (draw(pipeline, callback_on_step_end=blank) == 0.5).all()
    assert steps == list(range(STEPS))


def test_guidance_matters_and_one_means_off(pipeline) -> None:
    assert not (draw(pipeline, guidance_scale=1.0) == draw(pipeline, guidance_scale=3.0)).all()


@pytest.mark.parametrize("prompt", [[], "a purple square", ["a red square", "spin"]])
def test_bad_prompts_are_refused(pipeline, prompt) -> None:
    with pytest.raises(PromptError):
        draw(pipeline, prompt)
