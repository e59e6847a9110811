"""Draws the loss of a training run from its TensorBoard events, averaged over 50 steps.

python benchmarks/training_curve.py --run runs/shapes --out docs/training-curve.png
"""

from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMOOTHING = 50
"""Steps per mean."""


@click.command()
@click.option("--run", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(run: Path, out: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for tag, label in (("loss", "clips"), ("loss_frames", "single frames")):
        if tag not in events.Tags()["scalars"]:
            continue
        points = np.array(sorted({event.step: event.value for event in events.Scalars(tag)}.items()))
        length = len(points) // SMOOTHING * SMOOTHING
        means = points[:length].reshape(-1, SMOOTHING, 2).mean(1)
        axes.plot(means[:, 0], means[:, 1], label=label)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("squared error of the velocity")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
