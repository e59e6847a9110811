"""Predicts the traffic of head parallelism from the sizes of a run on one process."""

from functools import partial

from torch import nn

from pabtune.planning.costs.communication import gathered
from pabtune.runtime.targets import Target
from tests.pipelines.cases import run

Seen = list[dict[str, tuple[int, int]]]
"""For each call of the transformer: number of heads or tokens that are split, and bytes of each, by path of the site."""


def shapes_inside(pipeline, name: str) -> Seen:
    """Sizes of a run without a policy."""
    seen: Seen = []
    target = Target.of(pipeline)
    for key, transformer in target.transformers.items():
        transformer.register_forward_pre_hook(lambda *_: seen.append({}))
        for site in target.sites:
            if site.transformer == key and site.kind in {"full", "mlp"}:
                record = partial(_record, seen=seen, path=site.path, kind=site.kind)
                transformer.get_submodule(site.path).register_forward_pre_hook(record, with_kwargs=True)
    run(pipeline, name)
    return seen


def _record(module: nn.Module, args, kwargs, seen: Seen, path: str, kind: str) -> None:
    hidden = args[0] if args else kwargs.get("hidden_states", kwargs.get("x"))
    if hidden.ndim != 3:
        return  # not split
    batch, tokens, width = hidden.shape
    if kind == "mlp":
        seen[-1][path] = (tokens, batch * width * 4)
        return
    text = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
    heads = getattr(module, "heads", None) or module.num_heads
    inner = getattr(module, "inner_dim", width)
    seen[-1][path] = (heads, batch * (tokens + (0 if text is None else text.shape[1])) * inner // heads * 4)


UNPREDICTED = {"helios", "skyreels-v2-forcing-long", "skyreels-v2-forcing-asynchronous", "ltx-2.3"}
"""Several loops, overlapping steps or calls that differ: counted, but not predicted here."""


def predict_inside(active, sharded, calls: int, seen: Seen, processes: int, name: str) -> list[dict]:
    """Messages and bytes of each kind, for each call of the transformer."""
    if name in UNPREDICTED:
        return []
    assert calls == len(seen)
    per_step = calls // active.mask.steps
    predictions = []
    for call, sizes in enumerate(seen):
        expected: dict[str, list] = {}
        for site, row in zip(active.mask.sites, active.mask.compute, strict=True):
            if site.path in sizes and row[call // per_step]:
                sent = gathered(processes, 1, *sizes[site.path])
                kind = expected.setdefault(site.kind, [0, 0])
                kind[0] += sent.messages
                kind[1] += round(sent.wire_bytes)
        predictions.append({kind: tuple(sent) for kind, sent in expected.items()})
    return predictions
