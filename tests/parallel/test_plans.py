import inspect

import pytest
import torch

from pabtune.parallel.plans import BY_DIFFUSERS, PLANS, find_plan
from pabtune.parallel.token_parallel import modules_at
from pabtune.planning.sharding import BY_TOKENS
from tests.pipelines.cases import CASES

NAMES = [
    "wan-2.1", "wan-vace", "chronoedit", "hunyuan-distilled", "hunyuan-1.5", "hunyuan-framepack", "cogvideox-ddim",
    "consisid", "ltx", "skyreels-v2", "mochi", "allegro", "easyanimate", "kandinsky-5", "cosmos-1",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_names_modules_and_arguments_that_are_there(name) -> None:
    transformer = CASES[name].build().transformer
    plan = find_plan(transformer)
    for cut in plan.cuts:
        for module in modules_at(transformer, cut.module):
            if isinstance(cut.of, str):
                assert cut.of in inspect.signature(type(module).forward).parameters, cut
    (end,) = modules_at(transformer, plan.end)
    for argument, _ in plan.refused:
        assert argument in inspect.signature(type(transformer).forward).parameters
    assert isinstance(end, torch.nn.Linear) or plan.end.endswith("blocks.-1")


def test_every_plan_is_tried_by_test_full() -> None:
    tried = {type(CASES[name].build().transformer).__name__ for name in NAMES}
    assert tried == {*PLANS, *BY_DIFFUSERS} == set(BY_TOKENS)


def test_a_plan_that_a_pipeline_never_holds_to_is_not_its_plan() -> None:
    transformer = CASES["skyreels-v2"].build().transformer
    assert find_plan(transformer, "SkyReelsV2Pipeline") is not None
    assert find_plan(transformer, "SkyReelsV2DiffusionForcingImageToVideoPipeline") is None


def test_others_have_none() -> None:
    assert find_plan(CASES["motif"].build().transformer) is None


def test_configurations_that_a_plan_does_not_hold_for_have_none() -> None:
    transformer = CASES["hunyuan-distilled"].build().transformer
    transformer.register_to_config(image_condition_type="token_replace")
    assert find_plan(transformer) is None
    transformer = CASES["kandinsky-5"].build().transformer
    assert find_plan(transformer) is not None
    transformer.register_to_config(attention_type="nabla")
    assert find_plan(transformer) is None
