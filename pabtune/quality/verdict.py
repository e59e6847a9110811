"""The verdict on a quality budget: accept, reject or undecided, from paired drops of a score, prompt by prompt.

A gambler bets, prompt by prompt, that the mean drop is smaller than the budget, and never stakes more than the largest loss
leaves him. If the budget is passed, his wealth is not expected to grow, whatever the drops look like; so it reaches 1/error
with a probability of at most `error`, however often one looks (Ville's inequality; Waudby-Smith and Ramdas 2024,
https://doi.org/10.1093/jrsssb/qkad009). Bounds that trust the drops seen so far accept too often: where one video in a
hundred breaks, most samples show none. Knows drops; knows nothing of videos.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, inf, log

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pabtune.quality.budget import LARGEST_LOSS, Budget
from pabtune.records.errors import BudgetError
from pabtune.records.verdicts import Judgement, Verdict

ERROR = 0.05
"""Largest probability of accepting a policy that passes the budget."""

BROKEN_DROP = 5.0
"""A video that loses more points than this, of 100, is broken, or more than twice a budget that is larger."""

MOST_BROKEN = 0.1
"""Largest share of broken videos in what is accepted."""

REJECT_LOOKS = (8, 16, 32, 64, 128, 256, 512)
"""Numbers of prompts after which a policy may be rejected. Each look has an equal part of the error."""

FIRST_LOOK = 0.8
"""Part of the error that the first look at a set of prompts may spend; all later ones share the rest."""

BLOCK = 12
"""Prompts between changes of the stake, so that it does not follow a few: content classes come in turns."""

PRIOR_PROMPTS = 8
"""Weight of what is expected before the first prompt, in prompts."""

STAKE_OF_DROPS, STAKE_OF_SHARES = 0.98, 0.8
"""Largest part of the wealth at stake. One broken video among few must not ruin a bet on their share."""


def broken_drop(budget: Budget) -> float:
    """Lost points above which a video is broken."""
    return max(BROKEN_DROP * budget.scale / LARGEST_LOSS, 2 * budget.largest_drop)


def look_error(look: int) -> float:
    """Error that the n-th look at the same prompts may spend: 0.04, then 0.005, 0.0017, …; of any number at most 0.05.

    Args:
        look: 1 for the first policy that is judged on them.
    """
    return ERROR * (FIRST_LOOK if look == 1 else (1 - FIRST_LOOK) / (look * (look - 1)))


def least_prompts(budget: Budget, error: float = ERROR * FIRST_LOOK) -> int | None:
    """Prompts after which a policy is accepted that changes no score; None if none suffice: a budget of 0 needs gains.

    Args:
        budget: the largest mean drop.
        error: largest probability of accepting by mistake.
    """
    nothing = np.zeros(1)
    needed = max(
        _needed(nothing, budget.largest_drop, budget.largest_loss, STAKE_OF_DROPS, error),
        _needed(nothing, MOST_BROKEN, 1.0, STAKE_OF_SHARES, error),
    )
    return None if needed == inf else int(needed)


def judge(
    drops: Sequence[float],
    budget: Budget,
    *,
    prompts: Sequence[str] = (),
    contents: Sequence[str] = (),
    broken: Sequence[bool] = (),
    error: float = ERROR,
    is_final: bool = True,
) -> Judgement:
    """Whether the mean drop is inside the budget: shown to be (accept), shown not to be (reject), or neither.

    What is accepted also has a share of broken videos below 10 %, shown with the same error, and no content class that is
    rejected by itself.

    Args:
        drops: lost points of the score, video by video, in the order in which they were generated.
        budget: the largest mean drop.
        prompts: prompt of each video; empty = all differ.
        contents: content class of each video; empty = there is one.
        broken: whether a video counts as broken for another reason than its drop; empty = none does.
        error: largest probability of accepting by mistake.
        is_final: whether intervals are wanted, which take a bootstrap; without them they are infinite.

    Raises:
        BudgetError: a drop is not finite, or larger than the budget's largest loss.
    """
    _check(drops, budget)
    values, shares, classes = _by_prompt(drops, prompts, contents, broken, budget)

    def judge_some(chosen: NDArray[np.bool_], parts: int) -> Judgement:
        found = _judge_class(values[chosen], shares[chosen], budget, error / parts, ERROR / parts)
        return replace(found, interval=mean_interval(values[chosen])) if is_final else found

    whole = judge_some(np.full(len(values), True), 1)
    names = list(dict.fromkeys(classes))
    if len(names) < 2:
        return whole
    of_class = {name: judge_some(np.array([each == name for each in classes]), len(names)) for name in names}
    is_rejected = any(each.verdict == "reject" for each in of_class.values())
    return replace(whole, verdict="reject" if is_rejected else whole.verdict, classes=of_class)


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean: bias-corrected and accelerated bootstrap (Efron 1987,
    https://doi.org/10.1080/01621459.1987.10478410); infinite for one value.

    Args:
        values: (N,), one for each prompt, so that videos of one prompt are drawn together.
    """
    if len(values) < 2:
        return -inf, inf
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, n_resamples=9999, batch=1000, method="BCa", rng=rng)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def log_wealth(values: NDArray[np.float64], bound: float, largest: float, stake: float) -> NDArray[np.float64]:
    """Logarithm of the wealth after each value, (N,), of who bets that the mean is below the bound.

    The stake depends on the blocks before a value alone: mean over second moment of the gains, as Kelly's for small ones.

    Args:
        values: (N,), none above `largest`.
        bound: of the mean.
        largest: value at most.
        stake: largest part of the wealth that a value of `largest` may take.
    """
    if bound >= largest:
        return np.full(len(values), inf)
    gains, past = bound - values, np.arange(len(values)) // BLOCK * BLOCK
    sums, squares = (np.concatenate([[0.0], np.cumsum(each)])[past] for each in (gains, gains**2))
    mean = (PRIOR_PROMPTS * bound + sums) / (PRIOR_PROMPTS + past)
    moment = (PRIOR_PROMPTS * 2 * bound**2 + squares) / (PRIOR_PROMPTS + past)
    stakes = np.clip(mean / np.maximum(moment, 1e-12), 0.0, stake / (largest - bound))
    return np.cumsum(np.log1p(stakes * gains))


def first_verdict(
    values: NDArray[np.float64], shares: NDArray[np.float64], budget: Budget, error: float, rejecting: float = ERROR
) -> tuple[Verdict, int]:
    """What looking after every prompt comes to: the verdict, and the prompts after which it is reached.

    Args:
        values: drops, (N,), prompt by prompt.
        shares: share of each prompt's videos that are broken, (N,).
        budget: the largest mean drop.
        error: largest probability of accepting by mistake.
        rejecting: largest probability of rejecting by mistake.
    """
    accepted = _first(_doubts(values, shares, budget) <= error)
    rejected = min(
        _first_above(values, budget.largest_drop, rejecting),
        _first_above(shares, MOST_BROKEN, rejecting, is_share=True),
    )
    if min(accepted, rejected) > len(values):
        return "undecided", len(values)
    return ("reject", int(rejected)) if rejected <= accepted else ("accept", int(accepted))


def _judge_class(
    values: NDArray[np.float64], shares: NDArray[np.float64], budget: Budget, error: float, rejecting: float
) -> Judgement:
    bets = (
        (values, budget.largest_drop, budget.largest_loss, STAKE_OF_DROPS),
        (shares, MOST_BROKEN, 1.0, STAKE_OF_SHARES),
    )
    doubt = float(_doubts(values, shares, budget)[-1])
    is_above = (
        _first_above(values, budget.largest_drop, rejecting) <= len(values)
        or _first_above(shares, MOST_BROKEN, rejecting, is_share=True) <= len(values)
    )  # fmt: skip
    verdict: Verdict = "reject" if is_above else "accept" if doubt <= error else "undecided"
    reached = [float(log_wealth(*bet)[-1]) if verdict == "undecided" else 0.0 for bet in bets]
    needed = max(_needed(*bet, error, wealth) for bet, wealth in zip(bets, reached, strict=True))
    needed += len(values) if verdict == "undecided" else 0
    return Judgement(
        verdict=verdict,
        prompts=len(values),
        mean=float(values.mean()),
        interval=(-inf, inf),
        doubt=doubt,
        error=error,
        needed=None if needed == inf else int(needed),
        broken=float(shares.mean()),
    )


def _doubts(values: NDArray[np.float64], shares: NDArray[np.float64], budget: Budget) -> NDArray[np.float64]:
    """Doubt after each prompt, (N,): the larger one of the mean drop and of the share of broken videos."""
    wealth = np.minimum(
        log_wealth(values, budget.largest_drop, budget.largest_loss, STAKE_OF_DROPS),
        log_wealth(shares, MOST_BROKEN, 1.0, STAKE_OF_SHARES),
    )
    return np.minimum(1.0, np.exp(-wealth))


def _first_above(values: NDArray[np.float64], bound: float, error: float, *, is_share: bool = False) -> float:
    """Prompts at the first look that shows a mean above the bound; infinite if none does.

    By a one-sided lower bound: Student's t, or of shares the exact one of the binomial distribution.
    """
    part = error / len(REJECT_LOOKS)
    for look in (each for each in REJECT_LOOKS if each <= len(values)):
        seen = values[:look]
        if is_share:
            is_above = stats.binomtest(int(seen.sum()), look, bound, "greater").pvalue <= part
        else:
            lower = seen.mean() - stats.t.ppf(1 - part, look - 1) * seen.std(ddof=1) / look**0.5
            is_above = bool(lower > bound)
        if is_above:
            return look
    return inf


def _first(is_so: NDArray[np.bool_]) -> float:
    """Prompts after which it is so for the first time; infinite if never."""
    return int(is_so.argmax()) + 1 if is_so.any() else inf


def _needed(
    values: NDArray[np.float64], bound: float, largest: float, stake: float, error: float, wealth: float = 0.0
) -> float:
    """Further values after which the wealth suffices, if they go on as they did: by the best constant stake on them.

    Args:
        values: drops, or shares of broken videos.
        bound: as for `log_wealth`.
        largest: as for `log_wealth`.
        stake: as for `log_wealth`.
        error: of which the wealth must reach the inverse.
        wealth: logarithm of what it has reached.
    """
    if bound >= largest:
        return 1
    missing = log(1 / error) - wealth
    if missing <= 0:
        return 0
    stakes = np.linspace(0.0, stake / (largest - bound), 50)[1:]
    growth = float(np.log1p(stakes[:, None] * (bound - values)).mean(axis=1).max())
    return inf if growth <= 0 else ceil(missing / growth)


def _by_prompt(
    drops: Sequence[float],
    prompts: Sequence[str],
    contents: Sequence[str],
    broken: Sequence[bool],
    budget: Budget,
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Mean drop, share of broken videos and content class of each prompt, in the order of their first videos."""
    names = list(prompts) or [str(index) for index in range(len(drops))]
    marks = list(broken) or [False] * len(drops)
    classes, most = list(contents) or [""] * len(drops), broken_drop(budget)
    rows: dict[str, list[tuple[float, bool, str]]] = {}
    for name, drop, mark, content in zip(names, drops, marks, classes, strict=True):
        rows.setdefault(name, []).append((drop, mark or drop > most, content))
    values = np.array([np.mean([drop for drop, _, _ in row]) for row in rows.values()], dtype=float)
    shares = np.array([np.mean([mark for _, mark, _ in row]) for row in rows.values()], dtype=float)
    return values, shares, [row[0][2] for row in rows.values()]


def _check(drops: Sequence[float], budget: Budget) -> None:
    if len(drops) == 0 or not np.isfinite(drops).all():
        raise BudgetError("a verdict needs a finite drop of each video")
    if max(drops) > budget.largest_loss:
        raise BudgetError(
            f"a video lost {max(drops):.1f} points, but the budget assumes that none loses more than "
            f"{budget.largest_loss:g}; say so with a larger --largest-loss, or without one"
        )
