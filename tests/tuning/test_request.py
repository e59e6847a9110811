from dataclasses import replace
from pathlib import Path

import pytest

from pabtune.quality.budget import Budget
from pabtune.quality.floors import Floor
from pabtune.records.errors import BudgetError
from pabtune.tuning.request import SearchConfig, find_floor


def config(folder: Path, **changes) -> SearchConfig:
    standard = SearchConfig(
        budget=Budget(score="shapes", largest_drop=60.0), trials=9, floor=Floor(preset="pab579"),
        storage=str(folder / "study.journal"), folder=folder, name="found", arguments={},
    )  # fmt: skip
    return replace(standard, **changes)


def test_the_papers_preset_is_the_floor_of_models_with_its_kinds(profile) -> None:
    """Fault 11: `pabtune.search` failed on Wan with a floor that the model has no sites for."""
    assert find_floor(profile) == Floor(preset="pab246")
    assert find_floor(profile, "pab579") == Floor(preset="pab579")
    assert find_floor(profile, ("psnr>=38", "worst-psnr>=32")) == Floor.parse("psnr>=38", "worst-psnr>=32")
    assert find_floor(profile, None) is None
    with pytest.raises(BudgetError, match="a floor is a preset"):
        find_floor(profile, ("auto", "psnr>=38"))
    full = replace(profile, sites=tuple(replace(site, kind="full") for site in profile.sites))
    assert find_floor(full) is None
    assert find_floor(full, "pab246") == Floor(preset="pab246")
