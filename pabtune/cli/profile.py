"""`pabtune profile`: measuring how a model's outputs change from step to step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np

from pabtune.cli import options
from pabtune.cli.left_files import made_by
from pabtune.cli.output import emit, progress_bar, say
from pabtune.planning.curves import kind_curves, mean_over_contents
from pabtune.planning.few_steps import FEW_STEPS, bound
from pabtune.planning.windows import Shape, ranking_of, windows_of
from pabtune.records.errors import ProfileError
from pabtune.records.profiles import NO_SENSITIVITY, Profile

PROMPTS = 24
"""Captions of the embedded model where the user names no file."""


@click.command()
@click.argument("model")
@options.prompts_option(f"Prompts to generate; default for `shapes`: {PROMPTS} captions.")
@options.out_option("Profile file (.json); its arrays go to a .safetensors file beside it.")
@click.option("--logdir", type=click.Path(path_type=Path), help="Folder for TensorBoard; default: no TensorBoard.")
@options.batch_option
@options.memory_option
@options.run_options
@options.json_option
def command(
    model: str,
    prompt_file: Path | None,
    out: Path,
    logdir: Path | None,
    batch_size: int | None,
    memory: int | None,
    run: options.RunOptions,
    as_json: bool,
) -> None:
    """Measure how much MODEL's outputs change from step to step, per layer, kind, branch and content.

    What ranks schedules of whole calls is measured too.
    """
    if run.steps < 2:
        raise ProfileError(f"a profile needs at least 2 steps, but got --steps {run.steps}")
    options.check_json_out(out, prompt_file)
    prompts = options.read_prompts(model, prompt_file, count=PROMPTS, sample_seed=1, seed=run.seed, part="tune")
    import pabtune
    from pabtune.report.tensorboard import open_writer, write_profile, write_video
    from pabtune.tuning.profile import ProfiledVideo

    writer = open_writer(logdir) if logdir else None
    pipeline, arguments = run.load(model)
    contents: set[str] = set()

    def show(sample: ProfiledVideo) -> None:
        if writer and sample.prompt.content not in contents:
            contents.add(sample.prompt.content)
            write_video(writer, f"sample/{sample.prompt.content}", sample.video, 8, sample.prompt.prompt)

    with progress_bar("profile") as advance:

        def go_on(done: int, total: int) -> None:
            # Said after the warm-up, so that a request that the pipeline refuses prints its error alone.
            if done == 0 and run.steps <= FEW_STEPS:
                say(bound(run.steps))
            advance(done, total)

        profile = pabtune.profile(
            pipeline,
            prompts,
            run.steps,
            name=out.stem,
            model=model,
            batch_size=options.batch_size_of(model, batch_size),
            arguments=arguments,
            memory=memory,
            progress=go_on,
            on_video=show,
        )
    profile = replace(profile, provenance={**profile.provenance, "made_by": made_by()})
    profile.save(out)
    if writer:
        write_profile(writer, profile)
        writer.close()
    describe(profile)
    say(f"profile -> {out}" + (f"; view it with tensorboard --logdir {logdir}" if logdir else ""))
    if as_json:
        emit(summary(profile, out))


SHAPES: Mapping[Shape, str] = {
    "u": "high at both ends", "left": "high at the start", "right": "high at the end", "flat": "flat", "noisy": "noisy"
}  # fmt: skip
"""Where in a run outputs change most, in words."""


def describe(profile: Profile) -> None:
    """Prints the windows and the ranking of kinds."""
    for content, kinds in windows_of(profile).items():
        for kind, window in kinds.items():
            steps = "no stable window" if window.start is None else f"steps {window.start:2}..{(window.stop or 0) - 1}"
            say(f"  {content:8} {kind:9} {SHAPES[window.shape]:17} {steps}{describe_breaks(window.breaks)}")
    order = " < ".join(f"{row.kind} ({row.change:.2g})" for row in ranking_of(profile))
    say(f"  change, least to most: {order}")
    medians = "; ".join(f"{kind} {value:.2g}" for kind, value in _median_mse(profile).items())
    say(f"  mean squared difference from step to step (the paper's measure), median: {medians}")
    if not profile.has_sensitivity:
        say(f"  schedules of whole calls cannot be ranked by it: {profile.provenance.get(NO_SENSITIVITY)}")
    say(
        f"  overhead {profile.overhead:.2f}x plain generation; "
        f"distances between steps are known to {profile.sketch['median_relative_error']:.1%}"
    )


def describe_breaks(breaks: Sequence[int]) -> str:
    """Words for steps inside a window that change more than its limit; empty without any."""
    if not breaks:
        return ""
    if len(breaks) == 1:
        return f"; but step {breaks[0]} changes much more than its neighbours"
    return f"; but steps {', '.join(map(str, breaks))} change much more than their neighbours"


def _median_mse(profile: Profile) -> dict[str, float]:
    curves = kind_curves(mean_over_contents(profile, "mse"), profile.sites)
    return {kind: float(np.median(curve[1:])) for kind, curve in curves.items()}


def summary(profile: Profile, out: Path) -> dict[str, object]:
    """The document that `--json` prints."""
    return {
        "profile": str(out),
        "digest": profile.digest,
        "steps": profile.steps,
        "prompts": dict(profile.prompts),
        "windows": {
            content: {
                kind: {
                    "shape": window.shape,
                    "start": window.start,
                    "stop": window.stop,
                    "breaks": list(window.breaks),
                }
                for kind, window in kinds.items()
            }
            for content, kinds in windows_of(profile).items()
        },
        "ranking": [asdict(row) for row in ranking_of(profile)],
        "median_mse": _median_mse(profile),
        "sketch": dict(profile.sketch),
        "overhead": profile.overhead,
        "ranks_schedules": profile.has_sensitivity,
    }
