import numpy as np

from pabtune.records.prompts import Prompt
from pabtune.tuning.generation import Settings, batches, generate
from tests.conftest import PROMPT, PROMPTS, draw


def test_batches_hold_one_content_class_each() -> None:
    prompts = [Prompt(prompt=str(i), content="ab"[i % 2], seed=i) for i in range(7)]
    plan = list(batches(prompts, 2))
    assert [len({prompt.content for prompt in batch}) for batch in plan] == [1] * len(plan)
    assert sorted(prompt.seed for batch in plan for prompt in batch) == list(range(7))
    assert max(map(len, plan)) == 2


def test_videos_are_rounded_frames_of_the_same_seed(pipeline) -> None:
    made = generate(pipeline, PROMPTS[:1], Settings(steps=4, arguments={"guidance_scale": 2.0}))
    frames = draw(pipeline, PROMPT, seed=1, num_inference_steps=4, guidance_scale=2.0)
    assert (made.videos[0] == np.round(frames[0] * 255)).all()
    assert made.videos[0].dtype == np.uint8
    assert made.seconds > 0
