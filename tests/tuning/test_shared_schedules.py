"""All workers of a study mean the same schedules, whatever lies in their folders."""

from dataclasses import replace
from pathlib import Path

import pytest

from pabtune.quality.budget import Budget
from pabtune.records.errors import FitError, ModelError, PabtuneWarning
from pabtune.records.prompts import Prompt
from pabtune.records.schedules import Fitted, Schedule, load_schedules, save_schedules
from pabtune.tuning import shared_schedules as module
from pabtune.tuning.generation import Settings
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.schedules import FewVideos
from pabtune.tuning.shared_schedules import schedules_of, shared_schedules
from pabtune.tuning.videos import plan_videos
from tests.conftest import PROMPT, PROMPTS, STEPS, make_pipeline


def schedule(steps: int) -> Schedule:
    factors = tuple((0.5,) if step else () for step in range(3))
    return Schedule(computed=tuple(range(steps)), factors=factors, psnr_db=40.0, tail_psnr_db=30.0)


def unwanted() -> list[Schedule]:
    return pytest.fail("they were fitted before")


def test_a_worker_on_another_machine_takes_what_the_first_fitted(tmp_path) -> None:
    """Each with a folder of its own; a file that says otherwise gives way."""
    storage, here, there = f"sqlite:///{tmp_path}/study.db", tmp_path / "here" / "s.json", tmp_path / "there" / "s.json"
    assert shared_schedules(storage, here, lambda: [schedule(2)]) == [schedule(2)]
    save_schedules(there, [schedule(3)])
    assert shared_schedules(storage, there, unwanted) == [schedule(2)]
    assert load_schedules(there) == load_schedules(here) == [schedule(2)]


def test_a_file_of_an_earlier_run_spares_fitting_in_a_new_storage(tmp_path) -> None:
    path = tmp_path / "s.json"
    save_schedules(path, [schedule(2)])
    assert shared_schedules(f"sqlite:///{tmp_path}/new.db", path, unwanted) == [schedule(2)]


def test_where_nothing_can_be_fitted_nobody_tries_again(tmp_path) -> None:
    def cannot() -> list[Schedule]:
        raise FitError("tells no latents")

    storage = str(tmp_path / "study.journal")
    with pytest.warns(PabtuneWarning, match="tells no latents; the search goes on without whole calls"):
        assert shared_schedules(storage, Path(tmp_path / "s.json"), cannot) == []
    assert shared_schedules(storage, Path(tmp_path / "t" / "s.json"), unwanted) == []


def test_a_model_that_fails_while_it_is_fitted_is_no_model_that_cannot_be(tmp_path) -> None:
    """A GPU that another job had filled for a moment left a storage in which whole calls were never searched again."""

    def fails() -> list[Schedule]:
        raise ModelError("WanPipeline failed: OutOfMemoryError: CUDA out of memory")

    storage, path = f"sqlite:///{tmp_path}/study.db", tmp_path / "s.json"
    with pytest.raises(ModelError, match="out of memory"):
        shared_schedules(storage, path, fails)
    assert shared_schedules(storage, path, lambda: [schedule(2)]) == [schedule(2)]


def test_what_is_fitted_follows_from_what_is_asked_for(profile, tmp_path, monkeypatch) -> None:
    """All prompts, and refined, where videos are not limited. Each request has schedules of its own, which are found again."""
    asked: list[tuple[list[Prompt], bool, bool]] = []

    def find(pipeline, batches, *arguments, is_refined, kept, **_) -> list[Schedule]:
        assert kept.get(2) is None  # nothing of another request
        kept.add(Fitted(schedule=schedule(2)))
        asked.append(([prompt for batch in batches for prompt in batch], is_refined, few in arguments))
        return [schedule(2)]

    monkeypatch.setattr(module, "find_schedules", find)
    pipeline, settings = make_pipeline(), Settings(steps=STEPS, batch_size=2)
    prompts = [replace(PROMPTS[0], prompt=f"{PROMPT} {index}") for index in range(30)]
    standard = SearchConfig(
        budget=Budget.parse("shapes>=-50"), trials=1, floor=None, storage=f"sqlite:///{tmp_path}/s.db", folder=tmp_path,
        name="f", arguments={}, batch_size=2,
    )  # fmt: skip
    few = FewVideos(
        probed=(), candidates=1, on_recorded=lambda _: None, shortfall=lambda *_: 0.0, is_affordable=lambda: False
    )
    plan = plan_videos(60, 30, 30, 30, 0, finalists=1)
    requests = (
        (standard, None, None),
        (replace(standard, is_refined=False), None, None),
        (replace(standard, videos=60), plan, few),
    )
    for config, planned, limit in requests * 2:
        found = schedules_of(pipeline, profile, prompts, settings, config, plan=planned, few=limit)
        assert found == [schedule(2)]
    assert [(len(each), *others) for each, *others in asked] == [(24, True, False), (24, False, False), (6, True, True)]
    assert asked[0][0] == prompts[:24]
    # schedules of a version that chose by other figures, and of another scheduler, are none of this request
    with monkeypatch.context() as other:
        other.setattr(module, "CHOSEN_BY", "another figure")
        schedules_of(pipeline, profile, prompts, settings, standard)
    pipeline.scheduler = type(pipeline.scheduler)(shift=7.0)
    schedules_of(pipeline, profile, prompts, settings, standard)
    assert len(asked) == 5
    assert not list(tmp_path.glob("*.part.json"))


def test_a_search_that_is_killed_while_it_fits_finds_what_it_fitted(profile, tmp_path, monkeypatch) -> None:
    def killed(*_, kept, **__) -> list[Schedule]:
        assert kept.get(2) is None
        kept.add(Fitted(schedule=schedule(2)))
        raise KeyboardInterrupt

    def find(*_, kept, **__) -> list[Schedule]:
        return [kept.get(2).schedule]

    config = SearchConfig(
        budget=Budget.parse("shapes>=-50"), trials=1, floor=None, storage=f"sqlite:///{tmp_path}/s.db", folder=tmp_path,
        name="f", arguments={}, batch_size=2,
    )  # fmt: skip
    asked = (make_pipeline(), profile, PROMPTS, Settings(steps=STEPS, batch_size=2), config)
    monkeypatch.setattr(module, "find_schedules", killed)
    with pytest.raises(KeyboardInterrupt):
        schedules_of(*asked)
    monkeypatch.setattr(module, "find_schedules", find)
    assert schedules_of(*asked) == [schedule(2)]
