"""`pabtune evaluate`: speed, fidelity and score of policies."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pabtune.cli import options
from pabtune.cli.output import emit, progress_bar, say
from pabtune.planning.presets import find_policy
from pabtune.quality.measures import MEASURES
from pabtune.quality.scores import NO_SCORE
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Store

PROMPTS = 24
"""Captions of the embedded model where the user names no file."""


@click.command()
@click.argument("model")
@click.option("--policy", "names", multiple=True, required=True, help="Preset or policy file; repeat for several.")
@options.prompts_option(
    f"Prompts to generate; default for `shapes`: {PROMPTS} captions that no search draws by itself."
)
@click.option(
    "--score",
    help="Absolute score: `shapes`, `vbench-quality`, vbench:DIMENSION, `vbench` (the total, on VBench's own prompts), "
    "module:function, `none`; default: `shapes` for `shapes`, else none.",
)
@options.vbench_option
@click.option(
    "--measure",
    "measures",
    multiple=True,
    type=click.Choice(list(MEASURES)),
    help="Fidelity beside PSNR and SSIM; repeat for several. "
    + "; ".join(f"{n}: {m.says}" for n, m in MEASURES.items())
    + ".",
)
@click.option(
    "--through-codec",
    is_flag=True,
    help="Measure fidelity of H.264 videos, as the papers do, not of raw frames; the score sees raw frames.",
)
@options.batch_option
@options.store_option("as the policy says")
@options.any_steps_option
@options.run_options
@options.json_option
def command(
    model: str,
    names: tuple[str, ...],
    prompt_file: Path | None,
    score: str | None,
    vbench_home: Path | None,
    measures: tuple[str, ...],
    through_codec: bool,
    batch_size: int | None,
    store: Store | None,
    any_steps: bool,
    run: options.RunOptions,
    as_json: bool,
) -> None:
    """Measure speed, fidelity and score of policies against unaccelerated MODEL: same prompts, seeds and noise."""
    policies = [find_policy(name, model) for name in names]
    others = options.captions_of_searches() if prompt_file is None and model == "shapes" else ()
    prompts = options.read_prompts(model, prompt_file, count=PROMPTS, sample_seed=4, seed=run.seed, without=others)
    name = score or ("shapes" if model == "shapes" else NO_SCORE)
    found = options.find_score(name, vbench_home, run.device, prompts)
    from pabtune.tuning.evaluate import evaluate

    pipeline, arguments = run.load(model)
    with progress_bar("evaluate") as advance:
        evaluations = evaluate(
            pipeline,
            policies,
            prompts,
            run.steps,
            score=found or NO_SCORE,
            measures=tuple(dict.fromkeys(measures)),
            through_codec=through_codec,
            batch_size=options.batch_size_of(model, batch_size),
            arguments=arguments,
            store=store,
            any_steps=any_steps,
            progress=advance,
        )
    for remark in remarks(evaluations[0]):
        say(remark)
    if as_json:
        emit({"policies": [evaluation.to_document() for evaluation in evaluations]})
        say(f"{len(prompts)} prompts, {run.steps} steps")
        return
    print_table(evaluations)


def remarks(evaluation: Evaluation) -> list[str]:
    """What was done to the frames before they were measured."""
    found = [
        f"{figure}: frames were enlarged {measured.enlarged} times, pixel by pixel"
        for figure, measured in evaluation.measures.items()
        if measured.enlarged > 1
    ]
    return found + ([f"fidelity through a codec: {evaluation.codec}"] if evaluation.codec is not None else [])


def print_table(evaluations: list[Evaluation]) -> None:
    """Prints speed, fidelity and score of each policy as a table."""
    table = Table(title=f"{len(evaluations[0].psnr_db)} prompts, against the unaccelerated video of the same seed")
    measures = tuple(evaluations[0].measures)
    columns = ("policy", "compute", "measured speed", "PSNR dB", "worst", "SSIM", *measures, "score", "drop")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if column == "policy" else "right")
    for evaluation in evaluations:
        row = evaluation.to_document()
        table.add_row(
            row["policy"],
            f"{row['compute_fraction']:.1%}",
            f"{row['speedup']:.2f}x",
            f"{row['fidelity']['psnr_db']:.2f}",
            f"{row['fidelity']['worst_psnr_db']:.2f}",
            f"{row['fidelity']['ssim']:.4f}",
            *(f"{row['fidelity'][figure]:.4g}" for figure in measures),
            *([f"{row['score']['policy']:.2f}", f"{row['score']['drop']:+.2f}"] if row["score"] else ["-", "-"]),
        )
    Console(stderr=True).print(table)
