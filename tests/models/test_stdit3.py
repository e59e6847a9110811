"""The network against the reference's own numbers, and at the published size."""

import pytest
import torch

from pabtune.models.stdit3 import STDiT3Transformer3DModel
from tests.models.golden import load_golden, relative_error


@pytest.fixture(scope="module")
def golden():
    return load_golden("stdit3-tiny")


@pytest.fixture(scope="module")
def model(golden) -> STDiT3Transformer3DModel:
    _, weights, config = golden
    names = ("depth", "hidden_size", "num_heads", "caption_channels", "model_max_length")
    network = STDiT3Transformer3DModel(**{name: config[name] for name in names}).eval()
    network.load_state_dict(weights, strict=True)
    return network


def inputs(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "hidden_states": tensors["input.x"],
        "timestep": tensors["input.timestep"],
        "encoder_hidden_states": tensors["input.y"],
        "encoder_attention_mask": tensors["input.mask"],
        "fps": tensors["input.fps"],
        "height": tensors["input.height"],
        "width": tensors["input.width"],
    }


@torch.no_grad()
def test_one_forward_is_the_references(model, golden) -> None:
    tensors, _, _ = golden
    states = {}
    for kind in ("spatial", "temporal"):
        for index, block in enumerate(getattr(model, f"{kind}_blocks")):
            name = f"after.block.{kind}.{index}"
            block.register_forward_hook(lambda m, i, out, name=name: states.__setitem__(name, out.flatten(1, 2)))
    output = model(**inputs(tensors)).sample
    assert relative_error(output, tensors["output"]) < 1e-5
    assert len(states) == 4
    for name, state in states.items():
        assert relative_error(state, tensors[name]) < 1e-5, name


@torch.no_grad()
def test_given_frames_are_modulated_as_clean_ones(model, golden) -> None:
    tensors, _, _ = golden
    arguments = inputs(tensors)
    frames = arguments["hidden_states"].shape[2]
    plain = model(**arguments).sample
    torch.testing.assert_close(model(**arguments, x_mask=torch.ones(1, frames)).sample, plain)
    clean = model(**arguments | {"timestep": torch.zeros(2)}).sample
    torch.testing.assert_close(model(**arguments, x_mask=torch.zeros(2, frames)).sample, clean)
    mixed = model(**arguments, x_mask=torch.arange(frames)[None] > 0).sample
    assert relative_error(mixed, plain) > 1e-4
    assert relative_error(mixed, clean) > 1e-4


def test_the_defaults_are_the_published_model() -> None:
    with torch.device("meta"):
        model = STDiT3Transformer3DModel()
    state = model.state_dict()
    assert len(state) == 973
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_207_643_972
    assert sum(value.numel() for value in state.values()) == 1_208_872_772
    assert state["x_embedder.proj.weight"].shape == (1152, 4, 1, 2, 2)
    assert state["spatial_blocks.27.attn.q_norm.weight"].shape == (72,)
    assert state["temporal_blocks.0.cross_attn.kv_linear.weight"].shape == (2304, 1152)
    assert state["final_layer.linear.weight"].shape == (32, 1152)


@torch.no_grad()
def test_odd_sizes_are_padded_and_cut(model, golden) -> None:
    tensors, _, _ = golden
    arguments = inputs(tensors) | {"hidden_states": torch.randn(2, 4, 3, 5, 7)}
    assert model(**arguments).sample.shape == (2, 8, 3, 5, 7)
    assert isinstance(model(**arguments, return_dict=False), tuple)


@torch.no_grad()
def test_masked_text_does_not_matter(model, golden) -> None:
    tensors, _, _ = golden
    arguments = inputs(tensors)
    changed = tensors["input.y"].clone()
    changed[:, :, 7:] = 99.0
    plain, other = model(**arguments).sample, model(**arguments | {"encoder_hidden_states": changed}).sample
    torch.testing.assert_close(plain, other)


@torch.no_grad()
def test_save_and_load_keep_the_output(model, golden, tmp_path) -> None:
    tensors, _, _ = golden
    model.save_pretrained(tmp_path)
    again = STDiT3Transformer3DModel.from_pretrained(tmp_path).eval()
    assert (again(**inputs(tensors)).sample == model(**inputs(tensors)).sample).all()


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="must be divisible by num_heads and by 4"):
        STDiT3Transformer3DModel(depth=1, hidden_size=50, num_heads=4)
