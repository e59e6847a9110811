"""`pabtune cost`: what a policy computes, exchanges, holds and takes, without running the model."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pabtune.cli.options import Size, json_option
from pabtune.cli.output import emit
from pabtune.planning.costs.communication import PARALLELS, Parallel
from pabtune.planning.costs.compute import compute_fraction, predicted_seconds
from pabtune.planning.costs.latency import LINKS
from pabtune.planning.costs.memory import format_bytes, held_bytes
from pabtune.planning.masks import resolve
from pabtune.planning.presets import find_policy
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError
from pabtune.records.profiles import Profile
from pabtune.records.sites import Site


class Counts(click.ParamType):
    """One number of GPUs or several, with commas between."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Whole numbers from 1 on."""
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", str(value)):
            self.fail(f"{value!r} is no list of numbers of GPUs, for example 1,2,4,8", param, ctx)
        return tuple(map(int, str(value).split(",")))


@click.command()
@click.argument("what", metavar="PROFILE|MODEL")
@click.option("--policy", "name", required=True, help="Preset or policy file.")
@click.option("--content", help="Use the policy's variant for this content class.")
@click.option("--size", type=Size(), help="Of the video, for MODEL; default: the paper's.")
@click.option("--steps", type=click.IntRange(min=1), help="Denoising steps, for MODEL; default: the paper's.")
@click.option("--text-tokens", type=int, help="Of the prompt, for MODEL; default: as many as it takes.")
@click.option(
    "--gpus", type=Counts(), default="1", show_default=True, help="That share a video of MODEL; several: 1,2,4,8."
)
@click.option("--parallel", type=click.Choice(PARALLELS), default="dsp", show_default=True, help="How they share it.")
@click.option("--device-tflops", type=float, help="TFLOPs per second that a GPU reaches in MODEL: tells latency too.")
@click.option("--link", type=click.Choice(list(LINKS)), default="nvlink", show_default=True, help="Between the GPUs.")
@json_option
def command(
    what: str,
    name: str,
    content: str | None,
    size: tuple[int, int, int] | None,
    steps: int | None,
    text_tokens: int | None,
    gpus: tuple[int, ...],
    parallel: Parallel,
    device_tflops: float | None,
    link: str,
    as_json: bool,
) -> None:
    """What a policy costs: for the model, size and schedule of a PROFILE, as measured, per prompt; or for a video of a
    published MODEL, counted without weights: open-sora-1.2, latte, open-sora-plan-1.1.
    """
    if Path(what).suffix == ".json" or Path(what).exists():
        if (size, steps, text_tokens, gpus, device_tflops) != (None, None, None, (1,), None):
            raise PolicyError(
                f"{what} says for which video it holds; --size, --steps, --text-tokens, --gpus are for MODEL"
            )
        _tell_profile(Path(what), name, content, as_json)
        return
    from pabtune.models.workloads import PAPER_RUNS
    from pabtune.tuning.cost import count_workload, predict_cost

    policy = find_policy(name, what)
    papers_size, papers_steps = PAPER_RUNS.get(what, ((0, 0, 0), 1))
    size, steps = size or papers_size, steps or papers_steps
    counted = count_workload(what, size, steps, text_tokens)
    device = None if device_tflops is None else (device_tflops * 1e12, LINKS[link])
    found, *more = (predict_cost(counted, policy, content, count, parallel, device) for count in gpus)
    if as_json:
        scaling = {"scaling": [found, *more]} if more else {}
        emit(
            {"policy": policy.name, "model": what, "size": "x".join(map(str, size)), "steps": steps, **found, **scaling}
        )
        return
    full = predict_cost(counted, find_policy("none"), None, gpus[0], parallel)
    click.echo(f"{policy.name} on {what}, {'x'.join(map(str, size))}, {counted.workload.schedule.steps} model calls:")
    for line in [*_model_lines(found, full, parallel), *_scaling_lines([found, *more])]:
        click.echo(f"  {line}")


def _scaling_lines(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each number of GPUs, and which is the fastest."""
    if len(rows) == 1 and "latency" not in rows[0]:
        return []
    lines = []
    for row in rows:
        sent = row["communication"]
        line = f"{row['gpus']:3} GPUs: {sent['wire_gb_per_gpu']:8.2f} GB sent by each in {sent['messages']} messages"
        if "latency" in row:
            line += f", {row['latency']['seconds']:.2f} s, {row['latency']['efficiency']:.0%} of linear"
        lines.append(line)
    if "latency" in rows[0]:
        best = min(rows, key=lambda row: row["latency"]["seconds"])
        lines.append(
            f"fastest on {best['gpus']} GPUs, if all of it is shared and nothing overlaps: a guess, measure it"
        )
    return lines


def _model_lines(found: dict[str, Any], full: dict[str, Any], parallel: str) -> list[str]:
    flops, whole = found["flops"], full["flops"]
    lines = [
        f"computes {flops['total_tflops']:.2f} TFLOPs of {whole['total_tflops']:.2f} "
        f"({flops['total_tflops'] / whole['total_tflops']:.1%}), {flops['transformer_tflops']:.2f} in the transformer",
        f"in the paper's convention {flops['paper_tflops']:.2f} of {whole['paper_tflops']:.2f}",
    ]
    for kind, calls in found["calls"].items():
        lines.append(
            f"{kind:8} {calls['computed']} computed, {calls['broadcast']} broadcast, {flops['per_kind'][kind]:.2f} TFLOPs"
        )
    lines.append(f"holds {found['memory']['peak_stored_gb']:.2f} GB at most, all GPUs together")
    if found["gpus"] > 1:
        sent, all_sent = found["communication"], full["communication"]
        lines.append(
            f"each of {found['gpus']} GPUs sends {sent['wire_gb_per_gpu']:.2f} GB of {all_sent['wire_gb_per_gpu']:.2f} in "
            f"{sent['messages']} messages by {parallel} (in the paper's convention {sent['paper_gb_per_gpu']:.2f} GB)"
        )
    return lines


def _sizes_in(block: Site, sites: Sequence[Site], sizes: Sequence[int]) -> list[int]:
    own = zip(sites, sizes, strict=False)
    return [
        size for site, size in own if site.transformer == block.transformer and site.path.startswith(f"{block.path}.")
    ]


def _tell_profile(path: Path, name: str, content: str | None, as_json: bool) -> None:
    profile = Profile.load(path)
    policy = find_policy(name, profile.model)
    made_for = policy.made_for.fingerprint
    if made_for not in (None, profile.made_for.fingerprint):
        raise PolicyError(f"policy {policy.name!r} was made for another model than that of {path}")
    sizes = profile.bytes_kept(policy.store)
    schedule = NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas)
    units = units_of(policy, profile.sites, content)
    # What a block adds, or a stack, is of the size of its sites' outputs.
    sizes = (*sizes, *(max(_sizes_in(unit, profile.sites, sizes), default=0) for unit in units))
    whole = resolve(policy, [*profile.sites, *units], schedule, content)
    mask = whole.inside_blocks()
    seconds, steps = profile.arrays["seconds"], profile.arrays["step_seconds"]
    held = held_bytes(whole, sizes, policy.store) if sizes else None
    document = {
        "policy": policy.name,
        "compute_fraction": compute_fraction(mask, profile.site_flops, profile.total_flops, seconds > 0),
        "predicted_time_fraction": predicted_seconds(mask, seconds, steps) / float(steps.sum()),
        "calls": {"computed": mask.calls(computed=True), "broadcast": mask.calls(computed=False)},
        "memory": None if held is None else {"peak_stored_bytes": int(held.max()), "at_step": int(held.argmax())},
    }
    if as_json:
        emit(document)
        return
    click.echo(
        f"{policy.name} on {profile.made_for.model}, {profile.steps} steps, {profile.made_for.settings.get('size')}:"
    )
    click.echo(f"  computes {document['compute_fraction']:.1%} of the FLOPs")
    click.echo(
        f"  takes {document['predicted_time_fraction']:.1%} of the time in the transformer, by the profile's site times"
    )
    for kind, computed in mask.calls(computed=True).items():
        click.echo(f"  {kind:8} {computed} computed, {mask.calls(computed=False)[kind]} broadcast, per branch")
    if held is None:
        click.echo("  memory: unknown, the profile is of a version that did not note sizes; profile again")
    else:
        click.echo(f"  holds {format_bytes(held.max())} per prompt at most, in step {int(held.argmax())}")
