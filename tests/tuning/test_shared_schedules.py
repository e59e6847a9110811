"""All workers of a study mean the same schedules, whatever lies in their folders."""

from pathlib import Path

import pytest

from pabtune.records.errors import ModelError, PabtuneWarning
from pabtune.records.schedules import Schedule, load_schedules, save_schedules
from pabtune.tuning.shared_schedules import shared_schedules


def schedule(steps: int) -> Schedule:
    factors = tuple((0.5,) if step else () for step in range(3))
    return Schedule(computed=tuple(range(steps)), factors=factors, psnr_db=40.0, worst_psnr_db=30.0)


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
        raise ModelError("tells no latents")

    storage = str(tmp_path / "study.journal")
    with pytest.warns(PabtuneWarning, match="tells no latents; the search goes on without whole calls"):
        assert shared_schedules(storage, Path(tmp_path / "s.json"), cannot) == []
    assert shared_schedules(storage, Path(tmp_path / "t" / "s.json"), unwanted) == []
