import time

import pytest
import torch

from pabtune.runtime.timing import Stopwatch, now


def test_times_add_up_per_key() -> None:
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.time("a"):
            time.sleep(0.01)
    with watch.time("b"):
        pass
    seconds = watch.seconds()
    assert seconds["a"] >= 0.02 > seconds["b"]
    assert now(torch.device("cpu")) <= time.perf_counter()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_events_measure_work_on_the_device() -> None:
    watch = Stopwatch(torch.device("cuda"))
    x = torch.randn(2048, 2048, device="cuda")
    with watch.time("a"):
        for _ in range(10):
            x = x @ x
    assert watch.seconds()["a"] > 0
