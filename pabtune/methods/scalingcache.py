"""ScalingCache (https://openreview.net/forum?id=uXmbrTlko7): between holding and extrapolating, by a measured share.

What serves is y + a k d: the blocks' summed residual at the last computed step, its change per step d since the computed
step before, k steps on, scaled by a share a of that step: 0 holds, 1 extrapolates. Shares are measured in full runs, by
least squares on neighbouring steps. When to compute is decided in the run by a threshold.

The paper's code was not at hand: which change its threshold adds up is not known here, and EasyCache's, which it builds on,
is taken in its place.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from pabtune.methods.differences import Seen, carried, misfit_of, watch_full_runs, watching
from pabtune.methods.easycache import WARM_UP, EasyCacheDecider
from pabtune.methods.method import Knob, Recordings
from pabtune.runtime.deciders import Decision, DynamicPolicy, Moment
from pabtune.runtime.targets import Target


class ScalingCacheDecider:
    """ScalingCache's rule for one branch.

    Args:
        threshold: up to which expected changes add up without computing.
        warm_up: number of steps at the beginning that compute.
        shares: of each step.
    """

    def __init__(self, threshold: float, warm_up: int, shares: Sequence[float]) -> None:
        self._when, self._shares = EasyCacheDecider(threshold, warm_up), shares

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """Decides as EasyCache does, and scales what serves (see `Decider`)."""
        decision = self._when.decide(moment, seen)
        if decision.computes or len(moment.kept) < 2:
            return decision
        earlier, latest = moment.kept[-2:]
        scale = (moment.step - latest) / (latest - earlier)
        return Decision(computes=False, factors=(self._shares[moment.step] * scale,))

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Measures the rate (see `Decider`)."""
        self._when.computed(moment, watched)


class ScalingCache:
    """ScalingCache, by its threshold."""

    name = "scalingcache"
    knob = Knob(
        name="threshold", low=0.0, high=1.0, says="sum of expected relative changes up to which nothing computes"
    )
    settings = (0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.2)
    needs: Literal["nothing", "recordings"] = "recordings"

    def misfit(self, model: Target) -> str | None:
        """Whether there are no blocks."""
        return misfit_of(model, watching(self.name, lambda _: None, point="call"))

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """The share of each step from the third on; and the number of steps."""
        sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        changes: dict[tuple[str, str], tuple[int, Tensor]] = {}

        def note(now: Seen) -> None:
            if now.before is None or now.watched is None or now.before.watched is None:
                return
            change, key = now.watched.float() - now.before.watched.float(), (now.transformer, now.branch)
            step, earlier = changes.pop(key, (-1, change))
            if step == now.moment.step - 1:
                sums[now.moment.step][0] += float((change * earlier).sum())
                sums[now.moment.step][1] += float(earlier.square().sum())
            changes[key] = now.moment.step, change

        watch_full_runs(recordings, watching(self.name, note, point="call", watch="stack"))
        shares = {str(step): product / square for step, (product, square) in sums.items() if square}
        return {"steps": recordings.settings.steps, "shares": shares}

    def at(self, setting: float, calibration: Any, steps: int) -> DynamicPolicy:
        """The policy of a threshold; shares of another number of steps are carried to the nearest step."""
        by_step = {int(step): share for step, share in calibration["shares"].items()}
        shares = carried(by_step, steps, calibration["steps"], 0.0)
        warm_up = max(round(WARM_UP * steps), 1)
        return DynamicPolicy(
            name=f"{self.name}:{setting:g}",
            steps=steps,
            decider=lambda *_: ScalingCacheDecider(setting, warm_up, shares),
            point="call",
            watch="call",
            history=2,
            is_shared=True,
        )
