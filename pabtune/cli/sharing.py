"""How a verb runs on several processes: started by itself or by torchrun, split over guidance branches and frames."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

import click

import pabtune
from pabtune.planning.costs.communication import PARALLELS, Parallel

COMMAND = "from pabtune.cli.main import run; run()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How the user wants a video to be shared by processes."""

    gpus: int
    parallel: Parallel
    split_branches: bool

    def start(self) -> int | None:
        """Starts this command once per process and waits for its exit code; None if this process is to do the work itself.

        Raises:
            ParallelError: a process failed.
        """
        from pabtune.parallel.mesh import is_launched

        if self.gpus == 1 or is_launched():
            return None
        from pabtune.parallel.launch import launch

        return launch(self.gpus, [sys.executable, "-c", COMMAND, *sys.argv[1:]])

    @contextmanager
    def split(self, pipeline: Any, device: str, agreed: dict[str, Any]) -> Iterator[Any]:
        """Splits a pipeline over the processes, if there are several; yields the split, or None.

        Args:
            pipeline: loaded the same by every process.
            device: it is on.
            agreed: what all processes must have been told alike.

        Raises:
            ParallelError: they were not, or the model cannot be split.
        """
        from pabtune.parallel.mesh import is_launched

        if not is_launched():
            yield None
            return

        from pabtune.cli.output import say
        from pabtune.parallel.mesh import Mesh, choose_layout
        from pabtune.parallel.split import split

        processes = int(os.environ["WORLD_SIZE"])
        layout = choose_layout(processes, split_branches=self.split_branches)
        with Mesh(layout, device) as mesh:
            told = {"layout": (self.parallel, self.split_branches), "pabtune": pabtune.__version__}
            mesh.agree({**agreed, **told})
            say(f"{processes} processes: {layout}; frames by {self.parallel}")
            made = split(pipeline, mesh, self.parallel)
            try:
                yield made
            finally:
                made.remove()


def sharing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--gpus`, `--parallel` and `--split-branches`, handed over as one argument `sharing`."""
    names = [each.name for each in fields(Sharing)]

    @wraps(command)
    def folded(*args: Any, **values: Any) -> Any:
        return command(*args, sharing=Sharing(**{name: values.pop(name) for name in names}), **values)

    for option in (
        click.option("--split-branches", is_flag=True, help="Give each guidance branch half of the processes."),
        click.option(
            "--parallel", type=click.Choice(PARALLELS), default="dsp", show_default=True,
            help="How temporal attention exchanges frames.",
        ),
        click.option(
            "--gpus", type=click.IntRange(min=1), default=1, show_default=True,
            help="Processes that share each video; with --device cpu they share its cores. Under torchrun: its own number.",
        ),
    ):  # fmt: skip
        folded = option(folded)
    return folded
