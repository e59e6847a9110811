"""`pabtune vbench`: VBench in an environment of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pabtune.cli.options import FiniteRange, json_option, prompts_option
from pabtune.cli.output import emit, progress_bar, say
from pabtune.records.errors import VbenchError
from pabtune.records.prompts import load_prompts
from pabtune.vbench.environment import Environment, default_home


def _shared(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Options of all three verbs."""
    home = click.option(
        "--home",
        type=click.Path(path_type=Path),
        help="Folder of VBench's environment; default: ~/.cache/pabtune/vbench.",
    )
    dimension = click.option("--dimension", "names", multiple=True, help="Dimension; repeat for several; default: all.")
    return home(dimension(json_option(verb)))


@click.group()
def command() -> None:
    """Score videos with VBench, which runs in an environment of its own.

    Its pins fit no current diffusers, so that its packages are never installed beside pabtune's.
    """


@command.command()
@_shared
@click.option("--python", help="Python 3.11 for the environment; default: the one that fits.")
@click.option("--weights/--no-weights", default=True, show_default=True, help="Download the networks' weight files.")
def setup(home: Path | None, names: tuple[str, ...], as_json: bool, python: str | None, weights: bool) -> None:
    """Install VBench and its pinned packages, download weight files, write a lock file.

    What is there and right stays. Exit code 1: something could not be downloaded; place it by hand and run setup again.
    """
    from pabtune.vbench.dimensions import DIMENSIONS, find_dimensions
    from pabtune.vbench.setup import set_up

    environment = _environment(home)
    report = set_up(
        environment, find_dimensions(names or DIMENSIONS), python=python, with_weights=weights, say=say
    )  # fmt: skip
    say(f"{environment.home}: VBench is {'installed' if report.installed else 'there already'}")
    for name, reason in report.failed.items():
        say(f"not downloaded: {name}: {reason}")
    if as_json:
        emit(
            {
                "home": str(environment.home),
                "lock": str(environment.lock_path),
                "installed": report.installed,
                "downloaded": list(report.downloaded),
                "failed": report.failed,
            }
        )
    click.get_current_context().exit(1 if report.failed else 0)


@command.command()
@_shared
def doctor(home: Path | None, names: tuple[str, ...], as_json: bool) -> None:
    """Say which dimensions can run, and what each of the others lacks.

    Exit code 1: some cannot run.
    """
    from pabtune.vbench.dimensions import DIMENSIONS, find_dimensions
    from pabtune.vbench.doctor import examine

    environment = _environment(home)
    diagnoses = examine(environment, find_dimensions(names or DIMENSIONS))
    for diagnosis in diagnoses:
        name, network = diagnosis.dimension.name, diagnosis.dimension.network
        say(f"{name:24} {'can run' if diagnosis.can_run else 'cannot run'}; its network: {network}")
        for reason in diagnosis.reasons:
            say(f"    {reason}")
    files = {problem.file: problem for diagnosis in diagnoses for problem in diagnosis.files}
    if files:
        say("files to be placed by hand, or by `pabtune vbench setup` where there is a network:")
    for problem in files.values():
        say(f"    {problem}")
    able = sum(diagnosis.can_run for diagnosis in diagnoses)
    say(f"{able} of {len(diagnoses)} dimensions can run in {environment.home}")
    if as_json:
        emit({"home": str(environment.home), "dimensions": [diagnosis.to_document() for diagnosis in diagnoses]})
    click.get_current_context().exit(0 if able == len(diagnoses) else 1)


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_shared
@prompts_option("File with the videos' prompts, in the order of their numbers.")
@click.option(
    "--official",
    is_flag=True,
    help="Score each dimension on its own suite of VBench's prompts, as the leaderboard does.",
)
@click.option("--device", default="cpu", show_default=True, help="Device to run on, for example cuda.")
@click.option(
    "--static-filter",
    is_flag=True,
    help="Count temporal_flickering on the first five videos of each prompt alone that VBench's filter (RAFT) finds static.",
)
@click.option(
    "--timeout",
    type=FiniteRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Minutes that a dimension may take; one that hangs is killed, what it scored stays. Default: any time.",
)
def score(
    folder: Path,
    home: Path | None,
    names: tuple[str, ...],
    as_json: bool,
    prompt_file: Path | None,
    official: bool,
    device: str,
    static_filter: bool,
    timeout: float | None,
) -> None:
    """Score the videos of FOLDER: NAME-000.mp4, NAME-001.mp4, … in the order of the prompts.

    Scores are kept by the videos' content: a run that was stopped goes on where it was, and nothing is scored twice.
    """
    from pabtune.vbench.scorecard import score_folder

    if prompt_file is None:
        raise VbenchError(
            "no prompts given: use --prompts FILE, one prompt per line, in the order of the videos' numbers"
        )
    card = score_folder(
        _environment(home),
        folder,
        load_prompts(prompt_file),
        names,
        official=official,
        device=device,
        progress=progress_bar,
        timeout_minutes=timeout,
        static_filter=static_filter,
    )
    for name, why in card.not_run.items():
        say(f"{name:24} not run: {why}")
    document = card.to_document()
    for name, row in document["dimensions"].items():
        known = f", {row['reused']} known before" if row["reused"] else ""
        say(f"{name:24} {row['raw']:.4f} = {row['points']:.2f} points, {row['videos']} videos{known}")
    if card.failed:
        raise VbenchError(f"{'; '.join(card.failed.values())}; scores so far are kept")
    suite = "VBench's own suites" if official else "these prompts, which no leaderboard has"
    for name in ("quality", "semantic", "total"):
        if document[name] is not None:
            say(f"{name:24} {document[name]:.2f} points on {suite}")
    if as_json:
        emit(document)


def _environment(home: Path | None) -> Environment:
    return Environment((home or default_home()).absolute())
