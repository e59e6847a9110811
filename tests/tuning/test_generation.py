import inspect

import numpy as np
import pytest

from pabtune.catalog.frame_rates import FRAME_RATES, usual_rate
from pabtune.quality.budget import Budget
from pabtune.quality.verdict import judge, look_error
from pabtune.records.prompts import Prompt
from pabtune.tuning.generation import Settings, batches, frame_rate, generate, rounds
from tests.conftest import PROMPT, PROMPTS, draw
from tests.pipelines.cases import CASES


def test_batches_hold_one_content_class_each() -> None:
    prompts = [Prompt(prompt=str(i), content="ab"[i % 2], seed=i) for i in range(7)]
    plan = list(batches(prompts, 2))
    assert [len({prompt.content for prompt in batch}) for batch in plan] == [1] * len(plan)
    assert sorted(prompt.seed for batch in plan for prompt in batch) == list(range(7))
    assert max(map(len, plan)) == 2


def test_content_classes_come_in_turns_in_proportion() -> None:
    prompts = [Prompt(prompt=str(number), content="abc"[number % 3], seed=number) for number in range(36)]
    plan = rounds(prompts, 4)
    assert [[batch[0].content for batch in row] for row in plan] == [["a", "b", "c"]] * 3
    assert plan == rounds(prompts[::-1], 4)
    unequal = [
        Prompt(prompt=str(number), content="a" if number % 5 == 0 else "b", seed=number) for number in range(100)
    ]
    contents = [batch[0].content for row in rounds(unequal, 4) for batch in row for _ in batch]
    for seen in range(20, 101, 20):
        assert contents[:seen].count("a") == seen / 5


@pytest.mark.parametrize("contents", [("", ""), ("good", "bad")])
def test_a_verdict_does_not_rest_on_the_first_pages_of_a_file(contents) -> None:
    """Of 500 prompts the first 200, a theme or a class, lose nothing, the others 2 points: 1.2 in the mean for a budget of 1.

    In the order of the file, or with as many prompts of each class as of the other, it was accepted before the bad ones had
    been seen, or when too few of them had.
    """
    budget, accepted = Budget.parse("shapes>=-1"), 0
    for file in range(6):
        prompts = [Prompt(prompt=f"{file}: {number}", content=contents[number >= 200], seed=0) for number in range(500)]
        noise = np.random.default_rng(file).normal(0, 0.3, 500)
        loss = {each.prompt: 2.0 * (number >= 200) + noise[number] for number, each in enumerate(prompts)}
        drops: list[float] = []
        for row in rounds(prompts, 4):
            drops += [loss[prompt.prompt] for batch in row for prompt in batch]
            accepted += judge(drops, budget, error=look_error(1), is_final=False).verdict == "accept"
    assert accepted == 0


def test_videos_are_rounded_frames_of_the_same_seed(pipeline) -> None:
    made = generate(pipeline, PROMPTS[:1], Settings(steps=4, arguments={"guidance_scale": 2.0}))
    frames = draw(pipeline, PROMPT, seed=1, num_inference_steps=4, guidance_scale=2.0)
    assert (made.videos[0] == np.round(frames[0] * 255)).all()
    assert made.videos[0].dtype == np.uint8
    assert made.seconds > 0


@pytest.mark.parametrize(
    ("name", "arguments", "rate"),
    [("wan-2.1", {}, 16), ("hunyuan-true-cfg", {}, 24), ("ltx", {}, 25), ("ltx", {"frame_rate": 30}, 30),
     ("cogvideox-ddim", {}, 8), ("open-sora-1.2", {}, 24), ("skyreels-v2-forcing-long", {}, 24)],
)  # fmt: skip
def test_videos_have_the_rate_of_their_model(name, arguments, rate) -> None:
    """All files had 8 frames a second, by which VBench took moving videos of other models for still ones."""
    assert frame_rate(CASES[name].build(), arguments) == rate


def test_the_rate_of_every_small_pipeline_is_known() -> None:
    """From its call or from the table; unknown classes get the usual one."""
    for name, case in CASES.items():
        pipeline = type(case.build())
        given = {"fps", "frame_rate"} & set(inspect.signature(pipeline.__call__).parameters)
        assert given or any(pipeline.__name__.startswith(known) for known in FRAME_RATES), name
    assert (usual_rate("MyPipeline"), usual_rate("WanAnimatePipeline"), usual_rate("WanPipeline")) == (8, 30, 16)
