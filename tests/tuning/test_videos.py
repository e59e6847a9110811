import json

import pytest

from pabtune.records.errors import StudyError
from pabtune.tuning.videos import VideoMeter, plan_videos


def test_a_run_of_fewer_steps_counts_by_its_share(tmp_path) -> None:
    told = []
    meter = VideoMeter(steps=30, limit=5, on_videos=lambda count, limit: told.append((count, limit)))
    meter.add(4, 30)
    meter.add(1, 15)
    assert (meter.total, meter.left, told) == (4.5, 0.5, [(4.0, 5), (4.5, 5)])
    with pytest.raises(
        StudyError,
        match="4 of 5 videos are generated, by earlier runs of the search too, and the next call does not fit in",
    ):
        meter.add(1, 30)
    assert meter.total == 4.5
    unlimited = VideoMeter(steps=30)
    unlimited.add(1000, 30)
    assert (unlimited.total, unlimited.left) == (1000.0, None)


def test_videos_of_earlier_runs_and_other_processes_count(tmp_path) -> None:
    """A search that was killed goes on with what is left, not anew."""
    first = VideoMeter.in_folder(tmp_path / "log", "abc", 30, 10)
    first.add(4, 30)
    (tmp_path / "log" / "videos-abc-host-8.json").write_text("cut off by a full dis")
    (tmp_path / "log" / "videos-other-host-7.json").write_text(json.dumps({"videos": 99}))
    second = VideoMeter.in_folder(tmp_path / "log", "abc", 30, 10)
    assert (second.total, second.left) == (4.0, 6.0)
    second.add(6, 30)
    with pytest.raises(StudyError, match="10 of 10 videos"):
        second.add(1, 1)
    assert (first.total, VideoMeter.in_folder(tmp_path / "log", "abc", 30, 10).total) == (10.0, 10.0)
    VideoMeter.in_folder(tmp_path / "log", "abd", 30, 10).add(1, 30)
    assert first.total == 10.0


@pytest.mark.parametrize("limit", [30, 40, 64, 100, 199, 200, 400, 1000, 5000])
@pytest.mark.parametrize("presets", [0, 1])
def test_a_plan_fits_into_its_videos(limit, presets) -> None:
    plan = plan_videos(limit, 24, 24, 648, presets, finalists=4)
    assert plan.least(presets) <= limit
    assert plan.confirmation(presets) <= 0.5 * limit + 1
    assert 2 <= plan.fitted == plan.searched <= 12
    assert 1 <= plan.compared <= 24
    assert 2 <= plan.judged <= 648
    more = plan_videos(limit + 50, 24, 24, 648, presets, finalists=4)
    assert (more.fitted, more.compared) >= (plan.fitted, plan.compared)


def test_few_videos_are_spent_on_one_finalist_and_its_verdict() -> None:
    assert plan_videos(100, 24, 24, 648, 1, finalists=4).finalists == 1
    assert plan_videos(400, 24, 24, 648, 1, finalists=4).finalists == 2
    assert plan_videos(3000, 24, 24, 648, 1, finalists=4).finalists == 4
    assert plan_videos(1800, 24, 24, 648, 1, finalists=4).judged >= 327  # enough to accept a budget of one point
    unlimited = plan_videos(None, 24, 20, 648, 1, finalists=4)
    assert (unlimited.finalists, unlimited.searched, unlimited.compared, unlimited.judged) == (4, 24, 20, 648)
    assert (unlimited.fitted, plan_videos(None, 40, 20, 648, 1, finalists=4).fitted) == (24, 24)


@pytest.mark.parametrize(("limit", "presets", "least"), [(3, 0, 25), (3, 1, 28), (27, 1, 28)])
def test_too_few_videos_are_refused_with_how_many_are_needed(limit, presets, least) -> None:
    with pytest.raises(StudyError, match=f"{limit} videos are too few for a search; it needs at least {least}"):
        plan_videos(limit, 24, 24, 648, presets, finalists=4)
    plan_videos(least, 24, 24, 648, presets, finalists=4)


@pytest.mark.parametrize("judged", [1, 2])
def test_few_prompts_to_judge_on_are_no_reason_to_ask_for_more_videos(judged) -> None:
    """With one prompt to test with the number of videos that would suffice was looked for without end."""
    assert plan_videos(60, 24, 24, judged, 0, finalists=4).judged == judged
    with pytest.raises(StudyError, match="3 videos are too few for a search; it needs at least"):
        plan_videos(3, 24, 24, judged, 0, finalists=4)


@pytest.mark.parametrize("warm_up", [0.1, 0.5, 1.0, 2.0, 8.0])
def test_warm_ups_are_paid_for(warm_up) -> None:
    """Four prompts in a call of a model of four steps warm up with four videos, twice before the verdict is spoken."""
    plan = plan_videos(200, 24, 24, 648, 1, finalists=4, warm_up=warm_up)
    assert plan.least(1) <= 200
    free = plan_videos(200, 24, 24, 648, 1, finalists=4, warm_up=0.0)
    assert plan.confirmation(1) == pytest.approx(free.confirmation(1), abs=2.0)
    assert 0 <= 2 * (free.judged - plan.judged) - 2 * warm_up + 2 <= 4
