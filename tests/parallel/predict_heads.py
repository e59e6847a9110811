"""What sharing the work inside sites sends, from sizes that were seen in a run alone."""

from functools import partial

from torch import nn

from pabtune.planning.costs.communication import gathered
from pabtune.runtime.targets import Target
from tests.pipelines.cases import run

Seen = list[dict[str, tuple[int, int]]]
"""Per call of the transformer: by path of each site that ran, places that are shared (heads or tokens) and bytes of each."""


def shapes_inside(pipeline, name: str) -> Seen:
    """A run without a policy."""
    seen: Seen = []
    target = Target.of(pipeline)
    for key, transformer in target.transformers.items():
        transformer.register_forward_pre_hook(lambda *_: seen.append({}))
        for site in target.sites:
            if site.transformer == key and site.kind in {"full", "mlp"}:
                look = partial(_look, seen=seen, path=site.path, kind=site.kind)
                transformer.get_submodule(site.path).register_forward_pre_hook(look, with_kwargs=True)
    run(pipeline, name)
    return seen


def _look(module: nn.Module, args, kwargs, seen: Seen, path: str, kind: str) -> None:
    hidden = args[0] if args else kwargs.get("hidden_states", kwargs.get("x"))
    if hidden.ndim != 3:
        return  # computed whole
    batch, tokens, width = hidden.shape
    if kind == "mlp":
        seen[-1][path] = (tokens, batch * width * 4)
        return
    text = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
    heads = getattr(module, "heads", None) or module.num_heads
    inner = getattr(module, "inner_dim", width)
    seen[-1][path] = (heads, batch * (tokens + (0 if text is None else text.shape[1])) * inner // heads * 4)


UNPREDICTED = {"helios", "skyreels-v2-forcing-long", "skyreels-v2-forcing-asynchronous", "ltx-2.3"}
"""Several loops, steps that overlap, calls that differ: counted, not foretold here."""


def predict_inside(active, made, calls: int, seen: Seen, processes: int, name: str) -> list[dict]:
    """Per call of the transformer: messages and bytes of each kind."""
    if name in UNPREDICTED:
        return []
    assert calls == len(seen)
    per_step = calls // active.mask.steps
    found = []
    for call, sizes in enumerate(seen):
        expected: dict[str, list] = {}
        for site, row in zip(active.mask.sites, active.mask.compute, strict=True):
            if site.path in sizes and row[call // per_step]:
                sent = gathered(processes, 1, *sizes[site.path])
                kind = expected.setdefault(site.kind, [0, 0])
                kind[0] += sent.messages
                kind[1] += round(sent.wire_bytes)
        found.append({kind: tuple(sent) for kind, sent in expected.items()})
    return found
