"""`pabtune prompts`: sampling captions for measurements."""

from pathlib import Path

import click

from pabtune.cli.options import json_option, out_option
from pabtune.cli.output import emit, say
from pabtune.records.splits import PARTS, Part


@click.command()
@click.argument("model")
@click.option("--count", type=click.IntRange(min=1, max=5000), required=True, help="Number of captions.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sampling.")
@click.option(
    "--part",
    type=click.Choice(PARTS),
    default="test",
    show_default=True,
    help="Part of the split: no search is tuned on what is to test with.",
)
@out_option("Output file: JSON lines with `prompt` and `content`.")
@json_option
def command(model: str, count: int, seed: int, part: Part, out: Path, as_json: bool) -> None:
    """Sample captions that MODEL understands, was not trained on, and that no search sees, unless --part says otherwise."""
    from pabtune.models.shapes.prompts import sample_prompts
    from pabtune.records.errors import PromptError
    from pabtune.records.prompts import save_prompts

    if model != "shapes":
        raise PromptError(f"only the embedded model `shapes` has captions to sample, not {model!r}")
    prompts = sample_prompts(count, seed, part)
    save_prompts(out, prompts)
    say(f"{len(prompts)} prompts -> {out}")
    if as_json:
        contents = sorted({prompt.content for prompt in prompts})
        counts = {content: sum(prompt.content == content for prompt in prompts) for content in contents}
        emit({"out": str(out), "count": len(prompts), "contents": counts})
