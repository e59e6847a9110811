"""What is searched for an engine is exported without a loss, and is what the engine runs."""

from importlib.util import find_spec

import pytest

import pabtune
from pabtune.engines.exports import export
from pabtune.engines.plan import Facts
from pabtune.records.prompts import Prompt
from pabtune.records.splits import Split
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.search import Budget, find_engine, search_policy
from tests.engines.running import BOUNDARY, ROUNDING, STEPS, build, draw, drawn_here, relative, write
from tests.pipelines.cases import arguments_of

PROMPTS = tuple(Prompt(prompt=f"a cat {number}", content="any", seed=number) for number in range(4))
SPLIT = Split(tune=PROMPTS[:1], validate=PROMPTS[1:2], test=PROMPTS[2:])


def brightness(video, prompt) -> float:
    return float(video.mean()) / 2.55


def searched(name: str, engine: str, folder):
    """The policy that a small search for an engine ends with."""
    arguments = {key: value for key, value in arguments_of(name).items() if key != "num_inference_steps"}
    profile = pabtune.profile(build(name), ["a cat"], STEPS, batch_size=1, arguments=arguments)
    config = SearchConfig(
        budget=Budget(score=f"{__name__}:brightness", largest_drop=100.0), trials=9, floor=None, name="found",
        storage=str(folder / "study.journal"), folder=folder, batch_size=1, arguments=arguments,
        engine=find_engine(engine), schedule_shares=(0.6,),
    )  # fmt: skip
    result = search_policy(build(name), profile, SPLIT, config)
    assert result.best is not None
    return result.best


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("wan-2.1", "cache-dit"),
        ("wan-2.1", "diffusers"),
        ("wan-2.2", "cache-dit"),
        ("wan-2.2", "diffusers"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_was_found_is_what_the_engine_runs(name, engine, tmp_path, monkeypatch) -> None:
    found = searched(name, engine, tmp_path)
    exported = export(found, engine, Facts(boundary=BOUNDARY))
    assert exported.losses == ()
    assert any(mask.held for mask in exported.masks)
    if engine == "cache-dit" and find_spec("cache_dit") is None:
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write(exported, tmp_path)
    expected, pipeline = drawn_here(name, found), build(name)
    exec(exported.use, {"pipe": pipeline})
    for _ in range(2):
        assert relative(draw(pipeline, name), expected) < ROUNDING
    assert relative(draw(build(name), name), expected) > 100 * ROUNDING
