"""Searches that may generate so many videos, counted by the calls of the pipeline itself."""

from functools import wraps

import pytest

import pabtune
from pabtune.quality.floors import Floor
from pabtune.records.errors import StudyError
from pabtune.tuning.search import search_policy
from tests.conftest import make_pipeline
from tests.tuning.test_request import config
from tests.tuning.test_search import SPLIT


@pytest.fixture(scope="module")
def longer_profile():
    """Of twelve steps, in which schedules of whole calls can be fitted."""
    return pabtune.profile(make_pipeline(), SPLIT.tune[:2], 12, name="longer")


@pytest.fixture
def full_runs(monkeypatch):
    """Full runs of twelve steps that the pipeline was called for."""
    counted, plain = [], type(make_pipeline()).__call__

    @wraps(plain)
    def call(self, *args, **kwargs):
        counted.append(
            (len(kwargs["prompt"]) if isinstance(kwargs["prompt"], list) else 1) * kwargs["num_inference_steps"] / 12
        )
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(type(make_pipeline()), "__call__", call)
    return counted


@pytest.mark.parametrize(
    ("floor", "batch_size"),
    [(Floor.parse("psnr>=20"), 4), pytest.param(None, 1, marks=pytest.mark.slow), (Floor(preset="pab246"), 2)],
)
def test_a_search_keeps_to_its_videos(longer_profile, full_runs, tmp_path, floor, batch_size) -> None:
    """Counted by the calls of the pipeline itself; what is known from fitting is not generated again."""
    told = []
    request = config(
        tmp_path, trials=40, videos=30, floor=floor, batch_size=batch_size, on_videos=lambda *each: told.append(each)
    )
    result = search_policy(make_pipeline(), longer_profile, SPLIT, request)
    assert sum(full_runs) == pytest.approx(result.videos, abs=0.06)
    assert 14 < result.videos <= 30
    assert told[-1] == (pytest.approx(sum(full_runs)), 30)
    whole_calls = [each for each in result.candidates if each.origin.endswith("whole calls")]
    assert whole_calls
    assert all(each.outcome.measured.prompts == 3 for each in whole_calls if each.outcome.status == "complete")
    assert result.best is None or result.best.provenance["videos"] == result.videos


@pytest.mark.slow
def test_a_search_goes_on_with_the_videos_that_are_left(longer_profile, full_runs, tmp_path) -> None:
    """Stopped in its first trial that generates; the same command must not take the whole number again."""
    request = config(tmp_path, trials=40, videos=40, floor=None, batch_size=2)

    def stop(own, every) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_policy(make_pipeline(), longer_profile, SPLIT, request, stop)
    before = sum(full_runs)
    result = search_policy(make_pipeline(), longer_profile, SPLIT, request)
    assert before < sum(full_runs) <= 40
    assert result.videos == pytest.approx(sum(full_runs), abs=0.06)


@pytest.mark.slow
def test_too_few_videos_that_a_stopped_run_left_are_said(longer_profile, tmp_path) -> None:
    """Stopped while it fitted: the recorded runs are lost, and 30 videos do not pay for them twice."""
    told = []

    def stop(count, limit) -> None:
        told.append(count)
        if count > 12 > told[-2]:
            raise KeyboardInterrupt

    request = config(tmp_path, trials=40, videos=30, floor=None, batch_size=4, on_videos=stop)
    with pytest.raises(KeyboardInterrupt):
        search_policy(make_pipeline(), longer_profile, SPLIT, request)
    with pytest.raises(StudyError, match="of 30 videos are generated, some by a run that was stopped"):
        search_policy(make_pipeline(), longer_profile, SPLIT, request)
