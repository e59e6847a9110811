"""Running a verb on several processes: the layout that the options specify, and starting the processes."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from pabtune.parallel.process import is_launched
from pabtune.planning.layouts import AXES
from pabtune.records.errors import ParallelError
from pabtune.records.interconnects import INTERCONNECTS, find_interconnect
from pabtune.records.layouts import DECODES, SEQUENCE_PARALLELS, Axis, Decode, ParallelLayout, SequenceParallel

ARGUMENTS = "pabtune.arguments"
"""Key under which a context keeps the arguments of its command line."""

LEAST_LIMIT, PROCESSES_PER_CORE = 64, 4
"""No machine has more GPUs, and more processes on the CPU would only wait for one another."""

COMMAND = "import sys; from pabtune.cli.main import run; run(sys.argv[1:])"

layout_option = click.option(
    "--layout", "layout_file", type=click.Path(path_type=Path),
    help="Layout file from `pabtune cost --layout-out`; replaces all options of the layout.",
)  # fmt: skip
method_option = click.option(
    "--sequence-parallel", type=click.Choice(SEQUENCE_PARALLELS),
    help="How temporal or spatial attention communicates; default: dsp. Full attention always uses ulysses.",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutOptions:
    """The options of a layout; None = not given."""

    layout_file: Path | None
    gpus: int | None
    sequence_parallel: SequenceParallel | None
    split_axis: Axis | None
    split_branches: bool | None
    split_samples: int | None
    decode: Decode | None

    def layout(self, gpus: int | None = None) -> ParallelLayout:
        """The layout that the options specify.

        Args:
            gpus: number of GPUs; None = what the user asks for.

        Raises:
            ParallelError: the options contradict each other, or do not fit the number of GPUs.
        """
        if self.layout_file is not None:
            return self._from_file(self.layout_file)
        gpus = gpus or self.gpus or 1
        branches, samples = 2 if self.split_branches else 1, self.split_samples or 1
        if self.split_axis is not None and gpus == 1:
            raise ParallelError(f"--split-axis {self.split_axis} needs several processes: --gpus 2 or more")
        return ParallelLayout.over(
            gpus,
            branches=branches,
            samples=samples,
            axis=self.split_axis,
            exchange=self.sequence_parallel or "dsp",
            decode=self.decode or "frames",
        )

    def _from_file(self, path: Path) -> ParallelLayout:
        names = [
            each.name for each in fields(self) if each.name != "layout_file" and getattr(self, each.name) is not None
        ]
        if names:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in names)
            raise ParallelError(f"--layout {path} already contains the layout; leave {flags} out")
        return ParallelLayout.load(path)


def start_processes(gpus: int) -> int | None:
    """Starts this command once per process and returns its exit code; None if this process should do the work itself.

    Args:
        gpus: number of processes.

    Raises:
        ParallelError: a process failed, or there would be far more than this machine has cores.
    """
    if gpus == 1 or is_launched():
        return None
    most = max(LEAST_LIMIT, (os.cpu_count() or 1) * PROCESSES_PER_CORE)
    if gpus > most:
        raise ParallelError(f"{gpus} processes are too many for this machine; up to {most} are started")
    from pabtune.parallel.launch import launch

    arguments = click.get_current_context().meta[ARGUMENTS]
    return launch(gpus, [sys.executable, "-c", COMMAND, *arguments])


def check_batches(batches: Sequence[Sequence[Any]], samples: int) -> None:
    """Checks that the samples of each call can be split.

    Args:
        batches: prompts of each call.
        samples: number of parts that the samples of a call are split into.

    Raises:
        ParallelError: the prompts of a call are not a multiple of the parts.
    """
    for batch in batches:
        if len(batch) % samples:
            raise ParallelError(
                f"--split-samples {samples} needs a multiple of {samples} prompts of a content class in each call, "
                f"but {len(batch)} of {batch[0].content!r} are left"
            )


def predicted_layout_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds options for the layout to predict; passes them as `layout` and `interconnect`."""
    names = ("layout_file", "gpus", "sequence_parallel", "split_branches")

    @wraps(command)
    def folded(*args: Any, link: str, **values: Any) -> Any:
        parameters = {name: values.pop(name) for name in names}
        options = LayoutOptions(**parameters, split_axis=None, split_samples=None, decode=None)
        return command(*args, layout=options.layout(), interconnect=find_interconnect(link), **values)

    for option in (
        click.option(
            "--link", default="nvlink", show_default=True,
            help=f"Interconnect between the GPUs: {', '.join(INTERCONNECTS)}, or a file from `pabtune bench-links`.",
        ),
        click.option(
            "--split-branches", is_flag=True, default=None, help="Each half of the GPUs will compute one guidance branch.",
        ),
        method_option,
        click.option(
            "--gpus", type=click.IntRange(min=1),
            help="GPUs that will share a video; candidates are ranked by their predicted time on them; default: 1.",
        ),
        layout_option,
    ):  # fmt: skip
        folded = option(folded)
    return folded


def layout_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a layout; passes them as one argument `layout_options`."""
    names = [each.name for each in fields(LayoutOptions)]

    @wraps(command)
    def folded(*args: Any, **values: Any) -> Any:
        options = LayoutOptions(**{name: values.pop(name) for name in names})
        return command(*args, layout_options=options, **values)

    for option in (
        click.option(
            "--decode", type=click.Choice(DECODES),
            help="How VAE decoding is shared. frames: exactly, where the VAE works frame by frame (default); tiles: also in "
            "blended tiles, for any VAE; alone: not at all.",
        ),
        click.option(
            "--split-samples", type=click.IntRange(min=1),
            help="Prompts to generate in one call, each on its own part of the processes; default: 1.",
        ),
        click.option(
            "--split-branches", is_flag=True, default=None, help="Each half of the processes computes one guidance branch.",
        ),
        click.option(
            "--split-axis", type=click.Choice(AXES),
            help="Axis of a spatial-temporal model to split; default: the one that sends the fewest bytes under the policy.",
        ),
        method_option,
        click.option(
            "--gpus", type=click.IntRange(min=1),
            help="Processes that share each video; with --device cpu they share its cores; default: 1. Under torchrun, those "
            "that it started.",
        ),
        layout_option,
    ):  # fmt: skip
        folded = option(folded)
    return folded
