from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pabtune.records.errors import FileError
from pabtune.records.policies import Policy
from pabtune.report.tensorboard import open_writer, write_profile, write_trial, write_video
from pabtune.tuning.candidates import Outcome
from pabtune.tuning.results import Candidate
from tests.records.test_profiles import make_profile


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_a_profile_becomes_curves_heat_maps_and_videos(tmp_path) -> None:
    profile = make_profile()
    window = profile.windows["all"]["spatial"]
    object.__setattr__(profile, "windows", {c: {"spatial": window, "mlp": window} for c in ("all", "still")})
    writer = open_writer(tmp_path)
    write_profile(writer, profile)
    write_video(writer, "sample/still", np.zeros((8, 24, 24, 3), np.uint8), 8, "a prompt")
    writer.close()
    events = read(tmp_path)
    assert {"change/still/spatial", "milliseconds per site/mlp"} <= set(events.Tags()["scalars"])
    assert {"windows/all", "layer x step/spatial", "step x step/mlp", "sample/still"} <= set(events.Tags()["images"])
    values = [event.value for event in events.Scalars("change/still/mlp")]
    np.testing.assert_allclose(values, profile.arrays["change"][0].mean(0)[1, 1:], rtol=1e-6)


def test_a_trial_becomes_parameters_and_measures(tmp_path) -> None:
    outcome = Outcome(
        prompts=4, is_complete=True, predicted_time=0.7, measured_s=1.0, compute_fraction=0.6, psnr_db=30.0, drop=0.1,
        drop_upper=0.4, over_budget=-0.6, under_floor_db=-1.0,
    )  # fmt: skip
    candidate = Candidate(
        number=3,
        origin="sampler",
        policy=Policy(name="t"),
        parameters={"mlp.range": 2, "anchor": "start"},
        outcome=outcome,
    )
    writer = open_writer(tmp_path)
    write_trial(writer, candidate, [candidate])
    writer.close()
    assert read(tmp_path).Scalars("trial/psnr_db")[0].value == 30.0
    assert "pareto front" in read(tmp_path).Tags()["images"]
    assert (tmp_path / "trial-0003").is_dir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write here"):
        open_writer(tmp_path / "file" / "below")
