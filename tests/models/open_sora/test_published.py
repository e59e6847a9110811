import json

import pytest
import torch
from safetensors.torch import save_file

from pabtune.models.open_sora.published import load_open_sora
from tests.models.open_sora.test_pipeline import TRANSFORMER, VAE, draw, make_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline()


@pytest.fixture
def published(pipeline, tmp_path):
    """Three folders as the parts were published: `config.json` of the reference's making, one file of weights."""
    (tmp_path / "stdit").mkdir()
    (tmp_path / "vae").mkdir()
    config = {**TRANSFORMER, "model_type": "STDiT3", "enable_flash_attn": True, "class_dropout_prob": 0.1}
    (tmp_path / "stdit" / "config.json").write_text(json.dumps(config))
    save_file(pipeline.transformer.state_dict(), tmp_path / "stdit" / "model.safetensors")
    save_file(pipeline.vae.state_dict(), tmp_path / "vae" / "model.safetensors")
    pipeline.text_encoder.save_pretrained(tmp_path / "t5")
    pipeline.tokenizer.save_pretrained(tmp_path / "t5")
    return {
        "transformer": tmp_path / "stdit",
        "vae": tmp_path / "vae",
        "text_encoder": tmp_path / "t5",
        "vae_config": VAE,
    }


def test_the_published_parts_make_the_pipeline(pipeline, published) -> None:
    loaded = load_open_sora(**published)
    loaded.set_progress_bar_config(disable=True)
    assert (draw(loaded) == draw(pipeline)).all()
    assert load_open_sora(**published, dtype=torch.bfloat16).transformer.dtype == torch.bfloat16


def test_other_weights_are_refused_by_name(published) -> None:
    with pytest.raises(ValueError, match=r"weights do not fit AutoencoderKLOpenSora, for example .*expected"):
        load_open_sora(**{**published, "vae_config": {**VAE, "filters": 16}})
    (published["vae"] / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"has none of diffusion_pytorch_model.safetensors, model.safetensors"):
        load_open_sora(**published)
    (published["transformer"] / "config.json").unlink()
    with pytest.raises(OSError, match="no such file"):
        load_open_sora(**published)
