"""The processes of a run and how they stand: samples by guidance branches by parts of the sequence.

Knows ranks and groups; knows nothing of models.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Self, get_args

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pabtune.records.errors import ParallelError

TIMEOUT = timedelta(minutes=5)
"""How long a process waits for the others before it gives up: longer than any step."""


LOST = "another process was lost"
"""How the reason of a process begins that stops because another one did."""

Dimension = Literal["samples", "branches", "sequence", "everything"]
"""What processes of a mesh share; `everything`: all of them do."""

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)[:3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many processes share the samples of a call, the guidance branches, and the sequence."""

    samples: int = 1
    branches: int = 1
    sequence: int = 1

    @property
    def processes(self) -> int:
        """All of them."""
        return self.samples * self.branches * self.sequence

    def __str__(self) -> str:
        samples = f"{self.samples} for samples x " if self.samples > 1 else ""
        return f"{samples}{self.branches} for guidance branches x {self.sequence} for the sequence"


def choose_layout(processes: int, *, split_branches: bool = False, samples: int = 1) -> Layout:
    """The layout of so many processes.

    Args:
        processes: how many.
        split_branches: give each guidance branch its own half.
        samples: parts into which the samples of a call are split.

    Raises:
        ParallelError: the number is not a multiple of what shares branches and samples.
    """
    branches = 2 if split_branches else 1
    if processes % branches:
        raise ParallelError(f"two guidance branches need an even number of processes, not {processes}")
    if samples < 1 or processes % (branches * samples):
        raise ParallelError(
            f"{samples} parts of the samples do not fit {processes // branches} processes for each branch"
        )
    return Layout(samples=samples, branches=branches, sequence=processes // branches // samples)


def is_launched() -> bool:
    """Whether torchrun, or our own launcher, started this process beside others."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def exchanging() -> Iterator[None]:
    """Around a collective.

    Raises:
        ParallelError: torch could not exchange; begins with `LOST`.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ParallelError(f"{LOST}, or exchanged something else: {error}") from error


class Mesh:
    """The processes that run one video together. Made by every one of them, and left together: `with Mesh(…) as mesh:`.

    Args:
        layout: how they stand.
        device: `cuda` for NCCL, anything else for gloo.
        timeout: how long to wait for the others.

    Attributes:
        ranks: place of this process among those that share each dimension.

    Raises:
        ParallelError: the layout is for another number of processes.
    """

    def __init__(self, layout: Layout, device: str = "cpu", timeout: timedelta = TIMEOUT) -> None:
        kind = torch.device(device).type
        if kind == "cuda":
            local = int(os.environ["LOCAL_RANK"])
            if local >= torch.cuda.device_count():
                raise ParallelError(f"process {local} of this machine has no GPU: it has {torch.cuda.device_count()}")
            torch.cuda.set_device(local)
        backend = "nccl" if kind == "cuda" else "gloo"
        self._joined = not dist.is_initialized()
        if self._joined:
            dist.init_process_group(backend, timeout=timeout)
        processes = dist.get_world_size()
        if layout.processes != processes:
            self._leave()
            raise ParallelError(f"a layout of {layout} does not fit {processes} processes")
        self.layout = layout
        shape = tuple(getattr(layout, name) for name in DIMENSIONS)
        mesh = init_device_mesh(kind, shape, mesh_dim_names=DIMENSIONS)
        for group in mesh.get_all_groups():
            # Groups of a mesh are made with torch's own, longer timeout.
            dist.distributed_c10d._set_pg_timeout(timeout, group)
        self.ranks: dict[Dimension, int] = {name: mesh.get_local_rank(name) for name in DIMENSIONS}
        self._mesh: DeviceMesh | None = mesh

    def group(self, dimension: Dimension) -> dist.ProcessGroup:
        """The processes with which this one shares a dimension. Not to be kept: see `__exit__`.

        Raises:
            ParallelError: the mesh has been left.
        """
        if self._mesh is None:
            raise ParallelError("the processes have been left: what needs them belongs inside `with Mesh(…)`")
        if dimension == "everything":
            world = dist.group.WORLD
            assert world is not None
            return world
        return self._mesh.get_group(dimension)

    def agree(self, what: dict[str, Any]) -> None:
        """Refuses to go on where processes were told different things.

        Args:
            what: by name; compared as text.

        Raises:
            ParallelError: names the process and what it was told otherwise.
        """
        told: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
        with exchanging():
            dist.all_gather_object(told, {name: str(value) for name, value in what.items()})
        for other, values in enumerate(told):
            for name, value in values.items():
                if value != told[0].get(name):
                    raise ParallelError(
                        f"rank {other} has another {name} than rank 0: {_short(value)} instead of {_short(told[0].get(name))}"
                    )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leaves the others where it was this mesh that joined them; waits for them first unless there was an error.

        Who leaves while they still receive breaks their connection. A process that ends while anything still refers to
        a group of gloo is at times aborted: its threads outlive the interpreter. Hence nobody but the mesh keeps groups.
        """
        self._mesh = None
        try:
            if kind is None and self._joined:
                with exchanging():
                    dist.barrier()
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._joined:
            dist.destroy_process_group()


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) < 60 else text[:57] + "…")
