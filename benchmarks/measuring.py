"""Shared by all benchmarks: ratios of times within one run, and writing of results."""

import json
import platform
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from pabtune.records.files import save_json
from pabtune.tuning.provenance import versions

Timed = Callable[[], float]
"""Function that makes one run and returns its seconds."""


def paired_ratios(pairs: Mapping[str, tuple[Timed, Timed]], repeats: int) -> dict[str, float]:
    """Median ratio of the times of each pair, first over second, measured in the order b-a-a-b against drift.

    The first of `repeats + 1` turns is a warm-up and is not counted.
    """
    ratios: dict[str, list[float]] = {name: [] for name in pairs}
    for turn in range(repeats + 1):
        for name, (one, other) in pairs.items():
            first, slow, again, last = other(), one(), one(), other()
            if turn:
                ratios[name].append((slow + again) / (first + last))
    return {name: statistics.median(values) for name, values in ratios.items()}


def publish(document: dict[str, Any], repeats: int, device: str, out: Path | None) -> None:
    """Adds machine and versions to a document, prints it, and saves it if `out` is set."""
    document |= {
        "repeats": repeats,
        "machine": {"device": device, "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
    }
    if out is not None:
        save_json(out, document)
    click.echo(json.dumps(document, indent=2))
