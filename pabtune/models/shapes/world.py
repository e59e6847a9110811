"""The embedded world: one coloured shape that moves over a plain or striped background.

Knows what a scene is and how it looks; knows nothing of words or networks. Everything is drawn from signed distances,
so edges are smooth and a clip takes under a millisecond.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

FRAMES = 8
FRAME_SIZE = 24
FRAMES_PER_SECOND = 8
COLOR_CHANNELS = 3
CLOCK_SCALE = 8.0
"""Largest value of the clock channel; at 1 it was drowned by colours and positions, and the direction of time not learned."""

Split = Literal["train", "held-out"]
HELD_OUT_SHARE = 0.2
"""Fraction of all scenes that training never sees; captions for evaluation come from these."""

COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (224, 40, 40),
    "yellow": (236, 208, 32),
    "green": (40, 184, 64),
    "cyan": (40, 200, 220),
    "blue": (48, 72, 232),
    "pink": (232, 64, 192),
}
RADII: Mapping[str, float] = {"small": 4.75, "medium": 5.75, "large": 6.75}
"""Radius in pixels of the circle of that size; other shapes cover about the same area."""
BACKGROUNDS: Mapping[str, tuple[int, int]] = {
    "black": (16, 16),
    "gray": (128, 128),
    "white": (240, 240),
    "striped": (56, 104),
}
"""Grey levels of even and odd stripes."""
STRIPE_HEIGHT = 4
SPEEDS: Mapping[str, float] = {"slow": 0.5, "fast": 1.0}
"""Pixels per frame; a rotating shape turns `ROTATION_DEGREES` per frame and unit of speed."""
ROTATION_DEGREES = 9.0
PATH_JITTER = 1
AHEAD_SHARE = 0.25
"""Share of a straight path that lies on the near side of the frame's middle: what moves left is left of it most of the
time. A path around the middle makes the direction a product of word and time, which was not learned."""
DIRECTIONS: Mapping[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
MOTIONS = ("still", *DIRECTIONS, "bouncing", "rotating")


def _circle(x: NDArray, y: NDArray, radius: float) -> NDArray:
    return np.hypot(x, y) - radius


def _square(x: NDArray, y: NDArray, radius: float) -> NDArray:
    return np.maximum(abs(x), abs(y)) - 0.89 * radius


def _triangle(x: NDArray, y: NDArray, radius: float) -> NDArray:
    sides = (y, -0.5 * y + 0.866 * x, -0.5 * y - 0.866 * x)
    return np.maximum.reduce(sides) - 0.72 * radius


def _cross(x: NDArray, y: NDArray, radius: float) -> NDArray:
    upright = np.maximum(abs(x) - 0.42 * radius, abs(y) - 1.15 * radius)
    lying = np.maximum(abs(x) - 1.15 * radius, abs(y) - 0.42 * radius)
    return np.minimum(upright, lying)


SHAPES: Mapping[str, Callable[[NDArray, NDArray, float], NDArray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}
"""Signed distance in pixels from the outline, negative inside, of the upright shape around the origin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a clip shows; None leaves an attribute open. `speed` is also None if the shape is still."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    motion: str | None = None
    speed: str | None = None
    background: str | None = None

    @property
    def content(self) -> str:
        """Content class: `still`, `slow` or `fast`; `open` where the scene leaves it open."""
        return "still" if self.motion == "still" else self.speed or "open"


def all_scenes() -> Iterator[Scene]:
    """Every complete scene. A rotating circle is left out: it looks like a still one."""
    for shape, color, size, motion, background in product(SHAPES, COLORS, RADII, MOTIONS, BACKGROUNDS):
        if (shape, motion) == ("circle", "rotating"):
            continue
        for speed in (None,) if motion == "still" else SPEEDS:
            yield Scene(shape=shape, color=color, size=size, motion=motion, speed=speed, background=background)


def scenes(split: Split) -> list[Scene]:
    """The complete scenes of one side of the fixed split, which a checksum of the scene's words decides."""

    def is_held_out(scene: Scene) -> bool:
        words = " ".join(str(getattr(scene, field.name)) for field in fields(scene))
        return crc32(words.encode()) % 1000 < HELD_OUT_SHARE * 1000

    return [scene for scene in all_scenes() if is_held_out(scene) == (split == "held-out")]


def kinematics(motion: str, speed: str | None) -> tuple[NDArray, NDArray]:
    """Offsets in pixels, (FRAMES, 2) as x, y, and angles in radians, (FRAMES,), of a motion."""
    pixels = SPEEDS[speed] if speed else 0.0
    time = np.arange(FRAMES, dtype=float)
    offsets = np.zeros((FRAMES, 2))
    angles = np.zeros(FRAMES)
    if motion in DIRECTIONS:
        offsets = np.outer(time, DIRECTIONS[motion]) * pixels
    elif motion == "bouncing":
        offsets[:, 1] = -abs(time - FRAMES // 2) * pixels * 1.5
    elif motion == "rotating":
        angles = np.deg2rad(ROTATION_DEGREES) * pixels * time
    return offsets, angles


def start(offsets: NDArray, rng: np.random.Generator) -> NDArray:
    """A random start (2,) in pixels: paths pass the frame's middle after `AHEAD_SHARE`, up to `PATH_JITTER` pixels off."""
    return FRAME_SIZE / 2 - AHEAD_SHARE * offsets[-1] + rng.integers(-PATH_JITTER, PATH_JITTER, size=2, endpoint=True)


def coverage(shape: str, radius: float, centers: NDArray, angles: NDArray) -> NDArray:
    """Fraction of each pixel that a shape covers, (FRAMES, FRAME_SIZE, FRAME_SIZE), at centres (FRAMES, 2)."""
    pixel = np.arange(FRAME_SIZE) + 0.5
    x = pixel[None, None, :] - centers[:, 0, None, None]
    y = pixel[None, :, None] - centers[:, 1, None, None]
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    distance = SHAPES[shape](x * cos + y * sin, y * cos - x * sin, radius)
    return np.clip(0.5 - distance, 0, 1)


def render(scene: Scene, rng: np.random.Generator, frames: slice = slice(None)) -> NDArray[np.uint8]:
    """A clip of a complete scene, or some of its frames, (frames, FRAME_SIZE, FRAME_SIZE, 3)."""
    offsets, angles = kinematics(scene.motion, scene.speed)
    centers = (start(offsets, rng) + offsets)[frames]
    angles = angles[frames]
    cover = coverage(scene.shape, RADII[scene.size], centers, angles)[..., None]
    clip = cover * np.array(COLORS[scene.color]) + (1 - cover) * backdrop(scene.background)
    return np.round(clip).astype(np.uint8)


def frame_clock() -> NDArray[np.float32]:
    """Time of each frame, (FRAMES,), from -CLOCK_SCALE to CLOCK_SCALE.

    It is the fourth input channel of the network, because the rotary embedding over frames encodes only distances: it
    distinguishes neighbours, but not the first frame from the last.
    """
    return np.linspace(-CLOCK_SCALE, CLOCK_SCALE, FRAMES, dtype=np.float32)


def backdrop(background: str) -> NDArray:
    """A background without a shape, (FRAME_SIZE, FRAME_SIZE, 3)."""
    stripe = (np.arange(FRAME_SIZE) // STRIPE_HEIGHT) % 2
    levels = np.array(BACKGROUNDS[background], dtype=float)[stripe]
    return np.broadcast_to(levels[:, None, None], (FRAME_SIZE, FRAME_SIZE, 3))
