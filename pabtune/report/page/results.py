"""What was measured of a policy, from whichever file has it, as one record. Knows keys of documents, no words of the page.

Evidence of a policy is free: any of it may be missing, or of another type than expected. What is odd counts as not measured.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pabtune.planning.presets import PRESETS
from pabtune.records.policies import Policy
from pabtune.records.verdicts import Verdict

Role = Literal["ours", "fewer", "preset", "full", "peer"]
"""What a policy is in a figure: found by a search, fewer steps, published, the model itself, a method of the literature."""

KNOWN_FIDELITY = ("psnr_db", "worst_psnr_db", "ssim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict, and what it rests on. None = not told.

    Attributes:
        verdict: on the budget.
        budget: in words of the command line.
        prompts: number of prompts.
        mean_drop, low, high: mean lost points with their 95 % interval.
        needed: prompts that would settle it.
        broken_share: share of videos that lose much more.
        doubt, error: bound of the probability of being wrong, and the largest that accepts.
        is_unseen: whether the file says that no search chose on these prompts.
        classes: of each content class.
    """

    verdict: Verdict
    budget: str | None
    prompts: int | None
    mean_drop: float | None
    low: float | None
    high: float | None
    needed: int | None
    broken_share: float | None
    doubt: float | None
    error: float | None
    is_unseen: bool
    classes: "Mapping[str, Judged]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Speed, closeness and score of a policy on some prompts. None = not told.

    Attributes:
        policy: its name.
        role: in a figure.
        file: that tells it, from the folder on.
        speedup: measured time of the full run over that under the policy.
        compute: share of the full run's FLOPs.
        latency_s: measured time of a video.
        psnr_db, worst_psnr_db, ssim: to the full run's videos, the mean, the worst, the mean.
        score_name: of the absolute score.
        drop: mean lost points of it.
        prompts: number of prompts.
        device: where the time was measured.
        further: other measures of fidelity by name, the mean.
        judged: the verdict, if there is one.
        is_winner: whether a search chose it among all others.
    """

    policy: str
    role: Role
    file: str
    speedup: float | None = None
    compute: float | None = None
    latency_s: float | None = None
    psnr_db: float | None = None
    worst_psnr_db: float | None = None
    ssim: float | None = None
    score_name: str | None = None
    drop: float | None = None
    prompts: int | None = None
    device: str | None = None
    further: Mapping[str, float] | None = None
    judged: Judged | None = None
    is_winner: bool = False

    @property
    def time_share(self) -> float | None:
        """Measured time over that of the full run."""
        return 1 / self.speedup if self.speedup else None

    @property
    def is_measured(self) -> bool:
        """Whether anything at all was measured."""
        return self.speedup is not None or self.psnr_db is not None


def inside(document: Any, *keys: str) -> Any:
    """A value inside of objects in objects; None where one is missing or no object."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


LARGEST = 1e30
"""What is larger is no measurement, and no scale of a picture reaches there."""


def number(document: Any, *keys: str) -> float | None:
    """A number inside of objects; None where there is none, or one that nothing measures."""
    value = inside(document, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return None
    return float(value)


def positive(document: Any, *keys: str) -> float | None:
    """A number over 0 inside of objects; None where there is none."""
    value = number(document, *keys)
    return value if value is not None and value > 0 else None


def text(document: Any, *keys: str) -> str | None:
    """A text inside of objects; None where there is none."""
    value = inside(document, *keys)
    return value if isinstance(value, str) and value else None


def count(document: Any, *keys: str) -> int | None:
    """A number from 0 on inside of objects, as a whole one; None where there is none."""
    value = number(document, *keys)
    return round(value) if value is not None and value >= 0 else None


def role_of(policy: str) -> Role:
    """What a policy is, told by its name."""
    if policy == "none":
        return "full"
    if policy.startswith("steps:"):
        return "fewer"
    return "preset" if policy in PRESETS or policy.startswith("every:") else "ours"


def result_of_policy(file: str, policy: Policy, content: str | None = None) -> Result:
    """What the file of a policy says was measured.

    Args:
        file: its name.
        policy: the policy.
        content: content class; None = all.
    """
    evidence = policy.evidence if content is None else inside(policy.evidence, "variants", content)
    provenance = policy.provenance
    judged_on = text(provenance, "judged_on")
    is_unseen = judged_on is not None and judged_on not in (provenance.get("prompts"), provenance.get("compared_on"))
    flat = {**evidence, "mean_drop": inside(evidence, "score_drop", "mean")} if isinstance(evidence, Mapping) else {}
    flat["ci95"] = inside(evidence, "score_drop", "ci95")
    return Result(
        policy=policy.name,
        role="ours" if evidence else role_of(policy.name),
        file=file,
        speedup=positive(evidence, "speedup", "measured"),
        compute=number(evidence, "compute_fraction"),
        psnr_db=number(evidence, "fidelity", "psnr_db"),
        worst_psnr_db=number(evidence, "fidelity", "worst_psnr_db"),
        ssim=number(evidence, "fidelity", "ssim"),
        score_name=_score_of(text(evidence, "budget")),
        drop=number(evidence, "score_drop", "mean"),
        prompts=count(evidence, "prompts"),
        device=text(evidence, "measured_on", "device") or text(evidence, "speedup", "device"),
        further=_further(inside(evidence, "fidelity")),
        judged=judged_of(flat, text(evidence, "budget"), is_unseen=is_unseen),
        is_winner="trial" in provenance,
    )


def result_of_row(file: str, row: Mapping[str, Any], document: Mapping[str, Any], role: Role | None = None) -> Result:
    """What a row of a document of `evaluate` or `search` says was measured.

    Args:
        file: its name.
        row: the row.
        document: that it stands in: device, budget, which prompts.
        role: in a figure; None = told by the policy's name.
    """
    judgement = inside(row, "judgement")
    return Result(
        policy=row["policy"],
        role=role or role_of(row["policy"]),
        file=file,
        speedup=positive(row, "speedup"),
        compute=number(row, "compute_fraction"),
        latency_s=positive(row, "latency_s"),
        psnr_db=number(row, "fidelity", "psnr_db"),
        worst_psnr_db=number(row, "fidelity", "worst_psnr_db"),
        ssim=number(row, "fidelity", "ssim"),
        score_name=text(row, "score", "name"),
        drop=number(row, "score", "drop"),
        prompts=count(row, "prompts"),
        device=text(document, "device"),
        further=_further(inside(row, "fidelity")),
        judged=judged_of(judgement, text(document, "budget"), is_unseen=document.get("split") == "test"),
    )


def with_winner_named(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A document of a search whose rows call the winner as its policy is called, not as its trial was."""
    name, trial = text(document, "name"), text(document, "judged", "policy")
    if name is None or trial is None:
        return document
    rows = [{**row, "policy": name} if row["policy"] == trial else row for row in document["evaluations"]]
    return {**document, "evaluations": rows, "judged": {**document["judged"], "policy": name}}


def result_of_setting(file: str, setting: Mapping[str, Any], document: Mapping[str, Any]) -> Result:
    """What a comparison says was measured of a method at a setting."""
    method = setting["method"]
    return Result(
        policy=f"{method}, {setting['knob']} {setting['setting']:g}",
        role="ours" if method.startswith("pabtune") else "fewer" if method == "fewer-steps" else "peer",
        file=file,
        speedup=1 / setting["time_share"],
        compute=number(setting, "compute_share"),
        psnr_db=number(setting, "fidelity", "psnr_db"),
        worst_psnr_db=number(setting, "fidelity", "worst_psnr_db"),
        ssim=number(setting, "fidelity", "ssim"),
        score_name=text(setting, "score", "name"),
        drop=number(setting, "score", "drop"),
        prompts=count(document, "prompts"),
        device=text(document, "environment", "device"),
    )


def judged_of(judgement: Any, budget: str | None, *, is_unseen: bool) -> Judged | None:
    """The verdict of a judgement, or of a policy's evidence; None where there is none that is known."""
    verdict = inside(judgement, "verdict")
    if verdict not in get_args(Verdict):
        return None
    interval = inside(judgement, "ci95")
    low, high = interval if isinstance(interval, list | tuple) and len(interval) == 2 else (None, None)
    classes = inside(judgement, "classes")
    told = {
        content: judged_of(each, budget, is_unseen=is_unseen)
        for content, each in (classes if isinstance(classes, Mapping) else {}).items()
    }
    return Judged(
        verdict=verdict,
        budget=budget,
        prompts=count(judgement, "prompts"),
        mean_drop=number(judgement, "mean_drop"),
        low=number({"": low}, ""),
        high=number({"": high}, ""),
        needed=count(judgement, "prompts_needed"),
        broken_share=number(judgement, "broken_share"),
        doubt=number(judgement, "doubt"),
        error=number(judgement, "error"),
        is_unseen=is_unseen,
        classes={content: each for content, each in told.items() if each is not None},
    )


def largest_drop(budget: str | None) -> float | None:
    """Points that a budget allows to lose; None where it cannot be read."""
    told = re.fullmatch(r"[^<>=]+>=\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)", budget or "")
    points = -float(told[1]) if told is not None else math.inf
    return points if abs(points) <= LARGEST else None


def _score_of(budget: str | None) -> str | None:
    return budget.partition(">=")[0] if budget is not None and ">=" in budget else None


def _further(fidelity: Any) -> dict[str, float]:
    """Measures that were asked for, the mean of each."""
    names = fidelity if isinstance(fidelity, Mapping) else {}
    return {
        name: value
        for name in names
        if name not in KNOWN_FIDELITY
        and not name.startswith("worst_")
        and not name.endswith("_enlarged")
        and (value := number(fidelity, name)) is not None
    }
