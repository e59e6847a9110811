"""All methods, by name."""

from collections.abc import Mapping, Sequence

from pabtune.methods.adacache import AdaCache
from pabtune.methods.budcache import BudCache
from pabtune.methods.dbcache import DBCache
from pabtune.methods.delta_dit import DeltaDiT
from pabtune.methods.dpcache import DPCache
from pabtune.methods.easycache import EasyCache
from pabtune.methods.fbcache import FirstBlockCache
from pabtune.methods.fewer_steps import BestSpacing, FewerSteps
from pabtune.methods.fora import FORA
from pabtune.methods.lemica import LeMiCa
from pabtune.methods.magcache import MagCache
from pabtune.methods.method import Method
from pabtune.methods.pab import PAB
from pabtune.methods.pabtune import Pabtune
from pabtune.methods.scalingcache import ScalingCache
from pabtune.methods.scm import SCM
from pabtune.methods.seacache import SeaCache
from pabtune.methods.smoothcache import SmoothCache
from pabtune.methods.taylorseer import TaylorSeer
from pabtune.methods.teacache import TeaCache
from pabtune.methods.tgate import TGATE
from pabtune.records.errors import MethodError

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        FewerSteps(), BestSpacing(),
        PAB(), TGATE(), DeltaDiT(), FORA(), SCM(), SmoothCache(), LeMiCa(), DPCache(), BudCache(),
        TeaCache(), MagCache(), FirstBlockCache(), DBCache(), AdaCache(), EasyCache(), SeaCache(), ScalingCache(),
        TaylorSeer(), TaylorSeer(unit="stack"),
        Pabtune(),
    )
}  # fmt: skip
"""In the order of tables: the plain ones, fixed ones, those that decide in a run, pabtune's own."""

ALL = "all"


def find_methods(names: str) -> list[Method]:
    """Methods by name, each once.

    Args:
        names: with commas between them, or `all`.

    Raises:
        MethodError: a name is unknown.
    """
    if names == ALL:
        return list(METHODS.values())
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in chosen:
        if name not in METHODS:
            raise MethodError(f"unknown method {name!r}; known: {ALL}, {', '.join(METHODS)}")
    return [METHODS[name] for name in chosen]


def find_settings(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Settings of knobs by method, from texts like `fora=2,3`.

    Raises:
        MethodError: a method is unknown, or a setting is no number in the range of its knob.
    """
    grids: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        (method,) = find_methods(name) if name != ALL else (None,)
        if method is None or not equals:
            raise MethodError(
                f"a setting is METHOD=VALUE or METHOD=VALUE,VALUE, for example fora=2,3, but got {text!r}"
            )
        try:
            settings = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise MethodError(
                f"{name}: {method.knob.name} must be numbers with commas between them, but is {values!r}"
            ) from None
        for setting in settings:
            check_setting(method, setting)
        grids[name] = tuple(dict.fromkeys(settings))
    return grids


def check_setting(method: Method, setting: float) -> None:
    """Refuses a setting that is out of the range of a method's knob.

    Raises:
        MethodError: it is, or is no whole number where one is needed, or there is none of the kind.
    """
    knob = method.knob
    if knob.only and setting not in knob.only:
        values = ", ".join(f"{value:g}" for value in knob.only)
        raise MethodError(f"{method.name}: {knob.name} must be one of {values}, but is {setting:g} ({knob.says})")
    if not knob.low <= setting <= knob.high or (knob.kind is int and setting != round(setting)):
        kind = "a whole number" if knob.kind is int else "a number"
        raise MethodError(
            f"{method.name}: {knob.name} must be {kind} from {knob.low:g} to {knob.high:g}, but is {setting:g} ({knob.says})"
        )
