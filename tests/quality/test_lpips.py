"""LPIPS on a backbone of random weights: the published one is never downloaded.

With the same random backbone, the package `lpips` 0.1.4 gave the same figure to the last digit (2026-11-26).
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, interpolate, max_pool2d

from pabtune.quality.lpips import BACKBONE, CHANNELS, SCALE, SHIFT, Lpips, load_lpips
from pabtune.records.errors import MeasureError

SIZES = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 255, (2, 72, 80, 3), dtype=np.uint8)


def noisy(amount: float) -> np.ndarray:
    return np.clip(VIDEO + np.random.default_rng(1).normal(0, amount, VIDEO.shape), 0, 255).astype(np.uint8)


def backbone() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {f"features.{number}.weight": torch.randn(size, generator=generator) for number, size in SIZES.items()}
    scaled = {name: weight / weight[0].numel() ** 0.5 for name, weight in weights.items()}
    return scaled | {name.replace("weight", "bias"): torch.zeros(len(weight)) for name, weight in weights.items()}


@pytest.fixture
def checkpoints(monkeypatch, tmp_path):
    """An empty folder of checkpoints."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_nothing_is_downloaded_and_what_is_missing_is_said(checkpoints) -> None:
    with pytest.raises(
        MeasureError, match=f"LPIPS is not at hand: it needs AlexNet's weights from https://.* as .*{BACKBONE}"
    ):
        load_lpips()
    (checkpoints / BACKBONE).write_bytes(b"half a file")
    with pytest.raises(MeasureError, match=r"is not AlexNet as torchvision publishes it"):
        load_lpips()


def test_a_backbone_at_hand_is_used(checkpoints) -> None:
    torch.save(backbone() | {"classifier.1.weight": torch.zeros(1)}, checkpoints / BACKBONE)
    measure = load_lpips()
    assert measure(VIDEO, VIDEO) == 0
    assert 0 < measure(noisy(10), VIDEO) < measure(noisy(40), VIDEO)
    assert measure(noisy(40)[:, :24, :24], VIDEO[:, :24, :24]) > 0  # enlarged, else nothing is left of them
    with pytest.raises(ValueError, match="same shape"):
        measure(VIDEO[:1], VIDEO)


def test_the_definition_layer_by_layer() -> None:
    weights, generator = backbone(), torch.Generator().manual_seed(1)
    channel_weights = [torch.rand(1, count, 1, 1, generator=generator) for count in CHANNELS]
    network = Lpips({f"lin{depth}.model.1.weight": each for depth, each in enumerate(channel_weights)}, weights)
    pair = [torch.rand(1, 3, 70, 66, generator=generator) * 2 - 1 for _ in range(2)]

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        x = (x - torch.tensor(SHIFT)[:, None, None]) / torch.tensor(SCALE)[:, None, None]
        for number, (stride, padding, pooled) in zip(
            SIZES, [(4, 2, 0), (1, 2, 1), (1, 1, 1), (1, 1, 0), (1, 1, 0)], strict=True
        ):
            x = max_pool2d(x, 3, 2) if pooled else x
            x = conv2d(x, weights[f"features.{number}.weight"], stride=stride, padding=padding).relu()
            outputs.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return outputs

    maps = [
        interpolate(((a - b) ** 2 * weight).sum(1, keepdim=True), (70, 66), mode="bilinear")
        for a, b, weight in zip(*map(features, pair), channel_weights, strict=True)
    ]
    with torch.no_grad():
        assert float(network(*pair)) == pytest.approx(float(sum(maps).mean()), rel=1e-5)
