"""Evaluation: the same prompts, seeds and noise with and without policies."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from diffusers import DiffusionPipeline

from pabtune.catalog import CATALOG, Catalog
from pabtune.libraries.diffusers_internals import execution_device
from pabtune.quality.codec import DESCRIPTION, load_codec
from pabtune.quality.fidelity import psnr_db, ssim
from pabtune.quality.measures import MEASURES, Compare, load_measures
from pabtune.quality.scores import NO_SCORE, Score, ScoreVideos, find_score
from pabtune.records.errors import PromptError
from pabtune.records.evaluations import Evaluation, Measured, Repeated
from pabtune.records.policies import AUTO_CONTENT, Policy, Store, check_content
from pabtune.records.prompts import Prompt
from pabtune.runtime.compatibility import check_fits
from pabtune.runtime.decided_sites import lay_out
from pabtune.runtime.deciders import DynamicPolicy
from pabtune.runtime.engine import broadcast
from pabtune.runtime.flops import KnownCalls, computed_fraction, count_flops
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import (
    BATCH_SIZE,
    WARM_UP_STEPS,
    Generation,
    Progress,
    Settings,
    Video,
    frame_rate,
    generate,
    generate_reference,
    rounds,
)
from pabtune.tuning.videos import VideoMeter

IsDone = Callable[[Evaluation], bool]
"""Asked whether what was evaluated of a policy so far suffices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How videos are compared with their references.

    Attributes:
        measures: those beside PSNR and SSIM, by name, ready to be taken.
        codec: what both videos go through first; None = raw frames are compared.
    """

    measures: Mapping[str, Compare] = field(default_factory=dict)
    codec: Callable[[Video], Video] | None = None

    @classmethod
    def load(cls, names: Sequence[str], through_codec: bool) -> "Comparison":
        """Finds what the measures need.

        Raises:
            MeasureError: a measure is unknown, or lacks something.
        """
        return cls(measures=load_measures(names), codec=load_codec() if through_codec else None)


@dataclass(slots=True)
class PolicyTally:
    """What is added up for one policy, prompt by prompt and batch by batch."""

    comparison: Comparison = field(default_factory=Comparison)
    measured: dict[str, Measured] = field(default_factory=dict)
    prompts: list[Prompt] = field(default_factory=list)
    seconds: float = 0.0
    baseline_seconds: float = 0.0
    compute: float = 0.0
    psnr_db: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    baseline_scores: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    computed: Counter[str] = field(default_factory=Counter)
    broadcast: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    most_stored_bytes: int = 0

    def add(self, batch: Sequence[Prompt], before: Generation, after: Generation) -> None:
        """Compares the videos of one batch without and with the policy."""
        self.baseline_seconds += before.seconds
        self.seconds += after.seconds
        self.prompts += batch
        for reference, video in zip(before.videos, after.videos, strict=True):
            self._compare(video, reference)

    def _compare(self, video: Video, reference: Video) -> None:
        if self.comparison.codec is not None:
            video, reference = self.comparison.codec(video), self.comparison.codec(reference)
        self.psnr_db.append(psnr_db(video, reference))
        self.ssim.append(ssim(video, reference))
        for name, compare in self.comparison.measures.items():
            measure = MEASURES[name]
            before = self.measured[measure.figure].values if measure.figure in self.measured else ()
            self.measured[measure.figure] = Measured(
                values=(*before, compare(video, reference)),
                is_higher_better=measure.is_higher_better,
                enlarged=measure.enlarged(*video.shape[1:3]),
            )

    def note_calls(self, summary: Mapping[str, Any], fraction: float, prompts: int) -> None:
        """Adds the calls of one batch, and the fraction of FLOPs that they computed."""
        self.compute += fraction * prompts
        self.computed.update(summary["computed_calls"])
        self.broadcast.update(summary["broadcast_calls"])
        self.calls += 1
        self.most_stored_bytes = max(self.most_stored_bytes, summary["most_stored_bytes"])

    def evaluation(self, policy: str, score: str, repeated: Repeated | None = None) -> Evaluation:
        """The record."""
        count = len(self.psnr_db)
        return Evaluation(
            policy=policy,
            compute_fraction=self.compute / count,
            latency_s=self.seconds / count,
            baseline_latency_s=self.baseline_seconds / count,
            psnr_db=tuple(self.psnr_db),
            ssim=tuple(self.ssim),
            score_name=score,
            baseline_scores=tuple(self.baseline_scores),
            scores=tuple(self.scores),
            computed_calls={kind: round(calls / self.calls) for kind, calls in self.computed.items()},
            broadcast_calls={kind: round(calls / self.calls) for kind, calls in self.broadcast.items()},
            most_stored_bytes=self.most_stored_bytes,
            measures=dict(self.measured),
            codec=DESCRIPTION if self.comparison.codec is not None else None,
            prompts=tuple(prompt.prompt for prompt in self.prompts),
            contents=tuple(prompt.content for prompt in self.prompts),
            repeated=repeated,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRuns:
    """What the runs under all policies of an evaluation have in common.

    Attributes:
        pipeline: the model.
        settings: how videos are generated.
        scoring: gives videos their points; None = nobody does.
        store: how outputs are kept for later steps; None = as each policy says.
        catalog: what is known of transformer classes.
        any_steps: carry policies that were found at more steps to fewer than nine too.
        content: content class of all prompts, `auto`; None = each prompt's own.
        calls: FLOPs of each call of a full run, by its number of denoising steps.
    """

    pipeline: DiffusionPipeline
    settings: Settings
    scoring: ScoreVideos | None
    store: Store | None
    catalog: Catalog
    any_steps: bool
    content: str | None
    calls: KnownCalls

    def add(
        self, tally: PolicyTally, policy: Policy | DynamicPolicy, batch: Sequence[Prompt], reference: Generation
    ) -> Sequence[Video]:
        """Generates a batch under a policy, adds it to the policy's tally, and returns its videos.

        Args:
            tally: of the policy.
            policy: the policy.
            batch: prompts of one content class.
            reference: the unaccelerated videos of the batch.
        """
        settings, content = self.settings.under(policy), self.content or batch[0].content
        is_told = self.content == AUTO_CONTENT and isinstance(policy, Policy) and policy.tells_content
        variant = content if is_told or content in policy.variants else None
        with broadcast(
            self.pipeline, policy, variant, store=self.store, catalog=self.catalog, any_steps=self.any_steps
        ) as run:
            generation = generate(self.pipeline, batch, settings)
        own, full = (sum(call.total for call in self.calls[steps]) for steps in (settings.steps, self.settings.steps))
        computed, halved = [each.computed for each in run.records], [each.is_halved for each in run.records]
        fraction = computed_fraction(self.calls[settings.steps], computed, halved) * own / full
        tally.add(batch, reference, generation)
        tally.note_calls(run.summary(), fraction, len(batch))
        return generation.videos

    def score(self, tallies: Sequence[PolicyTally], batch: Sequence[Prompt], videos: Sequence[Sequence[Video]]) -> None:
        """Scores the unaccelerated videos of a batch, which come first, and those of each policy: all of them at once."""
        if self.scoring is None:
            return
        texts = [prompt.prompt for prompt in batch]
        scores = self.scoring([video for each in videos for video in each], texts * len(videos))
        rows = [scores[start : start + len(batch)] for start in range(0, len(scores), len(batch))]
        for tally, row in zip(tallies, rows[1:], strict=True):
            tally.baseline_scores += rows[0]
            tally.scores += row


def evaluate(  # noqa: PLR0913, the public surface names them all
    pipeline: DiffusionPipeline,
    policies: Sequence[Policy | DynamicPolicy],
    prompts: Sequence[Prompt],
    num_inference_steps: int = 30,
    *,
    score: str | Score = "shapes",
    measures: Sequence[str] = (),
    through_codec: bool = False,
    batch_size: int = BATCH_SIZE,
    arguments: Mapping[str, Any] | None = None,
    store: Store | None = None,
    catalog: Catalog = CATALOG,
    any_steps: bool = False,
    content: str | None = None,
    progress: Progress | None = None,
    meter: VideoMeter | None = None,
    on_videos: Callable[[str, Sequence[Prompt], Sequence[Video]], None] | None = None,
    is_done: IsDone | None = None,
    repeat: bool = False,
    known_calls: KnownCalls | None = None,
) -> list[Evaluation]:
    """Evaluates policies against the unaccelerated model, in turns, batch by batch; variants on their class's prompts.

    Args:
        pipeline: the model.
        policies: what to evaluate.
        prompts: with content classes and seeds.
        num_inference_steps: denoising steps.
        score: name of the absolute score (see `find_score`), `none`, or a score that was found before; one of VBench's that is
            named runs on the pipeline's device.
        measures: measures of fidelity beside PSNR and SSIM: `vmaf`, `temporal`, `lpips`.
        through_codec: encode and decode both videos before fidelity is measured, as the papers do; the score sees raw frames.
        batch_size: prompts in one call of the pipeline.
        arguments: further arguments of the pipeline's call.
        store: how outputs are kept for later steps; None = as each policy says.
        catalog: what is known of transformer classes.
        any_steps: carry policies that were found at more steps to fewer than nine too.
        content: content class whose variants are used; `auto` = as each policy's classifier tells it by the prompts, as
            `broadcast` does; None = each prompt's own class. A policy without that is under its general rules.
        progress: told after each call of the pipeline.
        meter: counts the videos.
        on_videos: given the videos of each batch: policy name (`reference` for the unaccelerated), prompts, videos.
        is_done: asked of each policy after each round, which has a batch of every content class, whether the rest of the
            prompts can be left out for it; None = they never can.
        repeat: generate the first batch of the unaccelerated model twice, to see how far it is from itself.
        known_calls: what earlier evaluations of this model with these arguments have counted, which takes a video for each
            number of steps; what is missing is added. None = everything is counted.

    Raises:
        PromptError: no prompts.
        PolicyError: a policy does not fit the model, or no policy knows the content class.
        ModelError: the model lacks what a policy that decides in each call needs.
        BudgetError: the score is unknown, lacks something, or fails.
        MeasureError: a measure is unknown, or lacks something.
    """
    comparison = Comparison.load(measures, through_codec)
    if content is not None:
        check_content([policy for policy in policies if isinstance(policy, Policy)], content)
    target = _checked_target(pipeline, policies, prompts, catalog)
    found = score_on(pipeline, score)
    settings = Settings(steps=num_inference_steps, batch_size=batch_size, arguments=arguments or {}, meter=meter)
    scoring = (
        None
        if found is None
        else found.open([prompt.prompt for prompt in prompts], frame_rate(pipeline, settings.arguments))
    )
    plan = rounds(prompts, batch_size)
    warm_up(pipeline, plan[0][0], settings, scoring)
    known_calls = {} if known_calls is None else known_calls
    _count_calls(known_calls, pipeline, target, settings, policies, prompts[0])
    runs = PolicyRuns(
        pipeline=pipeline, settings=settings, scoring=scoring, store=store, catalog=catalog, any_steps=any_steps,
        content=content, calls=known_calls,
    )  # fmt: skip
    tallies, name = [PolicyTally(comparison=comparison) for _ in policies], NO_SCORE if found is None else found.name
    going = list(zip(policies, tallies, strict=True))
    repeated, done, total = None, 0, sum(map(len, plan)) * (len(policies) + 1)
    for row in plan:
        for batch, policy, tally, videos in _in_turns(runs, going, row):
            done += 1
            if repeat and repeated is None:
                repeated = _repeat(runs, batch, videos)
            if on_videos:
                on_videos(policy, batch, videos)
            if tally and progress:
                progress(done, total)
        if is_done:
            going = [(each, tally) for each, tally in going if not is_done(tally.evaluation(each.name, name, repeated))]
        if not going:
            break
    return [tally.evaluation(policy.name, name, repeated) for policy, tally in zip(policies, tallies, strict=True)]


def _in_turns(
    runs: PolicyRuns, going: Sequence[tuple[Policy | DynamicPolicy, PolicyTally]], row: Sequence[Sequence[Prompt]]
) -> Iterator[tuple[Sequence[Prompt], str, PolicyTally | None, Sequence[Video]]]:
    """Generates each batch without a policy (`reference`), then under each one, and adds it to the policy's tally."""
    for batch in row:
        reference = generate_reference(runs.pipeline, batch, runs.settings)
        videos: list[Sequence[Video]] = [reference.videos]
        yield batch, "reference", None, reference.videos
        for policy, tally in going:
            videos.append(runs.add(tally, policy, batch, reference))
            yield batch, policy.name, tally, videos[-1]
        runs.score([tally for _, tally in going], batch, videos)


def _repeat(runs: PolicyRuns, batch: Sequence[Prompt], videos: Sequence[Video]) -> Repeated:
    """Generates videos of the unaccelerated model again, and compares them with the first ones."""
    again = generate(runs.pipeline, batch, runs.settings).videos
    changes = [0.0]
    if runs.scoring is not None:
        texts = [prompt.prompt for prompt in batch]
        scores = runs.scoring([*videos, *again], texts * 2)
        changes = [abs(first - second) for first, second in zip(scores, scores[len(batch) :], strict=False)]
    return Repeated(
        psnr_db=min(psnr_db(*pair) for pair in zip(videos, again, strict=True)), score_change=max(changes)
    )  # fmt: skip


def _count_calls(
    known: KnownCalls,
    pipeline: DiffusionPipeline,
    target: Target,
    settings: Settings,
    policies: Sequence[Policy | DynamicPolicy],
    prompt: Prompt,
) -> None:
    """Counts the FLOPs of each call of a full run, for each number of denoising steps that is run and not known."""
    for steps in {settings.steps, *(settings.under(policy).steps for policy in policies)} - known.keys():
        run = partial(generate, pipeline, [prompt], replace(settings, steps=steps))
        known[steps] = count_flops(target, run).calls


def score_on(pipeline: DiffusionPipeline, score: str | Score) -> Score | None:
    """A score; one of VBench's that is named runs where the pipeline does. None for `none`.

    Raises:
        BudgetError: there is no such score.
    """
    if not isinstance(score, str):
        return score
    device = execution_device(pipeline)
    return None if score == NO_SCORE else find_score(score, device=str(device) if device.type == "cuda" else "cpu")


def warm_up(
    pipeline: DiffusionPipeline, batch: Sequence[Prompt], settings: Settings, scoring: ScoreVideos | None
) -> None:
    """Generates a batch in a few steps and tries the score on its first video: one that fails does so before long work.

    Raises:
        BudgetError: the score fails, or returns anything but a finite number.
    """
    videos = generate(pipeline, batch, replace(settings, steps=WARM_UP_STEPS)).videos
    if scoring is not None:
        scoring(videos[:1], [batch[0].prompt])


def _checked_target(
    pipeline: DiffusionPipeline, policies: Sequence[Policy | DynamicPolicy], prompts: Sequence[Prompt], catalog: Catalog
) -> Target:
    """The pipeline's transformers, which all policies fit."""
    target = Target.of(pipeline, catalog)
    if not prompts:
        raise PromptError("an evaluation needs at least one prompt")
    for policy in policies:
        if isinstance(policy, DynamicPolicy):
            lay_out(target, policy)
            continue
        for content in (None, *policy.variants):
            check_fits(policy, target.under(policy, content), content)
    return target
