"""How several GPUs share a video: samples by guidance branches by parts of the sequence, as a record and as a file."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pabtune.records.errors import ParallelError
from pabtune.records.files import load_json, save_json

SCHEMA = "pabtune.layout/1"

Axis = Literal["frames", "tokens", "sequence"]
"""Frames of the latents, tokens of each frame, or under full attention the tokens of the entire video."""

SequenceParallel = Literal["dsp", "ulysses", "megatron-sp"]
"""Methods of sequence parallelism: how attention along the split axis exchanges."""

SEQUENCE_PARALLELS: tuple[SequenceParallel, ...] = get_args(SequenceParallel)

Decode = Literal["frames", "tiles", "alone"]
"""How the VAE's decoding is shared: by what it decodes independently, by blended tiles too, or not at all."""

DECODES: tuple[Decode, ...] = get_args(Decode)

MOST_BRANCHES = 2
"""Classifier-free guidance has a conditional and an unconditional branch."""

AXIS_NAMES: dict[Axis | None, str] = {
    "frames": "frames", "tokens": "tokens of each frame", "sequence": "all tokens", None: "the sequence",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelLayout:
    """Layout of the GPUs that share a video: `samples` x `branches` x `sequence`.

    Attributes:
        samples: parts into which the samples of a call are split.
        branches: parts into which the guidance branches are split: 1, or 2 for CFG parallelism.
        sequence: parts into which the video itself is split.
        axis: the axis that is split; None = not chosen yet: the one that suits the policy.
        exchange: how attention along that axis exchanges; along `sequence` always `ulysses`.
        decode: how the VAE's decoding is shared.

    Raises:
        ParallelError: a value is out of range, or two of them contradict each other.
    """

    samples: int = 1
    branches: int = 1
    sequence: int = 1
    axis: Axis | None = None
    exchange: SequenceParallel = "dsp"
    decode: Decode = "frames"

    def __post_init__(self) -> None:
        for name in ("samples", "branches", "sequence"):
            if getattr(self, name) < 1:
                raise ParallelError(f"layout: `{name}` must be 1 or more, but is {getattr(self, name)}")
        if self.branches > MOST_BRANCHES:
            raise ParallelError(f"layout: `branches` must be 1 or 2, but is {self.branches}")
        for name, values in (("axis", (None, *get_args(Axis))), ("exchange", SEQUENCE_PARALLELS), ("decode", DECODES)):
            if getattr(self, name) not in values:
                known = ", ".join(str(value) for value in values if value is not None)
                raise ParallelError(f"layout: unknown {name} {getattr(self, name)!r}; known: {known}")
        if self.axis is not None and self.sequence == 1:
            raise ParallelError(f"layout: axis {self.axis!r} needs 2 or more GPUs that share the sequence")
        if self.axis == "sequence" and self.exchange != "ulysses":
            raise ParallelError(f"layout: full attention is shared by `ulysses` alone, not by {self.exchange!r}")

    @classmethod
    def over(cls, gpus: int, *, samples: int = 1, branches: int = 1, **options: Any) -> Self:
        """The layout of a number of GPUs: those that do not share samples and branches share the sequence.

        Args:
            gpus: all of them.
            samples: parts of the samples.
            branches: parts of the guidance branches.
            options: the other fields.

        Raises:
            ParallelError: the number is not a multiple of the parts.
        """
        if gpus < 1 or branches < 1 or gpus % branches:
            raise ParallelError(f"{branches} guidance branches need a multiple of {branches} GPUs, not {gpus}")
        if samples < 1 or gpus % (branches * samples):
            raise ParallelError(f"{samples} parts of the samples do not fit {gpus // branches} GPUs for each branch")
        return cls(samples=samples, branches=branches, sequence=gpus // branches // samples, **options)

    @property
    def gpus(self) -> int:
        """Number of GPUs, which is the number of processes."""
        return self.samples * self.branches * self.sequence

    def along(self, axis: Axis) -> "ParallelLayout":
        """The same layout along an axis; itself where the sequence is not split."""
        if self.sequence == 1:
            return self
        return replace(self, axis=axis, exchange="ulysses" if axis == "sequence" else self.exchange)

    def __str__(self) -> str:
        parts = [
            f"samples split over {self.samples}" if self.samples > 1 else "",
            "one guidance branch on each half" if self.branches > 1 else "",
            f"{AXIS_NAMES[self.axis]} split over {self.sequence} by {self.exchange}" if self.sequence > 1 else "",
        ]
        return ", ".join(part for part in parts if part) or "one GPU"

    def to_document(self) -> dict[str, Any]:
        """The layout as JSON."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The layout of a document that was checked against the schema.

        Raises:
            ParallelError: values contradict each other.
        """
        return cls(**{key: value for key, value in document.items() if key != "schema"})

    def save(self, path: str | Path) -> None:
        """Writes the layout file, atomically.

        Raises:
            FileError: the place cannot be written to.
        """
        save_json(Path(path), self.to_document())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a layout file.

        Raises:
            ParallelError: the file is missing, broken, of another schema, or holds an unknown key or a wrong value.
        """
        return cls.from_document(load_json(Path(path), SCHEMA, ParallelError))


ONE_GPU = ParallelLayout()
