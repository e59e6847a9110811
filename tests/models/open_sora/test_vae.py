"""The video VAE of Open-Sora 1.2 against the reference's own numbers, and at the published size."""

from pathlib import Path

import pytest
import torch

from pabtune.models.open_sora import AutoencoderKLOpenSora
from pabtune.models.open_sora.vae import CausalConv3d
from tests.models.golden import load_golden, relative_error

SPATIAL = {"spatial_block_out_channels": (8, 8), "spatial_layers_per_block": 1, "spatial_norm_num_groups": 4}


@pytest.fixture(scope="module")
def golden():
    return load_golden("open-sora-temporal-vae-tiny")


@pytest.fixture(scope="module")
def vae(golden) -> AutoencoderKLOpenSora:
    _, weights, config = golden
    torch.manual_seed(0)
    autoencoder = AutoencoderKLOpenSora(**config, **SPATIAL).eval()
    autoencoder.temporal_vae.load_state_dict(weights, strict=True)
    return autoencoder


@pytest.mark.parametrize("frames", [17, 8, 5])
@torch.no_grad()
def test_the_temporal_part_is_the_references(vae, golden, frames) -> None:
    tensors, _, _ = golden
    distribution = vae.temporal_vae.encode(tensors[f"frames{frames}.input"])
    assert relative_error(distribution.mean, tensors[f"frames{frames}.mean"]) < 1e-5
    assert relative_error(distribution.logvar, tensors[f"frames{frames}.logvar"]) < 1e-5
    decoded = vae.temporal_vae.decode(tensors[f"frames{frames}.mean"], frames)
    assert relative_error(decoded, tensors[f"frames{frames}.decoded"]) < 1e-5


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_convolutions_see_no_later_frames(stride) -> None:
    convolution = CausalConv3d(2, 3, 3, time_stride=stride)
    clip = torch.randn(1, 2, 8, 4, 4)
    changed = clip.clone()
    changed[:, :, 5:] += 1
    one, other = convolution(clip), convolution(changed)
    assert one.shape == (1, 3, 8 // stride, 4, 4)
    same = (one == other).flatten(3).all(-1).all(1)[0]
    assert same.tolist() == [index * stride + stride - 1 < 5 for index in range(8 // stride)]


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (4, 1), (16, 4), (17, 5), (20, 6), (51, 15), (68, 20)])
@torch.no_grad()
def test_seventeen_frames_become_five_latents(vae, frames, latents) -> None:
    assert vae.latent_frames(frames) == latents
    clip = torch.randn(2, 3, frames, 4, 6)
    z = vae.encode(clip).latent_dist.mode()
    assert z.shape == (2, 4, latents, 2, 3)
    assert vae.decode(z, frames).sample.shape == clip.shape
    with pytest.raises(ValueError, match="latents, but got"):
        vae.decode(z, frames + 17)


@torch.no_grad()
def test_chunks_do_not_see_each_other_and_latents_are_normalised(vae) -> None:
    clip = torch.randn(1, 3, 34, 4, 4)
    z = vae.encode(clip, sample_images=False).latent_dist
    first = vae.encode(clip[:, :, :17], sample_images=False).latent_dist
    torch.testing.assert_close(z.mean[:, :, :5], first.mean)
    images = vae.spatial_vae.encode(clip[:, :, :17], None, sample=False)
    inside = vae.temporal_vae.encode(images)
    torch.testing.assert_close(first.mean, (inside.mean - vae.shift) / vae.scale)
    torch.testing.assert_close(first.std, inside.std / vae.scale)
    torch.testing.assert_close(vae.decode(z.mean, 34).sample[:, :, :17], vae.decode(first.mean, 17).sample)


@torch.no_grad()
def test_samples_follow_the_generator_and_a_saved_one_is_the_same(vae, tmp_path) -> None:
    clip = torch.randn(1, 3, 5, 4, 4)
    one, again, other = (vae(clip, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    vae.save_pretrained(tmp_path)
    loaded = AutoencoderKLOpenSora.from_pretrained(tmp_path)
    assert torch.equal(loaded(clip, torch.Generator().manual_seed(0)), one)


def test_the_defaults_are_the_published_model() -> None:
    with torch.device("meta"):
        state = AutoencoderKLOpenSora().state_dict()
    lines = (Path(__file__).parent / "vae-keys.txt").read_text().splitlines()
    expected = dict(line.split("\t") for line in lines if not line.startswith("#"))
    temporal = {name: str(tuple(value.shape)) for name, value in state.items() if name.startswith("temporal_vae.")}
    assert temporal == expected
    assert state["scale"].shape == state["shift"].shape == (1, 4, 1, 1, 1)
    assert sum(value.numel() for name, value in state.items() if name in expected) == pytest.approx(309.7e6, rel=1e-3)
    assert state["spatial_vae.module.encoder.conv_in.weight"].shape == (128, 3, 3, 3)


def test_levels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 levels, temporal_downsample 3 entries"):
        AutoencoderKLOpenSora(channel_multipliers=(1, 2, 4), filters=8, num_groups=4, **SPATIAL)
