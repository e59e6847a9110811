"""What can be saved where a model takes few denoising steps, as distilled ones do: little, and sometimes nothing.

Knows numbers of steps and finished trials; knows nothing of models.
"""

from collections.abc import Sequence

from pabtune.records.trials import Candidate, SearchResult

FEW_STEPS = 8
"""With so many steps or fewer the gain is bounded before anything runs."""

WORTH = 0.05
"""A policy that saves less of the time is not worth its file."""


def most_held(steps: int) -> int:
    """Most steps that a careful schedule holds: not the first one, not the last one, never two in a row."""
    return max((steps - 1) // 2, 0)


def bound(steps: int) -> str:
    """In words how much can be saved at most.

    Args:
        steps: of the run.
    """
    held = most_held(steps)
    if not held:
        return f"{steps} steps: nothing worth caching, as the first and the last step must compute"
    return (
        f"{steps} steps: at most {held} can be held without holding two in a row, the first or the last: {held / steps:.0%} "
        f"of the transformer's time, {steps / (steps - held):.2f}x"
    )


def closest_that_saves(candidates: Sequence[Candidate], least: float = WORTH) -> Candidate | None:
    """The trial that is closest to the full run among those that save something; None if none does, or none drew a video.

    Args:
        candidates: finished trials.
        least: share of the predicted time that counts as something.
    """
    saving = [each for each in candidates if each.outcome.measured and each.outcome.predicted_time <= 1 - least]
    return max(saving, key=lambda each: each.outcome.measured.psnr_db if each.outcome.measured else 0.0, default=None)


def is_worth(result: SearchResult) -> bool:
    """Whether a search ended with a policy that saves enough of the measured time to be worth its file."""
    return result.best is not None and result.judged is not None and result.judged.speedup >= 1 / (1 - WORTH)


def nothing_worth(steps: int, candidates: Sequence[Candidate]) -> str:
    """In words that a search found nothing worth caching, with the number that shows it.

    Args:
        steps: of the run.
        candidates: finished trials.
    """
    closest = closest_that_saves(candidates)
    if closest is None or closest.outcome.measured is None:
        return f"nothing worth caching at {steps} steps: no policy saves {WORTH:.0%} of the time"
    measured = closest.outcome.measured
    return (
        f"nothing worth caching at {steps} steps: the closest of {len(candidates)} policies that saves {WORTH:.0%} of the "
        f"time or more (predicted {1 - closest.outcome.predicted_time:.0%}) is {measured.psnr_db:.1f} dB from the full run "
        f"and loses {measured.drop:+.2f} points"
    )
