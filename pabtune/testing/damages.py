"""Damages of videos, in grades: what a score or a measure of fidelity should see, because people do.

Each damage takes a video, (frames, height, width, 3), of bytes, an amount, another video of the same size, and a generator of
random numbers, and returns a damaged copy. Amounts rise from hardly visible to obvious. What a model does to its videos
itself, with fewer steps or outputs that are used too long, is not among them: that takes a model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Video = NDArray[np.uint8]
Change = Callable[[Video, float, Video, np.random.Generator], NDArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One kind of damage.

    Attributes:
        amounts: its grades, from hardly visible to obvious.
        unit: of the amounts.
        change: makes the frames, as numbers of any type; they are rounded and clipped to bytes.
        needs_motion: whether only videos of something that moves are damaged by it.
    """

    amounts: tuple[float, ...]
    unit: str
    change: Change
    needs_motion: bool = False

    def apply(self, video: Video, amount: float, other: Video, seed: int) -> Video:
        """The video, damaged by an amount; the same for the same seed."""
        changed = self.change(video, amount, other, np.random.default_rng(seed))
        return np.clip(np.round(changed), 0, 255).astype(np.uint8)


def _frozen(video: Video, held: float, other: Video, rng: np.random.Generator) -> NDArray:
    times = np.arange(len(video))
    return video[np.minimum(times, len(video) - 1 - round(held))]


def _jerky(video: Video, held: float, other: Video, rng: np.random.Generator) -> NDArray:
    return video[np.arange(len(video)) // round(held) * round(held)]


def _shaking(video: Video, pixels: float, other: Video, rng: np.random.Generator) -> NDArray:
    return np.stack([np.roll(frame, round(pixels) * (-1) ** time, axis=0) for time, frame in enumerate(video)])


def _flicker(video: Video, levels: float, other: Video, rng: np.random.Generator) -> NDArray:
    return video + levels * _alternating(len(video))


def _flicker_of_colors(video: Video, share: float, other: Video, rng: np.random.Generator) -> NDArray:
    """Colours fade and strengthen from frame to frame; grey stays as it is."""
    gray = video.mean(-1, keepdims=True)
    return gray + (video - gray) * (1 - share * (_alternating(len(video)) > 0))


def _blur(video: Video, pixels: float, other: Video, rng: np.random.Generator) -> NDArray:
    return gaussian_filter(video.astype(float), (0, pixels, pixels, 0))


def _noise(video: Video, levels: float, other: Video, rng: np.random.Generator) -> NDArray:
    return video + rng.normal(0, levels, video.shape)


def _tint(video: Video, levels: float, other: Video, rng: np.random.Generator) -> NDArray:
    return video + levels * np.array([1.0, 0.0, -1.0])


def _hue(video: Video, share: float, other: Video, rng: np.random.Generator) -> NDArray:
    return (1 - share) * video + share * video[..., [1, 2, 0]]


def _faded(video: Video, share: float, other: Video, rng: np.random.Generator) -> NDArray:
    return (1 - share) * video + share * video.mean(-1, keepdims=True)


def _drift(video: Video, pixels: float, other: Video, rng: np.random.Generator) -> NDArray:
    """Everything moves sideways as well, `pixels` over the whole video."""
    shifts = np.round(np.linspace(0, pixels, len(video))).astype(int) * int(rng.choice([-1, 1]))
    return np.stack([np.roll(frame, shift, axis=1) for frame, shift in zip(video, shifts, strict=True)])


def _blend(video: Video, share: float, other: Video, rng: np.random.Generator) -> NDArray:
    return (1 - share) * video + share * other


def _alternating(frames: int) -> NDArray:
    """+1, -1, +1 …, to be multiplied with frames."""
    return (1 - 2 * (np.arange(frames) % 2))[:, None, None, None]


DAMAGES: Mapping[str, Damage] = {
    "frozen": Damage(amounts=(1, 2, 4, 7), unit="last frames held", change=_frozen, needs_motion=True),
    "jerky": Damage(amounts=(2, 3, 4), unit="frames held", change=_jerky, needs_motion=True),
    "shaking": Damage(amounts=(1, 2, 3), unit="pixels", change=_shaking),
    "flicker": Damage(amounts=(4, 8, 16, 32), unit="levels of 255", change=_flicker),
    "flicker of colours": Damage(amounts=(0.1, 0.2, 0.4, 0.7), unit="share of colour", change=_flicker_of_colors),
    "blur": Damage(amounts=(0.5, 0.8, 1.2, 2.0), unit="pixels", change=_blur),
    "noise": Damage(amounts=(4, 8, 16, 32), unit="levels of 255", change=_noise),
    "tint": Damage(amounts=(8, 16, 32, 64), unit="levels of 255", change=_tint),
    "other hue": Damage(amounts=(0.1, 0.2, 0.4, 0.7), unit="share", change=_hue),
    "faded colours": Damage(amounts=(0.15, 0.3, 0.5, 0.75), unit="share of gray", change=_faded),
    "wrong motion": Damage(amounts=(1, 2, 4, 7), unit="pixels sideways", change=_drift),
    "two prompts blended": Damage(amounts=(0.1, 0.2, 0.35, 0.5), unit="share of the other", change=_blend),
}
"""Damages by name."""
