"""Unaccelerated videos, made once per prompt and kept on disk, so that a resumed search need not make them again."""

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from torch import Tensor

from pabtune.libraries.diffusers_internals import execution_device
from pabtune.records.files import digest, holding_file, write_atomically
from pabtune.records.policies import MadeFor
from pabtune.records.prompts import Prompt
from pabtune.runtime.attention import attention_in_use
from pabtune.runtime.weights import weights_digest
from pabtune.tuning.generation import Settings, Video, generate_reference
from pabtune.tuning.provenance import device_name, versions

LOCK = "references.lock"
"""File through which workers tell one another which videos they are making."""


class References:
    """A folder of reference videos of one model and one set of settings.

    Its key is all that decides how a video looks: weights and adapters, scheduler, the call's arguments, the batch,
    the device, its attention kernel and the versions of what computes.

    Args:
        folder: where they lie; several processes and models may share it.
        pipeline: makes them.
        settings: how.
        made_for: model and schedule.
    """

    def __init__(self, folder: Path, pipeline: DiffusionPipeline, settings: Settings, made_for: MadeFor) -> None:
        self._folder = folder
        self._pipeline = pipeline
        self._settings = settings
        self._key = [
            made_for.to_document(),
            weights_digest(pipeline),
            describe_scheduler(pipeline),
            describe_argument(dict(settings.arguments)),
            settings.steps,
            [device_name(execution_device(pipeline)), attention_in_use()],
            versions(),
        ]

    def videos(self, batch: Sequence[Prompt]) -> list[Video]:
        """The reference videos of a batch, from the folder where it has them all, else made now."""
        paths = [self._path(prompt, batch) for prompt in batch]
        stored = self._stored(paths)
        if stored is None:
            with holding_file(self._folder / LOCK, paths[0].stem):
                stored = self._stored(paths)
                if stored is None:
                    stored = generate_reference(self._pipeline, batch, self._settings).videos
                    self.keep(batch, stored)
        return stored

    def _stored(self, paths: Sequence[Path]) -> list[Video] | None:
        """The videos of these files; None if one is missing."""
        videos = [self._read(path) for path in paths]
        return None if any(video is None for video in videos) else videos

    def keep(self, batch: Sequence[Prompt], videos: Sequence[Video]) -> None:
        """Keeps the unaccelerated videos of a batch, which another part of a search generated."""
        for prompt, video in zip(batch, videos, strict=True):
            write_atomically(self._path(prompt, batch), lambda partial, video=video: _save(partial, video))

    def _path(self, prompt: Prompt, batch: Sequence[Prompt]) -> Path:
        # The batch is part of the name: other batch sizes round differently.
        key = [self._key, prompt.prompt, prompt.seed, [other.prompt for other in batch]]
        return self._folder / f"{digest(key).removeprefix('sha256:')[:32]}.npy"

    @staticmethod
    def _read(path: Path) -> Video | None:
        try:
            return np.load(path)
        except (OSError, ValueError, EOFError):
            return None


def describe_scheduler(pipeline: DiffusionPipeline) -> Any:
    """Class and configuration of a pipeline's scheduler, as JSON.

    What diffusers notes for itself is left out: its list of keys that were not given is in another order in each process.
    """
    scheduler = pipeline.scheduler
    config = {key: value for key, value in dict(getattr(scheduler, "config", {})).items() if not key.startswith("_")}
    return [type(scheduler).__name__, describe_argument(config)]


def describe_argument(value: Any) -> Any:
    """An argument of a pipeline's call as JSON, by its content: files and images by a checksum of theirs."""
    if value is None or isinstance(value, bool | int | float | str):
        if isinstance(value, str) and os.path.isfile(value):  # a long text is no name of a file, where pathlib raises
            return sha256(Path(value).read_bytes()).hexdigest()
        return value if not isinstance(value, float) or isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): describe_argument(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [describe_argument(each) for each in value]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    array = np.asarray(value.detach().float().cpu() if isinstance(value, Tensor) else value)
    content = array.tobytes() if array.dtype != object else repr(value).encode()
    return [type(value).__name__, list(array.shape), sha256(content).hexdigest()]


def _save(path: Path, video: Video) -> None:
    with path.open("wb") as file:
        np.save(file, video)
