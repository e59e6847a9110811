"""`pabtune policies`: the presets, and the timeline of any policy."""

import shutil
import sys
from pathlib import Path

import click

from pabtune.cli.engine_files import find_choice
from pabtune.cli.options import STEPS, check_json_out, json_option, out_option
from pabtune.cli.output import emit, say
from pabtune.planning.presets import find_policy
from pabtune.records.errors import FileError
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the presets, or show one policy. Every other policy is a file."""
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json goes behind the policy: pabtune policies show POLICY --json", ctx)
        return
    from pabtune.planning.presets import MODEL_PRESETS, NAMED_LINES, PRESET_LINES

    if as_json:
        emit(
            {
                "presets": dict(PRESET_LINES),
                "named": dict(NAMED_LINES),
                "models": {model: list(names) for model, names in MODEL_PRESETS.items()},
            }
        )
        return
    for name, line in (*PRESET_LINES.items(), *NAMED_LINES.items()):
        click.echo(f"{name:17} {line}")
    for model, names in MODEL_PRESETS.items():
        click.echo(f"as published for {model}: {', '.join(f'{model}/{name}' for name in names)}")


@command.command()
@click.argument("name", metavar="POLICY")
@click.option("--steps", type=STEPS, help="Denoising steps; default: those that the policy was made for, else 30.")
@click.option(
    "--profile", "profile_file", type=click.Path(path_type=Path),
    help="Show POLICY on the sites, steps and noise levels of this profile; default: the sites that its rules name.",
)  # fmt: skip
@click.option("--content", help="Show the policy's variant for this content class.")
@out_option("Also draw the timeline into this file (.png).", required=False)
@json_option
def show(
    name: str, steps: int | None, profile_file: Path | None, content: str | None, out: Path | None, as_json: bool
) -> None:
    """Show what POLICY computes and broadcasts, step by layer.

    POLICY is a preset, a name like every:2:linear, a policy file, or another engine's file that names its steps.
    """
    from pabtune.planning.timelines import timeline_of
    from pabtune.report.timeline_text import ASCII_SYMBOLS, SYMBOLS, timeline_lines

    if out is not None:
        _check_figure_path(out)
    profile = None if profile_file is None else Profile.load(profile_file)
    timeline = timeline_of(_shown(name, steps, profile), steps, profile, content)
    if out is not None:
        from pabtune.report.figures import draw_timeline, save_figure

        save_figure(out, draw_timeline(timeline))
    if as_json:
        emit(timeline.to_document())
    else:
        encoding = sys.stdout.encoding or "ascii"
        symbols = SYMBOLS if _can_encode("".join(SYMBOLS.values()), encoding) else ASCII_SYMBOLS
        for line in timeline_lines(timeline, shutil.get_terminal_size().columns, symbols):
            click.echo(line.encode(encoding, "replace").decode(encoding))
    if out is not None:
        say(f"written: {out}")


@command.command()
@click.argument("first", metavar="FIRST", type=click.Path(path_type=Path))
@click.argument("second", metavar="SECOND", type=click.Path(path_type=Path))
@click.option(
    "--compute", "count", type=STEPS, required=True, help="Steps that are to compute, between those of the two."
)
@out_option("Policy file (.json).")
def between(first: Path, second: Path, count: int, out: Path) -> None:
    """Make a policy between FIRST and SECOND, two files of one front: a dial for servers. Nothing is measured of it."""
    from pabtune.planning.dial import between as policy_between

    check_json_out(out, first, second)
    policy = policy_between(Policy.load(first), Policy.load(second), count)
    policy.save(out)
    say(
        f"policy {policy.name} -> {out}, unmeasured; see what it costs in quality: pabtune evaluate MODEL --policy {out}"
    )


@command.command()
@click.argument("profile_file", metavar="PROFILE", type=click.Path(path_type=Path))
@click.argument("names", metavar="POLICY...", nargs=-1, required=True)
@click.option("--content", help="Rank for prompts of this content class, by variants for it.")
@json_option
def rank(profile_file: Path, names: tuple[str, ...], content: str | None, as_json: bool) -> None:
    """Rank policies of whole calls by PROFILE alone, the closest to the full run first: no model runs."""
    from pabtune.planning.ranking import rank_schedules

    profile = Profile.load(profile_file)
    ranked = rank_schedules(profile, [find_policy(name, profile.model) for name in names], content)
    if as_json:
        emit({"ranking": [{"policy": names[each.index], **each.to_document()} for each in ranked]})
        return
    width = max(map(len, names))
    for each in ranked:
        click.echo(
            f"{names[each.index]:{width}}  {len(each.computed):3}/{profile.steps} computed  error of the latents "
            f"{each.error:.1e}, worst prompt {each.worst_error:.1e}"
        )


def _shown(name: str, steps: int | None, profile: Profile | None) -> Policy:
    """The policy to show; of another engine's file, with what that engine ignores said."""
    choice = find_choice(name, profile.model if profile else None)
    if isinstance(choice, Policy):
        return choice
    from pabtune.methods.engine_files import fixed_policy

    shown = fixed_policy(choice, profile.sites if profile else None, steps or (profile.steps if profile else None))
    for remark in shown.remarks:
        say(f"{choice.name}: {remark}")
    return shown.policy


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _check_figure_path(path: Path) -> None:
    """Refuses early what could not be written."""
    if path.suffix != ".png":
        raise FileError(f"{path}: a figure must end in .png")
    if not path.parent.is_dir():
        raise FileError(f"{path}: there is no folder {path.parent}")
