"""What processes must have in common, and what each has by itself: calls, noise, guidance branches, heads."""

from collections.abc import Sequence
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

import pabtune
from pabtune.parallel.collectives import Communicator, Traffic
from pabtune.parallel.head_parallel import HeadParallelKernel
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.ulysses import UlyssesKernel
from pabtune.records.errors import ParallelError
from pabtune.records.layouts import ParallelLayout
from pabtune.records.rules import Rule
from tests.parallel.cases_pipelines import drawn
from tests.parallel.comparing import DEVICE, compare
from tests.parallel.predict_tokens import loaded
from tests.pipelines.cases import CASES
from tests.pipelines.parts import PROMPT


def whole_calls_apart(whole: Mesh, names: Sequence[str]) -> list[dict]:
    """Whole calls of sequential guidance, whose branches are on a process each: held, and along a line."""
    rows, mesh = [], Mesh(ParallelLayout.over(whole.layout.gpus, branches=2), DEVICE)
    for name in names:
        steps = CASES[name].call["num_inference_steps"]
        for payload, range_ in (("hold", 2), ("linear", 2)):
            rule = Rule(kind="transformer", range=range_, window=(2, steps), payload=payload)
            used = pabtune.Policy(name=payload, rules=(rule,))
            row = compare(partial(loaded, name), partial(drawn, name=name), mesh, used, lambda *_: [])
            rows.append({"name": name, **row})
    return rows


def other_noise(whole: Mesh) -> list[dict]:
    """What is said of a call whose noise or prompt the processes do not share, and of those that they do."""
    rank, said = whole.ranks["sequence"], []

    def call(**changes) -> str:
        try:
            drawn(pipeline, "wan-2.1", **changes)
        except ParallelError as problem:
            return str(problem)
        return ""

    pipeline = loaded("wan-2.1")
    with pabtune.parallelize(pipeline, ParallelLayout.over(whole.layout.gpus)):
        said += [call(seed=0), call(seed=rank), call(prompt=f"a cat {rank}")]
        for seed in (rank, 0):
            torch.manual_seed(seed)
            try:
                pipeline(PROMPT, latents=None, **CASES["wan-2.1"].call)
                said.append("")
            except ParallelError as problem:
                said.append(str(problem))
    drawn(pipeline, "wan-2.1", seed=rank)
    return [{"said": said}]


def masks_of_heads(mesh: Mesh) -> list[dict]:
    """Kernels by heads and over the tokens of all, under masks of every number of dimensions, against torch's own."""
    rows, rank, size = [], mesh.ranks["sequence"], mesh.layout.sequence
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 6, 8, generator=generator)
    communicator, own = Communicator(mesh, "sequence", Traffic()), 6 // size
    tokens = slice(rank * own, (rank + 1) * own)
    for shape in ((6, 6), (4, 6, 6), (1, 6, 6), (2, 4, 6, 6), (2, 1, 6, 6)):
        mask = torch.rand(shape, generator=generator) > 0.3
        expected = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        with HeadParallelKernel(communicator, "full"):
            by_heads = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        with UlyssesKernel(communicator, own, 6, text_first=False, purpose="full"):
            over_all = scaled_dot_product_attention(*(x[:, :, tokens] for x in (query, key, value)), attn_mask=mask)
        apart = [by_heads - expected, over_all - expected[:, :, tokens]]
        rows.append({"shape": list(shape), "error": max(float(each.nan_to_num().abs().max()) for each in apart)})
    return rows
