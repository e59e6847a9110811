"""Policies published elsewhere, by name: those for any model, and those that were published for one.

Source: Pyramid Attention Broadcast (https://arxiv.org/abs/2408.12588) and its reference implementation, which also ran
T-GATE (https://arxiv.org/abs/2404.02747) and Delta-DiT (https://arxiv.org/abs/2406.01125). The digits of a pyramid are the
broadcast ranges of spatial, temporal and cross attention; ranges count from step 0.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Kind

PAPER_WINDOW = (0.45, 0.93)
"""Noise levels between which the paper broadcasts in Open-Sora."""

OPEN_SORA_SHIFT = 4.84375
"""Shift of Open-Sora's schedule for 51 frames of 480x854."""

PNDM_WARM_UP = (894, 891, 891, 888, 888, 885, 885, 882, 882, 879, 879, 876)
"""Timesteps of the Runge-Kutta calls with which PNDM begins 150 steps: it makes 159 calls, and the reference counts calls."""

SOURCES: Mapping[str, str] = {
    "pab": "https://arxiv.org/abs/2408.12588",
    "tgate": "https://arxiv.org/abs/2404.02747",
    "delta-dit": "https://arxiv.org/abs/2406.01125",
}


def _pyramid_rules(digits: str, window: tuple[float, float]) -> tuple[Rule, ...]:
    kinds: tuple[Kind, ...] = ("spatial", "temporal", "cross")
    return tuple(
        Rule(kind=kind, range=int(digit), noise_window=window, anchor="start")
        for kind, digit in zip(kinds, digits, strict=True)
    )


def _all_but(steps: int, broadcast: Iterable[int]) -> tuple[int, ...]:
    left_out = set(broadcast)
    return tuple(step for step in range(steps) if step not in left_out)


class _Published:
    """Policies published for one model, at its schedule."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.made_for = MadeFor(steps=len(sigmas), sigmas=tuple(round(sigma, 6) for sigma in sigmas))
        self.steps = len(sigmas)

    def pyramids(
        self, digits: Sequence[str], window: tuple[float, float], mlp_keys: Sequence[int], mlp_layers: int
    ) -> dict[str, Policy]:
        """Attention pyramids; besides, MLPs of the first layers compute at each key and broadcast to two more steps."""
        served = chain.from_iterable((key + 1, key + 2) for key in mlp_keys)
        mlp = Rule(kind="mlp", compute=_all_but(self.steps, served), layers=tuple(range(mlp_layers)))
        return {f"pab{each}": self.policy(f"pab{each}", *_pyramid_rules(each, window), mlp) for each in digits}

    def tgate(self, gate: int, gap: int, stop: int | None = None) -> dict[str, Policy]:
        """Self-attention every `gap` steps before the gate step, no cross-attention from it to `stop`; guidance stays on."""
        cross = Rule(kind="cross", compute=_all_but(self.steps, range(gate + 1, stop or self.steps)))
        kinds: tuple[Kind, ...] = ("spatial", "temporal")
        before = [Rule(kind=kind, range=gap, window=(0, gate), anchor="start") for kind in kinds]
        return {"tgate": self.policy("tgate", *before, cross)}

    def delta_dit(self, last_step: int, layers: int) -> dict[str, Policy]:
        """Broadcast of the summed residual of the first blocks, at every second step until `last_step`."""
        skipped = range(1, last_step + 1, 2)
        rule = Rule(kind="stack", compute=_all_but(self.steps, skipped), layers=tuple(range(layers)))
        return {"delta-dit": self.policy("delta-dit", rule)}

    def policy(self, name: str, *rules: Rule) -> Policy:
        """A policy for this model's schedule, which is carried to others by noise level."""
        source = next(source for method, source in SOURCES.items() if name.startswith(method))
        return Policy(name=name, rules=rules, made_for=self.made_for, provenance={"source": source})


def _open_sora() -> dict[str, Policy]:
    uniform = [1 - step / 30 for step in range(30)]
    shifted = [OPEN_SORA_SHIFT * level / (1 + (OPEN_SORA_SHIFT - 1) * level) for level in uniform]
    published = _Published(shifted)
    pyramids = published.pyramids(("246", "357", "579"), PAPER_WINDOW, mlp_keys=(13, 17, 21), mlp_layers=5)
    return pyramids | published.tgate(12, 2) | published.delta_dit(5, 6)


def _latte() -> dict[str, Policy]:
    published = _Published([(980 - 20 * step) / 1000 for step in range(50)])
    pyramids = published.pyramids(("236", "347", "469"), (0.1, 0.8), mlp_keys=(13, 17, 21, 25, 29), mlp_layers=5)
    return pyramids | published.tgate(20, 2) | published.delta_dit(1, 2)


def _open_sora_plan() -> dict[str, Policy]:
    published = _Published([timestep / 1000 for timestep in (*PNDM_WARM_UP, *range(876, -1, -6))])
    pyramids = published.pyramids(("246", "357", "579"), (0.1, 0.85), mlp_keys=range(35, 88, 4), mlp_layers=7)
    return pyramids | published.tgate(90, 6, stop=150) | published.delta_dit(1, 3)


def _attention_pyramid(digits: str) -> Policy:
    rules = _pyramid_rules(digits, PAPER_WINDOW)
    return Policy(name=f"pab{digits}", rules=rules, provenance={"source": SOURCES["pab"]})


PRESETS: Mapping[str, Policy] = {
    "none": Policy(name="none"),
    "pab246": _attention_pyramid("246"),
    "pab357": _attention_pyramid("357"),
    "pab579": _attention_pyramid("579"),
}
"""For any model with spatial and temporal attention. MLPs always compute."""

MODEL_PRESETS: Mapping[str, Mapping[str, Policy]] = {
    "open-sora-1.2": _open_sora(),
    "latte": _latte(),
    "open-sora-plan-1.1": _open_sora_plan(),
}
"""As they were published for one model, by its name; the pyramids with their broadcast of MLPs."""

PRESET_LINES: Mapping[str, str] = {
    "none": "computes everything",
    "pab246": "the paper's careful setting: spatial 2, temporal 4, cross 6",
    "pab357": "the paper's middle setting: spatial 3, temporal 5, cross 7",
    "pab579": "the paper's fast setting: spatial 5, temporal 7, cross 9",
}


NAMED_FIRST, NAMED_LAST = 3, 2
"""Steps at both ends that `every:K` computes."""

NAMED_LINES: Mapping[str, str] = {
    "steps:N": "a run of N denoising steps, computed in full",
    "every:K": f"whole calls: every K-th step, the first {NAMED_FIRST} and the last {NAMED_LAST}; the last output is held",
    "every:K:linear": "the same, extrapolated from the last two outputs; `:0.7` behind it damps",
    "every:K:quadratic": "the same from the last three",
}
"""Policies that a person would write by hand, by name."""


def named_policy(name: str) -> Policy | None:
    """The policy of a name like `steps:22` or `every:2:linear:0.7`; None if it has another form.

    Raises:
        PolicyError: a number is out of its range, or the payload is unknown.
    """
    form, *parts = name.split(":")
    if form not in ("steps", "every") or not parts or "/" in name:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,3}", parts[0]) or (form == "every" and parts[0] == "1"):
        least = 2 if form == "every" else 1
        raise PolicyError(
            f"policy {name!r}: {parts[0]!r} is not a number from {least} to 9999; write for example steps:22 or every:2"
        )
    if form == "steps":
        if len(parts) > 1:
            raise PolicyError(f"policy {name!r}: steps:N takes nothing else")
        return Policy(name=name, steps=int(parts[0]))
    payload, damping = (*parts[1:], "", "")[:2]
    if len(parts) > 3 or payload not in ("", "hold", "linear", "quadratic"):
        raise PolicyError(
            f"policy {name!r}: what is served is hold, linear or quadratic, for example every:2:linear:0.7"
        )
    if damping and (not re.fullmatch(r"[0-9]*\.?[0-9]+", damping) or float(damping) > 2):
        raise PolicyError(f"policy {name!r}: the damping {damping!r} is not a number from 0 to 2")
    rule = Rule(
        kind="transformer",
        range=int(parts[0]),
        first=NAMED_FIRST,
        last=NAMED_LAST,
        payload=payload or "hold",  # type: ignore[arg-type]
        damping=float(damping or 1),
    )
    return Policy(name=name, rules=(rule,))


def find_policy(name_or_path: str, model: str | None = None) -> Policy:
    """A preset by name, or a policy file.

    Args:
        name_or_path: a preset; `MODEL/PRESET` for one that was published for another model's name; a name of
            `NAMED_LINES`; or a file.
        model: name of the model that will run it; a preset published for that model comes first.

    Raises:
        PolicyError: neither a preset nor a readable policy file.
    """
    model_name, _, preset = name_or_path.rpartition("/")
    for_model = MODEL_PRESETS.get(model_name or model or "", {})
    if preset in for_model:
        return for_model[preset]
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    is_there = os.path.exists(name_or_path)  # says no to names that no file can have
    named = None if is_there else named_policy(name_or_path)
    if named is not None:
        return named
    if not is_there:
        names = ", ".join(
            [*PRESETS, *NAMED_LINES, *(f"{each}/{name}" for each, some in MODEL_PRESETS.items() for name in some)]
        )
        raise PolicyError(f"{name_or_path!r} is neither a policy file nor a preset; presets: {names}")
    return Policy.load(name_or_path)
