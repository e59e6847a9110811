"""`pabtune cost`: what a policy computes, takes and holds, from a profile, without running the model."""

from pathlib import Path

import click

from pabtune.cli.options import json_option
from pabtune.cli.output import emit
from pabtune.planning.costs.compute import compute_fraction, predicted_seconds
from pabtune.planning.costs.memory import format_bytes, held_bytes
from pabtune.planning.masks import resolve
from pabtune.planning.presets import find_policy
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PolicyError
from pabtune.records.profiles import Profile


@click.command()
@click.argument("profile_file", metavar="PROFILE", type=click.Path(path_type=Path))
@click.option("--policy", "name", required=True, help="Preset or policy file.")
@click.option("--content", help="Use the policy's variant for this content class.")
@json_option
def command(profile_file: Path, name: str, content: str | None, as_json: bool) -> None:
    """What a policy costs for the model, size and schedule of PROFILE: per prompt, all guidance branches together."""
    policy, profile = find_policy(name), Profile.load(profile_file)
    made_for = policy.made_for.fingerprint
    if made_for not in (None, profile.made_for.fingerprint):
        raise PolicyError(f"policy {policy.name!r} was made for another model than that of {profile_file}")
    mask = resolve(policy, profile.sites, NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas), content)
    seconds, steps = profile.arrays["seconds"], profile.arrays["step_seconds"]
    sizes = profile.bytes_kept(policy.store)
    held = held_bytes(mask, sizes, policy.store) if sizes else None
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
