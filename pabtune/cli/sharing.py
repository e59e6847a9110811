"""How a verb runs on several processes: started by itself or by torchrun, and what of a video they share."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

import click

import pabtune
from pabtune.planning.costs import sharing as costs
from pabtune.planning.costs.communication import PARALLELS, Parallel
from pabtune.planning.sharding import AXES, EXCHANGING, Axis, Way
from pabtune.records.errors import ParallelError
from pabtune.records.links import LINKS, find_link

COMMAND = "from pabtune.cli.main import run; run()"

DECODING = ("frames", "squares", "alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How the user wants a video to be shared by processes."""

    gpus: int
    parallel: Parallel
    split_axis: Axis | None
    split_branches: bool
    split_samples: int
    decode: str

    @property
    def processes(self) -> int:
        """That share each video: as many as a launcher started, or as the user asks for."""
        from pabtune.parallel.mesh import is_launched

        return int(os.environ["WORLD_SIZE"]) if is_launched() else self.gpus

    def layout(self) -> Any:
        """How they stand.

        Raises:
            ParallelError: so many cannot stand so.
        """
        from pabtune.parallel.mesh import choose_layout

        return choose_layout(self.processes, split_branches=self.split_branches, samples=self.split_samples)

    def start(self, batches: Sequence[Sequence[Any]]) -> int | None:
        """Starts this command once per process and waits for its exit code; None if this process is to do the work itself.

        Args:
            batches: prompts of each call.

        Raises:
            ParallelError: a process failed, or they could not share the work; then none was started.
        """
        from pabtune.parallel.mesh import is_launched

        self.layout()
        if self.split_axis is not None and self.processes == 1:
            raise ParallelError(f"--split-axis {self.split_axis} needs several processes: --gpus 2 or more")
        for batch in batches:
            if len(batch) % self.split_samples:
                raise ParallelError(
                    f"--split-samples {self.split_samples} needs as many prompts of a content class in each call, but "
                    f"{len(batch)} of {batch[0].content!r} are left"
                )
        if self.gpus == 1 or is_launched():
            return None
        from pabtune.parallel.launch import launch

        return launch(self.gpus, [sys.executable, "-c", COMMAND, *sys.argv[1:]])

    def axis_of(self, pipeline: Any, choose: Callable[[Parallel, int], Axis]) -> Axis:
        """The axis of a pipeline that is split.

        Args:
            pipeline: of any model.
            choose: among several axes, by how attention exchanges and how many share the sequence.

        Raises:
            ParallelError: the user named one that it does not have.
        """
        from pabtune.parallel.spatial_temporal import axes_of

        axes = axes_of(pipeline)
        if self.split_axis is None:
            return choose(self.parallel, self.layout().sequence) if len(axes) > 1 else "frames"
        if self.split_axis not in axes:
            able = f"its {' or '.join(axes)}" if axes else "no axis"
            raise ParallelError(f"--split-axis {self.split_axis}: {type(pipeline).__name__} can be split along {able}")
        return self.split_axis

    @contextmanager
    def split(
        self, pipeline: Any, device: str, agreed: dict[str, Any], choose: Callable[[Parallel, int], Axis]
    ) -> Iterator[Any]:
        """Splits a pipeline over the processes, if there are several; yields the split, or None.

        Args:
            pipeline: loaded the same by every process.
            device: it is on.
            agreed: what all processes must have been told alike.
            choose: the axis to split of a spatial-temporal model, by how it exchanges and how many share the sequence.

        Raises:
            ParallelError: they were not, or the model cannot be split.
        """
        from pabtune.parallel.mesh import is_launched

        if not is_launched():
            yield None
            return

        from pabtune.cli.output import say
        from pabtune.parallel.decoding import split_decoder
        from pabtune.parallel.mesh import Mesh
        from pabtune.parallel.spatial_temporal import axes_of
        from pabtune.parallel.split import describe_split, split

        layout = self.layout()
        axis = self.axis_of(pipeline, choose)
        with Mesh(layout, device) as mesh:
            told = {"layout": (self.parallel, layout, axis, self.decode), "pabtune": pabtune.__version__}
            mesh.agree({**agreed, **told})
            made = split(pipeline, mesh, self.parallel, axis)
            try:
                way = (
                    f"{axis} split, {EXCHANGING[axis]} attention by {self.parallel}"
                    if axes_of(pipeline)
                    else describe_split(pipeline)
                )
                decoding = None
                if self.decode != "alone":
                    decoding = split_decoder(made, pipeline, squares=self.decode == "squares")
                worth = " where that is faster" if decoding == "squares" else ""
                told_decoding = f"; decoding shared by {decoding}{worth}" if decoding else ""
                say(f"{self.processes} processes: {layout}{'; ' + way if layout.sequence > 1 else ''}{told_decoding}")
                yield made
            finally:
                made.remove()


def shared_by_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--gpus`, how they will share a video and what lies between them, handed over as one argument `shared_by`."""

    @wraps(command)
    def folded(*args: Any, gpus: int, parallel: Parallel, split_branches: bool, link: str, **values: Any) -> Any:
        way = Way(gpus=gpus, branches=2 if split_branches else 1, parallel=parallel)
        return command(*args, shared_by=costs.Sharing(way=way, link=find_link(link)), **values)

    for option in (
        click.option(
            "--link", default="nvlink", show_default=True,
            help=f"Between them: {', '.join(LINKS)}, or a file of `pabtune bench-links`.",
        ),
        click.option("--split-branches", is_flag=True, help="They will have one guidance branch each."),
        click.option(
            "--parallel", type=click.Choice(PARALLELS), default="dsp", show_default=True, help="How they will exchange.",
        ),
        click.option(
            "--gpus", type=click.IntRange(min=1), default=1, show_default=True,
            help="GPUs that will share a video: candidates are ranked by their predicted time on these, not on one.",
        ),
    ):  # fmt: skip
        folded = option(folded)
    return folded


def sharing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--gpus` and how a video is shared by them, handed over as one argument `sharing`."""
    names = [each.name for each in fields(Sharing)]

    @wraps(command)
    def folded(*args: Any, **values: Any) -> Any:
        return command(*args, sharing=Sharing(**{name: values.pop(name) for name in names}), **values)

    for option in (
        click.option(
            "--decode", type=click.Choice(DECODING), default="frames", show_default=True,
            help="Share the VAE's decoding: frames, where it works on them alone; squares, blended, for any VAE; alone: not.",
        ),
        click.option(
            "--split-samples", type=click.IntRange(min=1), default=1, show_default=True,
            help="Prompts that are drawn in one call, each by its own part of the processes.",
        ),
        click.option("--split-branches", is_flag=True, help="Give each guidance branch half of the processes."),
        click.option(
            "--split-axis", type=click.Choice(AXES),
            help="What of a spatial-temporal model is split; default: what lets the policy send least.",
        ),
        click.option(
            "--parallel", type=click.Choice(PARALLELS), default="dsp", show_default=True,
            help="How temporal or spatial attention exchanges; full attention is always shared by heads, as in ulysses.",
        ),
        click.option(
            "--gpus", type=click.IntRange(min=1), default=1, show_default=True,
            help="Processes that share each video; with --device cpu they share its cores. Under torchrun: its own number.",
        ),
    ):  # fmt: skip
        folded = option(folded)
    return folded
