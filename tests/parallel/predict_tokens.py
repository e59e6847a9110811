"""Predicts the traffic of token parallelism from the sizes of a run on one process."""

import torch
import torch.distributed as dist
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from pabtune.parallel.plans import find_plan, modules_at
from pabtune.planning.costs.communication import NOTHING, AttentionShape, exchanged_by_heads, gathered
from pabtune.runtime.targets import Target
from tests.parallel.comparing import DEVICE
from tests.pipelines.cases import CASES, run


def loaded(name: str):
    pipeline = CASES[name].build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(DEVICE)


class Kernels(TorchFunctionMode):
    """Records the shapes (B, H, N, d) of the queries of attention kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is scaled_dot_product_attention:
            self.shapes.append(tuple((args[0] if args else kwargs["query"]).shape))
        return function(*args, **(kwargs or {}))


class Seen:
    """Sizes of the first full-attention site of a pipeline in each call, on one process.

    Attributes:
        kernels: shapes of the queries in each call of the transformer.
        tokens: number of tokens of the video.
        end_bytes: bytes of the tensor that is gathered.
        output_bytes: bytes of the output of a call.
    """

    def __init__(self, name: str) -> None:
        pipeline = loaded(name)
        site = next(site for site in Target.of(pipeline).sites if site.kind == "full")
        transformer = getattr(pipeline, site.transformer)
        module, plan = transformer.get_submodule(site.path), find_plan(transformer, type(pipeline).__name__)
        self.kernels: list[list[tuple[int, ...]]] = []
        self.tokens = self.end_bytes = self.output_bytes = 0
        original = module.forward

        def recorded(*args, **kwargs):
            self.tokens = (args[0] if args else kwargs["hidden_states"]).shape[1]
            with Kernels() as seen:
                output = original(*args, **kwargs)
            self.kernels.append(seen.shapes)
            return output

        module.forward = recorded
        (end,) = modules_at(transformer, plan.end)
        end.register_forward_hook(lambda _module, _args, output: self.record(end_bytes=first(output).nbytes))
        transformer.register_forward_hook(lambda _module, _args, output: self.record(output_bytes=first(output).nbytes))
        run(pipeline, name)

    def record(self, **sizes: int) -> None:
        vars(self).update(sizes)


def first(output):
    return output if isinstance(output, torch.Tensor) else output[0]


def predict_full(active, sharded, calls: int, seen: Seen, layout, turns: int) -> list[dict]:
    """Messages and bytes of each purpose, for each call of a transformer."""
    is_sequential = turns == 2
    share = 1 if is_sequential else layout.branches
    predictions, before = [], set()
    for call in range(calls):
        step = call // turns
        is_local = not is_sequential or layout.branches == 1 or call % 2 == branch_rank()
        expected = {}
        transformers = {
            site.transformer for site in active.mask.sites if active.called[active.mask.sites.index(site), step]
        }
        # A transformer that takes over has nothing kept: its first step computes.
        computed = sum(
            int(row[step] or site.transformer not in before)
            for site, row in zip(active.mask.sites, active.mask.compute, strict=True)
            if site.kind == "full" and site.transformer in transformers
        )
        output = NOTHING
        if is_local and layout.sequence > 1:
            sent = sum(
                (
                    exchanged_by_heads(
                        layout.sequence,
                        computed,
                        AttentionShape(
                            length=seen.tokens, text_tokens=length - seen.tokens, bytes_per_token=b * h * d * 4, heads=h
                        ),
                    )
                    for b, h, length, d in local_kernels(seen.kernels[call % len(seen.kernels)], share)
                ),
                NOTHING,
            )
            expected["full"] = (sent.messages, round(sent.wire_bytes))
            output = gathered(layout.sequence, 1, seen.tokens, seen.end_bytes // seen.tokens // share)
        if layout.branches > 1 and (not is_sequential or call % 2):
            output += gathered(2, 1, 2, seen.output_bytes // share)
        expected["output"] = (output.messages, round(output.wire_bytes))
        predictions.append(expected)
        before |= transformers if (call + 1) % turns == 0 else set()
    return predictions


def local_kernels(kernels: list[tuple[int, ...]], share: int) -> list[tuple[int, ...]]:
    """The kernels of this process' samples; some models attend to each sample by itself."""
    if share == 1:
        return kernels
    if len(kernels) > 1:
        half = len(kernels) // share
        return kernels[branch_rank() * half :][:half]
    return [(batch // share, *rest) for batch, *rest in kernels]


def branch_rank() -> int:
    return dist.get_rank() // (dist.get_world_size() // 2)
