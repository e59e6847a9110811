"""What sharing full attention by heads sends, from sizes that were seen in a run alone."""

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
    """Shapes (B, H, N, d) of the queries of attention kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is scaled_dot_product_attention:
            self.shapes.append(tuple((args[0] if args else kwargs["query"]).shape))
        return function(*args, **(kwargs or {}))


class Seen:
    """What the first exchanging site of a pipeline computes in each call, alone: the sizes that a prediction needs.

    Attributes:
        kernels: of each call of the transformer.
        tokens: of the video.
        end_bytes: of what the plan puts together.
        output_bytes: of a call.
    """

    def __init__(self, name: str) -> None:
        pipeline = loaded(name)
        site = next(site for site in Target.of(pipeline).sites if site.kind == "full")
        transformer = getattr(pipeline, site.transformer)
        module, plan = transformer.get_submodule(site.path), find_plan(transformer, type(pipeline).__name__)
        self.kernels: list[list[tuple[int, ...]]] = []
        self.tokens = self.end_bytes = self.output_bytes = 0
        original = module.forward

        def watched(*args, **kwargs):
            self.tokens = (args[0] if args else kwargs["hidden_states"]).shape[1]
            with Kernels() as seen:
                output = original(*args, **kwargs)
            self.kernels.append(seen.shapes)
            return output

        module.forward = watched
        (end,) = modules_at(transformer, plan.end)
        end.register_forward_hook(lambda _module, _args, output: self.note(end_bytes=first(output).nbytes))
        transformer.register_forward_hook(lambda _module, _args, output: self.note(output_bytes=first(output).nbytes))
        run(pipeline, name)

    def note(self, **sizes: int) -> None:
        vars(self).update(sizes)


def first(output):
    return output if isinstance(output, torch.Tensor) else output[0]


def predict_full(active, made, calls: int, seen: Seen, layout, turns: int) -> list[dict]:
    """Per call of a transformer; without a policy's mask all sites compute."""
    in_turns = turns == 2
    share = 1 if in_turns else layout.branches
    found, before = [], set()
    for call in range(calls):
        step = call // turns
        is_own = not in_turns or layout.branches == 1 or call % 2 == branch_rank()
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
        own = NOTHING
        if is_own and layout.sequence > 1:
            sent = sum(
                (
                    exchanged_by_heads(
                        layout.sequence,
                        computed,
                        AttentionShape(
                            length=seen.tokens, text_tokens=length - seen.tokens, bytes_per_token=b * h * d * 4, heads=h
                        ),
                    )
                    for b, h, length, d in own_kernels(seen.kernels[call % len(seen.kernels)], share)
                ),
                NOTHING,
            )
            expected["full"] = (sent.messages, round(sent.wire_bytes))
            own = gathered(layout.sequence, 1, seen.tokens, seen.end_bytes // seen.tokens // share)
        if layout.branches > 1 and (not in_turns or call % 2):
            own += gathered(2, 1, 2, seen.output_bytes // share)
        expected["output"] = (own.messages, round(own.wire_bytes))
        found.append(expected)
        before |= transformers if (call + 1) % turns == 0 else set()
    return found


def own_kernels(kernels: list[tuple[int, ...]], share: int) -> list[tuple[int, ...]]:
    """Those of this process' samples: some attend to each sample by itself."""
    if share == 1:
        return kernels
    if len(kernels) > 1:
        half = len(kernels) // share
        return kernels[branch_rank() * half :][:half]
    return [(batch // share, *rest) for batch, *rest in kernels]


def branch_rank() -> int:
    return dist.get_rank() // (dist.get_world_size() // 2)
