"""The shipped front on two processes: time, messages and closeness of each policy, as ratios within one run.

    torchrun --nproc-per-node 2 benchmarks/front_processes.py [--out benchmarks/results/front-processes.json]

Each policy, and the run with as few steps (`steps:N`), takes turns with the full run; all share every video over the
processes. Videos are compared with those that one process draws in full. Prints one JSON document.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch.distributed as dist
from measuring import publish

import pabtune
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.parallel.process import is_first, world_size
from pabtune.planning.presets import find_policy
from pabtune.quality.fidelity import psnr_db
from pabtune.records.layouts import ParallelLayout
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.tuning.generation import Settings, Video, generate

FRONT = Path(__file__).parent.parent / "policies" / "shapes-30steps-front"
STEPS, SEED = 30, 5
COUNTS = (19, 15, 12, 10, 8)
"""Computed steps of the policies that run: from .63 to .27 of the compute."""


class Turns:
    """Runs policies on a pipeline that several processes share.

    Args:
        pipeline: the pipeline.
        traffic: what this process sent.
        prompts: drawn one at a time.
    """

    def __init__(self, pipeline: Any, traffic: Any, prompts: Sequence[Prompt]) -> None:
        self._pipeline, self._traffic, self._prompts = pipeline, traffic, prompts

    def run(self, policy: Policy) -> tuple[float, int, list[Video]]:
        """Seconds and messages of this process for all prompts, and the videos."""
        settings, seconds, videos = Settings(steps=policy.steps or STEPS), 0.0, []
        self._traffic.clear()
        for prompt in self._prompts:
            dist.barrier()
            with pabtune.broadcast(self._pipeline, policy):
                drawn = generate(self._pipeline, [prompt], settings)
            seconds += drawn.seconds
            videos += drawn.videos
        return seconds, sum(self._traffic.messages.values()), videos

    def row(self, policy: Policy, full: Policy, references: Sequence[Video], repeats: int) -> dict[str, Any]:
        """A policy held against the full run, in turns a-b-b-a."""
        shares = []
        for _ in range(repeats):
            first, (seconds, messages, videos), (again, *_), last = (
                self.run(each) for each in (full, policy, policy, full)
            )
            shares.append((seconds + again) / (first[0] + last[0]))
        psnrs = [psnr_db(video, reference) for video, reference in zip(videos, references, strict=True)]
        return {
            "policy": policy.name,
            "time_share": round(statistics.median(shares), 4),
            "messages": messages // len(self._prompts),
            "full_messages": first[1] // len(self._prompts),
            "psnr_db": round(float(np.mean(psnrs)), 2),
            "worst_psnr_db": round(float(np.min(psnrs)), 2),
        }


@click.command()
@click.option("--prompts", "count", default=8, show_default=True, help="Captions of the part to test with.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(count: int, repeats: int, out: Path | None) -> None:
    pipeline, prompts = pabtune.load_pipeline("shapes"), sample_prompts(count, SEED, "test")
    references = [video for prompt in prompts for video in generate(pipeline, [prompt], Settings(steps=STEPS)).videos]
    fronts = [Policy.load(FRONT / f"shapes-30steps-{computed}of30.json") for computed in COUNTS]
    fewer = [find_policy(f"steps:{computed}") for computed in COUNTS]
    layout = ParallelLayout(sequence=world_size()).along("frames")
    with pabtune.parallelize(pipeline, layout) as run:
        turns, full = Turns(pipeline, run.traffic, prompts), find_policy("none")
        for policy in (full, fronts[0]):
            turns.run(policy)
        rows = [
            turns.row(policy, full, references, repeats)
            for pair in zip(fronts, fewer, strict=True)
            for policy in pair
        ]  # fmt: skip
        is_told = is_first()
    if is_told:
        publish({"processes": layout.gpus, "prompts": count, "steps": STEPS, "rows": rows}, repeats, "cpu", out)


if __name__ == "__main__":
    main()
