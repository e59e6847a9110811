from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pabtune.records.errors import ProfileError
from pabtune.records.policies import MadeFor
from pabtune.records.profiles import Call, Profile, StableWindow
from pabtune.records.sites import Site

N = 5


def make_profile(steps: int = N) -> Profile:
    rng = np.random.default_rng(0)
    shapes = {
        "mse": (1, 2, 2, steps),
        "change": (1, 2, 2, steps),
        "distance": (1, 2, 2, steps, steps),
        "seconds": (2, steps),
        "step_seconds": (steps,),
    }
    return Profile(
        name="made-up",
        model="shapes",
        made_for=MadeFor(
            model="STDiT3Transformer3DModel",
            fingerprint="sha256:" + "0" * 64,
            steps=steps,
            scheduler="FlowMatchEulerDiscreteScheduler",
            sigmas=tuple(np.linspace(1, 0.1, steps).tolist()),
        ),
        sites=(
            Site(path="spatial_blocks.0.attn", kind="spatial", layer=0, feeders=("spatial_blocks.0.norm1",)),
            Site(path="spatial_blocks.0.mlp", kind="mlp", layer=0),
        ),
        branches=("cond", "uncond"),
        contents=("still",),
        prompts={"still": 2},
        seeds=(0, 1),
        arrays={name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()},
        site_flops=(30, 50),
        total_flops=100,
        windows={"all": {"spatial": StableWindow(shape="u", start=1, stop=4, floor=0.1, limit=0.2)}},
        ranking=({"kind": "spatial", "change": 0.1, "margin": None},),
        sketch={"projections": 32, "median_relative_error": 0.1, "p95_relative_error": 0.3},
        overhead=1.2,
    )


def test_files_give_the_same_profile_back(tmp_path: Path) -> None:
    profile = make_profile()
    profile.save(tmp_path / "p.json")
    again = Profile.load(tmp_path / "p.json")
    assert again.digest == profile.digest
    assert (again.windows, again.sites) == (profile.windows, profile.sites)
    assert all((again.arrays[name] == array).all() for name, array in profile.arrays.items())


def test_arrays_of_another_profile_are_refused(tmp_path: Path) -> None:
    make_profile().save(tmp_path / "p.json")
    other = make_profile()
    other.arrays["seconds"][0, 0] += 1
    other.save(tmp_path / "q.json")
    (tmp_path / "q.safetensors").replace(tmp_path / "p.safetensors")
    with pytest.raises(ProfileError, match="does not belong to"):
        Profile.load(tmp_path / "p.json")
    (tmp_path / "p.safetensors").write_bytes(b"short")
    with pytest.raises(ProfileError, match="cannot read the arrays"):
        Profile.load(tmp_path / "p.json")


def test_arrays_of_the_wrong_shape_are_refused() -> None:
    profile = make_profile()
    with pytest.raises(ProfileError, match="arrays must have the shapes"):
        replace(profile, arrays={**profile.arrays, "seconds": np.zeros((3, N), np.float32)})
    with pytest.raises(ProfileError, match="need as many FLOP counts"):
        replace(profile, site_flops=(1,))


def test_how_the_transformer_is_called_may_be_told_later(tmp_path) -> None:
    """A file of old that gets it is still the profile that policies name."""
    old = make_profile()
    told = replace(old, call=Call(per_step=2, samples=2, shape=(16, 3, 4, 4)))
    assert told.digest == old.digest
    told.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json").call == told.call
    assert Profile.load(tmp_path / "p.json").digest == old.digest
