import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from pabtune.models.published import load_published, published_file

CONFIG = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_file(AutoencoderKL(**CONFIG).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_weights_are_loaded_as_they_are(folder) -> None:
    torch.manual_seed(0)
    expected = AutoencoderKL(**CONFIG).state_dict()
    loaded = load_published(AutoencoderKL, folder, CONFIG, torch.float32)
    assert not loaded.training
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert load_published(AutoencoderKL, folder, CONFIG, torch.bfloat16).dtype == torch.bfloat16


def test_diffusers_own_file_name_comes_first(folder) -> None:
    weights = {name: value + 1 for name, value in AutoencoderKL(**CONFIG).state_dict().items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    loaded = load_published(AutoencoderKL, folder, CONFIG, torch.float32)
    assert torch.equal(loaded.state_dict()["quant_conv.bias"], weights["quant_conv.bias"])


def test_what_does_not_fit_is_named(folder) -> None:
    with pytest.raises(
        ValueError, match=r"\d+ of \d+ weights do not fit AutoencoderKL, for example .* there, .* expected"
    ):
        load_published(AutoencoderKL, folder, {**CONFIG, "latent_channels": 8}, torch.float32)


def test_what_is_missing_is_named(folder, tmp_path) -> None:
    assert published_file(folder, "config.json").read_text() == "{}"
    with pytest.raises(FileNotFoundError, match="other.json: no such file"):
        published_file(folder, "other.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has none of diffusion_pytorch_model.safetensors, model.safetensors"):
        load_published(AutoencoderKL, folder, CONFIG, torch.float32)
