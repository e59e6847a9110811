"""What the first, computed steps of a run show of its content: a few numbers of the latents, and one decision.

The latents are those that the transformer is called with, whole on every process and the same for every way of guiding; so
all processes decide alike and nothing is sent. The device is waited for once.

Knows latents and numbers; knows nothing of policies, sites or hooks. Shapes: V videos of a call, K numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pabtune.records.first_steps import FirstSteps, parse_number
from pabtune.runtime.payloads import copied


class FirstStepsWatch:
    """The latents before each of the first steps of one denoising loop, and what they tell.

    Args:
        rule: the classifier.
    """

    def __init__(self, rule: FirstSteps) -> None:
        self._rule = rule
        self._latents: list[Tensor] = []

    def is_decided_at(self, step: int, sample: Tensor) -> bool:
        """Notes the latents of a step, if they are its first; whether it is past the steps that always compute.

        Args:
            step: of the call that is about to happen.
            sample: first tensor of the call.
        """
        if step == len(self._latents) <= self._rule.steps:
            self._latents.append(copied(sample.detach()))
        return step >= self._rule.steps

    def content(self) -> str | None:
        """The class of all videos; None where that is not clear, they differ in it, or the steps do not follow one another."""
        is_whole = len(self._latents) == self._rule.steps + 1
        if not is_whole or len({latents.shape for latents in self._latents}) != 1:
            return None
        if self._rule.frame_axis is not None and self._latents[0].ndim <= self._rule.frame_axis + 1:
            return None
        return self._rule.content_of_all(numbers_of(self._latents, self._rule.numbers, self._rule.frame_axis).tolist())


def numbers_of(latents: Sequence[Tensor], numbers: Sequence[str], frame_axis: int | None) -> Tensor:
    """Numbers of the first steps (see `records.first_steps.NUMBERS`), (V, K), in 32 bits at least.

    Args:
        latents: before each step from the first on, (V, …).
        numbers: their names.
        frame_axis: axis of frames among those of the latents.
    """
    wide = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in latents]
    predicted = {step: _predicted(wide, step) for step in {parse_number(number)[1] for number in numbers}}
    columns = [_number(name, *predicted[step], frame_axis) for name, step in map(parse_number, numbers)]
    return torch.stack(columns, dim=1)


def _predicted(latents: Sequence[Tensor], step: int) -> tuple[Tensor, Tensor]:
    """The change of the latents since the first step, less its part along the first noise; and that noise.

    Channels that never change, such as the image of a video that is made from one, are no noise.
    """
    change = latents[step] - latents[0]
    noise = latents[0] * (change != 0)
    return change - noise * _along(change, noise), noise


def _along(vector: Tensor, axis: Tensor) -> Tensor:
    """How much of another vector is in one, for each video, (V, 1, …)."""
    dims = tuple(range(1, vector.ndim))
    return (vector * axis).sum(dims, keepdim=True) / (axis * axis).sum(dims, keepdim=True)


def _energy(vector: Tensor) -> Tensor:
    """Sum of squares of each video, (V,)."""
    return (vector * vector).flatten(1).sum(1)


def _number(name: str, video: Tensor, noise: Tensor, frame_axis: int | None) -> Tensor:
    """One number of each video, (V,)."""
    if name == "size":
        return torch.log(_energy(video) / _energy(noise))
    frames = video.movedim(frame_axis or 0, 1)
    half = frames.shape[1] // 2
    moving = {
        "step": lambda: frames[:, 1:] - frames[:, :-1],
        "spread": lambda: frames - frames.mean(1, keepdim=True),
        "half": lambda: frames[:, half:].mean(1) - frames[:, :half].mean(1),
    }[name]()
    return torch.log(_energy(moving) / _energy(video))
