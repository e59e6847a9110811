"""What a configuration of another engine says: which blocks it holds, in which steps, by which rule.

Knows neither a model nor, in most cases, the number of steps of the run: `methods/engine_files.py` makes a policy of it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from pabtune.records.errors import PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class DualBlocks:
    """cache-dit's DBCache, which SGLang runs too: the first and the last blocks compute, what lies between is held.

    Attributes:
        front: F, blocks at the beginning that always compute.
        back: B, blocks at the end that always compute.
        threshold: of the relative change of what the front adds, below which nothing between computes; from 1 on any change.
        warm_up: steps at the beginning that compute.
        warm_up_interval: every so many of them; the others may be held.
        most: most steps that are held in a run, by branch; None = any number.
        most_in_row: most steps that are held in a row; None = any number.
        most_change: sum of all changes that were measured in a run, from which on everything computes; None = no limit.
        order: of the series that a held step serves, 0 to 2: 0 = the last computed residual.
        continues_text: whether the series is of text too, where blocks pass it along beside the video.
        takes_one_decision: whether the second branch does as the first one did.
        mask: per step, whether it must compute; None = the threshold decides in all.
        preset: cache-dit's name of a mask; None = it is in `mask`, or there is none.
        is_static: whether the other steps of the mask are held without a look at the threshold.
    """

    front: int = 8
    back: int = 0
    threshold: float = 0.08
    warm_up: int = 8
    warm_up_interval: int = 1
    most: int | None = None
    most_in_row: int | None = None
    most_change: float | None = None
    order: int = 0
    continues_text: bool = True
    takes_one_decision: bool = False
    mask: tuple[bool, ...] | None = None
    preset: str | None = None
    is_static: bool = False

    @property
    def has_mask(self) -> bool:
        """Whether steps are named, one by one or by a preset."""
        return self.mask is not None or self.preset is not None

    @property
    def is_fixed(self) -> bool:
        """Whether the steps that compute are known before the run."""
        return self.is_static and self.has_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSteps:
    """Steps in which all blocks are held, known before the run.

    Attributes:
        mask: per step, whether it computes.
    """

    mask: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBlock:
    """First-block cache: the first block always computes, and by its change the others.

    Attributes:
        threshold: of the relative change, below which the others are held.
    """

    threshold: float


OWN_BLOCKS: Mapping[str, tuple[str, ...]] = {
    "spatial": ("^(?!.*(temporal|refiner)).*(blocks|layers)",),
    "temporal": ("^.*temporal.*blocks",),
}
"""Where diffusers is to look for attention of a kind: by itself it takes all that has `blocks` in its name for spatial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRange:
    """Broadcast of one kind of attention.

    Attributes:
        kind: as diffusers calls it; its spatial attention is full attention too.
        range: computed once, then used for so many steps in all, counted from step 0.
        window: noise levels, least first, between which it is broadcast.
    """

    kind: Literal["spatial", "temporal", "cross"]
    range: int
    window: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRanges:
    """Pyramid Attention Broadcast, a range for each kind of attention.

    Attributes:
        ranges: of each kind.
        is_told_apart: whether spatial attention is looked for where it is alone; else temporal attention gets its range.
    """

    ranges: tuple[AttentionRange, ...]
    is_told_apart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSeries:
    """TaylorSeer of modules: some steps compute, the others continue each module's output as a series.

    Attributes:
        interval: every so many steps compute.
        before: steps at the beginning that compute.
        after: step from which on all compute; None = none.
        order: of the series, 0 to 2.
        patterns: regular expressions that the paths of the modules match in full.
    """

    interval: int
    before: int
    after: int | None
    order: int
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """The configuration holds nothing: everything computes."""


Rule = DualBlocks | HeldSteps | FirstBlock | AttentionRanges | ModuleSeries | Nothing

RULE_NAMES: Mapping[type, str] = {
    DualBlocks: "dual blocks",
    HeldSteps: "held steps",
    FirstBlock: "first block",
    AttentionRanges: "attention ranges",
    ModuleSeries: "series of modules",
    Nothing: "nothing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a file of another engine says.

    Attributes:
        engine: its name, as in `ENGINES`.
        name: of the file.
        form: what kind of file it is, in words.
        rule: what is held when.
        steps: denoising steps that it is for; None = any.
        is_cut: whether the engine cuts a mask that is longer than the run.
        has_separate_calls: whether it says that guidance branches have calls of their own; None = it says nothing.
        other_for_second: knobs that say something else for the second transformer of a model.
        remarks: what the engine itself ignores or trips over, and what is not judged, a line each.
    """

    engine: str
    name: str
    form: str
    rule: Rule
    steps: int | None = None
    is_cut: bool = False
    has_separate_calls: bool | None = None
    other_for_second: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def check_steps(self, steps: int) -> None:
        """Refuses another number of steps than the configuration is for.

        Raises:
            PolicyError: says what to do.
        """
        if self.steps not in (None, steps):
            raise PolicyError(
                f"{self.name} is for {self.steps} denoising steps (num_inference_steps), but the run has {steps}; say --steps "
                f"{self.steps}"
            )

    def to_document(self) -> dict[str, Any]:
        """What was read, as JSON."""
        return {
            "engine": self.engine,
            "file": self.name,
            "form": self.form,
            "rule": {"name": RULE_NAMES[type(self.rule)], **_plain(asdict(self.rule))},
            "steps": self.steps,
            "remarks": list(self.remarks),
        }


def _plain(value: Any) -> Any:
    """A value with lists in the place of tuples, and numbers in that of the mask's answers."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [int(each) if isinstance(each, bool) else _plain(each) for each in value]
    return value


class Values:
    """The keys of a mapping of another engine, taken one by one, each checked.

    Args:
        values: as the file has them.
        source: names the file in messages.
        defaults: values of keys that are missing, or None where the engine takes that for missing.
    """

    def __init__(self, values: Mapping[str, Any], source: str, defaults: Mapping[str, Any]) -> None:
        self._values, self.source, self._defaults = values, source, defaults
        self._taken: set[str] = set()

    @property
    def unknown(self) -> list[str]:
        """Keys that nobody asked for."""
        return [str(key) for key in self._values if key not in self._taken]

    def take(self, key: str) -> Any:
        """The value of a key, of any type."""
        self._taken.add(key)
        value = self._values.get(key)
        return self._defaults.get(key) if value is None else value

    def whole(self, key: str, least: int) -> int:
        """A whole number.

        Raises:
            PolicyError: it is none, or less than the least.
        """
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise PolicyError(f"{self.source}: {key} must be a whole number from {least} on, but is {value!r}")
        return value

    def limit(self, key: str) -> int | None:
        """A whole number, where a negative one stands for no limit.

        Raises:
            PolicyError: it is no whole number.
        """
        value = self.whole(key, -(2**31))
        return None if value < 0 else value

    def number(self, key: str) -> float:
        """A number.

        Raises:
            PolicyError: it is none.
        """
        value = self.take(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
            hint = "; in YAML 1e-3 is a text, write 1.0e-3" if isinstance(value, str) and _is_number(value) else ""
            raise PolicyError(f"{self.source}: {key} must be a number, but is {value!r}{hint}")
        return float(value)

    def truth(self, key: str) -> bool:
        """True or false.

        Raises:
            PolicyError: it is neither.
        """
        value = self.take(key)
        if not isinstance(value, bool):
            raise PolicyError(f"{self.source}: {key} must be true or false, but is {value!r}")
        return value

    def refuse(self, key: str, unless: Any, why: str) -> None:
        """Refuses a key that says something which cannot be judged.

        Args:
            key: the key.
            unless: the value that is harmless.
            why: what it would do.

        Raises:
            PolicyError: the value is another one.
        """
        value = self.take(key)
        if value is not None and value != unless:
            raise PolicyError(f"{self.source}: {key}: {value!r} cannot be judged: {why}; leave it out")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
