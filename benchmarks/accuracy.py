"""Accuracy of the embedded model on held-out captions and seeds, judged by plain image processing.

    python benchmarks/accuracy.py [--videos 64] [--model shapes] [--out docs/contact-sheet.png]

Prints one JSON document: fraction of videos with correct shape, colour and motion, fraction correct per attribute, and the
mean score.
"""

import json
from pathlib import Path

import click
import numpy as np

import pabtune
from pabtune.models.shapes.captions import parse
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.quality.shapes import score_clip
from pabtune.quality.shapes_vision import look
from pabtune.records.prompts import Prompt
from pabtune.report.videos import contact_sheet, save_picture
from pabtune.tuning.generation import Settings, generate

BATCH = 16
"""Prompts per batch."""

SHOWN = 16
"""Videos on the contact sheet."""


@click.command()
@click.option("--videos", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--model", default="shapes", show_default=True)
@click.option("--guidance-scale", type=float)
@click.option("--out", type=click.Path(path_type=Path))
def main(videos: int, model: str, guidance_scale: float | None, out: Path | None) -> None:
    pipeline = pabtune.load_pipeline(model)
    captions = sample_prompts(videos, seed=64)
    prompts = [Prompt(prompt=each.prompt, content=each.content, seed=6400 + i) for i, each in enumerate(captions)]
    arguments = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    clips = []
    for start in range(0, videos, BATCH):
        clips += generate(pipeline, prompts[start : start + BATCH], Settings(steps=30, arguments=arguments)).videos
    scores = [score_clip(video, prompt.prompt) for video, prompt in zip(clips, prompts, strict=True)]
    right: dict[str, float] = {}
    for name in ("shape", "color", "motion", "speed", "background"):
        hits = [
            getattr(parse(prompt.prompt), name) in (None, getattr(look(video), name))
            for video, prompt in zip(clips, prompts, strict=True)
        ]
        right[name] = float(np.mean(hits))
    parts = {name: round(float(np.mean([score.content[name] for score in scores])), 3) for name in scores[0].content}
    parts |= {name: round(float(np.mean([score.picture[name] for score in scores])), 3) for name in scores[0].picture}
    document = {
        "videos": videos,
        "shape_color_motion_right": float(np.mean([score.is_right for score in scores])),
        "right": right,
        "score": float(np.mean([score.score for score in scores])),
        "parts": parts,
    }
    if out is not None:
        save_picture(out, contact_sheet(clips[:SHOWN]))
        for prompt, score in zip(prompts[:SHOWN], scores, strict=False):
            click.echo(f"{'right' if score.is_right else 'WRONG'} {score.score:5.1f}  {prompt.prompt}", err=True)
    click.echo(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
