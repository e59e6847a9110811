"""Time of what an engine runs, from a profile: that of the policy where the export is exact."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pabtune.engines.exports import export
from pabtune.engines.plan import Facts
from pabtune.planning.presets import named_policy
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.profiles import Profile
from pabtune.records.rules import Rule

PROFILE = Profile.load(Path(__file__).parents[2] / "profiles" / "shapes-30steps.json")
FACTS = Facts(profile=PROFILE)


def stack(layers: tuple[int, ...] | None) -> Policy:
    rule = Rule(kind="stack", compute=(0, 1, 2, 10, 20, 29), layers=layers)
    return Policy(name="stack", rules=(rule,), made_for=PROFILE.made_for)


@pytest.mark.parametrize(("engine", "layers"), [("diffusers", None), ("lightx2v", (0, 1, 2)), ("cache-dit", (1, 2))])
def test_the_same_blocks_take_the_same_time(engine, layers) -> None:
    ours, theirs = export(stack(layers), engine, FACTS).shares
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert 0.2 < ours < 0.8


def test_a_first_block_that_computes_takes_its_time() -> None:
    exported = export(stack(None), "xdit", FACTS)
    ours, theirs = exported.shares
    third = (1 - ours) / 3  # of three pairs of blocks
    assert theirs - ours == pytest.approx(third, rel=0.25)
    assert exported.to_document()["predicted_time"] == {"policy": ours, "engine": theirs}
    assert f"{ours:.1%} under the policy, {theirs:.1%} in xdit" in exported.facts[-1]


def test_a_preset_is_priced_as_itself() -> None:
    made = export(named_policy("every:3"), "vllm-omni", FACTS)
    assert made.masks[0].computed_steps == (0, 1, 2, 3, 4, 5, 8, 14, 21, 29)  # `ultra`
    assert made.shares[1] > made.shares[0]


def test_a_profile_of_other_steps_is_refused() -> None:
    shorter = replace(PROFILE.made_for, steps=12, sigmas=None)
    other = Policy(name="p", rules=(Rule(kind="stack", compute=(0, 5)),), made_for=shorter)
    with pytest.raises(PolicyError, match="is of 30 steps, but the export is for 12"):
        export(other, "diffusers", FACTS)


def two_transformers() -> Profile:
    """The shipped profile as if its sites were those of two transformers that take turns."""
    half, seconds = PROFILE.steps // 2, PROFILE.arrays["seconds"]
    names = ("transformer", "transformer_2")
    sites = tuple(replace(site, transformer=name) for name in names for site in PROFILE.sites)
    arrays = {**PROFILE.arrays}
    for name in ("mse", "change", "distance", "seconds"):
        arrays[name] = np.concatenate([PROFILE.arrays[name]] * 2, axis=PROFILE.arrays[name].shape.index(len(seconds)))
    arrays["seconds"][: len(seconds), half:] = 0.0
    arrays["seconds"][len(seconds) :, :half] = 0.0
    config = dict.fromkeys(names, PROFILE.made_for.config["transformer"])
    doubled = {name: getattr(PROFILE, name) * 2 for name in ("site_flops", "site_bytes", "site_int8_bytes")}
    made_for = replace(PROFILE.made_for, config=config)
    return replace(PROFILE, sites=sites, arrays=arrays, made_for=made_for, **doubled)


@pytest.mark.parametrize("engine", ["cache-dit", "diffusers", "lightx2v"])
def test_two_transformers_are_priced_with_a_stack_each(engine) -> None:
    """Each export with a profile was refused: two rules for the same site."""
    profile = two_transformers()
    half = (0, 1, 2, 10, 15, 16, 20)
    policy = Policy(name="stack", rules=(Rule(kind="stack", compute=half),), made_for=profile.made_for)
    ours, theirs = export(policy, engine, Facts(profile=profile)).shares
    assert 0.2 < ours <= theirs < 0.8
    bare = replace(policy, made_for=MadeFor(steps=profile.steps))
    assert len(export(bare, engine, Facts(profile=profile)).masks) == 2, "the profile tells what the policy does not"
