import gc
import weakref

import pytest
import torch

from pabtune.parallel.collectives import Exchange, Traffic
from pabtune.parallel.mesh import LOST, Layout, Mesh, choose_layout, exchanging, is_launched
from pabtune.records.errors import ParallelError


def test_layouts() -> None:
    assert str(choose_layout(4, split_branches=True)) == "2 for guidance branches x 2 for the sequence"
    assert choose_layout(3).sequence == 3
    assert choose_layout(16, split_branches=True, samples=4) == Layout(samples=4, branches=2, sequence=2)
    assert str(choose_layout(4, samples=2)) == "2 for samples x 1 for guidance branches x 2 for the sequence"
    with pytest.raises(ParallelError, match="3 parts of the samples do not fit 4 processes for each branch"):
        choose_layout(8, split_branches=True, samples=3)
    with pytest.raises(ParallelError, match="an even number of processes, not 3"):
        choose_layout(3, split_branches=True)


def test_one_process_of_a_cluster_is_alone(monkeypatch) -> None:
    """Images for clusters set RANK and WORLD_SIZE also where there is one process."""
    for world_size, expected in (("1", False), ("2", True)):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", world_size)
        assert is_launched() == expected
    monkeypatch.delenv("RANK")
    assert not is_launched()


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
    mesh = Mesh(Layout())
    assert mesh.ranks == {"samples": 0, "branches": 0, "sequence": 0}
    mesh.agree({"policy": "sha256:…", "prompt": ["a", "b"]})
    with pytest.raises(ParallelError, match="a layout of 2 for guidance branches x 1 for the sequence does not fit 1"):
        Mesh(Layout(branches=2))


@pytest.mark.usefixtures("alone")
def test_only_who_joined_leaves() -> None:
    import torch.distributed as dist

    with Mesh(Layout()):
        with Mesh(Layout()):
            pass
        assert dist.is_initialized()
    assert not dist.is_initialized()


@pytest.mark.usefixtures("alone")
def test_an_error_is_passed_on_and_the_group_is_left() -> None:
    import torch.distributed as dist

    with pytest.raises(KeyError), Mesh(Layout()):
        raise KeyError
    assert not dist.is_initialized()


@pytest.mark.usefixtures("alone")
def test_nothing_refers_to_a_group_that_was_left() -> None:
    """A process that ends with such a reference, in a script's variables for example, is at times aborted."""
    with Mesh(Layout()) as mesh:
        exchange = Exchange(mesh, "sequence", Traffic())
        assert exchange.size == 1
        left = weakref.ref(mesh.group("sequence"))
        assert left() is not None
    gc.collect()
    assert left() is None
    with pytest.raises(ParallelError, match="the processes have been left"):
        exchange.gather(torch.zeros(1), 0, "output")


@pytest.mark.usefixtures("alone")
def test_a_mesh_that_cannot_be_made_leaves_nothing() -> None:
    import torch.distributed as dist

    with pytest.raises(ParallelError, match="does not fit 1 processes"):
        Mesh(Layout(branches=2))
    assert not dist.is_initialized()


def test_a_collective_that_fails_is_told_from_a_device_that_is_full() -> None:
    with pytest.raises(ParallelError, match=f"^{LOST}.*Connection closed"), exchanging():
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(torch.OutOfMemoryError), exchanging():
        raise torch.OutOfMemoryError


def test_a_process_without_a_gpu_is_told(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ParallelError, match="process 3 of this machine has no GPU: it has 2"):
        Mesh(Layout(sequence=4), "cuda")
