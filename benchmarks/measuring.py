"""What all benchmarks have in common: ratios of times within one run, and how results are written."""

import json
import platform
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from pabtune.records.files import save_json
from pabtune.tuning.profile import versions

Timed = Callable[[], float]
"""Runs once; returns seconds."""


def paired_ratios(pairs: Mapping[str, tuple[Timed, Timed]], repeats: int) -> dict[str, float]:
    """Time of the first of each pair over that of the second, measured b-a-a-b against drift; median over repeats.

    One more turn, the first, is for warming up.
    """
    ratios: dict[str, list[float]] = {name: [] for name in pairs}
    for turn in range(repeats + 1):
        for name, (one, other) in pairs.items():
            first, slow, again, last = other(), one(), one(), other()
            if turn:
                ratios[name].append((slow + again) / (first + last))
    return {name: statistics.median(values) for name, values in ratios.items()}


def publish(document: dict[str, Any], repeats: int, device: str, out: Path | None) -> None:
    """Prints a document with the machine and the versions it was measured with, and saves it."""
    document |= {
        "repeats": repeats,
        "machine": {"device": device, "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
    }
    if out is not None:
        save_json(out, document)
    click.echo(json.dumps(document, indent=2))
