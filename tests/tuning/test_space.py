from dataclasses import replace

import numpy as np
import pytest

from pabtune.planning.masks import resolve
from pabtune.planning.presets import PRESETS
from pabtune.planning.units import units_of
from pabtune.records.errors import ProfileError
from pabtune.records.profiles import Profile
from pabtune.tuning.space import SUGGESTED_CHANGES, Space
from tests.conftest import STEPS


@pytest.mark.parametrize("has_guidance", [False, True])
def test_every_corner_of_the_space_is_a_policy(profile, has_guidance) -> None:
    space = Space(profile, has_guidance=has_guidance)
    rng = np.random.default_rng(0)
    parameters = space.parameters()
    for _ in range(200):
        values = {
            p.name: str(rng.choice(p.choices)) if p.choices else int(rng.choice([p.low, p.high])) for p in parameters
        }
        policy = space.policy(values, "corner")
        mask = resolve(policy, (*profile.sites, *units_of(policy, profile.sites)), space.schedule())
        assert mask.compute[:, 0].all()
        assert {"guidance", "stack"} & {site.kind for site in mask.sites} <= {"stack", *(["guidance"] * has_guidance)}


def test_first_trials_are_valid_and_hold_the_presets_exactly(profile) -> None:
    space = Space(profile)
    bounds = {parameter.name: parameter for parameter in space.parameters()}
    first = dict(space.first_trials())
    assert list(first)[:4] == ["no broadcast", "preset pab246", "preset pab357", "preset pab579"]
    assert any(origin.startswith("profile at") for origin in first)
    for values in first.values():
        assert set(values) == set(bounds)
        for name, value in values.items():
            limits = bounds[name]
            assert value in limits.choices if limits.choices else limits.low <= value <= limits.high
    assert not space.policy(first["no broadcast"], "none").rules
    for name in ("pab246", "pab357"):
        found = resolve(space.policy(first[f"preset {name}"], name), profile.sites, space.schedule())
        paper = resolve(PRESETS[name], profile.sites, space.schedule())
        assert (found.compute == paper.compute).all()


def drifting(profile: Profile, per_step: float) -> Profile:
    """A profile with flat curves, whose outputs drift apart by so much with each step between them."""
    apart = np.abs(np.subtract.outer(np.arange(STEPS), np.arange(STEPS)))
    arrays = {
        **profile.arrays,
        "change": np.ones_like(profile.arrays["change"]),
        "distance": np.broadcast_to(per_step * apart, profile.arrays["distance"].shape),
    }
    return replace(profile, arrays=arrays)


@pytest.mark.parametrize(
    ("per_step", "ranges"),
    [(0.0, [7, 7, 7, 7]), (0.0019, [2, 2, 3, 6]), (0.0021, [1, 2, 3, 5]), (0.02, [1, 1, 1, 1])],
)
def test_suggestions_broadcast_as_far_as_outputs_hardly_move(profile, per_step, ranges) -> None:
    """Range n serves n-1 steps: the largest n - 1 whose distance is within 0.002, 0.003, 0.005, 0.01."""
    first = dict(Space(drifting(profile, per_step)).first_trials())
    for limit, n in zip(SUGGESTED_CHANGES, ranges, strict=True):
        values = first[f"profile at {limit:g}"]
        for kind in ("spatial", "temporal", "cross", "mlp"):
            assert values[f"{kind}.range"] == n
            assert (values[f"{kind}.start"], values[f"{kind}.stop"]) == (1, STEPS)


def test_a_content_class_gets_suggestions_of_its_own(profile) -> None:
    quiet, loud = drifting(profile, 0.0).arrays, drifting(profile, 1.0).arrays
    distance = np.array(quiet["distance"])
    distance[profile.contents.index("fast")] = loud["distance"][0]
    mixed = replace(profile, arrays={**quiet, "distance": distance})
    ranges = {
        content: dict(Space(mixed, content).first_trials())["profile at 0.01"]["mlp.range"]
        for content in ("still", "fast", None)
    }
    assert ranges == {"still": STEPS - 1, "fast": 1, None: 1}


def test_windows_of_a_content_class_are_its_own(profile) -> None:
    change = np.ones_like(profile.arrays["change"])
    change[profile.contents.index("fast"), ..., 1:4] = 20.0
    changed = replace(profile, arrays={**drifting(profile, 0.0).arrays, "change": change})
    starts = {
        content: dict(Space(changed, content).first_trials())["profile at 0.01"]["mlp.start"]
        for content in ("still", "fast")
    }
    assert starts == {"still": 1, "fast": 4}


def test_too_few_steps_are_refused(profile) -> None:
    few = replace(profile.made_for, steps=3, sigmas=None)
    arrays = {
        name: array[..., :3, :3] if name == "distance" else array[..., :3] for name, array in profile.arrays.items()
    }
    with pytest.raises(ProfileError, match="needs at least 4"):
        Space(replace(profile, made_for=few, arrays=arrays))


def test_with_several_ways_of_keeping_outputs_each_is_tried_first(profile) -> None:
    space = Space(profile, stores=("exact", "int8"))
    first = dict(space.first_trials())
    assert {space.policy(values, origin).store for origin, values in first.items()} == {"exact", "int8"}
    assert all(set(values) == {each.name for each in space.parameters()} for values in first.values())
    assert (
        Space(profile, stores=("int8",)).policy(dict(Space(profile).first_trials())["no broadcast"], "p").store
        == "int8"
    )
    assert not any(each.name == "store" for each in Space(profile).parameters())


def test_a_suggestion_goes_by_the_mean_distance_over_the_window(profile) -> None:
    """Fault 27: every second step moves by 0.03, the others not at all: more than 0.01 in the mean."""
    quiet = drifting(profile, 0.0)
    distance = np.array(quiet.arrays["distance"])
    for step in range(1, STEPS, 2):
        distance[..., step, step - 1] = 0.03
    uneven = replace(quiet, arrays={**quiet.arrays, "distance": distance})
    assert dict(Space(uneven).first_trials())["profile at 0.01"]["mlp.range"] == 1


@pytest.mark.parametrize(("first", "count", "layers"), [(0, 1, (0,)), (1, 1, (1,)), (1, 2, (1,)), (0, 2, None)])
def test_a_run_of_layers_is_chosen(profile, first, count, layers) -> None:
    space = Space(profile)
    values = dict(space.first_trials())["preset pab246"] | {
        "mlp.range": 2,
        "mlp.first_layer": first,
        "mlp.layers": count,
    }
    (rule,) = (rule for rule in space.policy(values, "p").rules if rule.kind == "mlp")
    assert rule.layers == layers


def test_with_few_steps_parts_of_the_blocks_are_held_in_turns(profile) -> None:
    space = Space(profile)
    parts = {
        origin: space.policy(values, "part").rules for origin, values in space.first_trials() if "in turns" in origin
    }
    assert set(parts) == {"layers 0..1 in turns", "layers 1..1 in turns", "layers 0..0 in turns"}
    for (rule,) in parts.values():
        assert (rule.kind, rule.range, rule.window) == ("stack", 2, (STEPS // 2, STEPS - 1))
    assert parts["layers 0..1 in turns"][0].layers is None
    assert parts["layers 1..1 in turns"][0].layers == (1,)
