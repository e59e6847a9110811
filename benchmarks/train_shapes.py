"""Trains the embedded model and resumes from its checkpoint. Curves: `tensorboard --logdir OUT`.

python benchmarks/train_shapes.py --out runs/shapes --steps 5000
"""

import time
from pathlib import Path

import click
from torch.utils.tensorboard import SummaryWriter

from pabtune.models.shapes.training import TrainingConfig, train


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--steps", type=int, default=TrainingConfig.steps, show_default=True)
def main(out: Path, steps: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    writer = SummaryWriter(out)
    began = time.monotonic()

    def log(step, values):
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        if step % 10 == 0:
            click.echo(f"{time.monotonic() - began:8.0f} s  step {step:6d}  loss {values.get('loss', 0):.4f}", err=True)

    train(out, TrainingConfig(steps=steps), log)


if __name__ == "__main__":
    main()
