"""`pabtune cost`: compute, communication, memory and time of a policy, without running the model."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pabtune.cli.options import STEPS, Number, Size, check_json_out, json_option
from pabtune.cli.output import emit, say
from pabtune.planning.costs.latency import Rates
from pabtune.planning.costs.memory import format_bytes
from pabtune.planning.costs.profiled import ProfiledCost, cost_of_profile
from pabtune.planning.costs.scaling import GIGA, Scaling
from pabtune.planning.presets import find_policy
from pabtune.records.errors import PolicyError
from pabtune.records.interconnects import INTERCONNECTS, Interconnect, find_interconnect
from pabtune.records.layouts import SEQUENCE_PARALLELS, SequenceParallel
from pabtune.records.profiles import Profile

FOR_MODEL = ("size", "steps", "text_tokens", "device_tflops", "profile_file")
"""Names of the parameters that only apply to MODEL, because a PROFILE already contains them."""


class Counts(click.ParamType):
    """One or more numbers of GPUs, separated by commas."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Positive integers."""
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"[1-9][0-9]{0,4}(,[1-9][0-9]{0,4}){0,99}", str(value)):
            self.fail(f"{value!r} is not a list of numbers of GPUs from 1 to 99999, for example 1,2,4,8", param, ctx)
        return tuple(map(int, str(value).split(",")))


@click.command()
@click.argument("what", metavar="PROFILE|MODEL")
@click.option("--policy", "name", required=True, help="Preset or policy file.")
@click.option("--content", help="Use the policy's variant for this content class.")
@click.option("--size", type=Size(), help="Size of the video, for MODEL; default: the paper's.")
@click.option("--steps", type=STEPS, help="Denoising steps, for MODEL; default: the paper's.")
@click.option("--text-tokens", type=int, help="Length of the prompt, for MODEL; default: the longest that it takes.")
@click.option(
    "--gpus", type=Counts(), default="1", show_default=True, help="GPUs that share a video; several numbers: 1,2,4,8."
)
@click.option(
    "--sequence-parallel", type=click.Choice(SEQUENCE_PARALLELS),
    help="How temporal or spatial attention communicates; default: the cheapest layout, with or without split branches.",
)  # fmt: skip
@click.option(
    "--device-tflops", type=Number(), help="TFLOPs per second that a GPU reaches in MODEL; latency is then predicted."
)
@click.option(
    "--profile", "profile_file", type=click.Path(path_type=Path),
    help="Profile of MODEL; latency is then predicted from its measured rates for each kind of site.",
)  # fmt: skip
@click.option(
    "--link", "link_name", default="nvlink", show_default=True,
    help=f"Interconnect between the GPUs: {', '.join(INTERCONNECTS)}, or a file from `pabtune bench-links`.",
)  # fmt: skip
@click.option(
    "--layout-out", type=click.Path(path_type=Path),
    help="Write the best layout here (.json), for `pabtune generate --layout` and `pabtune search --layout`.",
)  # fmt: skip
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    what: str,
    name: str,
    content: str | None,
    size: tuple[int, int, int] | None,
    steps: int | None,
    text_tokens: int | None,
    gpus: tuple[int, ...],
    sequence_parallel: SequenceParallel | None,
    device_tflops: float | None,
    profile_file: Path | None,
    link_name: str,
    layout_out: Path | None,
    as_json: bool,
) -> None:
    """Predict the cost of a policy: per prompt, for the model, size and schedule of a PROFILE, from its measurements; or
    for one video of a MODEL, counted without weights: open-sora-1.2, latte, open-sora-plan-1.1, shapes. With several
    numbers of GPUs, also how it scales and which layout is best.
    """
    interconnect = find_interconnect(link_name)
    if layout_out is not None:
        check_json_out(layout_out, Path(what), Path(name))
    if Path(what).suffix == ".json" or os.path.exists(what):
        _refuse_model_options(ctx, what)
        profile = Profile.load(what)
        policy = find_policy(name, profile.model)
        of_profile = cost_of_profile(profile, policy, content, gpus, sequence_parallel, interconnect)
        _save_layout(of_profile.scaling, layout_out)
        emit(of_profile.to_document()) if as_json else _print_profile(profile, of_profile)
        return
    from pabtune.models.workloads import USUAL_RUNS
    from pabtune.tuning.cost import cost_of_model, count_workload

    policy = find_policy(name, what)
    usual_size, usual_steps = USUAL_RUNS.get(what, ((0, 0, 0), 1))
    size, steps = size or usual_size, steps or usual_steps
    counted = count_workload(what, size, steps, text_tokens)
    device = _device(counted, device_tflops, profile_file, interconnect)
    model = cost_of_model(counted, policy, find_policy("none"), content, gpus, sequence_parallel, device)
    _save_layout(model.scaling, layout_out)
    title = {"policy": policy.name, "model": what, "size": "x".join(map(str, size)), "steps": steps}
    if as_json:
        scaling = model.scaling.to_document() if len(gpus) > 1 else {}
        emit({**title, **model.costs[0].to_document(), **scaling})
        return
    click.echo(f"{policy.name} on {what}, {title['size']}, {counted.workload.schedule.steps} model calls:")
    for line in [*_model_lines(model), *_scaling_lines(model.scaling)]:
        click.echo(f"  {line}")


def _refuse_model_options(ctx: click.Context, what: str) -> None:
    """Refuses options that only apply to MODEL, listing each by name."""
    flags = {each.name: each.opts[0] for each in ctx.command.params}
    names = [str(flags[name]) for name in FOR_MODEL if ctx.params[name] is not None]
    if names:
        raise PolicyError(f"{what} is a profile of one video: {', '.join(names)} applies to MODEL only; leave it out")


def _save_layout(scaling: Scaling | None, path: Path | None) -> None:
    if path is None:
        return
    if scaling is None or all(row.layout.gpus == 1 for row in scaling.rows):
        raise PolicyError("--layout-out writes the layout of several GPUs: say how many, for example --gpus 8")
    if scaling.best is None and len(scaling.rows) > 1:
        raise PolicyError(
            "--layout-out writes the fastest layout, but without --profile or --device-tflops no time is predicted; "
            "give one of these, or one number of --gpus"
        )
    (scaling.best or scaling.rows[-1]).layout.save(path)
    say(f"layout -> {path}")


def _device(counted: Any, tflops: float | None, profile_file: Path | None, interconnect: Interconnect) -> Any:
    """Rates and interconnect; None where the user gives no rates."""
    from pabtune.tuning.cost import Device, rates_of

    if tflops is not None and profile_file is not None:
        raise PolicyError("--device-tflops and --profile both give the rates of a device: give one of them")
    if profile_file is not None:
        return Device(rates=rates_of(Profile.load(profile_file), counted), interconnect=interconnect)
    return None if tflops is None else Device(rates=Rates.even(tflops * 1e12), interconnect=interconnect)


def _scaling_lines(scaling: Scaling | None) -> list[str]:
    """One line for each number of GPUs, and the fastest of them."""
    if scaling is None or (len(scaling.rows) + len(scaling.too_many_gpus) == 1 and scaling.best is None):
        return []
    lines = []
    for row in scaling.rows:
        gpus = f"{row.layout.gpus:3} GPU{'s' if row.layout.gpus > 1 else ' '}"
        sent = row.attention
        line = f"{gpus}: {sent.wire_bytes / GIGA:8.2f} GB each for attention in {sent.messages} messages"
        if row.latency is not None:
            line += f", {row.latency.seconds:.2f} s, {row.latency.efficiency:.0%} of linear"
        lines.append(f"{line}; {row.layout}")
    lines += [f"{count:3} GPUs: too many, each would have a single frame" for count in scaling.too_many_gpus]
    if scaling.best is not None:
        lines.append(
            f"fastest on {scaling.best.layout.gpus} ({scaling.best.layout}; --layout-out FILE writes it for `generate "
            "--layout FILE`), predicted for work that is all shared and communication that does not overlap; measure it"
        )
    return lines


def _model_lines(model: Any) -> list[str]:
    cost, full = model.costs[0], model.full
    flops, all_flops = cost.flops, full.flops
    lines = [
        f"computes {flops.total_tflops:.2f} TFLOPs of {all_flops.total_tflops:.2f} "
        f"({flops.total_tflops / all_flops.total_tflops:.1%}), {flops.transformer_tflops:.2f} in the transformer",
        f"in the paper's convention {flops.paper_tflops:.2f} of {all_flops.paper_tflops:.2f}",
    ]
    for kind, computed in cost.computed_calls.items():
        tflops = f", {flops.per_kind[kind]:.2f} TFLOPs" if kind in flops.per_kind else ""
        lines.append(f"{kind:11} {computed} computed, {cost.broadcast_calls[kind]} broadcast{tflops}")
    lines.append(f"holds at most {cost.peak_stored_bytes / GIGA:.2f} GB on all GPUs combined")
    if cost.layout.gpus > 1:
        sent, all_sent = cost.attention, full.attention
        lines.append(
            f"each of {cost.layout.gpus} GPUs sends {sent.wire_bytes / GIGA:.2f} GB of {all_sent.wire_bytes / GIGA:.2f} in "
            f"{sent.messages} messages for attention (in the paper's convention {sent.paper_bytes / GIGA:.2f} GB); "
            f"{cost.layout}"
        )
    return lines


def _print_profile(profile: Profile, cost: ProfiledCost) -> None:
    settings: Mapping[str, Any] = profile.made_for.settings
    click.echo(f"{cost.policy} on {profile.made_for.model}, {profile.steps} steps, {settings.get('size')}:")
    click.echo(f"  computes {cost.compute_fraction:.1%} of the FLOPs")
    click.echo(
        f"  takes {cost.predicted_time_fraction:.1%} of the transformer's time, predicted from the profile's site times"
    )
    for kind, computed in cost.computed_calls.items():
        click.echo(f"  {kind:11} {computed} computed, {cost.broadcast_calls[kind]} broadcast, per branch")
    click.echo(f"  holds at most {format_bytes(cost.peak.stored_bytes)} per prompt, in step {cost.peak.step}")
    for line in _scaling_lines(cost.scaling):
        click.echo(f"  {line}")
