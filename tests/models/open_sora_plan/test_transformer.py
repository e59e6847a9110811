"""LatteT2V against the reference's own numbers, and at the published size."""

import inspect
from pathlib import Path

import pytest
import torch

from pabtune.models.open_sora_plan import LatteT2VTransformer3DModel
from tests.models.golden import load_golden, relative_error

FACTS = Path(__file__).parent / "transformer-keys.txt"


@pytest.fixture(scope="module")
def golden():
    return load_golden("open-sora-plan-v110-tiny")


@pytest.fixture(scope="module")
def model(golden) -> LatteT2VTransformer3DModel:
    _, weights, config = golden
    parameters = inspect.signature(LatteT2VTransformer3DModel.__init__).parameters
    network = LatteT2VTransformer3DModel(**{name: value for name, value in config.items() if name in parameters}).eval()
    network.load_state_dict(weights, strict=True)
    return network


@torch.no_grad()
def test_one_forward_is_the_references(model, golden) -> None:
    tensors, _, _ = golden
    states = {}
    for name in ("transformer_blocks", "temporal_transformer_blocks"):
        for index, block in enumerate(getattr(model, name)):
            key = f"after.{name}.{index}"
            block.register_forward_hook(lambda m, i, out, key=key: states.__setitem__(key, out))
    inputs = {key.removeprefix("input."): value for key, value in tensors.items() if key.startswith("input.")}
    output = model(**inputs).sample
    assert len(states) == 4
    for key, state in states.items():
        assert relative_error(state, tensors[key]) < 1e-5, key
    assert relative_error(output, tensors["output"]) < 1e-5
    assert torch.equal(model(**inputs, return_dict=False)[0], output)


@torch.no_grad()
def test_masked_text_does_not_matter_and_all_text_counts_without_a_mask(model, golden) -> None:
    tensors, _, _ = golden
    inputs = {key.removeprefix("input."): value for key, value in tensors.items() if key.startswith("input.")}
    changed = inputs["encoder_hidden_states"].clone()
    changed[:, :, 7:] = 5.0
    plain = model(**inputs).sample
    torch.testing.assert_close(model(**inputs | {"encoder_hidden_states": changed}).sample, plain)
    assert relative_error(model(**inputs | {"encoder_attention_mask": None}).sample, plain) > 1e-3


@torch.no_grad()
def test_other_sizes_and_lengths_run(model, golden) -> None:
    tensors, _, _ = golden
    inputs = {key.removeprefix("input."): value for key, value in tensors.items() if key.startswith("input.")}
    for size in ((1, 8, 8), (3, 6, 10), (7, 12, 8)):
        inputs["hidden_states"] = torch.randn(2, 4, *size)
        assert model(**inputs).sample.shape == (2, 8, *size)


def test_the_defaults_are_the_published_model() -> None:
    with torch.device("meta"):
        state = LatteT2VTransformer3DModel().state_dict()
    patterns = dict(line.split("\t")[:2] for line in FACTS.read_text().splitlines() if not line.startswith("#"))
    expected = {
        pattern.replace("{i}", str(layer)): shape
        for pattern, shape in patterns.items()
        for layer in range(28 if "{i}" in pattern else 1)
    }
    assert {name: str(tuple(value.shape)) for name, value in state.items()} == expected
    assert sum(value.numel() for value in state.values()) == pytest.approx(1.06e9, rel=0.01)
