"""An evaluation: gains and costs of a policy on some prompts, against the unaccelerated model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Speed, fidelity and absolute quality of one policy: three numbers that are never merged.

    Attributes:
        policy: its name.
        compute_fraction: FLOPs computed over FLOPs of the full run.
        latency_s: measured wall time per video, mean.
        baseline_latency_s: the same without a policy, measured in turns with it.
        psnr_db: per prompt, against the unaccelerated video.
        ssim: per prompt, against the unaccelerated video.
        score_name: which score; `none` = none was taken, the scores are empty.
        baseline_scores: per prompt, of the unaccelerated video.
        scores: per prompt.
        computed_calls: per kind, per video, all branches.
        broadcast_calls: per kind, per video, all branches.
        most_stored_bytes: held at most while one batch ran.
    """

    policy: str
    compute_fraction: float
    latency_s: float
    baseline_latency_s: float
    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]
    score_name: str
    baseline_scores: tuple[float, ...]
    scores: tuple[float, ...]
    computed_calls: Mapping[str, int]
    broadcast_calls: Mapping[str, int]
    most_stored_bytes: int

    @property
    def speedup(self) -> float:
        """Measured time without the policy over time with it."""
        return self.baseline_latency_s / self.latency_s

    @property
    def drops(self) -> tuple[float, ...]:
        """Lost points of the score, per prompt."""
        return tuple(before - after for before, after in zip(self.baseline_scores, self.scores, strict=True))

    def to_document(self) -> dict[str, Any]:
        """What `pabtune evaluate --json` prints of a policy."""
        return {
            "policy": self.policy,
            "compute_fraction": self.compute_fraction,
            "latency_s": self.latency_s,
            "speedup": self.speedup,
            "fidelity": {
                "psnr_db": _mean(self.psnr_db),
                "worst_psnr_db": min(self.psnr_db),
                "ssim": _mean(self.ssim),
            },
            "score": {
                "name": self.score_name,
                "baseline": _mean(self.baseline_scores),
                "policy": _mean(self.scores),
                "drop": _mean(self.drops),
            }
            if self.scores
            else None,
            "computed_calls": dict(self.computed_calls),
            "broadcast_calls": dict(self.broadcast_calls),
            "most_stored_bytes": self.most_stored_bytes,
            "prompts": len(self.psnr_db),
        }


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
