"""Running a pipeline on several processes: joins them, splits the model, and restores it afterwards."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from diffusers import DiffusionPipeline

from pabtune.catalog import CATALOG, Catalog
from pabtune.parallel.collectives import Traffic
from pabtune.parallel.decoding import split_decoder
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.process import world_size
from pabtune.parallel.same_calls import SameCalls
from pabtune.parallel.sharded_model import ShardedModel
from pabtune.parallel.splitting import axes_of, has_plans, objections_to, split
from pabtune.records.errors import ParallelError
from pabtune.records.layouts import ParallelLayout
from pabtune.runtime.pipeline_calls import observe


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelRun:
    """A pipeline that runs on several processes.

    Attributes:
        layout: layout of the processes, with the axis that is split.
        traffic: messages and bytes that this process sent.
        decoding: the parts that the processes decode; None = each decodes the entire video.
        is_by_heads: whether the work is split inside sites, because tokens are not cut through the network.
        reasons: objections to the token split of the model's card, if it has one.
    """

    layout: ParallelLayout
    traffic: Traffic
    decoding: str | None
    is_by_heads: bool = False
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [f"{self.layout.gpus} processes: {self.layout}"]
        if self.is_by_heads:
            words.append("; ".join(("attention split by heads and MLPs by tokens, inside each", *self.reasons)))
        if self.decoding is not None:
            words.append(f"decoding shared by {self.decoding}")
        return "; ".join(words)


@contextmanager
def parallelize(
    pipeline: DiffusionPipeline,
    layout: ParallelLayout,
    *,
    device: str | None = None,
    agreement: Mapping[str, Any] | None = None,
    catalog: Catalog = CATALOG,
) -> Iterator[ParallelRun]:
    """Runs a pipeline on several processes: `with parallelize(pipeline, layout): pipeline(…)`.

    Every process calls it with the same pipeline, before a policy is enabled. Then all make the same calls and get the same
    videos. Start the processes with `torchrun --nproc-per-node N`.

    Args:
        pipeline: loaded the same by every process.
        layout: layout of the processes; where it leaves its axis open, the first axis of the model is split.
        device: device of the pipeline; None = ask the pipeline.
        agreement: values by name that must be the same in all processes, besides the layout.
        catalog: cards of transformer classes.

    Raises:
        ParallelError: the number of processes does not match the layout, their values differ, or the model cannot be split
            in this layout. A call of the pipeline whose arguments or noise differ between processes raises it too.
    """
    layout = resolve_layout(pipeline, layout, catalog)
    if layout.gpus != world_size():
        raise ParallelError(
            f"the layout ({layout}) needs {layout.gpus} processes, but there are {world_size()}; start them with "
            f"torchrun --nproc-per-node {layout.gpus}, or use another layout"
        )
    if layout.gpus == 1:
        yield ParallelRun(layout=layout, traffic=Traffic(), decoding=None)
        return
    with Mesh(layout, device or pipeline.device.type) as mesh:
        mesh.agree({**(agreement or {}), "layout": layout, "decoding": layout.decode, "pabtune": _version()})
        sharded = split(pipeline, mesh, layout.exchange, layout.axis or "frames", catalog)
        end_comparing = observe(pipeline, SameCalls(mesh))
        try:
            yield ParallelRun(
                layout=layout,
                traffic=sharded.traffic,
                decoding=_split_decoding(sharded, pipeline, layout),
                is_by_heads=layout.axis == "sequence" and not has_plans(pipeline, catalog),
                reasons=objections_to(pipeline, catalog),
            )
        finally:
            end_comparing()
            sharded.remove()


def resolve_layout(pipeline: DiffusionPipeline, layout: ParallelLayout, catalog: Catalog = CATALOG) -> ParallelLayout:
    """The layout with its axis: the first one of the pipeline's model where the layout leaves it open.

    Raises:
        ParallelError: the layout names an axis that the model does not have.
    """
    axes = axes_of(pipeline, catalog)
    if layout.axis is None:
        return layout.along(axes[0])
    if layout.axis not in axes:
        raise ParallelError(
            f"the layout splits {layout.axis}, but {type(pipeline).__name__} can only be split along {' or '.join(axes)}"
        )
    return layout


def _split_decoding(sharded: ShardedModel, pipeline: DiffusionPipeline, layout: ParallelLayout) -> str | None:
    if layout.decode == "alone":
        return None
    return split_decoder(sharded, pipeline, use_tiles=layout.decode == "tiles")


def _version() -> str:
    try:
        return version("pabtune")
    except PackageNotFoundError:
        return "0+uninstalled"
