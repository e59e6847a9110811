"""`pabtune prompts`: writing prompts for measurements, and splitting them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from pabtune.cli.options import check_not_read, json_option, out_option
from pabtune.cli.output import emit, say
from pabtune.records.errors import PromptError
from pabtune.records.files import check_writable
from pabtune.records.prompts import Prompt, load_prompts, save_prompts
from pabtune.records.splits import PARTS, Part, Split, split_prompts

ENOUGH = 30
"""Of so many prompts of a class, the smallest part of the split is empty in less than one case of a hundred."""


class Sources(click.Group):
    """Group that answers the name of another source with those that there are."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of a name."""
        if args and args[0] not in self.commands:
            raise PromptError(f"`prompts` knows no {args[0]!r}; it knows {', '.join(self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


_drawing_seed = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sampling."
)
_prompts_out = out_option("Output file: JSON lines with `prompt` and `content`.")


@click.group(cls=Sources)
def command() -> None:
    """Write prompts for measurements, and split prompts into those to search with and those to judge by."""


@command.command()
@click.option("--count", type=click.IntRange(min=1, max=5000), required=True, help="Number of captions.")
@_drawing_seed
@click.option(
    "--part",
    type=click.Choice(PARTS),
    default="test",
    show_default=True,
    help="Part of the split: no search is tuned on what is to test with.",
)
@_prompts_out
@json_option
def shapes(count: int, seed: int, part: Part, out: Path, as_json: bool) -> None:
    """Sample captions that `shapes` understands, was not trained on, and that no search sees, unless --part says otherwise."""
    from pabtune.models.shapes.prompts import sample_prompts

    _write(sample_prompts(count, seed, part), out, as_json)


@command.command()
@click.option("--dimension", help="The suite that this dimension is scored on.")
@click.option("--category", help="One category; it is the content class of its prompts.")
@click.option(
    "--content",
    help="Alone: all prompts that have a class on this axis. `categories`: the eight categories; `motion`: `still` for the "
    "suite of temporal_flickering, `motion` for that of subject_consistency, `any` for others.",
)
@click.option("--count", type=click.IntRange(min=1), help="Sample so many, of each class alike; default: all.")
@_drawing_seed
@_prompts_out
@json_option
def vbench(
    dimension: str | None,
    category: str | None,
    content: str | None,
    count: int | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Write VBench's own prompts, of a dimension, of a category, or of all classes of an axis."""
    from pabtune.vbench.prompt_lists import (
        draw_prompts,
        prompts_of_axis,
        prompts_of_category,
        prompts_of_dimension,
    )

    if dimension is not None and category is not None:
        raise PromptError(
            "VBench's prompts belong to a dimension or to a category; name one of --dimension and --category"
        )
    if dimension is not None:
        found, axis = prompts_of_dimension(dimension), "motion"
    elif category is not None:
        found, axis = prompts_of_category(category), "categories"
    elif content is not None:
        found, axis = prompts_of_axis(content), content
    else:
        raise PromptError(
            "name the prompts: --dimension, --category, or --content categories or motion for all of its classes"
        )
    if content not in (None, axis):
        listed = "a dimension" if dimension is not None else "a category"
        raise PromptError(f"prompts of {listed} have no class of --content {content!r}; leave it out, or say {axis}")
    _write(found if count is None else draw_prompts(found, count, seed), out, as_json)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), required=True,
    help="Folder of the output files. Prompts keep their seeds, by default their line's in FILE: parts share no noise.",
)  # fmt: skip
@json_option
def split(file: Path, folder: Path, as_json: bool) -> None:
    """Split the prompts of FILE into tune.jsonl, validate.jsonl and test.jsonl.

    A prompt's part depends on its text alone: what any search saw of tune and validate is never in a verdict on test.
    """
    paths = {part: folder / f"{part}.jsonl" for part in PARTS}
    for path in paths.values():
        check_not_read(path, file)
    prompts = load_prompts(file)
    parts = split_prompts(prompts)
    _check_classes(parts)
    for path in paths.values():
        check_writable(path)
    for part, own in parts.parts().items():
        save_prompts(paths[part], own, seeds=True)
    for content, counts in parts.counts().items():
        say(f"{content}: {', '.join(f'{count} {part}' for part, count in counts.items())}")
    dropped = len(prompts) - sum(map(len, parts.parts().values()))
    if dropped:
        say(f"{dropped} dropped, whose text came before")
    say(f"-> {folder}")
    if as_json:
        named = {part: str(path) for part, path in paths.items()}
        emit({"out": named, "contents": parts.counts(), "duplicates": dropped})


def _check_classes(split: Split) -> None:
    """Refuses a split of which a content class has nothing in one part."""
    for content, counts in split.counts().items():
        empty = [part for part, count in counts.items() if count == 0]
        if empty:
            raise PromptError(
                f"of the {sum(counts.values())} distinct prompts of class {content!r} none falls into {empty[0]}, by a hash "
                f"of the text; add prompts of this class, to {ENOUGH} or more (`prompts shapes --part` writes captions of one "
                "part)"
            )


def _write(prompts: Sequence[Prompt], out: Path, as_json: bool) -> None:
    """Saves prompts and says how many."""
    save_prompts(out, prompts)
    say(f"{len(prompts)} prompts -> {out}")
    if as_json:
        emit({"out": str(out), "count": len(prompts), "contents": Counter(prompt.content for prompt in prompts)})
