import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pabtune.quality.budget import Budget
from pabtune.quality.floors import Floor
from pabtune.quality.scores import find_score
from pabtune.records.errors import BudgetError
from pabtune.tuning.request import SearchConfig, find_floor, request_document


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


def test_a_score_of_a_user_that_changed_is_another_request(profile, tmp_path, monkeypatch) -> None:
    """After a bug in it was mended, the study went on with what the old one had said."""
    monkeypatch.syspath_prepend(str(tmp_path))
    requests = []
    for points in (1, 2):
        (tmp_path / "changing_scores.py").write_text(f"def points(video, prompt):\n    return {points}\n")
        sys.modules.pop("changing_scores", None)
        importlib.invalidate_caches()
        request = config(tmp_path, score=find_score("changing_scores:points"))
        requests.append(request_document(profile, [], request))
        assert requests[-1] == request_document(profile, [], request)
    assert requests[0] != requests[1]
    assert "score" not in request_document(profile, [], config(tmp_path, score=find_score("shapes")))


def test_an_image_that_changed_is_another_request(profile, tmp_path) -> None:
    """It counted by its name, and what no JSON holds ended in a bare TypeError."""
    image = tmp_path / "first.png"
    requests = []
    for content in (b"one", b"other"):
        image.write_bytes(content)
        requests.append(request_document(profile, [], config(tmp_path, arguments={"image": str(image)})))
    assert requests[0] != requests[1]
    arrays = [request_document(profile, [], config(tmp_path, arguments={"x": np.full(2, value)})) for value in (1, 2)]
    assert json.dumps(arrays[0]) != json.dumps(arrays[1])
