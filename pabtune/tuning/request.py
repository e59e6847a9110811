"""What a search is asked for: its configuration and its prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pabtune.catalog import CATALOG, Catalog
from pabtune.engines.engine import Engine
from pabtune.planning.presets import PRESETS
from pabtune.quality.budget import Budget
from pabtune.quality.floors import Floor
from pabtune.quality.scores import Score
from pabtune.records.files import digest
from pabtune.records.interconnects import INTERCONNECTS, Interconnect
from pabtune.records.layouts import ONE_GPU, ParallelLayout
from pabtune.records.policies import Store
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.runtime.flops import KnownCalls
from pabtune.tuning.generation import BATCH_SIZE, WARM_UP_STEPS
from pabtune.tuning.references import describe_argument
from pabtune.tuning.teams import ALONE, Team
from pabtune.tuning.videos import OnVideos

AUTO_FLOOR = "auto"
"""Stands for the floor that suits the model."""

ContentBy = Literal["prompt", "first-steps"]
"""What tells the content class of a run."""

CONTENT_BY: tuple[ContentBy, ...] = get_args(ContentBy)

SCHEDULE_SHARES = (0.8, 0.7, 0.63, 0.57, 0.5, 0.45, 0.4, 0.37, 0.33, 0.3, 0.27, 0.24)
"""Computed steps over all steps, for each of which a search fits a schedule of whole calls."""

PAPERS_FLOOR = "pab246"
"""The paper's careful preset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """How to search.

    Attributes:
        budget: on the absolute score.
        trials: finished trials that the study has in the end, over all workers and runs.
        floor: how close candidates must be to the unaccelerated video; None = no floor.
        storage: journal file, or URL that Optuna takes (`sqlite:///…`, `postgresql://…`).
        folder: for reference videos.
        name: of the policy.
        content: content class that the search is for; None = all.
        seed: of the sampler.
        batch_size: prompts in one call of the pipeline.
        memory: bytes that candidates may hold at most for one batch; None = any.
        store: how candidates keep outputs; None = exact, or with a limit of memory what each candidate chooses.
        arguments: further arguments of the pipeline's call.
        layout: how GPUs will share a video: candidates are ranked by their predicted time on these.
        interconnect: between these GPUs.
        catalog: what is known of transformer classes.
        videos: videos that the search may generate in all, counted in full runs; None = any number.
        on_videos: told how many were generated.
        schedule_shares: computed steps over all steps, for each of which a schedule of whole calls is fitted; none = whole
            calls always happen.
        is_refined: whether factors of schedules are refined by the final latents, where videos are not limited.
        score: the budget's, found before; None = it is found by its name.
        team: workers that were started together, of which one fits, confirms and judges.
        on_count: told how many trials of the study are finished, by whichever worker.
        content_by: what tells the content class of a run under the policy that is found: its prompt, or its first steps.
        known_calls: FLOPs of the model's calls, counted once for all evaluations of the search.
    """

    budget: Budget
    trials: int
    floor: Floor | None
    storage: str
    folder: Path
    name: str
    content: str | None = None
    seed: int = 0
    batch_size: int = BATCH_SIZE
    memory: int | None = None
    store: Store | None = None
    arguments: Mapping[str, Any]
    layout: ParallelLayout = ONE_GPU
    interconnect: Interconnect = INTERCONNECTS["nvlink"]
    catalog: Catalog = CATALOG
    videos: int | None = None
    on_videos: OnVideos | None = None
    schedule_shares: tuple[float, ...] = SCHEDULE_SHARES
    is_refined: bool = True
    score: Score | None = None
    engine: Engine | None = None
    team: Team = ALONE
    on_count: Callable[[int], None] | None = None
    content_by: ContentBy = "prompt"
    known_calls: KnownCalls = field(default_factory=dict, compare=False, repr=False)

    def on_scale_of(self, prompts: Sequence[Prompt]) -> Self:
        """The configuration, whose budget knows how far a video of these prompts can fall by the score."""
        return replace(self, budget=self.budget.on_scale_of(self.score, [prompt.prompt for prompt in prompts]))

    def warm_up_videos(self, steps: int) -> float:
        """Videos of one warm-up of a model with so many denoising steps, counted in full runs."""
        return self.batch_size * WARM_UP_STEPS / steps

    def parallel_document(self) -> dict[str, Any]:
        """Layout and interconnect as JSON, without the interconnect's provenance."""
        interconnect = {key: value for key, value in self.interconnect.to_document().items() if key != "provenance"}
        return {"layout": self.layout.to_document(), "interconnect": interconnect}

    @property
    def engine_name(self) -> str | None:
        """The engine with its version; None = pabtune's own runtime."""
        return None if self.engine is None else f"{self.engine.name} {self.engine.version}"

    @property
    def stores(self) -> tuple[Store, ...]:
        """Ways of keeping outputs that candidates may choose."""
        if self.store is not None:
            return (self.store,)
        return ("exact",) if self.memory is None or self.engine is not None else ("exact", "int8")


def find_floor(profile: Profile, floors: str | Sequence[str] | None = AUTO_FLOOR) -> Floor | None:
    """The fidelity floor of a search.

    Args:
        profile: of the model.
        floors: what `Floor.parse` reads, one or several; `auto` = the paper's careful preset, if the model has all kinds of
            its sites; none = no floor.

    Raises:
        BudgetError: one of them cannot be read.
    """
    texts = [floors] if isinstance(floors, str) else list(floors or ())
    if texts == [AUTO_FLOOR]:
        kinds = {rule.kind for rule in PRESETS[PAPERS_FLOOR].rules}
        return Floor(preset=PAPERS_FLOOR) if kinds <= {site.kind for site in profile.sites} else None
    return Floor.parse(*texts) if texts else None


def short_name(request: Any) -> str:
    """A short name for a request."""
    return digest(request).removeprefix("sha256:")[:16]


def request_document(profile: Profile, prompts: Sequence[Prompt], config: SearchConfig) -> dict[str, Any]:
    """What decides, with the space, about the outcome of a trial: the same request finds its study again."""
    return {
        "profile": profile.digest,
        "prompts": digest_prompts(prompts),
        "budget": str(config.budget),
        "floor": None if config.floor is None else str(config.floor),
        "content": config.content,
        "arguments": describe_argument(dict(config.arguments)),
        "batch_size": config.batch_size,
        **(config.parallel_document() if config.layout.gpus > 1 else {}),
        **({"memory": config.memory} if config.memory is not None else {}),
        **({"store": config.store} if config.store is not None else {}),
        **({"videos": config.videos} if config.videos is not None else {}),
        **({"score": config.score.version} if config.score is not None and config.score.version is not None else {}),
        **({"engine": config.engine_name} if config.engine is not None else {}),
    }


def study_name(profile: Profile, content: str | None, request: Mapping[str, Any]) -> str:
    """The name of the study of exactly this request."""
    suffix = f"-{content}" if content else ""
    return f"{profile.name}{suffix}-{digest(request).removeprefix('sha256:')[:8]}"
