import inspect
from dataclasses import replace

import pytest
import torch

from pabtune.catalog import CATALOG, find_card
from pabtune.catalog.card import TokenSplit, WhenArgument, argument_cuts
from pabtune.parallel.plans import find_plan, modules_at
from pabtune.parallel.splitting import objections_to
from pabtune.records.errors import ModelError
from tests.parallel.by_card import token_classes
from tests.pipelines.cases import CASES


@pytest.mark.parametrize("name", token_classes().values())
def test_a_plan_names_modules_and_arguments_that_are_there(name) -> None:
    transformer = CASES[name].build().transformer
    plan = find_plan(transformer)
    for cut in plan.cuts:
        for module in modules_at(transformer, cut.module):
            if isinstance(cut.of, str):
                assert cut.of in inspect.signature(type(module).forward).parameters, cut
    (end,) = modules_at(transformer, plan.end)
    for condition in plan.unless:
        if isinstance(condition, WhenArgument):
            assert condition.name in inspect.signature(type(transformer).forward).parameters
    assert isinstance(end, torch.nn.Linear) or plan.end.endswith("blocks.-1")


def test_every_token_split_has_a_case() -> None:
    assert token_classes().keys() == {card.transformer for card in CATALOG if card.token_split is not None}


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


def test_the_plan_of_diffusers_is_read() -> None:
    transformer = CASES["wan-2.1"].build().transformer
    plan = find_plan(transformer)
    assert (plan.end, plan.dim) == ("proj_out", 1)
    assert {(cut.module, cut.of, cut.dim, cut.ndim) for cut in plan.cuts} == {
        ("rope", 0, 1, 4), ("rope", 1, 1, 4), ("blocks.0", "hidden_states", 1, 3), ("", "timestep", 1, 2),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"end": "last"}, "MotifVideoTransformer3DModel lacks the module 'last' that its card names"),
        ({"module": "blocks.*"}, "lacks the module 'blocks'"),
        ({"name": "x"}, "cuts 'x' of 'transformer_blocks.0', but MotifVideoTransformerBlock takes hidden_states, "),
    ],
)
def test_a_card_that_names_what_is_not_there_is_refused(split, message) -> None:
    transformer = CASES["motif"].build().transformer
    given = {"module": "transformer_blocks.0", "name": "hidden_states", "end": "proj_out", **split}
    plan = TokenSplit(cuts=argument_cuts(given["module"], given["name"]), end=given["end"])
    card = replace(find_card("MotifVideoTransformer3DModel"), split=plan)
    with pytest.raises(ModelError, match=message):
        find_plan(transformer, catalog=CATALOG.with_card(card))


def test_reasons_of_a_card_are_quoted() -> None:
    assert objections_to(CASES["wan-2.1"].build()) == objections_to(CASES["motif"].build()) == ()
    assert objections_to(CASES["skyreels-v2-forcing-long"].build()) == (
        "called by SkyReelsV2DiffusionForcing…: frames at steps of their own cannot be split",
    )
