"""The `shapes` score: absolute quality of a clip of the embedded world, 0..100, from its frames and its prompt.

In the spirit of VBench (https://arxiv.org/abs/2311.17982), with two groups of equal weight, whose parts lie in 0..1:
*content* (is the right thing there: presence, shape, colour, background, motion), a geometric mean, so that one wrong part
cannot hide behind four right ones; and *picture* (smooth motion, steady subject, no flicker, whole, clean, sharp), a plain
mean. The score is 100 times the geometric mean of the groups. A frozen clip loses its motion, a clean and wrong clip its
content, a faded one its colour; the clean part measures the distance to an ideal drawing of what was seen, so noise costs as
much as blur, and the sharp part how strong the outline is: blur weakens it, ringing and noise strengthen it, both cost.
Rendered clips score 99. `benchmarks/measures.py` shows which damage costs how much.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from pabtune.models.shapes.captions import parse
from pabtune.models.shapes.world import COLORS, RADII, SHAPES, Scene, backdrop, coverage, kinematics
from pabtune.quality.shapes_vision import RADIUS_PER_SQRT_AREA, Sighting, hue_distance, look

LEAST_PART = 0.02
"""A part of the content counts as this at least, so that the mean of several clips is not ruled by one zero."""

SOLID = 0.8
"""Least share of colour of a pixel that belongs to the shape as a whole, not to its outline."""

LEAST_BEND = 0.14
"""Least Laplacian of an ideal drawing's coverage on the outline; inside and outside it is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapesScore:
    """Score of one clip.

    Attributes:
        score: 0..100.
        content: parts of the first group, 0..1 each.
        picture: parts of the second group, 0..1 each.
        is_right: whether shape, colour and motion are the prompt's.
    """

    score: float
    content: Mapping[str, float]
    picture: Mapping[str, float]
    is_right: bool


def score_clip(clip: NDArray[np.uint8], prompt: str) -> ShapesScore:
    """Scores a clip, (frames, height, width, 3), against its prompt; what the prompt leaves open costs nothing.

    Raises:
        PromptError: the prompt is not one of the embedded world.
        ValueError: the clip has the wrong shape.
    """
    requested, seen = parse(prompt), look(clip)
    if seen.shape is None:
        parts = dict.fromkeys(("presence", "shape", "color", "background", "motion"), 0.0)
        picture = dict.fromkeys(("smooth", "steady", "flicker_free", "whole", "clean", "sharp"), 0.0)
        return ShapesScore(score=0.0, content=parts, picture=picture, is_right=False)
    content, picture = _content(requested, seen, clip), _picture(seen, clip)
    right = float(np.exp(np.mean(np.log(np.maximum(list(content.values()), LEAST_PART)))))
    score = 100 * float(np.sqrt(right * np.mean(list(picture.values()))))
    return ShapesScore(score=score, content=content, picture=picture, is_right=is_right(requested, seen))


def is_right(requested: Scene, seen: Sighting) -> bool:
    """Whether shape, colour and motion were seen as asked; what is left open is right."""
    pairs = ((requested.shape, seen.shape), (requested.color, seen.color), (requested.motion, seen.motion))
    return all(target in (None, actual) for target, actual in pairs)


def _content(requested: Scene, seen: Sighting, clip: NDArray[np.uint8]) -> dict[str, float]:
    shape = requested.shape or seen.shape or ""
    others = max(fit for name, fit in seen.shape_fit.items() if name != shape)
    background = requested.background or seen.background
    outside = seen.cover < 0.05
    error = abs(clip.astype(float) - backdrop(background)).mean(-1)
    return {
        "presence": _presence(requested, seen),
        # The margin over the best other shape decides, the fit itself weighs.
        "shape": _sigmoid((seen.shape_fit[shape] - others) / 0.02) * min(1.0, seen.shape_fit[shape] / 0.9),
        "color": _color(requested.color, seen, clip) if requested.color else 1.0,
        "background": _decay(float(error[outside].mean()) / 30 if outside.any() else 10.0),
        "motion": _bell(_motion_error(requested, seen)),
    }


def _picture(seen: Sighting, clip: NDArray[np.uint8]) -> dict[str, float]:
    offsets, _ = kinematics(seen.motion or "still", seen.speed)
    residual = seen.centers - offsets
    jitter = float(np.sqrt(np.square(np.diff(residual, 2, axis=0)).sum(1).mean()))
    unsteady = float(seen.areas.std() / max(seen.areas.mean(), 1e-6))
    outside = (seen.cover[1:] < 0.05) & (seen.cover[:-1] < 0.05)
    flicker = abs(np.diff(clip.astype(float), axis=0)).mean(-1)
    return {
        "smooth": _decay(jitter / 1.5),
        "steady": _decay(unsteady / 0.3),
        "flicker_free": _decay(float(flicker[outside].mean()) / 20) if outside.any() else 0.0,
        "whole": seen.largest_part,
        "clean": _decay(float(abs(clip - _ideal(seen)).mean()) / 15),
        "sharp": _sharpness(seen, clip),
    }


def _color(name: str, seen: Sighting, clip: NDArray[np.uint8]) -> float:
    """How well hue and strength of the colour fit; strength is the distance from grey, of the median of solid pixels."""
    hue = hue_distance(seen.color_rgb, COLORS[name])
    solid = clip[seen.cover > SOLID]
    if not len(solid):
        return _bell(hue / 25)
    strength, target = (
        float(np.linalg.norm(color - color.mean()))
        for color in (np.median(solid, axis=0), np.array(COLORS[name], dtype=float))
    )
    return _bell(hue / 25) * _bell(np.log(max(strength, 1e-6) / target) / 0.5)


def _sharpness(seen: Sighting, clip: NDArray[np.uint8]) -> float:
    """How well the strength of the outline fits that of an ideal drawing; 1 = neither softer nor harder.

    Strength is the root mean square of the Laplacian of the share of colour, over the pixels where the drawing's is large.
    """
    behind, ideal = backdrop(seen.background), _ideal_coverage(seen)
    direction = seen.color_rgb - behind
    share = ((clip - behind) * direction).sum(-1) / np.maximum(np.square(direction).sum(-1), 1.0)
    expected, actual = (np.square(_laplacian(each)) for each in (ideal, share))
    outline = binary_dilation(expected > LEAST_BEND**2, np.ones((1, 3, 3)))
    if not outline.any():
        return 0.0
    ratio = float(actual[outline].mean() / expected[outline].mean())
    return _bell(0.5 * np.log(max(ratio, 1e-6)) / 0.3)


def _laplacian(images: NDArray) -> NDArray:
    """Of each of several images, (frames, height, width), without the border."""
    neighbours = images[:, :-2, 1:-1] + images[:, 2:, 1:-1] + images[:, 1:-1, :-2] + images[:, 1:-1, 2:]
    return neighbours - 4 * images[:, 1:-1, 1:-1]


def _ideal_coverage(seen: Sighting) -> NDArray:
    """Coverage of a perfect drawing of what was seen."""
    shape = seen.shape or next(iter(SHAPES))
    radius = RADIUS_PER_SQRT_AREA[shape] * float(np.sqrt(np.median(seen.areas)))
    _, angles = kinematics(seen.motion or "still", seen.speed)
    return coverage(shape, radius, seen.centers, angles)


def _ideal(seen: Sighting) -> NDArray:
    """A perfect drawing of what was seen."""
    cover = _ideal_coverage(seen)[..., None]
    return cover * seen.color_rgb + (1 - cover) * backdrop(seen.background)


def _presence(requested: Scene, seen: Sighting) -> float:
    """How well the area fits the size that was asked for, or the nearest one, over frames."""
    ratio = RADIUS_PER_SQRT_AREA[requested.shape or seen.shape or ""]
    sizes = [RADII[requested.size]] if requested.size else list(RADII.values())
    expected = np.array([(radius / ratio) ** 2 for radius in sizes])
    misfit = abs(np.log(np.maximum(seen.areas, 1)[:, None] / expected)).min(axis=1)
    return float(np.exp(-np.square(misfit / 0.7)).mean())


def _motion_error(requested: Scene, seen: Sighting) -> float:
    """Error of the best motion among those that the prompt allows; 10 if none was tried."""
    allowed = [
        error
        for (motion, speed), error in seen.motion_error.items()
        if requested.motion in (None, motion) and requested.speed in (None, speed)
    ]
    return min(allowed, default=10.0)


def _bell(x: float) -> float:
    return float(np.exp(-x * x))


def _decay(x: float) -> float:
    return float(np.exp(-x))


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
