"""How soon a sampler finds a fast policy: the least predicted time of a feasible candidate after so many videos.

Every sampler searches the same two spaces on the embedded model, once per seed: pyramids of ranges with guidance differences
and stacks, and the same inside of fitted schedules of whole calls. All start with the first trials that a search queues, under
the same budget and floor, and try candidates out as a search does, with the same early stops.

    python benchmarks/search.py --out benchmarks/results/search.json

takes half an hour on one core. With `--space` the file keeps what it has of the other one.

Videos are deterministic, so each is generated once for all searches, and counted in every search that needs it. Those that all
searches share are not counted: references, the floor's preset, the fitting of schedules.

TPE, GP and NSGA-II are told by how much the budget and the floor were passed. CMA-ES knows neither constraints nor categorical
parameters: it is told `penalized` times, and the anchor of ranges is drawn at random. Random search heeds nothing.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import optuna
from diffusers import DiffusionPipeline
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler
from scipy.stats import mannwhitneyu, rankdata

import pabtune
from pabtune.cli.options import read_prompts
from pabtune.models.registry import load_pipeline
from pabtune.quality.budget import Budget
from pabtune.quality.floors import Floor
from pabtune.records.files import save_json
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt
from pabtune.records.trials import Outcome
from pabtune.tuning.candidates import TrialRunner, interleaved
from pabtune.tuning.generation import Settings
from pabtune.tuning.provenance import versions
from pabtune.tuning.references import References
from pabtune.tuning.schedules import find_schedules
from pabtune.tuning.space import Space
from pabtune.tuning.study import RANDOM_TRIALS, TryOut, distributions_of, sampler_of

SHIPPED = Path(__file__).parents[1] / "profiles" / "shapes-30steps.json"
BUDGET, FLOOR = "shapes>=-1.0", "pab246"
PROMPTS, BATCH = 4, 2
SPACES: Mapping[str, tuple[int, ...]] = {
    "without schedules": (40, 60, 80, 100),
    "with schedules": (80, 100, 120, 140, 160),
}
"""Spaces, and the numbers of videos after which searches are compared; the last ends them. First trials take 30 and 80."""

MOST_TRIALS = 200
"""A search ends with so many trials in any case: one that only repeats itself generates no videos."""

PRESENT = "TPE"
"""The sampler of `pabtune search`."""

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    PRESENT: sampler_of,
    "GP": lambda seed: GPSampler(seed=seed, deterministic_objective=True),
    # With a margin for integers it would be told other points than the queued trials had.
    "CMA-ES": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    # Optuna's population of 50 would be random to the end.
    "NSGA-II": lambda seed: NSGAIISampler(seed=seed, population_size=RANDOM_TRIALS),
    "random": lambda seed: RandomSampler(seed=seed),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A trial of a search.

    Attributes:
        videos: that the search had generated after it, in all.
        time: predicted time over that of the full run; None if it is not feasible.
        is_queued: whether it is one of the first trials, which all searches share.
        ask_s: what the sampler took to choose it.
    """

    videos: int
    time: float | None
    is_queued: bool
    ask_s: float


def penalized(outcome: Outcome) -> float:
    """Predicted time; where limits are passed 1, the full run's, and by how much: slower than all that are not."""
    passed = sum(max(0.0, value) for value in outcome.constraints.values())
    return 1 + passed if passed else outcome.predicted_time


def best_time(trials: Sequence[Tried], videos: int) -> float:
    """Least time of a feasible trial of those that so many videos pay for; infinite without any."""
    return min((each.time for each in trials if each.time is not None and each.videos <= videos), default=np.inf)


def compare(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """What samplers reached: median and range over seeds, the mean rank, and whether it can be told from the present one.

    Args:
        times: of each sampler, by seed.

    Returns:
        For each sampler `median`, `least` and `most`; `rank`, 1 = the fastest, mean over seeds; `p_equal`, the two-sided
        probability that equal samplers differ as much as this one and the present one (Mann and Whitney 1947).
    """
    ranks = np.mean(rankdata(np.array(list(times.values())).round(9), axis=0), axis=1)
    return {
        name: {
            "median": float(np.median(values)),
            "least": float(np.min(values)),
            "most": float(np.max(values)),
            "rank": float(rank),
            "p_equal": float(mannwhitneyu(values, times[PRESENT]).pvalue),
        }
        for (name, values), rank in zip(times.items(), ranks, strict=True)
    }


def run_search(sampler: BaseSampler, space: Space, try_out: TryOut, limit: int) -> list[Tried]:
    """One search, which ends with the trial that reaches so many videos."""
    study, distributions = optuna.create_study(sampler=sampler), distributions_of(space)
    for origin, values in space.first_trials():
        study.enqueue_trial(values, user_attrs={"origin": origin}, skip_if_exists=True)
    prompts: dict[Any, int] = {}  # of each policy, whose videos this search has
    trials: list[Tried] = []
    while sum(prompts.values()) < limit and len(trials) < MOST_TRIALS:
        began = time.perf_counter()
        trial = study.ask(fixed_distributions=distributions)
        ask_s, is_queued = time.perf_counter() - began, "origin" in trial.user_attrs
        policy = space.policy(trial.params, f"trial-{trial.number}")
        feasible = [each.time for each in trials if each.time is not None]
        outcome = try_out(policy, None if is_queued else min(feasible, default=None))
        is_penalized = isinstance(sampler, CmaEsSampler)
        for name, value in () if is_penalized else outcome.constraints.items():
            trial.set_constraint(name, value)
        study.tell(trial, penalized(outcome) if is_penalized else outcome.predicted_time)
        tried = outcome.measured.prompts if outcome.measured is not None else 0
        prompts[policy.rules] = max(prompts.get(policy.rules, 0), tried)
        trials.append(
            Tried(
                videos=sum(prompts.values()),
                time=outcome.predicted_time if outcome.is_feasible else None,
                is_queued=is_queued,
                ask_s=ask_s,
            )
        )
    return trials


def compare_samplers(name: str, space: Space, runner: TrialRunner, seeds: int) -> Iterator[dict[str, Any]]:
    """Searches a space with every sampler and seed; gives what is known after each seed."""
    counts, began = SPACES[name], time.monotonic()
    searches: dict[tuple[str, int], list[Tried]] = {}
    for seed in range(seeds):
        for sampler, create in SAMPLERS.items():
            searches[sampler, seed] = trials = run_search(create(seed), space, runner.try_out, counts[-1])
            reached = " ".join(f"{best_time(trials, videos):.4f}" for videos in counts)
            click.echo(f"{name}, {sampler}, seed {seed}: {len(trials)} trials, {trials[-1].videos} videos: {reached}")
        first = [each for each in searches[PRESENT, 0] if each.is_queued]
        yield {
            "parameters": len(space.parameters()),
            "seconds": round(time.monotonic() - began),
            "seeds": seed + 1,
            "first_trials": {"videos": first[-1].videos, "time": best_time(first, first[-1].videos)},
            "after_videos": {videos: compare(_reached(searches, videos)) for videos in counts},
            "searches": [
                {
                    "sampler": sampler,
                    "seed": number,
                    "trials": len(trials),
                    "feasible": sum(each.time is not None for each in trials),
                    "ask_ms": round(1000 * float(np.median([each.ask_s for each in trials if not each.is_queued])), 1),
                    "times": [round(best_time(trials, videos), 6) for videos in counts],
                }
                for (sampler, number), trials in searches.items()
            ],
        }


def _reached(searches: Mapping[tuple[str, int], Sequence[Tried]], videos: int) -> dict[str, list[float]]:
    """Best times after so many videos of each sampler, by seed."""
    return {
        name: [best_time(trials, videos) for (sampler, _), trials in searches.items() if sampler == name]
        for name in SAMPLERS
    }


def table(result: Mapping[str, Any]) -> list[str]:
    """A space's result in lines: for each sampler median, range and mean rank after each number of videos."""
    counts = list(result["after_videos"])
    lines = ["sampler  " + "".join(f"{f'{videos} videos':>31}" for videos in counts)]
    for sampler in SAMPLERS:
        cells = [result["after_videos"][videos][sampler] for videos in counts]
        texts = [f"{cell['median']:.3f} ({cell['least']:.3f}-{cell['most']:.3f}) #{cell['rank']:.1f}" for cell in cells]
        lines.append(f"{sampler:9}" + "".join(f"{text:>31}" for text in texts))
    first = result["first_trials"]
    return [*lines, f"the first trials alone: {first['time']:.3f} after {first['videos']} videos"]


def profile_of(pipeline: DiffusionPipeline, steps: int) -> Profile:
    """The shipped profile, which gives all runs the same times; for another number of steps one that is measured now."""
    shipped = Profile.load(SHIPPED)
    if shipped.steps == steps:
        return shipped
    prompts = read_prompts("shapes", None, PROMPTS, sample_seed=1)
    return pabtune.profile(pipeline, prompts, steps, name="search", model="shapes")


def space_of(
    name: str, pipeline: DiffusionPipeline, profile: Profile, prompts: Sequence[Prompt], settings: Settings
) -> Space:
    """A space of `SPACES`; its schedules are fitted now."""
    is_fitted = name == "with schedules"
    schedules = find_schedules(pipeline, interleaved(prompts, settings.batch_size), settings) if is_fitted else []
    return Space(profile, schedules=schedules, has_guidance=True)


def save(out: Path, name: str, result: Mapping[str, Any], steps: int) -> None:
    """Writes what is known of a space; the file keeps what it has of the other one."""
    others = json.loads(out.read_text())["spaces"] if out.exists() else {}
    document = {
        "command": f"python benchmarks/search.py --steps {steps} --seeds {result['seeds']} --out {out}",
        "steps": steps,
        "prompts": PROMPTS,
        "budget": BUDGET,
        "floor": FLOOR,
        "spaces": others | {name: result},
        "versions": versions() | {name: version(name) for name in ("optuna", "cmaes")},
    }
    save_json(out, document)


@click.command()
@click.option("--steps", type=click.IntRange(min=9), default=30, show_default=True, help="Denoising steps.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--space", "names", type=click.Choice(list(SPACES)), multiple=True, default=list(SPACES), show_default=True
)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("out/benchmark-search"), show_default=True,
    help="For reference videos.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path))
def main(steps: int, seeds: int, names: Sequence[str], folder: Path, out: Path | None) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    pipeline, settings = load_pipeline("shapes"), Settings(steps=steps, batch_size=BATCH)
    searched = read_prompts("shapes", None, PROMPTS, sample_seed=2, seed=100)
    profile = profile_of(pipeline, steps)
    references = References(folder, pipeline, settings, profile.made_for)
    floor = Floor(preset=FLOOR)
    runner = TrialRunner(pipeline, profile, searched, Budget.parse(BUDGET), settings, references, floor=floor)
    runner.measure_floor()
    for name in names:
        space = space_of(name, pipeline, profile, searched, settings)
        for result in compare_samplers(name, space, runner, seeds):
            if out is not None:
                save(out, name, result, steps)
        click.echo("\n".join([f"\n{name}, {result['parameters']} parameters", *table(result)]))


if __name__ == "__main__":
    main()
