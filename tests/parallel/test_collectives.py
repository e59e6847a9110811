import pytest
import torch

from pabtune.parallel.collectives import Traffic, padded


@pytest.mark.parametrize(("length", "multiple", "expected"), [(5, 2, 6), (6, 2, 6), (1, 4, 4), (3, 1, 3)])
def test_padding_is_zeros_at_the_end(length, multiple, expected) -> None:
    x = torch.ones(2, length, 3)
    found = padded(x, 1, multiple)
    assert found.shape == (2, expected, 3)
    assert (found[:, :length] == 1).all()
    assert (found[:, length:] == 0).all()
    assert padded(found, 1, multiple) is found


def test_traffic_is_counted_by_purpose() -> None:
    traffic = Traffic()
    for purpose, sent in (("attention", 10), ("attention", 30), ("output", 5)):
        traffic.add(purpose, sent)
    assert traffic.to_document() == {"attention": {"messages": 2, "bytes": 40}, "output": {"messages": 1, "bytes": 5}}
    traffic.clear()
    assert traffic.to_document() == {}
