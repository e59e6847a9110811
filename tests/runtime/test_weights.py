"""Fault 4: a model's weights are told from others."""

import copy

import torch
from peft import LoraConfig

import pabtune
from pabtune.runtime.weights import weights_digest
from tests.conftest import make_pipeline, pyramid


def test_every_part_counts_and_copies_are_equal(pipeline) -> None:
    first = weights_digest(pipeline)
    assert weights_digest(make_pipeline()) == weights_digest(copy.deepcopy(pipeline)) == first
    assert weights_digest(make_pipeline(seed=1)) != first
    with pabtune.broadcast(pipeline, pyramid()):
        assert weights_digest(pipeline) == first
    with torch.no_grad():
        next(pipeline.text_encoder.parameters()).add_(0.01)
    assert weights_digest(pipeline) != first
    assert weights_digest(pipeline.transformer) == weights_digest(make_pipeline().transformer)


def test_an_adapter_its_scale_and_its_being_off_count(pipeline) -> None:
    from peft import inject_adapter_in_model

    seen = {weights_digest(pipeline)}
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["proj"], init_lora_weights=False), pipeline.transformer)
    layers = [module for module in pipeline.transformer.modules() if hasattr(module, "scaling")]
    seen.add(weights_digest(pipeline))
    for layer in layers:
        layer.scale_layer(0.5)
    seen.add(weights_digest(pipeline))
    for layer in layers:
        layer.enable_adapters(False)
    seen.add(weights_digest(pipeline))
    assert len(seen) == 4


def test_a_tensor_of_a_large_model_counts_to_its_last_number() -> None:
    """Places were rounded to single precision: past the end of tensors of more than 2**24 numbers, as large models have."""
    part = torch.nn.Module()
    part.register_buffer("table", torch.zeros(5120 * 5120, dtype=torch.int8))
    first = weights_digest(part)
    part.table[-1] = 1
    assert weights_digest(part) != first
