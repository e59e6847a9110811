"""What a clip of the embedded world shows, seen by plain image processing: no network, nothing learned.

Pixels with colour belong to the shape, grey ones to the background. The shape's colour and the background give every
pixel's coverage; coverage gives area and centre per frame; the known shapes and motions are tried and the best fit wins.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from pabtune.models.shapes.world import (
    BACKGROUNDS,
    COLORS,
    FRAME_SIZE,
    FRAMES,
    MOTIONS,
    SHAPES,
    SPEEDS,
    backdrop,
    coverage,
    kinematics,
)

COLORFUL = 60
"""Least difference between a pixel's largest and smallest channel, of 255, for it to be colourful."""

RADIUS_PER_SQRT_AREA = {"circle": 0.564, "square": 0.561, "triangle": 0.608, "cross": 0.564}
"""Radius of a shape over the square root of its area, from the shapes' definitions; a test checks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What was seen.

    Attributes:
        color: nearest named colour; None when nothing colourful is in the clip.
        color_rgb: colour of the shape's core, (3,), 0..255.
        background: nearest named background.
        areas: pixels that the shape covers, per frame.
        centers: centre per frame, (FRAMES, 2) as x, y.
        shape: best fitting shape.
        shape_fit: per shape, overlap (intersection over union) of the coverage with the best placed ideal shape.
        motion: best fitting motion.
        speed: best fitting speed; None when still.
        motion_error: per (motion, speed), root mean square distance of the centres' path from the ideal one in pixels,
            plus the misfit of the turning in pixels at the outline.
        largest_part: share of the coverage that lies in its largest connected part, mean over frames.
        cover: coverage, (FRAMES, FRAME_SIZE, FRAME_SIZE).
    """

    color: str | None
    color_rgb: NDArray
    background: str
    areas: NDArray
    centers: NDArray
    shape: str | None
    shape_fit: dict[str, float]
    motion: str | None
    speed: str | None
    motion_error: dict[tuple[str, str | None], float]
    largest_part: float
    cover: NDArray


def look(clip: NDArray[np.uint8]) -> Sighting:
    """Looks at a clip, (FRAMES, FRAME_SIZE, FRAME_SIZE, 3).

    Raises:
        ValueError: the clip has another shape.
    """
    if clip.shape != (FRAMES, FRAME_SIZE, FRAME_SIZE, 3):
        raise ValueError(f"a clip must be {(FRAMES, FRAME_SIZE, FRAME_SIZE, 3)}, but is {clip.shape}")
    pixels = clip.astype(float)
    colorfulness = pixels.max(-1) - pixels.min(-1)
    is_colorful = colorfulness > COLORFUL
    background = _nearest_background(pixels, is_colorful)
    if is_colorful.sum() < FRAMES:
        empty = np.zeros(clip.shape[:3])
        middle = np.full((FRAMES, 2), FRAME_SIZE / 2)
        return Sighting(
            color=None, color_rgb=np.zeros(3), background=background, areas=empty.sum((1, 2)), centers=middle, shape=None,
            shape_fit=dict.fromkeys(SHAPES, 0.0), motion=None, speed=None, motion_error={}, largest_part=0.0, cover=empty,
        )  # fmt: skip
    core = is_colorful & (colorfulness >= np.quantile(colorfulness[is_colorful], 0.5))
    color_rgb = np.median(pixels[core], axis=0)
    cover = _coverage_of(pixels, color_rgb, backdrop(background))
    areas = cover.sum((1, 2))
    centers = _centers(cover, areas)
    shape_fit, turning_fit = _fit_shapes(cover, areas, centers)
    shape = max(shape_fit, key=shape_fit.__getitem__)
    motion_error = _motion_errors(centers, shape, turning_fit[shape])
    motion, speed = min(motion_error, key=motion_error.__getitem__)
    return Sighting(
        color=min(COLORS, key=lambda name: hue_distance(color_rgb, COLORS[name])),
        color_rgb=color_rgb,
        background=background,
        areas=areas,
        centers=centers,
        shape=shape,
        shape_fit=shape_fit,
        motion=motion,
        speed=speed,
        motion_error=motion_error,
        largest_part=_largest_part(cover),
        cover=cover,
    )


def hue_distance(first: NDArray | tuple[int, int, int], second: NDArray | tuple[int, int, int]) -> float:
    """Angle between two colours' directions away from grey, in degrees, 0..180."""
    a, b = (np.asarray(color, dtype=float) - np.mean(color) for color in (first, second))
    cosine = a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _nearest_background(pixels: NDArray, is_colorful: NDArray) -> str:
    def error(name: str) -> float:
        difference = abs(pixels - backdrop(name)).mean(-1)
        return float(difference[~is_colorful].mean()) if (~is_colorful).any() else float(difference.mean())

    return min(BACKGROUNDS, key=error)


def _coverage_of(pixels: NDArray, color_rgb: NDArray, behind: NDArray) -> NDArray:
    """Each pixel as a mix of background and colour: the share of colour, faint traces removed."""
    direction = color_rgb - behind
    share = ((pixels - behind) * direction).sum(-1) / np.maximum(np.square(direction).sum(-1), 1.0)
    # The share of colourfulness tells a grey disturbance from the shape.
    colorful = (pixels.max(-1) - pixels.min(-1)) / max(color_rgb.max() - color_rgb.min(), 1.0)
    share = np.clip(np.minimum(share, colorful * 1.1), 0, 1)
    return np.where(share < 0.15, 0.0, share)


def _centers(cover: NDArray, areas: NDArray) -> NDArray:
    pixel = np.arange(FRAME_SIZE) + 0.5
    weight = np.maximum(areas, 1e-6)
    x, y = (cover.sum(1) @ pixel) / weight, (cover.sum(2) @ pixel) / weight
    centers = np.stack([x, y], axis=1)
    centers[areas < 1] = FRAME_SIZE / 2
    return centers


def _turnings() -> dict[str | None, NDArray]:
    """Angles over time by speed of rotation; None = none."""
    return {None: np.zeros(FRAMES)} | {speed: kinematics("rotating", speed)[1] for speed in SPEEDS}


def _fit_shapes(
    cover: NDArray, areas: NDArray, centers: NDArray
) -> tuple[dict[str, float], dict[str, dict[str | None, float]]]:
    """Best overlap per shape, and overlap per shape and speed of rotation."""
    fits: dict[str, dict[str | None, float]] = {}
    for shape, (speed, angles) in product(SHAPES, _turnings().items()):
        radius = RADIUS_PER_SQRT_AREA[shape] * np.sqrt(max(float(np.median(areas)), 1.0))
        ideal = coverage(shape, radius, centers, angles)
        union = np.maximum(cover, ideal).sum((1, 2))
        overlap = np.minimum(cover, ideal).sum((1, 2)) / np.maximum(union, 1e-6)
        fits.setdefault(shape, {})[speed] = float(overlap.mean())
    return {shape: max(by_speed.values()) for shape, by_speed in fits.items()}, fits


def _motion_errors(
    centers: NDArray, shape: str, turning_fit: dict[str | None, float]
) -> dict[tuple[str, str | None], float]:
    best = max(turning_fit.values())
    errors = {}
    for motion in MOTIONS:
        if (shape, motion) == ("circle", "rotating"):
            continue
        for speed in (None,) if motion == "still" else SPEEDS:
            offsets, _ = kinematics(motion, speed)
            path = centers - centers.mean(0) - (offsets - offsets.mean(0))
            turning = turning_fit[speed if motion == "rotating" else None]
            # A misfit of one tenth of the overlap weighs like one pixel of the path.
            errors[motion, speed] = float(np.sqrt(np.square(path).sum(1).mean()) + 10 * (best - turning))
    return errors


def _largest_part(cover: NDArray) -> float:
    shares = []
    for frame in cover:
        parts, count = label(frame > 0)
        if count == 0:
            shares.append(0.0)
            continue
        sizes = np.bincount(parts.ravel(), weights=frame.ravel())[1:]
        shares.append(float(sizes.max() / max(frame.sum(), 1e-6)))
    return float(np.mean(shares))
