from dataclasses import replace

import numpy as np
import pytest

from pabtune.planning.masks import resolve
from pabtune.planning.presets import PRESETS
from pabtune.records.errors import ProfileError
from pabtune.tuning.space import LARGEST_RANGE, Space


def test_every_corner_of_the_space_is_a_policy(profile) -> None:
    space = Space(profile)
    rng = np.random.default_rng(0)
    parameters = space.parameters()
    for _ in range(200):
        values = {
            p.name: str(rng.choice(p.choices)) if p.choices else int(rng.choice([p.low, p.high])) for p in parameters
        }
        mask = resolve(space.policy(values, "corner"), profile.sites, space.schedule())
        assert mask.compute[:, 0].all()


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


def test_suggestions_broadcast_more_where_less_changes(profile) -> None:
    quiet = replace(profile, arrays={**profile.arrays, "distance": np.zeros_like(profile.arrays["distance"])})
    loud = replace(profile, arrays={**profile.arrays, "distance": np.ones_like(profile.arrays["distance"])})
    for changed, expected in ((quiet, {LARGEST_RANGE, 7, 6, 5, 4, 3, 2}), (loud, {1})):
        values = dict(Space(changed).first_trials())["profile at 0.01"]
        ranges = {value for name, value in values.items() if name.endswith(".range")}
        assert ranges <= expected | {1}
        assert (
            expected == {1}
            or max(ranges) > 1
            or all(window.start is None for window in profile.windows["all"].values())
        )


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
