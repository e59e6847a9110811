"""What happens inside, in TensorBoard: curves, windows, heat maps, sample videos; trials and their Pareto front."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from pabtune.planning.curves import kind_curves
from pabtune.records.errors import FileError
from pabtune.records.profiles import Profile
from pabtune.records.trials import Candidate
from pabtune.report.figures import (
    MEASURES,
    curves_data,
    distances_data,
    draw_curves,
    draw_distances,
    draw_heat_map,
    draw_pareto,
    heat_map_data,
    pareto_data,
)
from pabtune.report.videos import encode_gif, enlarge


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
    except UnicodeError as error:
        raise FileError(f"{str(folder)!a}: TensorBoard cannot write to a name that is not UTF-8") from error


def write_profile(writer: SummaryWriter, profile: Profile) -> None:
    """Curves per kind and content class as scalars and with their windows, heat maps, distances, times.

    `change` is relative; `mse` is what the PAB paper plots.
    """
    for measure in MEASURES:
        for content in profile.contents:
            data = curves_data(profile, content, measure)
            for kind, curve in data.curves.items():
                for step, value in enumerate(curve, start=1):
                    writer.add_scalar(f"{measure}/{content}/{kind}", float(value), step)
            writer.add_figure(f"{measure} and windows/{content}", draw_curves(data))
        writer.add_figure(f"{measure} and windows/all", draw_curves(curves_data(profile, measure=measure)))
    seconds = kind_curves(profile.arrays["seconds"], profile.sites)
    for kind, curve in seconds.items():
        writer.add_figure(f"layer x step/{kind}", draw_heat_map(heat_map_data(profile, kind)))
        writer.add_figure(f"step x step/{kind}", draw_distances(distances_data(profile, kind)))
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
    """One trial's parameters and what is known of it, and the Pareto front of all trials so far."""
    outcome = candidate.outcome
    measures = {
        "predicted_time": outcome.predicted_time,
        "compute_fraction": outcome.compute_fraction,
        "is_feasible": float(outcome.is_feasible),
    }
    if outcome.measured is not None:
        measures |= {name: getattr(outcome.measured, name) for name in ("psnr_db", "drop", "drop_upper", "seconds")}
    for name, value in measures.items():
        writer.add_scalar(f"trial/{name}", value, candidate.number)
    writer.add_hparams(
        {**candidate.parameters, "origin": candidate.origin, "status": outcome.status},
        {f"hparam/{name}": value for name, value in measures.items()},
        run_name=f"trial-{candidate.number:04d}",
    )
    writer.add_figure("pareto front", draw_pareto(pareto_data(candidates)), candidate.number)
    writer.flush()
