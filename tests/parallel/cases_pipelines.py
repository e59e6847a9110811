"""Pipelines of all kinds of models on several processes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory

import torch
from accelerate.hooks import remove_hook_from_module

import pabtune
from pabtune.catalog import CATALOG, find_card
from pabtune.models.tiling import one_by_one
from pabtune.parallel.decoding import TiledDecode, pixels_per_latent, split_decoder
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.sharded_model import ShardedModel
from pabtune.parallel.splitting import split
from pabtune.records.errors import ParallelError, PolicyError
from pabtune.records.layouts import SEQUENCE_PARALLELS, ParallelLayout
from pabtune.records.rules import Rule
from pabtune.records.sites import BLOCKS
from tests.parallel.by_card import has_whole_branches, sequential_cases
from tests.parallel.comparing import DEVICE, NONE, compare, error, layouts
from tests.parallel.predict_heads import predict_inside, shapes_inside
from tests.parallel.predict_tokens import Seen, loaded, predict_full
from tests.pipelines.cases import CASES, abort, policy, run
from tests.pipelines.parts import PROMPT

UNPREDICTED = ("hunyuan-framepack",)
"""Sections of other lengths: counted, not foretold here."""
SPATIAL_TEMPORAL = ["latte", "open-sora-1.2", "open-sora-plan-1.1"]


def meshes_of_one_sample(whole: Mesh) -> Iterator[tuple[ParallelLayout, Mesh]]:
    """The layouts of all processes in which they share the branches and tokens of one sample."""
    for layout in layouts(whole.layout.sequence):
        if layout.samples == 1:
            yield layout, Mesh(layout, DEVICE)


def pipelines(whole: Mesh, names: Sequence[str]) -> list[dict]:
    """Full-attention models: tokens split, branches split, both; each against its prediction, call by call."""
    rows = []
    for layout, mesh in meshes_of_one_sample(whole):
        for name in names:
            if has_whole_branches(name) and layout.branches > 1:
                continue
            seen, turns = Seen(name), len({branch for _, branch in CASES[name].branches})
            predict = partial(predict_full, seen=seen, layout=layout, turns=turns)
            if name in UNPREDICTED:
                predict = nothing
            for used in (NONE, policy(name)):
                row = compare(partial(loaded, name), partial(drawn, name=name), mesh, used, predict)
                rows.append({"name": name, **row})
    return rows


def nothing(*_) -> list[dict]:
    return []


def in_dtype(pipeline, dtype: torch.dtype):
    """With its transformer as `from_pretrained` loads it, which leaves some modules in 32 bits."""
    with TemporaryDirectory() as folder:
        pipeline.transformer.save_pretrained(folder)
        transformer = type(pipeline.transformer).from_pretrained(folder, torch_dtype=dtype)
    pipeline.register_modules(transformer=transformer)
    return pipeline


def drawn(pipeline, name: str, **changes):
    return run(pipeline, name, **changes)


def others(whole: Mesh, only: Sequence[str] = SPATIAL_TEMPORAL) -> list[dict]:
    """Latte, Open-Sora and Open-Sora-Plan in every way; guidance branches of pipelines that call in turns."""
    rows = []
    for layout, mesh in meshes_of_one_sample(whole):
        # Of the small ones, only Open-Sora has more frames than four processes need.
        chosen = only if layout.sequence <= 2 else ["open-sora-1.2"]
        names = [
            (name, way)
            for name in chosen
            for way in (SEQUENCE_PARALLELS if layout.sequence > 1 else SEQUENCE_PARALLELS[:1])
        ]
        if layout.branches == 2 and layout.sequence == 1 and only == SPATIAL_TEMPORAL:
            names += [(name, "dsp") for name in sequential_cases()]
        for name, way in names:
            for used in (NONE, policy(name)):
                row = compare(partial(loaded, name), partial(drawn, name=name), mesh, used, lambda *_: [], exchange=way)
                rows.append({"name": name, **row})
    return rows


def inside(mesh: Mesh, names: Sequence[str]) -> list[dict]:
    """Models without a plan: kernels by heads, MLPs by tokens."""
    rows = []
    for name in names:
        pipeline = loaded(name)
        seen = shapes_inside(pipeline, name)
        for used in (NONE, policy(name)):
            predict = partial(predict_inside, seen=seen, processes=mesh.layout.sequence, name=name)
            row = compare(partial(loaded, name), partial(drawn, name=name), mesh, used, predict)
            rows.append({"name": name, **row})
    return rows


WITH_BLOCKS = [
    "wan-2.1", "hunyuan-true-cfg", "cogvideox-ddim", "ltx", "open-sora-1.2", "mochi", "kandinsky-5", "hunyuan-framepack",
]  # fmt: skip


def blocks(mesh: Mesh) -> list[dict]:
    """Residuals of whole blocks and of stacks, the first block among them, where tokens are cut; and whole calls."""
    rows = []
    for name in WITH_BLOCKS:
        how = {"axis": "tokens"} if name == "open-sora-1.2" else {}
        window = (1, CASES[name].call["num_inference_steps"])
        for kind in (*BLOCKS, "transformer"):
            rules = (Rule(kind=kind, range=2, window=window, layers=(0,) if kind == "block" else None),)
            used = pabtune.Policy(name=kind, rules=rules)
            row = compare(partial(loaded, name), partial(drawn, name=name), mesh, used, lambda *_: [], **how)
            rows.append({"name": name, **row})
    return rows


IN_TURNS = ["wan-2.1", "kandinsky-5", "hunyuan-true-cfg"]
"""Guidance branches in calls of their own."""
IN_ONE_CALL = ["cogvideox-ddim", "ltx", "open-sora-1.2"]


def guidance(mesh: Mesh, names: Sequence[str]) -> list[dict]:
    """Guidance differences, where the sequence is split."""
    rows = []
    for name in names:
        window = (1, CASES[name].call["num_inference_steps"])
        rules = (Rule(kind="guidance", range=2, window=window), *policy(name).rules)
        for used in (NONE, pabtune.Policy(name="alone", rules=rules[:1]), pabtune.Policy(name="mixed", rules=rules)):
            row = compare(partial(loaded, name), partial(drawn, name=name), mesh, used, lambda *_: [])
            rows.append({"name": name, **row})
    return rows


def guidance_apart(whole: Mesh) -> list[dict]:
    """What is said where processes share the branches, or the samples of a call with both."""
    rows = []
    for name, how in (("wan-2.1", {"branches": 2}), ("latte", {"branches": 2}), ("latte", {"samples": 2})):
        pipeline = loaded(name)
        sharded = split(pipeline, Mesh(ParallelLayout.over(whole.layout.gpus, **how), DEVICE))
        rule = Rule(kind="guidance", range=2, window=(1, CASES[name].call["num_inference_steps"]))
        with pabtune.broadcast(pipeline, pabtune.Policy(name="apart", rules=(rule,))):
            try:
                run(pipeline, name)
            except PolicyError as problem:
                rows.append({"said": str(problem), "messages": sum(sharded.traffic.messages.values())})
        sharded.remove()
    return rows


def timesteps(mesh: Mesh) -> list[dict]:
    """LTX with timesteps of all shapes that its pipelines give: of a sample, of one place, of each token."""
    rows, seen = [], {}
    pipeline = loaded("ltx")
    handle = pipeline.transformer.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    run(pipeline, "ltx")
    handle.remove()
    batch, tokens, _ = seen["hidden_states"].shape
    for shape in ((batch,), (batch, 1), (batch, tokens), (batch, tokens, 1)):
        timestep = torch.linspace(200, 900, math.prod(shape)).view(shape)
        with torch.no_grad():
            reference = pipeline.transformer(**{**seen, "timestep": timestep})[0]
            sharded = split(pipeline, mesh)
            output = pipeline.transformer(**{**seen, "timestep": timestep})[0]
            sharded.remove()
        rows.append({"shape": list(shape), "error": error(output, reference)})
    return rows


def offloading(mesh: Mesh) -> list[dict]:
    """Weights that accelerate moves to the device for each call, as diffusers asks it to after every run anew."""
    rows = []
    for name in ("wan-2.1", "latte", "motif"):
        pipeline = loaded(name)
        reference = run(pipeline, name)
        sharded = split(pipeline, mesh)
        pipeline.enable_model_cpu_offload(device=DEVICE)
        for again in range(2):
            moved = count_moves(pipeline.transformer)
            output = run(pipeline, name)
            rows.append({"name": name, "run": again, "error": error(output, reference), "moved": len(moved)})
        sharded.remove()
        rows[-1] |= {"restored": error(run(pipeline, name), reference), "left": marks_left(pipeline.transformer)}
    return rows


def compiled(mesh: Mesh, names: Sequence[str]) -> list[dict]:
    """Blocks that are compiled, with breaks where processes exchange; and what is said where none are allowed."""
    rows = []
    for name in names:
        for used in (NONE, policy(name)):
            pipeline = loaded(name)
            with pabtune.broadcast(pipeline, used):
                reference = run(pipeline, name)
            pipeline.transformer.compile_repeated_blocks(fullgraph=False, dynamic=False, backend="eager")
            before = run(pipeline, name)
            sharded = split(pipeline, mesh)
            with pabtune.broadcast(pipeline, used) as active:
                output = run(pipeline, name)
            sharded.remove()
            rows.append(
                {
                    "name": name, "error": error(output, reference), "messages": sharded.traffic.messages["full"],
                    "broadcast": sum(active.summary()["broadcast_calls"].values()),
                    "restored": error(run(pipeline, name), before),
                }
            )  # fmt: skip
    pipeline = loaded("wan-2.1")
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    split(pipeline, mesh)
    try:
        run(pipeline, "wan-2.1")
    except ParallelError as problem:
        rows.append({"said": str(problem)})
    return rows


def count_moves(transformer) -> list[int]:
    """Grows with every call before which accelerate had its turn."""
    moved, hook = [], transformer._hf_hook
    original = hook.pre_forward

    def pre_forward(module, *args, **kwargs):
        moved.append(1)
        return original(module, *args, **kwargs)

    hook.pre_forward = pre_forward
    return moved


def marks_left(transformer) -> list[str]:
    """Hooks that are left when accelerate's is gone too; diffusers makes empty registries, accelerate leaves forwards."""
    remove_hook_from_module(transformer, recurse=True)
    modules = list(transformer.modules())
    hooks = [name for module in modules for name in getattr(getattr(module, "_diffusers_hook", None), "hooks", ())]
    return hooks + [mark for module in modules for mark in ("_old_forward", "_hf_hook") if mark in vars(module)]


IN_BATCHES = ["wan-2.1", "cogvideox-ddim", "hunyuan-true-cfg", "mochi", "kandinsky-5"]


def own_class(whole: Mesh) -> list[dict]:
    """A class that no shipped card describes: its tokens are split by a card of its own, its branches too."""
    card = replace(find_card("WanTransformer3DModel"), transformer="Mine")
    rows = []
    for branches in (1, 2):
        mesh = Mesh(ParallelLayout.over(whole.layout.gpus, branches=branches), DEVICE)
        for catalog in (CATALOG.with_card(card), CATALOG):
            pipeline = loaded("wan-2.1")
            pipeline.transformer.__class__ = type("Mine", (type(pipeline.transformer),), {})
            reference = run(pipeline, "wan-2.1")
            sharded = split(pipeline, mesh, catalog=catalog)
            row = {"by_card": "Mine" in catalog, "split_branches": branches == 2}
            try:
                row["error"] = error(run(pipeline, "wan-2.1"), reference)
                row["purposes"] = sorted(name for name, count in sharded.traffic.messages.items() if count)
            except ParallelError as problem:
                row["said"] = str(problem)
            sharded.remove()
            rows.append(row)
    return rows


def batches(whole: Mesh, names: Sequence[str] = IN_BATCHES) -> list[dict]:
    """Two prompts in one call, each by its own part of the processes."""
    rows = []
    for layout in layouts(whole.layout.sequence):
        if layout.samples == 1 or layout.sequence > 1:
            continue
        mesh = Mesh(layout, DEVICE)
        for name in names:
            drawing = partial(drawn, name=name, prompt=[PROMPT, "a dog sleeps"], seed=[0, 1], **CASES[name].batch)
            for used in (NONE, policy(name)):
                row = compare(partial(loaded, name), drawing, mesh, used, lambda *_: [])
                rows.append({"name": name, **row})
    return rows


def stopped(whole: Mesh) -> list[dict]:
    """A run that is stopped between the two calls of a step, or after them, leaves nothing to the next one."""
    rows, mesh = [], Mesh(ParallelLayout.over(whole.layout.gpus, branches=2), DEVICE)
    # In 16 bits Kandinsky gives each call a timestep of its own.
    for name, dtype in (("wan-2.1", torch.float32), ("kandinsky-5", torch.float32), ("kandinsky-5", torch.float16)):
        for at_call in (3, 4):
            pipeline = in_dtype(loaded(name), dtype)
            reference = run(pipeline, name)
            sharded = split(pipeline, mesh)
            abort(pipeline, name, at_call)
            sharded.traffic.clear()
            row = {"name": name, "at": at_call, "error": error(run(pipeline, name), reference)}
            rows.append(
                {**row, "messages": sharded.traffic.messages["output"], "steps": len(pipeline.scheduler.timesteps)}
            )
            sharded.remove()
    return rows


def refusals(whole: Mesh) -> list[dict]:
    """What is said where branches or samples cannot be shared; every process finds out by itself, before it sends."""
    rows = []
    calls = [
        ("cosmos-1", {"branches": 2}), ("wan-2.1", {"samples": 2}), ("latte", {"branches": 2}),
        ("sana-video", {}),
    ]  # fmt: skip
    for name, how in calls:
        pipeline = loaded(name)
        split(pipeline, Mesh(ParallelLayout.over(whole.layout.gpus, **how), DEVICE))
        changes = {"guidance_scale": 1.0} if name == "latte" else {}
        try:
            run(pipeline, name, **changes)
        except ParallelError as problem:
            rows.append({"name": name, "said": str(problem)})
    return rows


DECODED = {
    "open-sora-1.2": (False, {}), "open-sora-plan-1.1": (False, {"width": 1056}), "latte": (False, {}),
    "open-sora-plan-1.1, whole": (True, {"height": 128, "width": 224}),
    "wan-2.1": (True, {"height": 96, "width": 160}), "cogvideox-ddim": (True, {"height": 96, "width": 160}),
    "hunyuan-distilled": (True, {"height": 96, "width": 160}), "ltx": (True, {"height": 320, "width": 512}),
}  # fmt: skip
"""Whether tiles are taken, and sizes that have several of them."""


def decoding(mesh: Mesh, names: Sequence[str]) -> list[dict]:
    """Frames of one process, and of several that decode together."""
    rows = []
    for case in names:
        use_tiles, size = DECODED[case]
        name = case.split(",")[0]
        pipeline = loaded(name)
        if case == "open-sora-plan-1.1":
            pipeline.vae.enable_tiling()
        changes = {"num_inference_steps": 4, "output_type": "np", **size}
        plain = run(pipeline, name, **changes)
        if use_tiles:
            pixels = pixels_per_latent(pipeline)
            pipeline.vae.decode = TiledDecode(pipeline.vae, one_by_one, pixels, mesh.layout.sequence)
        reference = run(pipeline, name, **changes)
        vars(pipeline.vae).pop("decode", None)
        sharded = ShardedModel(mesh, "dsp")
        how = split_decoder(sharded, pipeline, use_tiles=use_tiles)
        output = run(pipeline, name, **changes)
        sharded.remove()
        rows.append(
            {
                "name": case, "how": how, "error": error(output, reference),
                "restored": error(run(pipeline, name, **changes), plain),
                "messages": sharded.traffic.messages["decoding"], "apart": error(reference, plain),
            }
        )  # fmt: skip
    return rows
