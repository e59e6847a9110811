"""A profile: what was measured of a model while it denoised. Facts only; costs and predictions are computed from it.

Arrays, by name (c content classes, b branches, s sites, n steps); the first step has no predecessor and holds 0, NaN stands
where nothing can be compared: a site was not called, or its output had another shape before:

- `mse` (c, b, s, n): mean squared difference of a site's output from the step before (the measure of the PAB paper);
- `change` (c, b, s, n): the same over the mean square of the output, without unit. A mean over samples of a quotient, so that
  it does not follow from the mean `mse`: both are stored;
- `distance` (c, b, s, n, n): relative squared distance of the outputs of two steps, estimated from sketches;
- `seconds` (s, n): time in the site and its feeders, summed over the branches, per prompt;
- `step_seconds` (n,): time in the entire transformer, summed over the branches, per prompt.

All of these or none, of whole calls, of p prompts in the order of `seeds`; what guidance puts together of a step's calls is
its output. Files made before they were measured, and those of models whose latents do not follow from outputs, have none:

- `products` (p, n, n): inner products of the outputs of two steps, per number of the latents;
- `keeps` (n,), `rates` (n,): how much of the latents before it, and of its output, a step makes the next latents of;
- `gains` (p, n): how far an error made at a step moves the final latents: size of the one over that of the other. A few
  are measured, NaN stands for the others.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pabtune.records.errors import FileError, ProfileError, first_line
from pabtune.records.files import check_document, digest, load_json, save_json, write_atomically
from pabtune.records.policies import MadeFor, Store
from pabtune.records.sites import Site
from pabtune.records.upgrades import upgrade

SCHEMA = "pabtune.profile/2"

ASKED_STEPS = "num_inference_steps"
"""Of the settings: what the pipeline's calls were asked for, where their schedule has another number of steps."""

NO_SENSITIVITY = "no_sensitivity"
"""Key of the provenance that says why the arrays of `SENSITIVITY` are not there."""

SENSITIVITY = ("products", "keeps", "rates", "gains")
"""Arrays from which schedules of whole calls are ranked."""

SETTINGS: Mapping[str, type] = {"arguments": dict, "dtype": str, "attention": str}
"""Settings of the measured run that a search of its model takes over."""

LARGEST_DIFFERENCE = 1e30
"""Of outputs that are numbers: squares of 1e15."""

SHORTEST_S, LONGEST_S = 1e-9, 1e9
"""Times beyond these were not measured by a clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """How the transformer is called for one prompt.

    Attributes:
        per_step: calls in a step.
        samples: passed through it in a step, over all calls: 2 with guidance.
        shape: of its first argument, without the samples.
        output_bytes: of what it puts out in a step, over all calls; None in profiles made before it was measured.
        output_int8_bytes: the same for outputs kept in 8 bits.
    """

    per_step: int
    samples: int
    shape: tuple[int, ...]
    output_bytes: int | None = None
    output_int8_bytes: int | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The call of a checked document."""
        return cls(**{**document, "shape": tuple(document["shape"])})

    def to_document(self) -> dict[str, Any]:
        """The call as JSON; what was not measured is left out, as it was when files had no place for it."""
        return {
            key: list(value) if key == "shape" else value for key, value in asdict(self).items() if value is not None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Measurements of one model with one schedule on some prompts.

    Attributes:
        name: for people.
        model: name or path from which `pabtune` loads the model.
        made_for: transformer, fingerprint, schedule and settings of the measured run.
        sites: in the order of the arrays.
        branches: in the order of the arrays.
        contents: content classes, in the order of the arrays.
        prompts: number of prompts per content class.
        seeds: one per prompt.
        arrays: see the module's description.
        site_flops: FLOPs of one call of each site for one prompt, summed over the branches.
        total_flops: FLOPs of one step of the transformer for one prompt, summed over the branches.
        sketch: number of projections, and error of sketched against exact distances of neighbouring steps.
        overhead: time of the profiled runs, and of runs with a broken step, over plain generation.
        site_bytes: bytes of one output of each site for one prompt, summed over the branches.
        site_int8_bytes: the same for outputs kept in 8 bits.
        call: how the transformer is called.
        provenance: versions, prompts' digest, device.
    """

    name: str
    model: str
    made_for: MadeFor
    sites: tuple[Site, ...]
    branches: tuple[str, ...]
    contents: tuple[str, ...]
    prompts: Mapping[str, int]
    seeds: tuple[int, ...]
    arrays: Mapping[str, NDArray[np.floating[Any]]]
    site_flops: tuple[int, ...]
    total_flops: int
    site_bytes: tuple[int, ...]
    site_int8_bytes: tuple[int, ...]
    call: Call
    sketch: Mapping[str, float]
    overhead: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_names(self)
        _check_values(self)

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return self.made_for.steps or 0

    @property
    def asked_steps(self) -> int:
        """`num_inference_steps` of the pipeline's calls; schedulers such as PNDM and Heun make more denoising steps of it."""
        asked = self.made_for.settings.get(ASKED_STEPS, self.steps)
        return asked if isinstance(asked, int) else self.steps

    @property
    def has_sensitivity(self) -> bool:
        """Whether schedules of whole calls can be ranked by it."""
        return SENSITIVITY[0] in self.arrays

    @property
    def digest(self) -> str:
        """Checksum of everything but the name of the arrays' file."""
        return digest(self._document("", checksum_of(self.arrays)))

    def save(self, path: str | Path) -> None:
        """Writes `path` and, beside it, the arrays as `.safetensors`; a kill leaves the old profile or the new one.

        Raises:
            FileError: the name does not end in `.json`, so that arrays of others might have theirs, or the place cannot be
                written to.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise FileError(f"{path}: the name of a profile's file must end in .json")
        arrays = path.with_suffix(".safetensors")
        contiguous = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}

        def write(partial: Path) -> None:
            try:
                save_file(contiguous, partial)
            except SafetensorError as error:  # its way to say that the disk is full
                raise OSError(first_line(error)) from error

        earlier = _earlier(arrays)
        if arrays.is_file():
            write_atomically(earlier, lambda partial: shutil.copyfile(arrays, partial))
        write_atomically(arrays, write)
        save_json(path, self._document(arrays.name, checksum_of(self.arrays)))
        earlier.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a profile and its arrays.

        Raises:
            ProfileError: a file is missing, broken, of another schema, or the two do not belong together.
        """
        path = Path(path)
        document = load_json(path, SCHEMA, ProfileError, upgrade)
        name = document["arrays"]["file"]
        beside = path.parent / name
        if os.path.basename(name) != name:
            raise ProfileError(f"{path}: arrays.file: must name a file beside it, but is {name!r}")
        try:
            arrays = load_file(beside)
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ProfileError(f"{beside}: cannot read the arrays of {path}: {first_line(error)}") from error
        if checksum_of(arrays) != document["arrays"]["checksum"] and _earlier(beside).is_file():
            with suppress(OSError, SafetensorError):  # `save` was killed before it wrote the new file
                arrays = load_file(_earlier(beside))
        if checksum_of(arrays) != document["arrays"]["checksum"]:
            raise ProfileError(f"{beside}: does not belong to {path} (other checksum); profile again")
        return cls._of(document, arrays)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[np.floating[Any]]]) -> Self:
        """The profile of a JSON document and its arrays.

        Raises:
            ProfileError: the document is of another schema, or holds an unknown key or a wrong value.
        """
        return cls._of(check_document(document, "profile", SCHEMA, ProfileError, upgrade), arrays)

    @classmethod
    def _of(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[np.floating[Any]]]) -> Self:
        plain = ("name", "model", "prompts", "total_flops", "sketch", "overhead", "provenance")
        lists = ("branches", "contents", "seeds", "site_flops", "site_bytes", "site_int8_bytes")
        values: dict[str, Any] = {key: document[key] for key in plain} | {key: tuple(document[key]) for key in lists}
        return cls(
            made_for=MadeFor.from_document(document["made_for"]),
            sites=tuple(Site.from_document(site) for site in document["sites"]),
            arrays=arrays,
            call=Call.from_document(document["call"]),
            **values,
        )

    def bytes_kept(self, store: Store) -> tuple[int, ...]:
        """Bytes kept per site and prompt under `store`, summed over the branches."""
        return self.site_int8_bytes if store == "int8" else self.site_bytes

    def _document(self, arrays_file: str, checksum: str) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "model": self.model,
            "made_for": self.made_for.to_document(),
            "sites": [site.to_document() for site in self.sites],
            "branches": list(self.branches),
            "contents": list(self.contents),
            "prompts": dict(self.prompts),
            "seeds": list(self.seeds),
            "arrays": {"file": arrays_file, "checksum": checksum},
            "site_flops": list(self.site_flops),
            "total_flops": self.total_flops,
            "site_bytes": list(self.site_bytes),
            "site_int8_bytes": list(self.site_int8_bytes),
            "call": self.call.to_document(),
            "sketch": dict(self.sketch),
            "overhead": self.overhead,
            "provenance": dict(self.provenance),
        }


def _check_sizes(profile: Profile) -> None:
    """Checks that arrays and lists fit one another."""
    source = f"profile {profile.name!r}"
    c, b, s, n = (len(profile.contents), len(profile.branches), len(profile.sites), profile.steps)
    expected = {
        "mse": (c, b, s, n),
        "change": (c, b, s, n),
        "distance": (c, b, s, n, n),
        "seconds": (s, n),
        "step_seconds": (n,),
    }
    if any(name in profile.arrays for name in SENSITIVITY):
        p = len(profile.seeds)
        expected |= {"products": (p, n, n), "keeps": (n,), "rates": (n,), "gains": (p, n)}
    shapes = {name: array.shape for name, array in profile.arrays.items()}
    if shapes != expected:
        raise ProfileError(f"{source}: arrays must have the shapes {expected}, but have {shapes}")
    for name, array in profile.arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise ProfileError(
                f"{source}: `{name}` must hold numbers of type float32 or float64, but holds {array.dtype}"
            )
    for name in ("site_flops", "site_bytes", "site_int8_bytes"):
        if len(getattr(profile, name)) != s:
            raise ProfileError(f"{source}: `{name}` must have one entry for each of {s} sites")
    if profile.made_for.sigmas is not None and len(profile.made_for.sigmas) != n:
        raise ProfileError(f"{source}: {n} steps need as many noise levels, but it has {len(profile.made_for.sigmas)}")


def _check_names(profile: Profile) -> None:
    """Checks sites, content classes, FLOPs and settings."""
    source = f"profile {profile.name!r}"
    if len({site.name for site in profile.sites}) != len(profile.sites):
        raise ProfileError(f"{source}: each of `sites` must be named once")
    if set(profile.prompts) != set(profile.contents):
        raise ProfileError(f"{source}: `prompts` must count those of {', '.join(profile.contents)}")
    if profile.total_flops < 1:
        raise ProfileError(f"{source}: a step must take some FLOPs, but `total_flops` is {profile.total_flops}")
    for name, kind in SETTINGS.items():
        if not isinstance(profile.made_for.settings.get(name, kind()), kind):
            raise ProfileError(f"{source}: made_for.settings.{name} must be {'text' if kind is str else 'an object'}")


def _check_values(profile: Profile) -> None:
    """Checks that differences are none below 0, and that times are times: predictions divide by them."""
    source, arrays = f"profile {profile.name!r}", profile.arrays
    for name in ("mse", "change", "distance"):
        if not (np.isnan(arrays[name]) | (0 <= arrays[name]) & (arrays[name] <= LARGEST_DIFFERENCE)).all():
            raise ProfileError(f"{source}: `{name}` must be from 0 to {LARGEST_DIFFERENCE:g}, or NaN; profile again")
    if not ((0 <= arrays["seconds"]) & (arrays["seconds"] <= LONGEST_S)).all():
        raise ProfileError(f"{source}: `seconds` must be finite and not negative; profile again")
    for name in SENSITIVITY if profile.has_sensitivity else ():
        values = arrays[name][~np.isnan(arrays[name])] if name == "gains" else arrays[name]
        if not (np.abs(values) <= LARGEST_DIFFERENCE).all() or (name == "gains" and (values < 0).any()):
            raise ProfileError(f"{source}: `{name}` must be finite, and gains not negative; profile again")
    if not ((SHORTEST_S <= arrays["step_seconds"]) & (arrays["step_seconds"] <= LONGEST_S)).all():
        raise ProfileError(f"{source}: each of `step_seconds` must be over 0 and finite; profile again")


def _earlier(arrays: Path) -> Path:
    """Where the arrays of the profile before lie while a new one takes its place."""
    return arrays.with_name(f".{arrays.stem}.earlier.safetensors")


def checksum_of(arrays: Mapping[str, NDArray[np.floating[Any]]]) -> str:
    """`sha256:` and the checksum of arrays, by which a profile knows its own."""
    total = sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return "sha256:" + total.hexdigest()
