"""What happens inside, in TensorBoard: curves, windows, heat maps, sample videos; trials and their Pareto front."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from pabtune.records.errors import FileError
from pabtune.records.profiles import Profile
from pabtune.report.figures import draw_curves, draw_distances, draw_heat_map, draw_pareto
from pabtune.report.videos import encode_gif, enlarge
from pabtune.tuning.profile import kind_curves, mean_of_known
from pabtune.tuning.results import Candidate


def open_writer(folder: Path) -> SummaryWriter:
    """A writer of TensorBoard events in a folder.

    Raises:
        FileError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return SummaryWriter(folder)
    except OSError as error:
        raise FileError(f"{folder}: cannot write here: {error.strerror}") from error


def write_profile(writer: SummaryWriter, profile: Profile) -> None:
    """Curves per kind and content class as scalars and with their windows, heat maps, distances, times."""
    for index, content in enumerate(profile.contents):
        change = mean_of_known(profile.arrays["change"][index], 0)
        for kind, curve in kind_curves(change, profile.sites).items():
            for step in range(1, profile.steps):
                writer.add_scalar(f"change/{content}/{kind}", float(curve[step]), step)
        writer.add_figure(f"windows/{content}", draw_curves(profile, content))
    writer.add_figure("windows/all", draw_curves(profile))
    seconds = kind_curves(profile.arrays["seconds"], profile.sites)
    for kind, curve in seconds.items():
        writer.add_figure(f"layer x step/{kind}", draw_heat_map(profile, kind))
        writer.add_figure(f"step x step/{kind}", draw_distances(profile, kind))
        for step in range(profile.steps):
            writer.add_scalar(f"milliseconds per site/{kind}", 1000 * float(curve[step]), step)
    writer.flush()


def write_video(
    writer: SummaryWriter, tag: str, video: NDArray[np.uint8], frames_per_second: int, caption: str
) -> None:
    """A video, (frames, height, width, 3), that plays in the images tab, and its prompt."""
    frames = enlarge(video)
    image = Summary.Image(
        height=frames.shape[1],
        width=frames.shape[2],
        colorspace=3,
        encoded_image_string=encode_gif(frames, frames_per_second),
    )
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), 0)
    writer.add_text(tag, caption)


def write_trial(writer: SummaryWriter, candidate: Candidate, candidates: Sequence[Candidate]) -> None:
    """One trial's parameters and measures, and the Pareto front of all trials so far."""
    outcome = candidate.outcome
    measures = {
        "predicted_time": outcome.predicted_time,
        "compute_fraction": outcome.compute_fraction,
        "psnr_db": outcome.psnr_db,
        "drop": outcome.drop,
        "drop_upper": outcome.drop_upper,
        "measured_s": outcome.measured_s,
        "is_feasible": float(outcome.is_feasible),
    }
    for name, value in measures.items():
        writer.add_scalar(f"trial/{name}", value, candidate.number)
    writer.add_hparams(
        {**candidate.parameters, "origin": candidate.origin},
        {f"hparam/{name}": value for name, value in measures.items()},
        run_name=f"trial-{candidate.number:04d}",
    )
    writer.add_figure("pareto front", draw_pareto(candidates), candidate.number)
    writer.flush()
