"""LPIPS (Zhang et al. 2018, https://arxiv.org/abs/1801.03924), where its parts are at hand: nothing is downloaded.

Version 0.1 with AlexNet, as PAB's scripts take it: distances of normalized features at five depths, weighted per channel,
brought to the frame's size, mean over pixels and frames. The weights of the channels come with the packages `lpips` and
`torchmetrics`; the backbone is torchvision's AlexNet, 233 MiB, from torch's folder of checkpoints. torchvision itself is not
needed. Small frames are enlarged pixel by pixel: AlexNet leaves nothing of 24 pixels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pabtune.quality.enlarging import enlarge, enlargement
from pabtune.records.errors import MeasureError, first_line

# F frames, C channels, H height, W width

LEAST_SIDE = 64
"""Shorter sides are enlarged to at least this many pixels: the size of the patches that LPIPS was fitted on."""

BACKBONE = "alexnet-owt-7be5be79.pth"
BACKBONE_ADDRESS = f"https://download.pytorch.org/models/{BACKBONE}"
CHANNEL_WEIGHTS: Mapping[str, str] = {
    "lpips": "weights/v0.1/alex.pth",
    "torchmetrics": "functional/image/lpips_models/alex.pth",
}
"""Where packages keep the weights of the channels, below their folders; the same numbers in both."""

CHANNELS = (64, 192, 384, 256, 256)
DEPTHS = (1, 4, 7, 9, 11)
"""Layers of AlexNet whose outputs are compared: its five activations."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation per channel, for pixels in -1..1."""

FRAMES_AT_ONCE = 8


class Lpips(nn.Module):
    """The distance of frames in AlexNet's features."""

    def __init__(self, channel_weights: Mapping[str, Tensor], backbone: Mapping[str, Tensor]) -> None:
        super().__init__()
        activation, pool = nn.ReLU, partial(nn.MaxPool2d, 3, 2)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), activation(), pool(),
            nn.Conv2d(64, 192, 5, 1, 2), activation(), pool(),
            nn.Conv2d(192, 384, 3, 1, 1), activation(),
            nn.Conv2d(384, 256, 3, 1, 1), activation(),
            nn.Conv2d(256, 256, 3, 1, 1), activation(),
        )  # fmt: skip
        ours = {name: tensor for name, tensor in backbone.items() if name.startswith("features.")}
        self.load_state_dict(ours)
        self.channel_weights = [
            channel_weights[f"lin{depth}.model.1.weight"].reshape(1, count, 1, 1)
            for depth, count in enumerate(CHANNELS)
        ]

    def forward(self, x_FCHW: Tensor, y_FCHW: Tensor) -> Tensor:
        """Distance per frame, (F,), of pixels in -1..1."""
        shift, scale = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (SHIFT, SCALE))
        x, y = (x_FCHW - shift) / scale, (y_FCHW - shift) / scale
        distance = torch.zeros(())
        weights = iter(self.channel_weights)
        for number, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if number in DEPTHS:
                difference = ((_normalized(x) - _normalized(y)) ** 2 * next(weights)).sum(1, keepdim=True)
                full = F.interpolate(difference, size=x_FCHW.shape[2:], mode="bilinear", align_corners=False)
                distance = distance + full.mean((1, 2, 3))
        return distance


def load_lpips() -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]:
    """LPIPS of a video and its reference.

    Raises:
        MeasureError: a part is not at hand, or cannot be read.
    """
    missing = what_is_missing()
    if missing is not None:
        raise MeasureError(f"LPIPS is not at hand: {missing}")
    try:
        parts = [torch.load(path, map_location="cpu", weights_only=True) for path in (_weights_file(), backbone_file())]
        network = Lpips(*parts)
    except Exception as error:  # the files are not ours, and torch's readers fail in many ways
        raise MeasureError(
            f"LPIPS is not at hand: {backbone_file()} is not AlexNet as torchvision publishes it: {first_line(error)}"
        ) from error
    return partial(_lpips, network)


def what_is_missing() -> str | None:
    """What LPIPS lacks here and where to get it; None = nothing."""
    if _weights_file() is None:
        return "it needs the package lpips or torchmetrics: pip install lpips"
    if not backbone_file().is_file():
        return f"it needs AlexNet's weights from {BACKBONE_ADDRESS} as {backbone_file()}"
    return None


def backbone_file() -> Path:
    """Where torchvision, and so everybody, keeps AlexNet."""
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE


def _weights_file() -> Path | None:
    for package, file in CHANNEL_WEIGHTS.items():
        spec = find_spec(package)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            if Path(folder, file).is_file():
                return Path(folder, file)
    return None


@torch.no_grad()
def _lpips(network: Lpips, video: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """LPIPS of two videos (F, H, W, 3), 0 = alike.

    Raises:
        ValueError: the shapes differ.
    """
    if video.shape != reference.shape:
        raise ValueError(f"videos must have the same shape, but got {video.shape} and {reference.shape}")
    factor = enlargement(*video.shape[1:3], LEAST_SIDE)
    distances = []
    for start in range(0, len(video), FRAMES_AT_ONCE):
        some = slice(start, start + FRAMES_AT_ONCE)
        distances.append(network(_as_tensor(video[some], factor), _as_tensor(reference[some], factor)))
    return float(torch.cat(distances).mean())


def _as_tensor(frames: NDArray[np.uint8], factor: int) -> Tensor:
    return torch.from_numpy(enlarge(frames, factor)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _normalized(features_FCHW: Tensor) -> Tensor:
    return features_FCHW / (features_FCHW.square().sum(1, keepdim=True).sqrt() + 1e-10)
