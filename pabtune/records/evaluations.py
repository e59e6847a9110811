"""An evaluation: gains and costs of a policy on some prompts, against the unaccelerated model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = "pabtune.evaluation/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A measure of fidelity that was asked for, of the videos of one policy.

    Attributes:
        values: per prompt, against the unaccelerated video.
        is_higher_better: whether larger values are closer.
        enlarged: the factor that frames were enlarged by for it, pixel by pixel; 1 = they were not.
    """

    values: tuple[float, ...]
    is_higher_better: bool
    enlarged: int = 1

    @property
    def worst(self) -> float:
        """The value that is furthest from the unaccelerated video."""
        return min(self.values) if self.is_higher_better else max(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """How far videos of one model are from themselves, generated twice: the nondeterminism of the machine.

    Attributes:
        psnr_db: of the video that differs most; 100 = all are identical.
        score_change: largest change of the score, in points.
    """

    psnr_db: float
    score_change: float


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
        measures: further measures of fidelity, by what their figures are called.
        codec: what all videos went through before their fidelity was measured; None = raw frames were compared.
        prompts: prompt of each video.
        contents: content class of each video.
        repeated: how far the unaccelerated model is from itself, called twice; None = it was not tried.
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
    measures: Mapping[str, Measured] = field(default_factory=dict)
    codec: str | None = None
    prompts: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    repeated: "Repeated | None" = None

    @property
    def speedup(self) -> float:
        """Measured time without the policy over time with it."""
        return self.baseline_latency_s / self.latency_s

    @property
    def drops(self) -> tuple[float, ...]:
        """Lost points of the score, per prompt."""
        return tuple(before - after for before, after in zip(self.baseline_scores, self.scores, strict=True))

    def values(self, figure: str) -> tuple[float, ...]:
        """Figures of a measure that was taken, per prompt, by what they are called."""
        always = {"psnr_db": self.psnr_db, "ssim": self.ssim}
        return always[figure] if figure in always else self.measures[figure].values

    def to_document(self) -> dict[str, Any]:
        """What `pabtune evaluate --json` prints of a policy."""
        return {
            "policy": self.policy,
            "compute_fraction": self.compute_fraction,
            "latency_s": self.latency_s,
            "speedup": self.speedup,
            "fidelity": self._fidelity(),
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
            **({} if self.repeated is None else {"repeated": asdict(self.repeated)}),
        }

    def _fidelity(self) -> dict[str, Any]:
        figures: dict[str, Any] = {
            "psnr_db": _mean(self.psnr_db),
            "worst_psnr_db": min(self.psnr_db),
            "ssim": _mean(self.ssim),
        }
        for name, measured in self.measures.items():
            figures |= {name: _mean(measured.values), f"worst_{name}": measured.worst}
            if measured.enlarged > 1:
                figures[f"{name}_enlarged"] = measured.enlarged
        return figures | ({"codec": self.codec} if self.codec is not None else {})


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
