"""Scores that are known: a file per video and dimension, found by the video's content and all else that it depends on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabtune.records.errors import VbenchError
from pabtune.records.files import digest, load_json, save_json

SCORE_SCHEMA = "pabtune.vbench-score/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a score is of, and all that it depends on; equal subjects have one score.

    Attributes:
        dimension: which.
        video: checksum of the video file, or of the frames in it.
        prompt: its prompt, where the dimension reads it.
        device: kind of device: `cpu`, `cuda`.
        packages: version of VBench and of what computes under it.
        weights: checksum of each of the dimension's weight files.
    """

    dimension: str
    video: str
    prompt: str | None
    device: str
    packages: Mapping[str, str]
    weights: Mapping[str, str]

    def to_document(self) -> dict[str, Any]:
        """As it stands in the file, and in its name as a checksum."""
        return {
            "dimension": self.dimension,
            "video": self.video,
            "prompt": self.prompt,
            "device": self.device,
            "packages": dict(self.packages),
            "weights": dict(self.weights),
        }

    @property
    def key(self) -> str:
        """Checksum of it all, 64 hexadecimal digits."""
        return digest(self.to_document()).removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class ScoreCache:
    """Scores in files below a folder; each is written at once, or not at all."""

    folder: Path

    def path(self, subject: Subject) -> Path:
        """The file of a score."""
        return self.folder / subject.dimension / f"{subject.key}.json"

    def holds(self, subject: Subject) -> bool:
        """Whether a score is known, or that VBench abstains from one; an empty file, as a power cut may leave, is none."""
        try:
            return self.path(subject).stat().st_size > 0
        except OSError:
            return False

    def load(self, subject: Subject) -> float | None:
        """A known score; None = VBench left the video out.

        Raises:
            VbenchError: the file is broken, or of another subject.
        """
        path = self.path(subject)
        document = load_json(path, SCORE_SCHEMA, VbenchError)
        if json.dumps(document["subject"], sort_keys=True) != json.dumps(subject.to_document(), sort_keys=True):
            raise VbenchError(f"{path}: is the score of something else than its name says; remove it")
        value = document["value"]
        return None if value is None else float(value)

    def save(self, subject: Subject, value: float | None) -> None:
        """Keeps a score.

        Raises:
            FileError: the folder cannot be written to, or the disk is full.
        """
        save_json(self.path(subject), {"schema": SCORE_SCHEMA, "subject": subject.to_document(), "value": value})
