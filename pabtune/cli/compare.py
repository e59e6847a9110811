"""`pabtune compare`: methods of the literature and pabtune's own, on the same prompts, seeds and clock."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pabtune.cli import options
from pabtune.cli.left_files import made_by
from pabtune.cli.output import emit, progress_bar, say
from pabtune.records.comparisons import ComparedSetting, MethodsComparison, mean
from pabtune.records.errors import PromptError
from pabtune.records.files import check_writable, save_json, write_atomically
from pabtune.records.prompts import Prompt
from pabtune.records.splits import normal_text

CALIBRATED, UNSEEN = 8, 24
"""Captions of the embedded model to tune on and to judge on, where the user names no files."""

COLUMNS = (
    "at", "method", "setting", "compute", "time", "PSNR dB", "worst", "<30 dB", "SSIM", "drop", "videos", "s", "bytes"
)  # fmt: skip
"""Of the table; the last three are of the calibration. A setting stands at the share of the compute it was chosen for."""

WIDTH = 144
"""Of the table where the terminal is narrower, or there is none."""


@click.command()
@click.argument("model")
@click.option(
    "--methods", "names", default="all", show_default=True, help="Methods, with commas between them, or `all`."
)
@click.option(
    "--setting",
    "settings",
    multiple=True,
    metavar="METHOD=VALUE,…",
    help="Settings of a method's knob to try instead of its own; repeat for several methods.",
)
@click.option(
    "--front",
    "fronts",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Policy file, or folder of them, to compare too, as `pabtune-front`; repeat for several.",
)
@options.prompts_option(
    f"Prompts that methods are judged on; default for `shapes`: {UNSEEN} captions that nothing was tuned on."
)
@click.option(
    "--calibrate",
    "calibration_file",
    type=click.Path(path_type=Path),
    help=f"Prompts that methods are calibrated and tuned on; default for `shapes`: {CALIBRATED} captions.",
)
@click.option(
    "--score", help="Absolute score: `shapes`, module:function, `none`; default: `shapes` for `shapes`, else none."
)
@options.out_option("Folder for compare.json, compare.md, compare.png, and what is kept to go on after a kill.")
@options.batch_option
@options.run_options
@options.json_option
def command(
    model: str,
    names: str,
    settings: tuple[str, ...],
    fronts: tuple[Path, ...],
    prompt_file: Path | None,
    calibration_file: Path | None,
    score: str | None,
    out: Path,
    batch_size: int | None,
    run: options.RunOptions,
    as_json: bool,
) -> None:
    """Compare methods of the literature with pabtune's own on MODEL, each over its knob, at the same compute and time.

    Each method is tuned on the calibration prompts and judged on the others. The same command goes on where a killed one was.
    """
    from pabtune.methods.comparing import CompareConfig, compare
    from pabtune.methods.pabtune import PabtuneFront
    from pabtune.methods.registry import find_methods, find_settings
    from pabtune.report.comparison import as_markdown, comparison_data, draw_comparison
    from pabtune.report.figures import save_figure

    methods, grids = find_methods(names), find_settings(settings)
    if fronts:
        methods.append(PabtuneFront.load(fronts))
    tuned_on, unseen = prompts_of(model, calibration_file, prompt_file, run.seed)
    check_writable(out / "compare.json")
    pipeline, arguments = run.load(model)
    config = CompareConfig(
        steps=run.steps,
        grids=grids,
        batch_size=options.batch_size_of(model, batch_size),
        arguments=arguments,
        score=score or ("shapes" if model == "shapes" else "none"),
        folder=out,
    )
    with progress_bar("compare") as advance:
        comparison = compare(pipeline, methods, config, tuned_on, unseen, model=model, progress=advance)
    document = {**comparison.to_document(), "made_by": made_by()}
    save_json(out / "compare.json", document)
    write_atomically(out / "compare.md", lambda partial: partial.write_text(as_markdown(comparison), encoding="utf-8"))
    save_figure(out / "compare.png", draw_comparison(comparison_data(comparison)))
    print_tables(comparison)
    say(f"{out}: compare.json, compare.md and compare.png are written")
    if as_json:
        emit(document)


def prompts_of(
    model: str, calibration_file: Path | None, prompt_file: Path | None, seed: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to calibrate and tune on, and others to judge on.

    Raises:
        PromptError: a file is broken or missing, or a prompt is in both, whatever its seed.
    """
    tuned_on = options.read_prompts(
        model, calibration_file, count=CALIBRATED, sample_seed=31, seed=seed + 30_000, part="tune"
    )
    unseen = options.read_prompts(model, prompt_file, count=UNSEEN, sample_seed=32, seed=seed + 40_000, part="test")
    known = {normal_text(prompt.prompt) for prompt in tuned_on}
    seen = next((prompt for prompt in unseen if normal_text(prompt.prompt) in known), None)
    if seen is not None:
        raise PromptError(
            f"methods are to be judged on prompts that they were not tuned on, but {seen.prompt!r} is in both; name other "
            "prompts with --calibrate or --prompts"
        )
    return tuned_on, unseen


def print_tables(comparison: MethodsComparison) -> None:
    """Prints who is how close at the same compute, then at the same measured time, and who cannot run here."""
    console = Console(stderr=True)
    console = Console(stderr=True, width=max(console.width, WIDTH))
    table = Table(
        title=f"{comparison.model}: {comparison.prompts} unseen prompts, tuned on {comparison.calibration_prompts}, against "
        f"the full run of {comparison.steps} steps"
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("at", "method", "setting") else "right")
    shares = dict.fromkeys(each.share for each in comparison.settings)
    for share in sorted(shares, key=lambda each: -(each or 0)):
        table.add_section()
        for each in comparison.at_share(share):
            table.add_row("-" if share is None else f"{share:.0%}", *cells(each))
    console.print(table)
    by_time = Table(title="PSNR, mean and worst, within a share of the full run's measured time")
    allowed = sorted((share for share in shares if share is not None), reverse=True)
    for column in ("method", *(f"{share:.0%}" for share in allowed)):
        by_time.add_column(column, justify="left" if column == "method" else "right")
    found = [{each.method: each.evaluation.psnr_db for each in comparison.within_time(share)} for share in allowed]
    for method in dict.fromkeys(each.method for each in comparison.settings):
        psnrs = [at.get(method) for at in found]
        by_time.add_row(method, *("-" if each is None else f"{mean(each):.1f}  {min(each):.1f}" for each in psnrs))
    if allowed:
        console.print(by_time)
    for method, reason in comparison.unfit.items():
        say(f"{method}: cannot run here: {reason}")


def cells(compared: ComparedSetting) -> list[str]:
    """A setting as cells of the table, from the method on."""
    evaluation = compared.evaluation
    return [
        compared.method,
        f"{compared.knob} {compared.setting:g}",
        f"{evaluation.compute_fraction:.1%}",
        f"{compared.time_share:.1%}",
        f"{mean(evaluation.psnr_db):.2f}",
        f"{min(evaluation.psnr_db):.2f}",
        f"{compared.poor_share:.0%}",
        f"{mean(evaluation.ssim):.4f}",
        f"{mean(evaluation.drops):+.2f}" if evaluation.scores else "-",
        f"{compared.calibration.videos:.0f}",
        f"{compared.calibration.seconds:.0f}",
        f"{compared.calibration.bytes:,}",
    ]
