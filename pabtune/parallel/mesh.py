"""The processes of a run and how they stand: guidance branches by parts of the sequence.

Knows ranks and groups; knows nothing of models.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pabtune.records.errors import ParallelError

TIMEOUT = timedelta(minutes=5)
"""How long a process waits for the others before it gives up: longer than any step."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How many processes share the guidance branches, and how many the sequence."""

    branches: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.branches} for guidance branches x {self.sequence} for the sequence"


def choose_layout(processes: int, *, split_branches: bool) -> Layout:
    """The layout of so many processes.

    Args:
        processes: how many.
        split_branches: give each guidance branch its own half.

    Raises:
        ParallelError: an odd number cannot share two branches.
    """
    if not split_branches:
        return Layout(1, processes)
    if processes % 2:
        raise ParallelError(f"two guidance branches need an even number of processes, not {processes}")
    return Layout(2, processes // 2)


def is_launched() -> bool:
    """Whether torchrun, or our own launcher, started this process beside others."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


class Mesh:
    """The processes that run one video together. Made by every one of them, and left together: `with Mesh(…) as mesh:`.

    Args:
        layout: how they stand.
        device: `cuda` for NCCL, anything else for gloo.
        timeout: how long to wait for the others.

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
        if layout.branches * layout.sequence != dist.get_world_size():
            raise ParallelError(f"a layout of {layout} does not fit {dist.get_world_size()} processes")
        self.layout = layout
        self._mesh: DeviceMesh = init_device_mesh(
            kind, (layout.branches, layout.sequence), mesh_dim_names=("branches", "sequence")
        )
        for group in (self._mesh.get_group("branches"), self._mesh.get_group("sequence")):
            # Groups of a mesh are made with torch's own, longer timeout.
            dist.distributed_c10d._set_pg_timeout(timeout, group)
        self.branches = self._mesh.get_group("branches")
        self.sequence = self._mesh.get_group("sequence")

    @property
    def branch_rank(self) -> int:
        """Place of this process among those that share the branches."""
        return self._mesh.get_local_rank("branches")

    @property
    def sequence_rank(self) -> int:
        """Place of this process among those that share the sequence."""
        return self._mesh.get_local_rank("sequence")

    def agree(self, what: dict[str, Any]) -> None:
        """Refuses to go on where processes were told different things.

        Args:
            what: by name; compared as text.

        Raises:
            ParallelError: names the process and what it was told otherwise.
        """
        told: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
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

        Who leaves while they still receive breaks their connection; who ends without leaving is at times aborted
        by threads of gloo that are still running.
        """
        if not self._joined:
            return
        try:
            if kind is None:
                dist.barrier()
        finally:
            dist.destroy_process_group()


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) < 60 else text[:57] + "…")
