"""The worst videos of an evaluation, kept while it runs: those furthest from the full run's. Knows no files."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pabtune.quality.fidelity import psnr_db
from pabtune.records.prompts import Prompt

REFERENCE = "reference"
"""What `evaluate` calls the full run where it hands out videos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPair:
    """A prompt's video without and under a policy, (frames, height, width, 3), and its place among all of the policy's."""

    policy: str
    index: int
    prompt: Prompt
    psnr_db: float
    without: NDArray[np.uint8]
    under: NDArray[np.uint8]


class WorstVideos:
    """Keeps some pairs for each policy while `evaluate` hands out its videos batch by batch.

    Args:
        count: pairs to keep for each policy.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._reference: Sequence[NDArray[np.uint8]] = ()
        self._seen: dict[str, int] = {}
        self._kept: dict[str, list[tuple[float, int, VideoPair]]] = {}

    def add(self, policy: str, prompts: Sequence[Prompt], videos: Sequence[Any]) -> None:
        """Takes a batch: of the full run first, then of each policy."""
        if policy == REFERENCE:
            self._reference = videos
            return
        kept = self._kept.setdefault(policy, [])
        for prompt, before, after in zip(prompts, self._reference, videos, strict=True):
            index = self._seen.get(policy, 0)
            self._seen[policy] = index + 1
            distance = psnr_db(after, before)
            pair = VideoPair(
                policy=policy, index=index, prompt=prompt, psnr_db=distance, without=before, under=after
            )  # fmt: skip
            heapq.heappush(kept, (-distance, -index, pair))
            if len(kept) > self._count:
                heapq.heappop(kept)

    def pairs(self, policy: str) -> list[VideoPair]:
        """The worst of a policy, the worst first."""
        return [pair for _, _, pair in sorted(self._kept.get(policy, ()), key=lambda each: (-each[0], -each[1]))]
