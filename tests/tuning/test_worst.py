"""The worst videos of an evaluation, kept batch by batch."""

import numpy as np

from pabtune.quality.fidelity import psnr_db
from pabtune.records.prompts import Prompt
from pabtune.tuning.worst import REFERENCE, WorstVideos


def video(value: int) -> np.ndarray:
    return np.full((2, 8, 8, 3), value, dtype=np.uint8)


def test_the_worst_of_each_policy_are_kept_over_batches() -> None:
    worst = WorstVideos(2)
    prompts = [Prompt(prompt=f"p{index}", seed=index) for index in range(4)]
    for start, offsets in ((0, (1, 9)), (2, (30, 2))):
        batch = prompts[start : start + 2]
        worst.add(REFERENCE, batch, [video(100), video(110)])
        worst.add("a", batch, [video(100 + offsets[0]), video(110 + offsets[1])])
        worst.add("b", batch, [video(100), video(110)])
    kept = worst.pairs("a")
    assert [(pair.index, pair.prompt.prompt) for pair in kept] == [(2, "p2"), (1, "p1")]
    assert kept[0].psnr_db == psnr_db(video(130), video(100))
    assert (kept[1].without == video(110)).all()
    assert (kept[1].under == video(119)).all()
    assert [pair.index for pair in worst.pairs("b")] == [0, 1]  # of equals the first
    assert worst.pairs("c") == []
