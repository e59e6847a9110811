"""Device mesh of the processes of a run: samples x guidance branches x sequence.

Knows ranks and groups, but nothing of models.
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
"""How long a process waits for the others before it gives up; longer than any step takes."""

LOST = "another process was lost"
"""Prefix of the error of a process that stops because another one did."""

Dimension = Literal["samples", "branches", "sequence", "everything"]
"""Dimensions of a mesh: what the processes of a group share. `everything` = all processes."""

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)[:3]


@contextmanager
def exchanging() -> Iterator[None]:
    """Context of a collective that turns torch's errors into ours.

    Raises:
        ParallelError: the collective failed; the message begins with `LOST`.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ParallelError(f"{LOST}, or made another call: {error}") from error


def set_timeout(group: dist.ProcessGroup, timeout: timedelta) -> None:
    """Sets the timeout of a group's collectives; torch creates the groups of a mesh with its own, longer default."""
    group.set_timeout(timeout)


class Mesh:
    """The processes that share a video. All of them create it and leave it: `with Mesh(layout) as mesh:`.

    Args:
        layout: layout of the processes.
        device: `cuda` for NCCL, anything else for gloo.
        timeout: how long a collective waits for the others.

    Attributes:
        ranks: rank of this process along each dimension.

    Raises:
        ParallelError: the layout is for another number of processes.
    """

    def __init__(self, layout: ParallelLayout, device: str = "cpu", timeout: timedelta = TIMEOUT) -> None:
        kind = torch.device(device).type
        if kind == "cuda":
            local = local_rank() or 0
            if local >= torch.cuda.device_count():
                raise ParallelError(f"local rank {local} has no GPU: this machine has {torch.cuda.device_count()}")
            torch.cuda.set_device(local)
        backend = "nccl" if kind == "cuda" else "gloo"
        self._joined = not dist.is_initialized()
        if self._joined:
            dist.init_process_group(backend, timeout=timeout)
        self.layout = layout
        try:
            self._mesh: DeviceMesh | None = self._build(kind, timeout)
            self.ranks: dict[Dimension, int] = {name: self._mesh.get_local_rank(name) for name in DIMENSIONS}
        except BaseException:
            self._leave()
            raise

    def _build(self, kind: str, timeout: timedelta) -> DeviceMesh:
        """The mesh of the processes, if there are as many as the layout is for."""
        processes = dist.get_world_size()
        if self.layout.gpus != processes:
            raise ParallelError(
                f"the layout ({self.layout}) needs {self.layout.gpus} processes, but there are {processes}"
            )
        shape = tuple(getattr(self.layout, name) for name in DIMENSIONS)
        mesh = init_device_mesh(kind, shape, mesh_dim_names=DIMENSIONS)
        for group in mesh.get_all_groups():
            set_timeout(group, timeout)
        return mesh

    def group(self, dimension: Dimension) -> dist.ProcessGroup:
        """Process group along a dimension. Do not keep a reference: see `__exit__`.

        Raises:
            ParallelError: the mesh has been left.
        """
        if self._mesh is None:
            raise ParallelError(
                "the mesh has been left: use the split model inside `with Mesh(…)` or `with parallelize(…)`"
            )
        if dimension == "everything":
            world = dist.group.WORLD
            assert world is not None
            return world
        return self._mesh.get_group(dimension)

    def agree(self, values: dict[str, Any]) -> None:
        """Checks that all processes have the same values.

        Args:
            values: values by name, compared as text.

        Raises:
            ParallelError: a value differs; the message names it and the process.
        """
        everyone: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
        with exchanging():
            dist.all_gather_object(everyone, {name: str(value) for name, value in values.items()})
        first = everyone[0]
        for rank, theirs in enumerate(everyone):
            for name in {**first, **theirs}:
                ours, other = first.get(name), theirs.get(name)
                if ours != other:
                    raise ParallelError(
                        f"rank {rank} has another {name} than rank 0: {_short(other)} instead of {_short(ours)}"
                    )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leaves the process group if this mesh joined it; waits for the other processes first unless there was an error.

        A process that leaves while others still receive breaks their connection. A process that ends while anything
        still refers to a gloo group is sometimes aborted, because its threads outlive the interpreter. Hence only the mesh
        keeps groups.
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
