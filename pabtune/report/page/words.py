"""Numbers and verdicts in words: each with its unit, and none that says more than the evidence does."""

import math

from pabtune.quality.measures import EVERY
from pabtune.records.errors import one_line
from pabtune.report.page.results import Judged, Result, largest_drop

LONGEST = 120
"""Most characters of a name or a prompt."""

NOTHING = "–"
"""Where a number was not measured."""

IDENTICAL_DB = EVERY["psnr"].highest
"""PSNR of videos that are the same."""


def short(text: object, longest: int = LONGEST) -> str:
    """A text from a file as one line."""
    return one_line(text, longest)


def sentence(text: str) -> str:
    """A text with a capital; nothing else of it changes."""
    return text[:1].upper() + text[1:]


def times(value: float | None) -> str:
    """A speed over that of the full run."""
    return NOTHING if value is None else f"{value:.2f}×"


def share(value: float | None) -> str:
    """A share in percent."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def decibels(value: float | None) -> str:
    """A PSNR."""
    if value is not None and value >= IDENTICAL_DB:
        return "identical"
    return NOTHING if value is None else f"{_minus(f'{value:.1f}')} dB"


def points(value: float | None) -> str:
    """Points of a score, with their sign."""
    return NOTHING if value is None else _minus(f"{round(value, 2) + 0.0:+.2f}")


def seconds(value: float | None) -> str:
    """A time."""
    return NOTHING if value is None else f"{value:.3g} s"


def decimal(value: float | None, digits: int = 4) -> str:
    """A number without a unit."""
    return NOTHING if value is None else _minus(f"{value:.{digits}g}")


def similarity(value: float | None) -> str:
    """An SSIM."""
    return NOTHING if value is None else _minus(f"{value:.4f}")


def prompts(count: int | None) -> str:
    """A number of prompts."""
    if count is None:
        return "an unknown number of prompts"
    return "1 prompt" if count == 1 else f"{count} prompts"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def budget_in_words(budget: str | None) -> str:
    """What a budget allows."""
    drop = largest_drop(budget)
    if budget is None or drop is None:
        return "the budget" if budget is None else f"the budget {short(budget, 60)}"
    score = short(budget.partition(">=")[0], 40)
    if drop < 0:
        return f"a gain of {-drop:g} {_point(-drop)} of {score} in the mean"
    return f"a mean loss of at most {drop:g} {_point(drop)} of {score}"


def _point(count: float) -> str:
    return "point" if math.isclose(count, 1) else "points"


def verdict_in_words(judged: Judged) -> str:
    """The verdict as a sentence, with the prompts it rests on."""
    on = prompts(judged.prompts) + (" that the search did not see" if judged.is_unseen else "")
    allowed = budget_in_words(judged.budget)
    if judged.verdict == "accept":
        return f"Shown to hold {allowed}, on {on}."
    if judged.verdict == "reject":
        return f"Shown not to hold {allowed}, on {on}."
    more = f"; about {judged.needed} would settle it if all goes on as it did" if judged.needed else ""
    return f"Not settled: {on} neither show nor refute {allowed}{more}."


def interval_in_words(judged: Judged) -> str:
    """Mean drop with its interval; empty without a mean."""
    if judged.mean_drop is None:
        return ""
    mean = f"mean drop {points(judged.mean_drop)} points"
    if judged.low is None or judged.high is None:
        return f"{mean}; no interval: too few prompts"
    return f"{mean}, 95 % interval {points(judged.low)} to {points(judged.high)} (below 0: gained)"


def doubt_in_words(judged: Judged) -> str:
    """How wrong an accept may be, and what else was shown; may be empty."""
    parts = []
    if judged.doubt is not None and judged.error is not None:
        parts.append(f"doubt {judged.doubt:.3g}, accepted at {judged.error:.3g} or less")
    if judged.broken_share is not None:
        parts.append(f"{share(judged.broken_share)} of the videos lose much more")
    return "; ".join(parts)


def numbers_in_words(result: Result) -> str:
    """All that a file says of a policy, in one line."""
    parts = []
    if result.speedup is not None:
        parts.append(f"{times(result.speedup)} as fast")
    if result.psnr_db is not None:
        worst = "" if result.worst_psnr_db is None else f" (worst {decibels(result.worst_psnr_db)})"
        parts.append(f"PSNR {decibels(result.psnr_db)}{worst}")
    if result.drop is not None:
        parts.append(f"drop {points(result.drop)} points")
    if result.judged is not None:
        parts.append(f"{result.judged.verdict} on {prompts(result.judged.prompts)}")
    elif result.prompts is not None:
        parts.append(f"on {prompts(result.prompts)}")
    return f"{short(result.policy)}: {', '.join(parts)}"
