import json

import pytest
import torch
from safetensors.torch import save_file

from pabtune.models.open_sora_plan import AutoencoderKLOpenSoraPlan
from pabtune.models.open_sora_plan.published import load_open_sora_plan
from tests.models.open_sora_plan.test_pipeline import TRANSFORMER, VAE, draw, make_pipeline


@pytest.fixture
def published(tmp_path):
    """A folder as the parts were published: configurations of the reference's making, a folder for each part."""
    pipeline = make_pipeline()
    parts = {"vae": (pipeline.vae, VAE), "65x512x512": (pipeline.transformer, TRANSFORMER)}
    for name, (model, config) in parts.items():
        (tmp_path / name).mkdir()
        further = {"_class_name": "of the reference", "attn_resolutions": [], "norm_num_groups": 32}
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **further}))
        weights = {**model.state_dict()} | ({"loss.discriminator.weight": torch.zeros(1)} if name == "vae" else {})
        save_file(weights, tmp_path / name / "diffusion_pytorch_model.safetensors")
    pipeline.text_encoder.save_pretrained(tmp_path / "t5")
    pipeline.tokenizer.save_pretrained(tmp_path / "t5")
    return pipeline, {"repository": tmp_path, "text_encoder": tmp_path / "t5"}


def test_the_published_parts_make_the_pipeline(published) -> None:
    pipeline, parts = published
    loaded = load_open_sora_plan(**parts)
    loaded.set_progress_bar_config(disable=True)
    assert (draw(loaded) == draw(pipeline)).all()
    assert loaded.vae.use_tiling
    loaded.save_pretrained(published[1]["repository"] / "saved")
    assert AutoencoderKLOpenSoraPlan.from_pretrained(published[1]["repository"] / "saved" / "vae").use_tiling
    pipeline.vae.enable_tiling()
    assert AutoencoderKLOpenSoraPlan.from_config(pipeline.vae.config).use_tiling
    pipeline.vae.disable_tiling()
    assert not AutoencoderKLOpenSoraPlan.from_config(pipeline.vae.config).use_tiling


def test_a_length_that_was_not_published_is_named(published) -> None:
    with pytest.raises(OSError, match=r"221x512x512/config.json: no such file"):
        load_open_sora_plan(**published[1], trained_for="221x512x512")


def test_other_weights_are_refused_by_name(published) -> None:
    _, parts = published
    config = parts["repository"] / "vae" / "config.json"
    config.write_text(json.dumps({**VAE, "hidden_size": 16}))
    with pytest.raises(ValueError, match="weights do not fit AutoencoderKLOpenSoraPlan, for example"):
        load_open_sora_plan(**parts)
    (parts["repository"] / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="vae: has none of"):
        load_open_sora_plan(**parts)
