import gc
import weakref

import pytest
import torch

from pabtune.parallel.collectives import Communicator, Traffic
from pabtune.parallel.mesh import LOST, Mesh, exchanging
from pabtune.records.errors import ParallelError
from pabtune.records.layouts import ONE_GPU, ParallelLayout


@pytest.fixture
def alone(monkeypatch):
    """A process group of this process."""
    import torch.distributed as dist

    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    store = dist.HashStore()
    initialise = dist.init_process_group
    monkeypatch.setattr(
        dist, "init_process_group", lambda *_, **__: initialise("gloo", store=store, rank=0, world_size=1)
    )
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_mesh_knows_its_places_and_refuses_other_sizes() -> None:
    mesh = Mesh(ONE_GPU)
    assert mesh.ranks == {"samples": 0, "branches": 0, "sequence": 0}
    mesh.agree({"policy": "sha256:…", "prompt": ["a", "b"]})
    with pytest.raises(
        ParallelError, match=r"the layout \(one guidance branch on each half\) needs 2 processes, but there are 1"
    ):
        Mesh(ParallelLayout(branches=2))


@pytest.mark.usefixtures("alone")
def test_only_who_joined_leaves() -> None:
    import torch.distributed as dist

    with Mesh(ONE_GPU):
        with Mesh(ONE_GPU):
            pass
        assert dist.is_initialized()
    assert not dist.is_initialized()


@pytest.mark.usefixtures("alone")
def test_an_error_is_passed_on_and_the_group_is_left() -> None:
    import torch.distributed as dist

    with pytest.raises(KeyError), Mesh(ONE_GPU):
        raise KeyError
    assert not dist.is_initialized()


@pytest.mark.usefixtures("alone")
def test_nothing_refers_to_a_group_that_was_left() -> None:
    """A process that ends with such a reference, in a script's variables for example, is at times aborted."""
    with Mesh(ONE_GPU) as mesh:
        exchange = Communicator(mesh, "sequence", Traffic())
        assert exchange.size == 1
        left = weakref.ref(mesh.group("sequence"))
        assert left() is not None
    gc.collect()
    assert left() is None
    with pytest.raises(ParallelError, match="the mesh has been left"):
        exchange.all_gather(torch.zeros(1), 0, "output")


@pytest.mark.usefixtures("alone")
def test_a_mesh_that_cannot_be_made_leaves_nothing(monkeypatch) -> None:
    import torch.distributed as dist

    with pytest.raises(ParallelError, match="needs 2 processes, but there are 1"):
        Mesh(ParallelLayout(branches=2))
    assert not dist.is_initialized()

    def fail(*_, **__) -> None:
        raise RuntimeError("no mesh")

    monkeypatch.setattr("pabtune.parallel.mesh.init_device_mesh", fail)
    with pytest.raises(RuntimeError, match="no mesh"):
        Mesh(ParallelLayout())
    assert not dist.is_initialized(), "the next mesh would take the group for somebody else's"


@pytest.mark.usefixtures("alone")
def test_a_value_that_a_process_lacks_is_another_one(monkeypatch) -> None:
    """Names that rank 0 alone has were not looked at."""

    def gathered(everyone, own) -> None:
        everyone[:] = [own, {"policy": own["policy"]}]

    with Mesh(ParallelLayout()) as mesh:
        monkeypatch.setattr("torch.distributed.all_gather_object", gathered)
        with pytest.raises(ParallelError, match="rank 1 has another seed than rank 0: None instead of '3'"):
            mesh.agree({"policy": "p", "seed": 3})


def test_a_collective_that_fails_is_told_from_a_device_that_is_full() -> None:
    with pytest.raises(ParallelError, match=f"^{LOST}.*Connection closed"), exchanging():
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(torch.OutOfMemoryError), exchanging():
        raise torch.OutOfMemoryError


def test_a_process_without_a_gpu_is_told(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ParallelError, match="local rank 3 has no GPU: this machine has 2"):
        Mesh(ParallelLayout(sequence=4), "cuda")
