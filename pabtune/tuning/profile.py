"""Profiling: runs the model on prompts, measures, and makes a `Profile` of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from pabtune.catalog import CATALOG, Catalog
from pabtune.libraries.diffusers_internals import execution_device
from pabtune.records.errors import ProfileError
from pabtune.records.policies import MadeFor
from pabtune.records.profiles import ASKED_STEPS, NO_SENSITIVITY, Call, Profile
from pabtune.records.prompts import Prompt, as_prompts, digest_prompts
from pabtune.records.sites import Site
from pabtune.runtime.attention import attention_in_use
from pabtune.runtime.flops import FlopCount
from pabtune.runtime.noise_levels import noise_levels
from pabtune.runtime.recorder import PROJECTIONS, Recording, record
from pabtune.runtime.targets import Target
from pabtune.runtime.weights import weights_digest
from pabtune.tuning.generation import (
    BATCH_SIZE,
    WARM_UP_STEPS,
    Progress,
    Settings,
    Video,
    batches,
    count_model_flops,
    generate,
)
from pabtune.tuning.provenance import device_name, versions
from pabtune.tuning.sensitivity import CallsRecorder, SensitivityTally

OVERHEAD_BATCHES = 3
"""Number of batches that are drawn without the recorder too, for the profile's overhead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledVideo:
    """A video drawn while profiling."""

    prompt: Prompt
    video: Video


def profile(  # noqa: PLR0913, the public surface names them all
    pipeline: DiffusionPipeline,
    prompts: Sequence[Prompt | str],
    num_inference_steps: int = 30,
    *,
    name: str = "profile",
    model: str = "",
    batch_size: int = BATCH_SIZE,
    arguments: Mapping[str, Any] | None = None,
    memory: int | None = None,
    catalog: Catalog = CATALOG,
    progress: Progress | None = None,
    on_video: Callable[[ProfiledVideo], None] | None = None,
) -> Profile:
    """Measures a model while it denoises.

    Args:
        pipeline: the model.
        prompts: to draw; their content classes are profiled separately.
        num_inference_steps: denoising steps, at least 2: change needs a step before.
        name: the profile's name.
        model: what to load to get this pipeline.
        batch_size: prompts in one call of the pipeline.
        arguments: further arguments of the pipeline's call.
        memory: bytes of outputs that may be held beside the model on its device; the rest is held by the host.
        catalog: what is known of transformer classes.
        progress: told after the warm-up and after each call of the pipeline.
        on_video: given every video.

    Raises:
        ProfileError: too few steps, or no prompts.
        ModelError: no sites are known for the model.
    """
    if num_inference_steps < 2:
        raise ProfileError(f"a profile needs at least 2 steps to see change, but got {num_inference_steps}")
    if not prompts:
        raise ProfileError("a profile needs at least one prompt")
    drawn = as_prompts(prompts)
    settings = Settings(steps=num_inference_steps, batch_size=batch_size, arguments=arguments or {})
    target = Target.of(pipeline, catalog)
    flops = count_model_flops(pipeline, target, drawn[0], settings)
    plan = list(batches(drawn, batch_size))
    generate(pipeline, plan[0], replace(settings, steps=WARM_UP_STEPS))

    if progress:
        progress(0, len(plan))
    recorder, tally = CallsRecorder(len(target.sites), execution_device(pipeline), memory), RecordingTally()
    sensitivity = SensitivityTally(pipeline, settings, catalog)
    for done, batch in enumerate(plan):
        plain = generate(pipeline, batch, settings) if done < OVERHEAD_BATCHES else None
        generation = record(target, recorder, partial(generate, pipeline, batch, sensitivity.observe(recorder)))
        began = perf_counter()
        recording = recorder.recording()  # in the host's memory: nothing of it is still under way on the device
        measuring_seconds = perf_counter() - began
        tally.add(batch, recording)
        sensitivity.add(batch, recorder, generation)
        if plain is not None:
            tally.note_overhead(len(batch), plain.seconds, generation.seconds + measuring_seconds)
        for prompt, video in zip(batch, generation.videos, strict=True) if on_video else ():
            on_video(ProfiledVideo(prompt=prompt, video=video))
        if progress:
            progress(done + 1, len(plan))
    made_for = describe_run(pipeline, target, settings, generation.videos[0])
    provenance = {"prompts": digest_prompts(drawn), "pipeline": type(pipeline).__name__, **versions()}
    provenance["weights"] = weights_digest(pipeline)
    if sensitivity.refusal is not None:
        provenance[NO_SENSITIVITY] = sensitivity.refusal
    return tally.profile(name, model, made_for, target.sites, flops, provenance, sensitivity)


def describe_run(pipeline: DiffusionPipeline, target: Target, settings: Settings, video: Video) -> MadeFor:
    """Model, schedule and settings of the run before; `video` is one of its videos."""
    sigmas = noise_levels(pipeline.scheduler)
    return MadeFor(
        model=target.model_class,
        fingerprint=target.fingerprint(),
        steps=len(sigmas),
        scheduler=type(pipeline.scheduler).__name__,
        config=target.config(),
        sigmas=sigmas,
        settings=describe_settings(pipeline, settings, video, len(sigmas)),
    )


def describe_settings(pipeline: DiffusionPipeline, settings: Settings, video: Video, steps: int) -> dict[str, Any]:
    """Size, precision, device and further arguments of a run, for its file, and the steps that its schedule changed."""
    frames, height, width, _ = video.shape
    return {
        "size": f"{frames}x{height}x{width}",
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": device_name(execution_device(pipeline)),
        # What has no place in a file, an image for example, is named.
        "arguments": json.loads(
            json.dumps(dict(settings.arguments), default=lambda value: f"<{type(value).__name__}>")
        ),
        # What is not written is as many steps as noise levels, and torch's own attention.
        **({} if steps == settings.steps else {ASKED_STEPS: settings.steps}),
        **({} if attention_in_use() == "sdpa" else {"attention": attention_in_use()}),
    }


class RecordingTally:
    """Adds up recordings per content class, weighted by prompts."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str], torch.Tensor] = {}
        self._seconds: list[torch.Tensor] = []
        self._step_seconds: list[torch.Tensor] = []
        self._errors: list[torch.Tensor] = []
        self._seeds: list[int] = []
        self._site_bytes: tuple[int, ...] = ()
        self._site_int8_bytes: tuple[int, ...] = ()
        self._batch_size = 1
        self._call: Call | None = None
        self._plain_prompts, self._plain_seconds, self._recorded_seconds = 0, 0.0, 0.0
        self.prompts: dict[str, int] = {}

    def add(self, batch: Sequence[Prompt], recording: Recording) -> None:
        """Adds the recording of one batch of one content class."""
        content, prompts = batch[0].content, len(batch)
        self.prompts[content] = self.prompts.get(content, 0) + prompts
        self._seeds += [prompt.seed for prompt in batch]
        for measure in ("mse", "change", "distance"):
            for branch, values in getattr(recording, measure).items():
                key = (measure, content, branch)
                self._sums[key] = self._sums.get(key, 0) + values.double().cpu() * prompts
        self._seconds.append(recording.seconds / prompts)
        self._step_seconds.append(recording.step_seconds / prompts)
        self._errors.append(recording.sketch_error)
        self._site_bytes, self._site_int8_bytes = recording.site_bytes, recording.site_int8_bytes
        self._batch_size = prompts
        self._call = Call(
            per_step=recording.calls,
            samples=-(-recording.samples // prompts),
            shape=recording.shape,
            output_bytes=-(-recording.output_bytes // prompts),
            output_int8_bytes=-(-recording.output_int8_bytes // prompts),
        )

    def note_overhead(self, prompts: int, plain_seconds: float, recorded_seconds: float) -> None:
        """Adds the times of one batch without and with the recorder."""
        self._plain_prompts += prompts
        self._plain_seconds += plain_seconds
        self._recorded_seconds += recorded_seconds

    def overhead(self, further_seconds: float) -> float:
        """Time of the profiled runs, and of what else was measured of all prompts, over plain generation."""
        plain_seconds = self._plain_seconds * sum(self.prompts.values()) / self._plain_prompts
        return self._recorded_seconds / self._plain_seconds + further_seconds / plain_seconds

    @property
    def contents(self) -> tuple[str, ...]:
        """Content classes, in the order of the arrays."""
        return tuple(self.prompts)

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches, in the order of the arrays."""
        return tuple(dict.fromkeys(branch for _, _, branch in self._sums))

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays of a profile. Times are medians over batches: robust against a busy machine."""

        def mean(measure: str) -> NDArray[np.float32]:
            rows = [
                torch.stack([self._sums[measure, content, branch] / count for branch in self.branches])
                for content, count in self.prompts.items()
            ]
            return torch.stack(rows).numpy().astype(np.float32)

        return {
            **{measure: mean(measure) for measure in ("mse", "change", "distance")},
            "seconds": torch.stack(self._seconds).median(0).values.numpy().astype(np.float32),
            "step_seconds": torch.stack(self._step_seconds).median(0).values.numpy().astype(np.float32),
        }

    def sketch(self) -> dict[str, float]:
        """How far sketched distances are from exact ones."""
        errors = torch.cat([*self._errors, torch.zeros(0)]).double()
        if not len(errors):
            errors = torch.zeros(1).double()  # no two steps could be compared
        return {
            "projections": PROJECTIONS,
            "median_relative_error": float(errors.quantile(0.5)),
            "p95_relative_error": float(errors.quantile(0.95)),
        }

    def profile(
        self,
        name: str,
        model: str,
        made_for: MadeFor,
        sites: Sequence[Site],
        flops: FlopCount,
        provenance: Mapping[str, Any],
        sensitivity: SensitivityTally,
    ) -> Profile:
        """The record."""
        if self._call is None:
            raise ProfileError("nothing was recorded")
        return Profile(
            name=name,
            model=model,
            made_for=made_for,
            sites=tuple(sites),
            branches=self.branches,
            contents=self.contents,
            prompts=self.prompts,
            seeds=tuple(self._seeds),
            arrays=self.arrays() | sensitivity.arrays(),
            site_flops=flops.sites,
            total_flops=flops.total,
            sketch=self.sketch(),
            overhead=self.overhead(sensitivity.seconds),
            provenance=provenance,
            site_bytes=tuple(-(-count // self._batch_size) for count in self._site_bytes),
            site_int8_bytes=tuple(-(-count // self._batch_size) for count in self._site_int8_bytes),
            call=self._call,
        )
