"""Unaccelerated videos, made once per prompt and kept on disk, so that a resumed search need not make them again."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import DiffusionPipeline

from pabtune.records.files import digest, write_atomically
from pabtune.records.policies import MadeFor
from pabtune.records.prompts import Prompt
from pabtune.tuning.generation import Settings, Video, generate


class References:
    """A folder of reference videos of one model and one set of settings.

    Args:
        folder: where they lie; several processes may share it.
        pipeline: makes them.
        settings: how.
        made_for: what decides how a video looks: goes into its name.
    """

    def __init__(self, folder: Path, pipeline: DiffusionPipeline, settings: Settings, made_for: MadeFor) -> None:
        self._folder = folder
        self._pipeline = pipeline
        self._settings = settings
        self._made_for = made_for.to_document()

    def videos(self, batch: Sequence[Prompt]) -> list[Video]:
        """The reference videos of a batch, from the folder where it has them all, else made now."""
        paths = [self._path(prompt, batch) for prompt in batch]
        stored = [self._read(path) for path in paths]
        videos = [video for video in stored if video is not None]
        if len(videos) == len(batch):
            return videos
        videos = generate(self._pipeline, batch, self._settings).videos
        for path, video in zip(paths, videos, strict=True):
            write_atomically(path, lambda partial, video=video: _save(partial, video))
        return videos

    def _path(self, prompt: Prompt, batch: Sequence[Prompt]) -> Path:
        # The batch is part of the name: other batch sizes round differently.
        key = [self._made_for, prompt.prompt, prompt.seed, [other.prompt for other in batch]]
        return self._folder / f"{digest(key).removeprefix('sha256:')[:32]}.npy"

    @staticmethod
    def _read(path: Path) -> Video | None:
        try:
            return np.load(path)
        except (OSError, ValueError, EOFError):
            return None


def _save(path: Path, video: Video) -> None:
    with path.open("wb") as file:
        np.save(file, video)
