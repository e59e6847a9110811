"""A score of your own: a function of a video and its prompt, in a file of yours, that a budget can be on.

    cd examples
    pabtune prompts shapes --count 8 --out eight.jsonl
    pabtune evaluate shapes --policy pab246 --score own_score:moves --prompts eight.jsonl
    pabtune search PROFILE --budget "own_score:moves>=-1.0" --out found.json
    python own_score.py                        # the same from Python, on two prompts

It gets the frames, (frames, height, width, 3), bytes, and the prompt, and returns 0..100, higher is better.
"""

import click
import numpy as np
from numpy.typing import NDArray

import pabtune
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.planning.presets import find_policy

MOST_CHANGE = 8.0
"""Mean change from frame to frame, in levels of 255, that is worth all points."""


def moves(video: NDArray[np.uint8], prompt: str) -> float:
    """How much a video moves, or how still it stands where the prompt asks for that."""
    change = np.abs(np.diff(video.astype(float), axis=0)).mean()
    points = 100 * min(change / MOST_CHANGE, 1)
    return 100 - points if "still" in prompt else points


@click.command()
@click.option("--steps", default=30, show_default=True)
def command(steps: int) -> None:
    """Print what the paper's preset costs by this score."""
    pipeline, policy = pabtune.load_pipeline("shapes"), find_policy("pab246")
    (found,) = pabtune.evaluate(pipeline, [policy], sample_prompts(2, seed=4), steps, score="own_score:moves")
    row = found.to_document()
    click.echo(f"{row['policy']}: drops by {row['score']['drop']:+.2f} points, {row['fidelity']['psnr_db']:.1f} dB")


if __name__ == "__main__":
    command()
