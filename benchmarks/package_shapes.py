"""Writes the averaged weights of a training checkpoint as the pipeline folder of the embedded model.

python benchmarks/package_shapes.py --run runs/shapes --out pabtune/models/shapes/weights
"""

from pathlib import Path

import click
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.models.shapes.training import Trainee

SHIFT = 3.0
"""Shift of the noise levels that looked best (Stable Diffusion 3, https://arxiv.org/abs/2403.03206, section 5.3.2)."""


@click.command()
@click.option("--run", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(run: Path, out: Path) -> None:
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    trainee = Trainee()
    trainee.load_state_dict(checkpoint["average"])
    pipeline = ShapesPipeline(trainee.text_encoder, trainee.transformer, FlowMatchEulerDiscreteScheduler(shift=SHIFT))
    pipeline.save_pretrained(out)
    click.echo(f"step {checkpoint['step']} -> {out}")


if __name__ == "__main__":
    main()
