"""The video VAE against numbers of a plain rendering of the reference's modules, and at the published size."""

from pathlib import Path

import pytest
import torch

from pabtune.models.open_sora_plan import AutoencoderKLOpenSoraPlan
from pabtune.models.open_sora_plan.vae import CausalConv3d, DoubleTime, HalveTime
from tests.models.golden import load_golden, relative_error


@pytest.fixture(scope="module")
def golden():
    return load_golden("open-sora-plan-vae-tiny")


@pytest.fixture(scope="module")
def vae(golden) -> AutoencoderKLOpenSoraPlan:
    _, weights, config = golden
    autoencoder = AutoencoderKLOpenSoraPlan(**config).eval()
    autoencoder.load_state_dict(weights, strict=True)
    return autoencoder


@pytest.mark.parametrize("frames", [1, 5, 9])
@torch.no_grad()
def test_it_is_the_references(vae, golden, frames) -> None:
    tensors, _, _ = golden
    distribution = vae.encode(tensors[f"frames{frames}.input"]).latent_dist
    assert relative_error(distribution.mean, tensors[f"frames{frames}.mean"]) < 1e-5
    assert relative_error(distribution.logvar, tensors[f"frames{frames}.logvar"]) < 1e-5
    assert relative_error(vae.decode(tensors[f"frames{frames}.mean"]).sample, tensors[f"frames{frames}.decoded"]) < 1e-5


def test_the_defaults_are_the_published_model() -> None:
    with torch.device("meta"):
        state = AutoencoderKLOpenSoraPlan().state_dict()
    lines = (Path(__file__).parent / "vae-keys.txt").read_text().splitlines()
    expected = dict(line.split("\t") for line in lines if not line.startswith("#"))
    assert {name: str(tuple(value.shape)) for name, value in state.items()} == expected


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (65, 17), (221, 56)])
def test_four_frames_become_one_latent_but_the_first(vae, frames, latents) -> None:
    assert vae.latent_frames(frames) == latents


@pytest.mark.parametrize("module", [CausalConv3d(2, 2, (3, 3, 3), padding=1), HalveTime(2), DoubleTime(2)])
@torch.no_grad()
def test_later_frames_are_not_seen(module) -> None:
    """By convolutions and changes of time; norms are over the whole clip."""
    clip = torch.randn(1, 2, 9, 4, 4)
    changed = clip.clone()
    changed[:, :, 5:] += 1
    one, other = module(clip), module(changed)
    same = (one == other).flatten(3).all(-1).all(1)[0].tolist()
    # The interpolation between two latents looks at both.
    assert same[: {9: 5, 5: 3, 17: 8}[len(same)]] == [True] * {9: 5, 5: 3, 17: 8}[len(same)]
    assert not any(same[{9: 5, 5: 3, 17: 10}[len(same)] :])


@pytest.mark.slow
@torch.no_grad()
def test_tiles_are_near_the_whole_and_a_saved_one_is_the_same(vae, tmp_path) -> None:
    latents = torch.randn(1, 4, 9, 4, 66)
    untiled = vae.decode(latents).sample
    vae.enable_tiling()
    frames_in_tiles = vae.decode(latents).sample
    vae.disable_tiling()
    assert frames_in_tiles.shape == untiled.shape == (1, 3, 33, 32, 528)
    assert torch.equal(vae.decode(latents).sample, untiled)
    assert 0 < relative_error(frames_in_tiles, untiled) < 1
    vae.save_pretrained(tmp_path)
    assert torch.equal(AutoencoderKLOpenSoraPlan.from_pretrained(tmp_path).decode(latents).sample, untiled)


@torch.no_grad()
def test_samples_follow_the_generator(vae) -> None:
    clip = torch.randn(1, 3, 5, 16, 16)
    one, again, other = (vae(clip, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_too_few_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 4 levels, but has 3"):
        AutoencoderKLOpenSoraPlan(hidden_size_mult=(1, 2, 4))
