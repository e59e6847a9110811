from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from pabtune.records.errors import FileError, ProfileError
from pabtune.records.policies import MadeFor
from pabtune.records.profiles import Call, Profile
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
        site_bytes=(1000, 500),
        site_int8_bytes=(300, 150),
        call=Call(per_step=1, samples=2, shape=(4, 3, 8, 8)),
        sketch={"projections": 32, "median_relative_error": 0.1, "p95_relative_error": 0.3},
        overhead=1.2,
    )


def test_files_give_the_same_profile_back(tmp_path: Path) -> None:
    profile = make_profile()
    profile.save(tmp_path / "p.json")
    again = Profile.load(tmp_path / "p.json")
    assert again.digest == profile.digest
    assert (again.call, again.sites, again.site_bytes) == (profile.call, profile.sites, profile.site_bytes)
    assert all((again.arrays[name] == array).all() for name, array in profile.arrays.items())


def with_sensitivity(profile: Profile, **changes) -> Profile:
    p, n = len(profile.seeds), profile.steps
    arrays = {
        "products": np.ones((p, n, n)), "keeps": np.ones(n), "rates": np.ones(n), "gains": np.full((p, n), np.nan)
    }  # fmt: skip
    return replace(profile, arrays={**profile.arrays, **arrays, **changes})


def test_profiles_with_and_without_what_ranks_schedules_are_read(tmp_path: Path) -> None:
    """Those made before whole calls were measured stay as they were, and so do their digests."""
    profile = make_profile()
    for each, has in ((profile, False), (with_sensitivity(profile), True)):
        each.save(tmp_path / "p.json")
        again = Profile.load(tmp_path / "p.json")
        assert (again.has_sensitivity, again.digest) == (has, each.digest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"products": np.ones((2, N, N + 1))}, "arrays must have the shapes"),
        ({"gains": np.ones((1, N))}, "arrays must have the shapes"),
        ({"keeps": np.full(N, np.nan)}, "`keeps` must be finite"),
        ({"products": np.full((2, N, N), np.inf)}, "`products` must be finite"),
        ({"gains": np.full((2, N), -1.0)}, "`gains` must be finite, and gains not negative"),
    ],
)
def test_measurements_of_whole_calls_are_checked(changes, message) -> None:
    with pytest.raises(ProfileError, match=message):
        with_sensitivity(make_profile(), **changes)
    without = {name: array for name, array in with_sensitivity(make_profile()).arrays.items() if name != "rates"}
    with pytest.raises(ProfileError, match="arrays must have the shapes"):
        replace(make_profile(), arrays=without)


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


def with_array(profile: Profile, name: str, value: float) -> dict:
    arrays = {key: array.copy() for key, array in profile.arrays.items()}
    arrays[name].flat[1] = value
    return {"arrays": arrays}


def of_type(profile: Profile, name: str, dtype: type) -> dict:
    """Fault 19: numbers of 16 bits overflow, and numpy warned of it."""
    return {"arrays": {**profile.arrays, name: profile.arrays[name].astype(dtype)}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"arrays": {**p.arrays, "seconds": np.zeros((3, N), np.float32)}}, "arrays must have the shapes"),
        (lambda p: {"arrays": {"seconds": p.arrays["seconds"]}}, "arrays must have the shapes"),
        (lambda p: {"site_flops": (1,)}, "`site_flops` must have one entry for each of 2 sites"),
        (lambda p: {"site_bytes": (1, 2, 3)}, "`site_bytes` must have one entry"),
        (lambda p: {"site_int8_bytes": ()}, "`site_int8_bytes` must have one entry"),
        (lambda p: {"made_for": replace(p.made_for, sigmas=(1.0,))}, "5 steps need as many noise levels, but it has 1"),
        (lambda p: {"prompts": {"fast": 2}}, "`prompts` must count those of still"),
        (lambda p: {"total_flops": 0}, "`total_flops` is 0"),
        (lambda p: with_array(p, "seconds", -1.0), "`seconds` must be finite and not negative"),
        (lambda p: with_array(p, "seconds", np.nan), "`seconds` must be finite"),
        (lambda p: with_array(p, "step_seconds", 0.0), "each of `step_seconds` must be over 0"),
        (lambda p: with_array(p, "step_seconds", np.inf), "each of `step_seconds` must be over 0"),
        (lambda p: of_type(p, "change", np.float16), "`change` must hold numbers of type float32 or float64"),
        (lambda p: of_type(p, "seconds", np.int32), "`seconds` must hold numbers of type float32"),
    ],
)
def test_measurements_that_do_not_fit_one_another_are_refused(change, message) -> None:
    """Fault 19: lists and arrays of other sizes, and seconds that are 0, were tracebacks of predictions."""
    profile = make_profile()
    with pytest.raises(ProfileError, match=message):
        replace(profile, **change(profile))


@pytest.mark.parametrize("name", ["wan2.1", "profile.safetensors", "profile"])
def test_a_name_whose_arrays_another_profile_might_have_is_refused(tmp_path: Path, name) -> None:
    """`wan2.1` and `wan2.2` shared their arrays, from Python too."""
    with pytest.raises(FileError, match=r"must end in \.json"):
        make_profile(8).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_kill_between_the_two_files_leaves_the_old_profile(tmp_path: Path, monkeypatch) -> None:
    """Its arrays were the new one's by then, and neither could be read."""
    old, new = make_profile(), make_profile()
    new.arrays["seconds"][0, 0] += 1
    old.save(tmp_path / "p.json")

    def kill(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pabtune.records.profiles.save_json", kill)
        with pytest.raises(KeyboardInterrupt):
            new.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json").digest == old.digest
    new.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json").digest == new.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "p.safetensors"]


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch) -> None:
    def full(*_) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("pabtune.records.profiles.save_file", full)
    with pytest.raises(FileError, match="cannot write here: I/O error: No space left"):
        make_profile().save(tmp_path / "p.json")
