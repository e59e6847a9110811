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
from pabtune.planning.costs.latency import Rates, measured_rates
from pabtune.planning.costs.memory import format_bytes, held_bytes
from pabtune.planning.costs.sharing import Measured, seconds_in, sent_for
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.presets import find_policy
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.sharding import Axis, Way, can_share, ways
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError, ProfileError
from pabtune.records.links import LINKS, Link, find_link
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
@click.option("--gpus", type=Counts(), default="1", show_default=True, help="That share a video; several: 1,2,4,8.")
@click.option(
    "--parallel", type=click.Choice(PARALLELS),
    help="How temporal or spatial attention exchanges; default: the way that costs least, guidance branches split too.",
)  # fmt: skip
@click.option("--device-tflops", type=float, help="TFLOPs per second that a GPU reaches in MODEL: tells latency too.")
@click.option(
    "--profile", "profile_file", type=click.Path(path_type=Path),
    help="Of MODEL: its measured rates, kind by kind, tell latency.",
)  # fmt: skip
@click.option(
    "--link", "link_name", default="nvlink", show_default=True,
    help=f"Between the GPUs: {', '.join(LINKS)}, or a file of `pabtune bench-links`.",
)  # fmt: skip
@json_option
def command(
    what: str,
    name: str,
    content: str | None,
    size: tuple[int, int, int] | None,
    steps: int | None,
    text_tokens: int | None,
    gpus: tuple[int, ...],
    parallel: Parallel | None,
    device_tflops: float | None,
    profile_file: Path | None,
    link_name: str,
    as_json: bool,
) -> None:
    """What a policy costs: for the model, size and schedule of a PROFILE, as measured, per prompt; or for a video of a
    MODEL, counted without weights: open-sora-1.2, latte, open-sora-plan-1.1, shapes. With several numbers of GPUs, how it
    scales, and which layout is best.
    """
    link = find_link(link_name)
    if Path(what).suffix == ".json" or Path(what).exists():
        if (size, steps, text_tokens, device_tflops, profile_file) != (None,) * 5:
            raise PolicyError(f"{what} says for which video it holds; --size, --steps, --text-tokens are for MODEL")
        document = _of_profile(Path(what), name, content, gpus, parallel, link)
        emit(document) if as_json else _tell_profile(Path(what), document)
        return
    from pabtune.models.workloads import USUAL_RUNS
    from pabtune.tuning.cost import best_way, count_workload, predict_cost

    policy = find_policy(name, what)
    papers_size, papers_steps = USUAL_RUNS.get(what, ((0, 0, 0), 1))
    size, steps = size or papers_size, steps or papers_steps
    counted = count_workload(what, size, steps, text_tokens)
    device = _device(counted, device_tflops, profile_file, link)
    choices, left_out = _ways(gpus, parallel, counted.workload.axes, 2, counted.workload.frames)
    chosen = [best_way(counted, policy, content, among, device) for among in choices]
    found, *more = ({**predict_cost(counted, policy, content, way, device), "options": _options(way)} for way in chosen)
    if as_json:
        told = {"policy": policy.name, "model": what, "size": "x".join(map(str, size)), "steps": steps, **found}
        scaling = {"scaling": [found, *more], "best": _best([found, *more]), "too_many_gpus": left_out}
        emit({**told, **(scaling if len(gpus) > 1 else {})})
        return
    full = predict_cost(counted, find_policy("none"), None, chosen[0])
    click.echo(f"{policy.name} on {what}, {'x'.join(map(str, size))}, {counted.workload.schedule.steps} model calls:")
    for line in [*_model_lines(found, full), *_scaling_lines([found, *more], left_out)]:
        click.echo(f"  {line}")


def _ways(
    gpus: Sequence[int], parallel: Parallel | None, axes: Sequence[Axis], branches: int, frames: int
) -> tuple[list[list[Way]], list[int]]:
    """For each number of GPUs the ways to choose from; one that the user named is not mixed with splitting the branches.

    Beside them the numbers that are too large for so few frames.
    """
    parallels, branches = (PARALLELS, branches) if parallel is None else ((parallel,), 1)
    choices = {
        count: [way for way in ways(count, axes, parallels, branches) if can_share(way, axes, frames)] for count in gpus
    }
    left_out = [count for count, among in choices.items() if not among]
    if not any(choices.values()):
        raise PolicyError(
            f"{frames} frames over {', '.join(map(str, left_out))} GPUs leave one to each, which this model does not take"
        )
    return [among for among in choices.values() if among], left_out


def _options(way: Way) -> str:
    """What makes `pabtune generate` share a video so."""
    if way.gpus == 1:
        return ""
    options = [f"--gpus {way.gpus}"]
    options += ["--split-branches"] if way.branches > 1 else []
    if way.sequence > 1 and way.axis != "sequence":
        options += [f"--split-axis {way.axis}", f"--parallel {way.parallel}"]
    return " ".join(options)


def _device(counted: Any, tflops: float | None, profile_file: Path | None, link: Link) -> Any:
    """Rates and link, if the user tells any rate."""
    from pabtune.tuning.cost import Device

    if tflops is not None and profile_file is not None:
        raise PolicyError("--device-tflops and --profile both tell the rates of a device: give one of them")
    if profile_file is not None:
        profile = Profile.load(profile_file)
        if profile.made_for.fingerprint != counted.target.fingerprint():
            raise ProfileError(
                f"{profile_file}: is of another model ({profile.made_for.model}, or another configuration)"
            )
        arrays = profile.arrays
        facts = (profile.sites, profile.site_flops, profile.total_flops, arrays["seconds"], arrays["step_seconds"])
        return Device(rates=measured_rates(*facts), link=link)
    return None if tflops is None else Device(rates=Rates.even(tflops * 1e12), link=link)


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Number of GPUs and way with the least time; None where no time is told."""
    if "latency" not in rows[0]:
        return None
    best = min(rows, key=lambda row: row["latency"]["seconds"])
    return {
        **{key: best[key] for key in ("gpus", "way", "options")}, "seconds": best["latency"]["seconds"],
    }  # fmt: skip


def _scaling_lines(rows: list[dict[str, Any]], left_out: list[int]) -> list[str]:
    """A line for each number of GPUs, and which is the fastest."""
    if len(rows) + len(left_out) == 1 and "latency" not in rows[0]:
        return []
    lines = []
    for row in rows:
        sent = row.get("communication", {"wire_gb_per_gpu": 0.0, "messages": 0})
        gpus = f"{row['gpus']:3} GPU{'s' if row['gpus'] > 1 else ' '}"
        line = f"{gpus}: {sent['wire_gb_per_gpu']:8.2f} GB each for attention in {sent['messages']} messages"
        if "latency" in row:
            line += f", {row['latency']['seconds']:.2f} s, {row['latency']['efficiency']:.0%} of linear"
        lines.append(f"{line}; {row['way']}")
    lines += [f"{count:3} GPUs: too many, one frame would be left to each" for count in left_out]
    best = _best(rows)
    if best is not None:
        how = f"with `generate {best['options']}`" if best["options"] else "on one GPU"
        lines.append(f"fastest {how}, if all of it is shared and nothing overlaps: a guess, measure it")
    return lines


def _model_lines(found: dict[str, Any], full: dict[str, Any]) -> list[str]:
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
            f"{sent['messages']} messages for attention (in the paper's convention {sent['paper_gb_per_gpu']:.2f} GB); "
            f"{found['way']}"
        )
    return lines


def _sizes_in(block: Site, sites: Sequence[Site], sizes: Sequence[int]) -> list[int]:
    own = zip(sites, sizes, strict=False)
    return [size for site, size in own if site.transformer == block.transformer and site.block == block.path]


def _of_profile(
    path: Path, name: str, content: str | None, gpus: Sequence[int], parallel: Parallel | None, link: Link
) -> dict[str, Any]:
    """What a policy costs for a profile's model, size and schedule."""
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
    seconds, steps = profile.arrays["seconds"], profile.arrays["step_seconds"]
    whole = whole.where_called(seconds > 0)
    mask = whole.inside_blocks()
    held = held_bytes(whole, sizes, policy.store, profile.call.per_step)
    return {
        "policy": policy.name,
        "compute_fraction": compute_fraction(mask, profile.site_flops, profile.total_flops),
        "predicted_time_fraction": predicted_seconds(mask, seconds, steps) / float(steps.sum()),
        "calls": {"computed": mask.calls(computed=True), "broadcast": mask.calls(computed=False)},
        "memory": {"peak_stored_bytes": int(held.max()), "at_step": int(held.argmax())},
        **_scaling_of(profile, mask, gpus, parallel, link),
    }


def _scaling_of(
    profile: Profile, mask: ComputeMask, gpus: Sequence[int], parallel: Parallel | None, link: Link
) -> dict[str, Any]:
    """Seconds in the transformer on so many GPUs, each in the way that takes the least; nothing for one GPU."""
    if tuple(gpus) == (1,):
        return {}
    measured = Measured.of(profile, max(gpus))
    alone = seconds_in(mask, measured, Way(axis=measured.axes[0]), link)
    rows = []
    choices, left_out = _ways(gpus, parallel, measured.axes, measured.branches, measured.frames)
    for among in choices:
        way = min(among, key=lambda way: seconds_in(mask, measured, way, link))
        taken, sent = seconds_in(mask, measured, way, link), sent_for(mask, measured, way)
        rows.append(
            {
                "gpus": way.gpus,
                "way": str(way),
                "options": _options(way),
                "communication": {"wire_gb_per_gpu": sent.wire_bytes / 1e9, "messages": sent.messages},
                "latency": {"seconds": taken, "efficiency": alone / taken / way.gpus},
            }
        )
    notes = {"padding_counted": measured.frames > 0} if "frames" in measured.axes else {}
    return {"scaling": rows, "best": _best(rows), "too_many_gpus": left_out, **notes}


def _tell_profile(path: Path, document: dict[str, Any]) -> None:
    profile = Profile.load(path)
    click.echo(
        f"{document['policy']} on {profile.made_for.model}, {profile.steps} steps, {profile.made_for.settings.get('size')}:"
    )
    click.echo(f"  computes {document['compute_fraction']:.1%} of the FLOPs")
    click.echo(
        f"  takes {document['predicted_time_fraction']:.1%} of the time in the transformer, by the profile's site times"
    )
    calls, held = document["calls"], document["memory"]
    for kind, computed in calls["computed"].items():
        click.echo(f"  {kind:8} {computed} computed, {calls['broadcast'][kind]} broadcast, per branch")
    click.echo(f"  holds {format_bytes(held['peak_stored_bytes'])} per prompt at most, in step {held['at_step']}")
    for line in _scaling_lines(document["scaling"], document["too_many_gpus"]) if "scaling" in document else ():
        click.echo(f"  {line}")
    if not document.get("padding_counted", True):
        click.echo("  how many frames there are is unknown, so that padding is not counted: profile again")
