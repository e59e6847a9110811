"""Pipelines call their transformers as often, and with as many samples, as their cards say."""

import pytest
import torch

from pabtune.catalog import find_card
from pabtune.models.guidance import calls_per_step
from tests.pipelines.cases import CASES, COUNTED, run, transformers_of
from tests.pipelines.parts import PROMPT

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.parametrize("name", [name for name in COUNTED if CASES[name].loops == 1]),
]


def test_a_step_has_the_calls_that_the_card_says(name, load) -> None:
    pipeline, case, samples, expected = load(name), CASES[name], [], set()
    card = find_card(type(pipeline.transformer).__name__)
    arguments = {"prompt": PROMPT, **case.call}

    def note(_module, args, kwargs) -> None:
        samples.append(next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)))
        expected.add(calls_per_step(card, pipeline, arguments))

    for part in transformers_of(pipeline):
        part.register_forward_pre_hook(note, with_kwargs=True)
    run(pipeline, name)
    assert expected == {sum(samples) / samples[0] / len(pipeline.scheduler.timesteps)}
