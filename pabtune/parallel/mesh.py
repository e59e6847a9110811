"""The processes of a run as a mesh: samples by guidance branches by parts of the sequence.

Knows ranks and groups; knows nothing of models.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, Self, get_args

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pabtune.parallel.process import local_rank
from pabtune.records.errors import ParallelError
from pabtune.records.layouts import ParallelLayout

TIMEOUT = timedelta(minutes=5)
"""How long a process waits for the others before it gives up: longer than any step."""


LOST = "another process was lost"
"""Beginning of the reason of a process that stops because another one did."""

Dimension = Literal["samples", "branches", "sequence", "everything"]
"""Dimensions of a mesh, along each of which processes share something; `everything`: all processes."""

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)[:3]


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


def set_timeout(group: dist.ProcessGroup, timeout: timedelta) -> None:
    """Sets how long collectives of a group wait: groups of a device mesh are made with torch's own, longer timeout."""
    group.set_timeout(timeout)


class Mesh:
    """The processes that share a video. Every one of them makes it, and all leave it together: `with Mesh(…) as mesh:`.

    Args:
        layout: how they share the video.
        device: `cuda` for NCCL, anything else for gloo.
        timeout: how long a collective waits for the others.

    Attributes:
        ranks: number of this process among those that share each dimension.

    Raises:
        ParallelError: the layout is for another number of processes.
    """

    def __init__(self, layout: ParallelLayout, device: str = "cpu", timeout: timedelta = TIMEOUT) -> None:
        kind = torch.device(device).type
        if kind == "cuda":
            local = local_rank() or 0
            if local >= torch.cuda.device_count():
                raise ParallelError(f"process {local} of this machine has no GPU: it has {torch.cuda.device_count()}")
            torch.cuda.set_device(local)
        backend = "nccl" if kind == "cuda" else "gloo"
        self._joined = not dist.is_initialized()
        if self._joined:
            dist.init_process_group(backend, timeout=timeout)
        processes = dist.get_world_size()
        if layout.gpus != processes:
            self._leave()
            raise ParallelError(f"a layout for {layout.gpus} processes ({layout}) does not fit {processes} processes")
        self.layout = layout
        shape = tuple(getattr(layout, name) for name in DIMENSIONS)
        mesh = init_device_mesh(kind, shape, mesh_dim_names=DIMENSIONS)
        for group in mesh.get_all_groups():
            set_timeout(group, timeout)
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
        """Checks that all processes were given the same values.

        Args:
            what: values by name; compared as text.

        Raises:
            ParallelError: names the process, and the value that differs.
        """
        everyone: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
        with exchanging():
            dist.all_gather_object(everyone, {name: str(value) for name, value in what.items()})
        first = everyone[0]
        for other, values in enumerate(everyone):
            for name, value in values.items():
                if value != first.get(name):
                    raise ParallelError(
                        f"rank {other} has another {name} than rank 0: {_short(value)} instead of {_short(first.get(name))}"
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
