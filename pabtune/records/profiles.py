"""A profile: what was measured of a model while it denoised. Facts only; costs and predictions are computed from it.

Arrays, by name (c content classes, b branches, s sites, n steps); the first step has no predecessor and holds 0, NaN stands
where nothing can be compared: a site was not called, or its output had another shape before:

- `mse` (c, b, s, n): mean squared difference of a site's output from the step before (the measure of the PAB paper);
- `change` (c, b, s, n): the same over the mean square of the output, without unit;
- `distance` (c, b, s, n, n): relative squared distance of the outputs of two steps, estimated from sketches;
- `seconds` (s, n): time in the site and its feeders, summed over the branches, per prompt;
- `step_seconds` (n,): time in the whole transformer, summed over the branches, per prompt.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pabtune.records.errors import ProfileError
from pabtune.records.files import digest, load_json, save_json, write_atomically
from pabtune.records.policies import MadeFor, Store
from pabtune.records.sites import Site

SCHEMA = "pabtune.profile/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class StableWindow:
    """What a curve of change over steps looks like.

    Attributes:
        shape: `u` (high at both ends), `left` or `right` (high at one end), `flat`, or `noisy`.
        start: first stable step; None when noisy.
        stop: step behind the last stable one; None when noisy.
        floor: level of change in the stable part.
        limit: level below which a step counted as stable.
    """

    shape: str
    start: int | None
    stop: int | None
    floor: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """How the transformer is called for one prompt.

    Attributes:
        per_step: calls in a step.
        samples: that go through it in a step, over these calls: 2 with guidance.
        shape: of its first argument, without the samples.
    """

    per_step: int
    samples: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Measurements of one model with one schedule on some prompts.

    Attributes:
        name: for people.
        model: what `pabtune` was asked to load.
        made_for: transformer, fingerprint, schedule and settings of the run.
        sites: in the order of the arrays.
        branches: in the order of the arrays.
        contents: content classes, in the order of the arrays.
        prompts: number of prompts per content class.
        seeds: one per prompt.
        arrays: see the module's description.
        site_flops: of one call of each site for one prompt, all branches together.
        total_flops: of one step of the transformer for one prompt, all branches together.
        windows: per content class and kind.
        ranking: kinds from the least to the most change, with the level of change in the middle and the margin to
            the next.
        sketch: number of projections, and error of sketched against exact distances of neighbouring steps.
        overhead: time of the profiled runs over plain generation.
        provenance: versions, prompts' digest, device.
        site_bytes: of one output of each site for one prompt, all branches together; empty in profiles of old.
        site_int8_bytes: the same for outputs that are kept in 8 bits.
        call: of the transformer; None in profiles of old.
    """

    name: str
    model: str
    made_for: MadeFor
    sites: tuple[Site, ...]
    branches: tuple[str, ...]
    contents: tuple[str, ...]
    prompts: Mapping[str, int]
    seeds: tuple[int, ...]
    arrays: Mapping[str, NDArray[np.float32]]
    site_flops: tuple[int, ...]
    total_flops: int
    windows: Mapping[str, Mapping[str, StableWindow]]
    ranking: tuple[Mapping[str, Any], ...]
    sketch: Mapping[str, float]
    overhead: float
    provenance: Mapping[str, Any] = field(default_factory=dict)
    site_bytes: tuple[int, ...] = ()
    site_int8_bytes: tuple[int, ...] = ()
    call: Call | None = None

    def __post_init__(self) -> None:
        c, b, s, n = (len(self.contents), len(self.branches), len(self.sites), self.steps)
        expected = {
            "mse": (c, b, s, n),
            "change": (c, b, s, n),
            "distance": (c, b, s, n, n),
            "seconds": (s, n),
            "step_seconds": (n,),
        }
        found = {name: array.shape for name, array in self.arrays.items()}
        if found != expected:
            raise ProfileError(f"profile {self.name!r}: arrays must have the shapes {expected}, but have {found}")
        if len(self.site_flops) != s:
            raise ProfileError(f"profile {self.name!r}: {s} sites need as many FLOP counts, not {len(self.site_flops)}")

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return self.made_for.steps or 0

    @property
    def digest(self) -> str:
        """Checksum of everything but the name, and of `call`, which files of old do not tell."""
        document = self._document("", _checksum(self.arrays))
        return digest({key: value for key, value in document.items() if key != "call"})

    def save(self, path: str | Path) -> None:
        """Writes `path` and, beside it, the arrays as `.safetensors`; each atomically.

        Raises:
            FileError: the place cannot be written to.
        """
        path = Path(path)
        arrays = path.with_suffix(".safetensors")
        contiguous = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        write_atomically(arrays, lambda partial: save_file(contiguous, partial))
        save_json(path, self._document(arrays.name, _checksum(self.arrays)))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a profile and its arrays.

        Raises:
            ProfileError: a file is missing, broken, of another schema, or the two do not belong together.
        """
        path = Path(path)
        document = load_json(path, SCHEMA, ProfileError)
        beside = path.parent / document["arrays"]["file"]
        try:
            arrays = load_file(beside)
        except (OSError, SafetensorError) as error:
            raise ProfileError(f"{beside}: cannot read the arrays of {path}: {error}") from error
        if _checksum(arrays) != document["arrays"]["checksum"]:
            raise ProfileError(f"{beside}: does not belong to {path} (other checksum); profile again")
        sites = tuple(Site.from_document(site) for site in document["sites"])
        windows = {
            content: {kind: StableWindow(**window) for kind, window in kinds.items()}
            for content, kinds in document["windows"].items()
        }
        plain = ("name", "model", "prompts", "total_flops", "sketch", "overhead", "provenance")
        lists = ("branches", "contents", "seeds", "site_flops", "ranking")
        values: dict[str, Any] = {key: document[key] for key in plain} | {key: tuple(document[key]) for key in lists}
        return cls(
            made_for=MadeFor.from_document(document["made_for"]),
            sites=sites,
            arrays=arrays,
            windows=windows,
            site_bytes=tuple(document.get("site_bytes", ())),
            site_int8_bytes=tuple(document.get("site_int8_bytes", ())),
            call=_call(document.get("call")),
            **values,
        )

    def bytes_kept(self, store: Store) -> tuple[int, ...]:
        """Of one output of each site for one prompt, all branches together, kept that way; empty if not known."""
        return self.site_int8_bytes if store == "int8" else self.site_bytes

    def _sizes(self) -> dict[str, tuple[int, ...]]:
        return {"site_bytes": self.site_bytes, "site_int8_bytes": self.site_int8_bytes}

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
            **{name: list(sizes) for name, sizes in self._sizes().items() if sizes},
            **({} if self.call is None else {"call": {**asdict(self.call), "shape": list(self.call.shape)}}),
            "windows": {
                content: {kind: asdict(window) for kind, window in kinds.items()}
                for content, kinds in self.windows.items()
            },
            "ranking": [dict(row) for row in self.ranking],
            "sketch": dict(self.sketch),
            "overhead": self.overhead,
            "provenance": dict(self.provenance),
        }


def _call(document: Mapping[str, Any] | None) -> Call | None:
    return None if document is None else Call(**{**document, "shape": tuple(document["shape"])})


def _checksum(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    total = sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return "sha256:" + total.hexdigest()
