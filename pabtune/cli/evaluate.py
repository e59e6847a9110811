"""`pabtune evaluate`: what policies gain and cost."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pabtune.cli import options
from pabtune.cli.output import emit, progress_bar, say
from pabtune.planning.presets import find_policy
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Store


@click.command()
@click.argument("model")
@click.option("--policy", "names", multiple=True, required=True, help="Preset or policy file; repeat for several.")
@options.prompts_option("What to draw; default for `shapes`: 24 captions.")
@click.option(
    "--score", help="Absolute score: `shapes`, module:function, `none`; default: `shapes` for `shapes`, else none."
)
@options.batch_option
@options.store_option("as the policy says")
@options.run_options
@options.json_option
def command(
    model: str,
    names: tuple[str, ...],
    prompt_file: Path | None,
    score: str | None,
    batch_size: int | None,
    store: Store | None,
    run: options.RunOptions,
    as_json: bool,
) -> None:
    """Measure speed, fidelity and score of policies against unaccelerated MODEL: same prompts, seeds and noise."""
    policies = [find_policy(name, model) for name in names]
    prompts = options.read_prompts(model, prompt_file, count=24, sample_seed=4, seed=run.seed)
    from pabtune.tuning.evaluate import evaluate

    pipeline, arguments = run.load(model)
    with progress_bar("evaluate") as advance:
        evaluations = evaluate(
            pipeline,
            policies,
            prompts,
            run.steps,
            score=score or ("shapes" if model == "shapes" else "none"),
            batch_size=options.batch_size_of(model, batch_size),
            arguments=arguments,
            store=store,
            progress=advance,
        )
    if as_json:
        emit({"policies": [evaluation.to_document() for evaluation in evaluations]})
        say(f"{len(prompts)} prompts, {run.steps} steps")
        return
    print_table(evaluations)


def print_table(evaluations: list[Evaluation]) -> None:
    """Speed, fidelity and score side by side."""
    table = Table(title=f"{len(evaluations[0].psnr_db)} prompts, against the unaccelerated video of the same seed")
    for column in ("policy", "compute", "measured speed", "PSNR dB", "SSIM", "score", "drop"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for evaluation in evaluations:
        row = evaluation.to_document()
        table.add_row(
            row["policy"],
            f"{row['compute_fraction']:.1%}",
            f"{row['speedup']:.2f}x",
            f"{row['fidelity']['psnr_db']:.2f}",
            f"{row['fidelity']['ssim']:.4f}",
            *([f"{row['score']['policy']:.2f}", f"{row['score']['drop']:+.2f}"] if row["score"] else ["-", "-"]),
        )
    Console(stderr=True).print(table)
