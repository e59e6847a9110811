"""Policies published elsewhere, by name.

Source: Pyramid Attention Broadcast (https://arxiv.org/abs/2408.12588): digits are the broadcast ranges of spatial,
temporal and cross attention; the window is timesteps 450 to 930 of 1000, for every kind, and ranges count from step 0.
"""

from collections.abc import Mapping
from pathlib import Path

from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy, Rule

PAPER_WINDOW = (0.45, 0.93)
"""Noise levels between which the paper broadcasts."""


def _pyramid(spatial: int, temporal: int, cross: int) -> Policy:
    ranges = {"spatial": spatial, "temporal": temporal, "cross": cross}
    return Policy(
        name=f"pab{spatial}{temporal}{cross}",
        rules=tuple(
            Rule(kind=kind, range=n, noise_window=PAPER_WINDOW, anchor="start")  # type: ignore[arg-type]
            for kind, n in ranges.items()
        ),
        provenance={"source": "https://arxiv.org/abs/2408.12588"},
    )


PRESETS: Mapping[str, Policy] = {
    "none": Policy(name="none"),
    "pab246": _pyramid(2, 4, 6),
    "pab357": _pyramid(3, 5, 7),
    "pab579": _pyramid(5, 7, 9),
}

PRESET_LINES: Mapping[str, str] = {
    "none": "computes everything",
    "pab246": "the paper's careful setting: spatial 2, temporal 4, cross 6",
    "pab357": "the paper's middle setting: spatial 3, temporal 5, cross 7",
    "pab579": "the paper's fast setting: spatial 5, temporal 7, cross 9",
}


def find_policy(name_or_path: str) -> Policy:
    """A preset by name, or a policy file.

    Raises:
        PolicyError: neither a preset nor a readable policy file.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    if not Path(name_or_path).exists():
        known = ", ".join(PRESETS)
        raise PolicyError(f"{name_or_path!r} is neither a policy file nor a preset; presets: {known}")
    return Policy.load(name_or_path)
