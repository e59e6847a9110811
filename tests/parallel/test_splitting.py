"""The same video on one process and on several, and exactly the predicted messages, call by call. gloo, on the CPU."""

import pytest
import torch
from diffusers.hooks import HookRegistry

import pabtune
from pabtune.models.sites import find_sites
from pabtune.parallel import sharded_model, splitting
from pabtune.parallel.head_parallel import split_heads
from pabtune.parallel.sharded_model import ShardedModel
from pabtune.parallel.splitting import split
from pabtune.records.errors import ParallelError
from pabtune.records.layouts import ParallelLayout
from tests.conftest import make_pipeline, pyramid
from tests.parallel.conftest import check
from tests.pipelines.cases import CASES


@pytest.mark.parametrize("processes", [2, *(pytest.param(many, marks=pytest.mark.slow) for many in (4, 8, 16))])
def test_several_processes_draw_the_same_video_and_send_what_was_predicted(processes, together) -> None:
    found = together(processes, "videos")
    for rows in found:
        check(rows)
    layouts = {tuple(row["layout"]) for row in found[0]}
    assert (1, 2, processes // 2) in layouts
    assert (2, 1, processes // 2) in layouts
    assert all(row["predicted"] for row in found[0])
    shared = [row for row in found[0] if row["layout"][2] > 1]
    sent = {name: [row["sent"][1] for row in shared if row["policy"] == name] for name in ("none", "pyramid")}
    assert all(few < many for few, many in zip(sent["pyramid"], sent["none"], strict=True))


@pytest.mark.multi_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("case", ["videos", "pipelines", "others"])
def test_several_gpus_draw_the_same_video_by_nccl(case, together, monkeypatch) -> None:
    monkeypatch.setenv("WORKER_DEVICE", "cuda")
    for rows in together(2, case):
        check(rows, tolerance=1e-4)


def test_weights_that_are_moved_for_each_call_are_shared_too(together) -> None:
    """And accelerate goes on when the split is gone."""
    for rows in together(2, "offloading"):
        assert len(rows) == 6
        for row in rows:
            assert row["error"] < 1e-5, row
            assert row["moved"], row
            assert row.get("restored", 0) == 0, row
            assert row.get("left", []) == [], row


@pytest.mark.slow
@pytest.mark.parametrize("names", [["wan-2.1"], ["hunyuan-true-cfg", "ltx-2", "kandinsky-5"]])
def test_compiled_blocks_exchange_outside_of_their_graphs(names, together, monkeypatch) -> None:
    for *rows, refused in together(2, "compiled", names):
        assert [row["name"] for row in rows] == [name for name in names for _ in range(2)]
        for row in rows:
            assert row["error"] < (1e-4 if row["name"] == "kandinsky-5" else 1e-5), row
            assert row["messages"], row
            assert row["restored"] == 0, row
        assert rows[1]["messages"] < rows[0]["messages"]
        assert rows[1]["broadcast"] > 0
        assert "compile blocks with fullgraph=False" in refused["said"]


class Shared:
    """A mesh of two processes that share the sequence."""

    layout = ParallelLayout(sequence=2)


def test_what_cannot_be_split_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(sharded_model, "Communicator", lambda *_: None)
    blocks = [torch.nn.ModuleDict({"ff": torch.nn.Linear(2, 2)}) for _ in range(2)]
    network = torch.nn.ModuleDict({"transformer_blocks": torch.nn.ModuleList(blocks)})
    with pytest.raises(ParallelError, match="ModuleDict has no self-attention and no MLP whose work can be split"):
        split_heads(ShardedModel(Shared(), "dsp"), network, find_sites(network).sites)
    with pytest.raises(ParallelError, match="unknown method 'ring'; known: dsp, ulysses, megatron-sp"):
        split(make_pipeline(), Shared(), "ring")
    with pytest.raises(ParallelError, match="LatteTransformer3DModel can be split along frames, not along tokens"):
        split(CASES["latte"].build(), Shared(), "dsp", "tokens")
    pipeline = make_pipeline()
    pipeline.transformer.compile(backend="eager")
    wrapped = CASES["wan-2.1"].build()
    wrapped.transformer = torch.compile(wrapped.transformer, backend="eager")
    for compiled in (pipeline, wrapped):
        with pytest.raises(ParallelError, match=r"compile its blocks: compile_repeated_blocks\(fullgraph=False\)"):
            split(compiled, Shared())
    pipeline = make_pipeline()
    pipeline.enable_model_cpu_offload(device="cpu")
    with pytest.raises(ParallelError, match="load it on one device, split it, then enable offloading"):
        split(pipeline, Shared())
    pipeline = make_pipeline()
    with (
        pabtune.broadcast(pipeline, pyramid()),
        pytest.raises(ParallelError, match="already has hooks: split it once, and before a policy"),
    ):
        split(pipeline, Shared())


def test_what_was_on_a_module_before_is_there_again(monkeypatch) -> None:
    monkeypatch.setattr(sharded_model, "Communicator", lambda *_: None)
    pipeline = make_pipeline()
    pipeline.vae = torch.nn.Identity()
    pipeline.vae.decode = own = object()
    sharded = ShardedModel(Shared(), "dsp")
    sharded.patch(pipeline.vae, "decode", object())
    sharded.patch(pipeline.vae, "encode", object())
    sharded.remove()
    assert pipeline.vae.decode is own
    assert not hasattr(pipeline.vae, "encode")


def test_a_split_that_fails_leaves_nothing(monkeypatch) -> None:
    monkeypatch.setattr(sharded_model, "Communicator", lambda *_: None)
    monkeypatch.setattr(splitting, "CfgHook", lambda *_: 1 / 0)
    pipeline = make_pipeline()
    HookRegistry.check_if_exists_or_initialize(pipeline.transformer)  # as a plain run leaves one
    before = [set(vars(module)) for module in pipeline.transformer.modules()]
    with pytest.raises(ZeroDivisionError):
        split(pipeline, Shared())
    assert [set(vars(module)) for module in pipeline.transformer.modules()] == before
