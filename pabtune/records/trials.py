"""What a search tried and found: trials with their outcomes, and the result of all of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.verdicts import Judgement, Verdict

SCHEMA = "pabtune.search/1"

Status = Literal["complete", "stopped early", "over memory"]
"""How a trial ended: all prompts were drawn; some were, until it was not promising any more; none, as memory would not do."""

ROUNDING_DB = 1e-6
"""A policy that is the floor itself is not under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What the videos of a trial showed.

    Attributes:
        prompts: number of prompts that were drawn.
        seconds: wall time per video.
        psnr_db: mean against the reference videos.
        drop: mean lost points of the score.
        drop_upper: one-sided 95 % upper bound of the mean drop.
        over_budget: bound of the drop (complete) or mean (stopped early) less the budget; > 0 = too much.
        under_floor_db: PSNR missing to the floor, in the mean or among the worst videos, or of another measure what counts as
            much; > 0 = too far away; None without a floor.
    """

    prompts: int
    seconds: float
    psnr_db: float
    drop: float
    drop_upper: float
    over_budget: float
    under_floor_db: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of a candidate after its trial.

    Attributes:
        status: how the trial ended.
        predicted_time: time in the transformer over that of the full run, from the profile's measured site times.
        compute_fraction: FLOPs computed over FLOPs of the full run.
        measured: what its videos showed; None if none was drawn.
        over_memory: held bytes over the limit less 1; > 0 = too much; None without a limit.
    """

    status: Status
    predicted_time: float
    compute_fraction: float
    measured: Measurement | None = None
    over_memory: float | None = None

    @property
    def is_feasible(self) -> bool:
        """Shown to be within the budget and not under the fidelity floor, on all of the search's prompts."""
        return self.status == "complete" and self.is_possible

    @property
    def is_possible(self) -> bool:
        """Neither over the budget nor under the fidelity floor, as far as it was tried."""
        if self.measured is None:
            return False
        return self.measured.over_budget <= 0 and (self.measured.under_floor_db or 0.0) <= ROUNDING_DB

    @property
    def constraints(self) -> dict[str, float]:
        """By how much each limit was passed, as far as it was measured; > 0 = too far."""
        values: dict[str, float | None] = {"over_memory": self.over_memory}
        if self.measured is not None:
            values |= {name: getattr(self.measured, name) for name in ("over_budget", "under_floor_db")}
        return {name: value for name, value in values.items() if value is not None}

    def to_document(self) -> dict[str, Any]:
        """The outcome as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The outcome that `to_document` wrote."""
        measured = document["measured"]
        return cls(**{**document, "measured": None if measured is None else Measurement(**measured)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A finished trial.

    Attributes:
        number: of the trial in its study.
        origin: `sampler`, or where its parameters come from.
        policy: what was tried.
        parameters: the same as values of the space.
        outcome: how it came out.
    """

    number: int
    origin: str
    policy: Policy
    parameters: Mapping[str, int | str]
    outcome: Outcome


Standing = Literal["holds", "loses more than the floor", "over the budget", "rejected"]
"""How a finalist came out where finalists were compared, the best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A candidate that was compared with others on prompts that the search never saw.

    Attributes:
        evaluation: of it, on these prompts.
        standing: what that showed.
    """

    evaluation: Evaluation
    standing: Standing

    def to_document(self) -> dict[str, Any]:
        """The row that the search's document has of it."""
        row = self.evaluation.to_document()
        fidelity = row["fidelity"]
        return {
            "policy": row["policy"],
            "compute_fraction": row["compute_fraction"],
            "speedup": row["speedup"],
            "psnr_db": fidelity["psnr_db"],
            "worst_psnr_db": fidelity["worst_psnr_db"],
            "drop": row["score"]["drop"],
            "standing": self.standing,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        study: name of the study in its storage.
        candidates: all finished trials.
        best: the winner with its evidence; None if nothing was found inside the budget on the search's prompts, or if
            unseen prompts showed that what was found is not inside it.
        verdict: on the finalist that was judged last; None if there was nothing to confirm.
        evaluations: on the prompts that finalists were compared on, in turns: the winner, or what was rejected; the policy
            that it had to be as close as; and a run of fewer steps that takes as long.
        finalists: all that were compared there, the fastest first, each with its standing.
        judgement: what the verdict rests on; None if nothing was judged on prompts of its own.
        judged: evaluation on these prompts.
        videos: videos that were generated for it, in full runs, by all its workers and runs.
        variants: the results of content classes that were searched by themselves.
    """

    study: str
    candidates: tuple[Candidate, ...]
    best: Policy | None
    verdict: Verdict | None
    evaluations: tuple[Evaluation, ...]
    finalists: tuple[Finalist, ...] = ()
    judgement: Judgement | None = None
    judged: Evaluation | None = None
    videos: float = 0.0
    variants: "Mapping[str, SearchResult]" = field(default_factory=dict)
