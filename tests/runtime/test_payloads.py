import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from pabtune.runtime.payloads import copied, taken_apart, weighted_sum

WEIGHTS = (0.7316, -2.4108, 2.6792)
"""Quadratic: large weights of both signs, where arithmetic in bfloat16 cancels."""


def outputs_of(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 512, generator=generator)
    return [(start + 0.02 * torch.randn(64, 512, generator=generator)).to(dtype) for _ in WEIGHTS]


def test_an_extrapolation_in_bfloat16_is_exact_arithmetic_rounded_once() -> None:
    outputs = outputs_of(torch.bfloat16)
    exact = sum(weight * output.double() for weight, output in zip(WEIGHTS, outputs, strict=True))
    result = weighted_sum(outputs, WEIGHTS)
    assert result.dtype == torch.bfloat16
    # A value that lies within float32's error of the middle between two of bfloat16's may round either way.
    assert (result != exact.to(torch.bfloat16)).float().mean() < 1e-3
    in_bfloat16 = sum(output * weight for output, weight in zip(outputs, WEIGHTS, strict=True))
    assert (in_bfloat16 != exact.to(torch.bfloat16)).float().mean() > 0.1


def test_float64_is_not_narrowed() -> None:
    outputs = outputs_of(torch.float64)
    exact = sum(weight * output for weight, output in zip(WEIGHTS, outputs, strict=True))
    assert torch.allclose(weighted_sum(outputs, WEIGHTS), exact, rtol=1e-12, atol=1e-12)


def test_outputs_of_any_structure_are_combined_in_their_places() -> None:
    first, second = (
        (torch.tensor([1.0]), [torch.tensor([2.0]), None]),
        (torch.tensor([3.0]), [torch.tensor([6.0]), None]),
    )
    result = weighted_sum([first, second], (-1.0, 2.0))
    assert result == (torch.tensor([5.0]), [torch.tensor([10.0]), None])


def test_a_transformers_output_is_put_together_as_it_was() -> None:
    tensor = torch.ones(2)
    for output in (Transformer2DModelOutput(sample=tensor), (tensor,), [tensor], tensor):
        rebuild, parts = taken_apart(output)
        again = rebuild(copied(parts))
        assert type(again) is type(output)
        sample = again if isinstance(again, torch.Tensor) else again[0]
        assert torch.equal(sample, tensor)
        assert sample is not tensor
