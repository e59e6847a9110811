"""Tune a diffusers pipeline of your own: profile, search, export, in some 20 lines.

    python examples/tune_your_model.py

Put your pipeline, your prompts (with a budget of one point about 650, so that 330 judge) and your score in the place of these.
A search of your size takes `steps=30, trials=60`; these are small, so that you see the whole in minutes.
"""

from pathlib import Path

import click

import pabtune
from pabtune.engines.exports import export
from pabtune.models.shapes.prompts import sample_prompts


@click.command()
@click.option("--steps", default=30, show_default=True)
@click.option("--count", default=24, show_default=True, help="Prompts to search with.")
@click.option("--trials", default=8, show_default=True)
@click.option("--budget", default="shapes>=-5.0", show_default=True, help="Largest mean drop of the score.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/tuned"), show_default=True)
def command(steps: int, count: int, trials: int, budget: str, out: Path) -> None:
    """Write the profile, the policy that was found, and its file for cache-dit."""
    pipe = pabtune.load_pipeline("shapes")  # yours: WanPipeline.from_pretrained(…).to("cuda")
    prompts = sample_prompts(count, seed=1)  # yours: a list of texts

    profile = pabtune.profile(pipe, prompts[:2], steps, name="mine")
    profile.save(out / "profile.json")
    result = pabtune.search(pipe, profile, prompts, budget, trials, floor=None, folder=out / "search")
    click.echo(f"{len(result.candidates)} trials, {result.videos:.0f} videos, verdict: {result.verdict}")
    if result.best is None:
        raise SystemExit("nothing was found inside the budget")
    result.best.save(out / "policy.json")
    written = export(result.best, "cache-dit")
    (out / f"cache-dit{written.suffix}").write_text(written.text)
    click.echo(f"{', '.join(written.losses) or 'cache-dit does exactly what the policy says'}; {written.use}")


if __name__ == "__main__":
    command()
