from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pabtune.records.errors import FileError
from pabtune.records.policies import Policy
from pabtune.records.trials import Candidate
from pabtune.report.tensorboard import open_writer, write_profile, write_trial, write_video
from tests.records.test_profiles import make_profile
from tests.records.test_trials import outcome


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_a_profile_becomes_curves_heat_maps_and_videos(tmp_path) -> None:
    profile = make_profile()
    writer = open_writer(tmp_path)
    write_profile(writer, profile)
    write_video(writer, "sample/still", np.zeros((8, 24, 24, 3), np.uint8), 8, "a prompt")
    writer.close()
    events = read(tmp_path)
    images = {
        "change and windows/all",
        "mse and windows/still",
        "layer x step/spatial",
        "step x step/mlp",
        "sample/still",
    }
    assert images <= set(events.Tags()["images"])
    (caption,) = events.Tensors("sample/still/text_summary")
    assert caption.tensor_proto.string_val == [b"a prompt"]
    for row, kind in enumerate(("spatial", "mlp")):
        for measure in ("change", "mse"):
            scalars = events.Scalars(f"{measure}/still/{kind}")
            assert [event.step for event in scalars] == [1, 2, 3, 4]
            expected = profile.arrays[measure][0].mean(0)[row, 1:]
            np.testing.assert_allclose([event.value for event in scalars], expected, rtol=1e-6)
        milliseconds = [event.value for event in events.Scalars(f"milliseconds per site/{kind}")]
        np.testing.assert_allclose(milliseconds, 1000 * profile.arrays["seconds"][row], rtol=1e-6)


def test_a_trial_becomes_parameters_and_what_is_known_of_it(tmp_path) -> None:
    candidate = Candidate(
        number=3,
        origin="sampler",
        policy=Policy(name="t"),
        parameters={"mlp.range": 2, "anchor": "start"},
        outcome=outcome(),
    )
    unrun = replace(candidate, number=4, outcome=outcome("over memory", None, 0.5))
    writer = open_writer(tmp_path)
    write_trial(writer, candidate, [candidate])
    write_trial(writer, unrun, [candidate, unrun])
    writer.close()
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("trial/psnr_db")] == [(3, 30.0)]
    assert [event.step for event in events.Scalars("trial/predicted_time")] == [3, 4]
    assert [event.value for event in events.Scalars("trial/is_feasible")] == [1.0, 0.0]
    assert "pareto front" in events.Tags()["images"]
    assert (tmp_path / "trial-0003").is_dir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write here"):
        open_writer(tmp_path / "file" / "below")


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path) -> None:
    """Fault 21: TensorBoard encodes the name, and its error was a traceback."""
    with pytest.raises(FileError, match="not UTF-8"):
        open_writer(tmp_path / "\udcff")
