"""A rule of a policy: when the sites of one kind broadcast, and what a broadcast serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, Self, get_args

from pabtune.records.errors import PolicyError
from pabtune.records.sites import KINDS, WHOLE_CALLS, Kind

Anchor = Literal["window", "start"]
PayloadKind = Literal["hold", "linear", "quadratic", "scaled"]

ANCHORS: tuple[Anchor, ...] = get_args(Anchor)
PAYLOADS: tuple[PayloadKind, ...] = get_args(PayloadKind)
MOST_FACTORS = 3
"""Most factors of one step of a `scaled` payload."""

SCHEDULES = ("compute", "count", "window", "noise_window", "first")
"""Keys of which a rule has exactly one, but for `first`, which stands with `count` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When the sites of one kind broadcast, and what a broadcast serves.

    The schedule is one of: `range` with `window`, `noise_window`, or `first` and `last`; `compute`; `count` with `first` and
    `last`.

    Attributes:
        kind: kind of the sites that follow the rule.
        range: n, where an output is computed once and serves at most n-1 further steps; 1 never broadcasts.
        window: half-open interval of steps in which broadcasting is allowed.
        noise_window: open interval of noise levels (0 = clean, 1 = noise) in which broadcasting is allowed.
        compute: the steps that compute, listed one by one.
        count: number of steps that compute; those between the first and the last ones are spread evenly.
        first: number of steps at the beginning that compute.
        last: number of steps at the end that compute.
        layers: indices of the blocks that follow the rule; None = all.
        transformer: name of the transformer that the rule is for; None = all.
        anchor: what a range counts from: `window` = the last computed step, `start` = step 0 (compute on multiples of
            n, as the paper's reference does).
        payload: what a broadcast serves: `hold` = the last output; `linear` and `quadratic` = extrapolated over the noise
            level from the last two and three; `scaled` = the last output plus, for each factor of the step, the factor times
            one of the last changes, the latest first.
        damping: fraction of the extrapolated change that is added to the last output; `linear` and `quadratic` only.
        factors: per step of the schedule that the policy was made for, up to three factors; `scaled` only.
    """

    kind: Kind
    range: int | None = None
    window: tuple[int, int] | None = None
    noise_window: tuple[float, float] | None = None
    compute: tuple[int, ...] | None = None
    count: int | None = None
    first: int | None = None
    last: int | None = None
    layers: tuple[int, ...] | None = None
    transformer: str | None = None
    anchor: Anchor = "window"
    payload: PayloadKind = "hold"
    damping: float = 1.0
    factors: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The rule of a checked document."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in document.items()
        }
        if "factors" in values:
            values["factors"] = tuple(tuple(map(float, each)) for each in values["factors"])
        return cls(**values)

    def to_document(self) -> dict[str, Any]:
        """The rule as JSON."""
        document: dict[str, Any] = {"kind": self.kind}
        for name in (
            "range", "window", "noise_window", "compute", "count", "first", "last", "layers", "transformer"
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                document[name] = list(value) if isinstance(value, tuple) else value
        for name, default in (("anchor", "window"), ("payload", "hold"), ("damping", 1.0)):
            if getattr(self, name) != default:
                document[name] = getattr(self, name)
        if self.factors:
            document["factors"] = [list(each) for each in self.factors]
        return document


def check_rule(source: str, rule: Rule) -> None:
    """Checks a rule.

    Args:
        source: names the rule in messages.
        rule: the rule.

    Raises:
        PolicyError: a value is wrong, or the values do not fit one another.
    """
    _check_values(source, rule)
    _check_payload(source, rule)
    present = {key for key in SCHEDULES if getattr(rule, key) is not None}
    if rule.compute is not None:
        if present != {"compute"} or rule.range is not None or rule.last is not None:
            others = sorted(present - {"compute"} | ({"range"} if rule.range is not None else set()))
            raise PolicyError(f"{source}: `compute` stands alone, without a range or a window, but also has {others}")
        if not rule.compute or rule.compute[0] != 0 or list(rule.compute) != sorted(set(rule.compute)):
            raise PolicyError(f"{source}: `compute` must start with step 0 and rise, but is {list(rule.compute)}")
        return
    if (rule.first is None) != (rule.last is None):
        raise PolicyError(f"{source}: `first` and `last` stand together")
    if rule.count is not None:
        if present != {"count", "first"} or rule.range is not None:
            raise PolicyError(f"{source}: `count` needs `first` and `last`, and neither a range nor a window")
        if rule.count < (rule.first or 0) + (rule.last or 0):
            raise PolicyError(f"{source}: `count` must be at least `first` + `last`, but is {rule.count}")
        return
    if rule.range is None or len(present) != 1:
        raise PolicyError(
            f"{source}: needs either `compute`, or a `range` and one of `window`, `noise_window`, `first` with `last`, or "
            "`count` with `first` and `last`"
        )
    low, high = rule.window or rule.noise_window or (0, 1)
    if not low < high:
        raise PolicyError(f"{source}: a window [start, stop] must have start < stop, but is [{low}, {high}]")


def _check_values(source: str, rule: Rule) -> None:
    """Checks each value of a rule by itself."""
    for name, value, choices in (
        ("kind", rule.kind, KINDS), ("anchor", rule.anchor, ANCHORS), ("payload", rule.payload, PAYLOADS)
    ):  # fmt: skip
        if value not in choices:
            raise PolicyError(f"{source}: {name}: {value!r} is not one of {', '.join(choices)}")
    for name, number, least in (
        ("range", rule.range, 1), ("count", rule.count, 1), ("first", rule.first, 1), ("last", rule.last, 0)
    ):  # fmt: skip
        if number is not None and (not _is_whole(number) or number < least):
            raise PolicyError(f"{source}: `{name}` must be a whole number from {least} on, but is {number!r}")
    _check_lists(source, rule)


def _check_lists(source: str, rule: Rule) -> None:
    """Checks each list of a rule by itself."""
    numbers: dict[str, Sequence[Any] | None] = {
        "window": rule.window, "compute": rule.compute, "layers": rule.layers
    }  # fmt: skip
    for name, values in numbers.items():
        if not all(_is_whole(value) and value >= 0 for value in values or ()):
            raise PolicyError(f"{source}: `{name}` must hold whole numbers from 0 on, but is {list(values or ())}")
    if not all(0 <= level <= 1 for level in rule.noise_window or ()):
        raise PolicyError(f"{source}: noise levels lie in 0..1, but `noise_window` is {list(rule.noise_window or ())}")
    for name, window in (("window", rule.window), ("noise_window", rule.noise_window)):
        if window is not None and len(window) != 2:
            raise PolicyError(f"{source}: `{name}` needs a start and a stop, but is {list(window)}")
    if rule.layers is not None and (not rule.layers or len(set(rule.layers)) != len(rule.layers)):
        raise PolicyError(f"{source}: `layers` must name at least one layer, each once, but is {list(rule.layers)}")
    if rule.layers is not None and rule.kind in WHOLE_CALLS:
        raise PolicyError(f"{source}: a {rule.kind} rule has no layers; leave `layers` out")


def _check_payload(source: str, rule: Rule) -> None:
    """Checks the values of a payload."""
    if not (isinstance(rule.damping, int | float) and isfinite(rule.damping) and 0 <= rule.damping <= 2):
        raise PolicyError(f"{source}: `damping` must be a number from 0 to 2, but is {rule.damping!r}")
    if rule.damping != 1.0 and rule.payload not in ("linear", "quadratic"):
        raise PolicyError(f"{source}: `damping` is of linear and quadratic payloads, but the payload is {rule.payload}")
    if bool(rule.factors) != (rule.payload == "scaled"):
        raise PolicyError(f"{source}: a scaled payload needs `factors`, and no other has any")
    for step, factors in enumerate(rule.factors):
        if len(factors) > MOST_FACTORS or not all(isfinite(factor) for factor in factors):
            raise PolicyError(
                f"{source}: `factors` hold up to {MOST_FACTORS} finite numbers per step, but at step {step} {list(factors)}"
            )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def counted_steps(steps: int, count: int, first: int, last: int) -> tuple[int, ...]:
    """The steps that compute where so many are to: the first and last ones, and others evenly between.

    Args:
        steps: of the run.
        count: of those that compute, the first and last ones among them.
        first: how many compute at the beginning.
        last: how many compute at the end.
    """
    others = max(count - first - last, 0)
    apart = (steps - last - (first - 1)) / (others + 1)
    between = {round(first - 1 + place * apart) for place in range(1, others + 1)}
    return tuple(sorted({*range(min(first, steps)), *between, *range(max(steps - last, 0), steps)}))
