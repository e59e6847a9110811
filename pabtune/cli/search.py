"""`pabtune search`: finding a policy within a quality budget."""

from collections.abc import Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

import click

from pabtune.cli import options
from pabtune.cli.layout import predicted_layout_options
from pabtune.cli.left_files import RESULT_SUFFIX, made_by, search_document
from pabtune.cli.output import Advance, emit, progress_bar, say
from pabtune.cli.search_results import document_of, print_result
from pabtune.cli.search_workers import say_where_to_look, start_workers, team_here, workers_option
from pabtune.engines.engine import ENGINES, Engine, find_engine
from pabtune.planning.few_steps import FEW_STEPS, bound
from pabtune.quality.budget import Budget
from pabtune.quality.verdict import least_prompts
from pabtune.records.errors import ProfileError, StudyError
from pabtune.records.files import as_file_name, check_writable, save_json
from pabtune.records.interconnects import Interconnect
from pabtune.records.layouts import ParallelLayout
from pabtune.records.policies import Policy, Store
from pabtune.records.profiles import Profile
from pabtune.records.splits import Split, split_prompts
from pabtune.records.trials import Candidate, SearchResult


@click.command()
@click.argument("profile_file", metavar="PROFILE", type=click.Path(path_type=Path))
@click.option(
    "--budget",
    required=True,
    help="For example 'shapes>=-1.0': the score may drop by 1 point on average. Scores: `shapes`, `vbench-quality`, "
    "vbench:DIMENSION, `vbench` (the total, on VBench's own prompts), or module:function.",
)
@options.vbench_option
@options.largest_loss_option
@click.option(
    "--trials", type=int, default=60, show_default=True, help="Number of finished trials at which the study ends."
)
@click.option("--storage", help="Optuna storage URL, or a journal file; default: a journal in --logdir.")
@click.option(
    "--videos",
    type=click.IntRange(min=1),
    help="Videos that the search may generate in all, reference videos included, counted in full runs; with few of them fewer "
    "prompts are searched with and confirmed on. Default: as many as it takes.",
)
@workers_option
@options.out_option("Policy file (.json).")
@options.prompts_option(
    f"Prompts; a hash of its text says whether one is to tune on, to validate or to test with, a quarter, 15 % and 60 % of "
    f"them. Default for `shapes`: {options.TUNED}, {options.VALIDATED} and at most {options.TESTED} captions, "
    f"{options.TESTED_PER_CONTENT} with --per-content. The verdict takes as many to test with as it needs."
)
@click.option(
    "--per-content",
    is_flag=True,
    help="Also search a variant for each content class, with a study of its own, and learn to tell the class by --content-by.",
)
@click.option(
    "--content-by",
    type=click.Choice(["prompt", "first-steps"]),
    default="prompt",
    show_default=True,
    help="With --per-content: what tells the class of a run, its prompt or its first steps, which compute whatever the class.",
)
@click.option(
    "--floor",
    "floors",
    multiple=True,
    help="How close to the unaccelerated video the result must be: a preset whose PSNR it must reach, or a limit on the mean "
    "or the worst video: psnr>=38 (dB), worst-psnr>=32, ssim>=0.9, vmaf>=90, temporal<=2, lpips<=0.1; repeat it for "
    "several; `none` = no floor; default: pab246 for models with spatial and temporal attention, else none.",
)
@click.option(
    "--front",
    "front_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for one policy per useful point of measured time against closeness to the unaccelerated video.",
)
@click.option(
    "--for",
    "engine_name",
    metavar="ENGINE",
    help="Search only what this engine can run, so that what is measured is what runs there: "
    f"{', '.join(ENGINES)}. Write its file with `pabtune export FILE --to ENGINE`.",
)
@click.option("--logdir", type=click.Path(path_type=Path), help="Folder for all other files; default: runs/NAME.")
@predicted_layout_options
@options.memory_option
@options.store_option("exact; with --memory exact or int8, whichever is better")
@options.seed_option
@options.batch_option
@options.device_option
@options.json_option
@click.pass_context
def command(
    ctx: click.Context,
    profile_file: Path,
    budget: str,
    vbench_home: Path | None,
    largest_loss: float | None,
    trials: int,
    storage: str | None,
    videos: int | None,
    workers: int,
    out: Path,
    prompt_file: Path | None,
    per_content: bool,
    content_by: str,
    floors: tuple[str, ...],
    front_dir: Path | None,
    engine_name: str | None,
    logdir: Path | None,
    layout: ParallelLayout,
    interconnect: Interconnect,
    memory: int | None,
    store: Store | None,
    seed: int,
    batch_size: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Find the fastest policy within a quality budget, for the model of PROFILE.

    The same command resumes a stopped study; --workers, and further machines with one --storage, share it. Exit code 0:
    the policy was shown to hold the budget on unseen prompts, in all that it accelerates; 1: it was not, or there is none.
    """
    parsed = Budget.parse(budget, largest_loss)
    engine = _engine(engine_name, per_content)
    _check_content_by(content_by, per_content, videos)
    if trials < 1:
        raise StudyError(f"a search needs at least 1 trial, but got --trials {trials}")
    options.check_json_out(out, profile_file, prompt_file)
    _check_front(front_dir, videos)
    profile = _load_profile(profile_file)
    logdir = logdir or Path("runs") / out.stem
    check_writable(logdir / "study.journal")
    from pabtune.tuning.request import AUTO_FLOOR, SearchConfig, find_floor
    from pabtune.tuning.search import search_variants

    contents = profile.contents if per_content else ()
    prompts = _prompts(profile.model, prompt_file, seed, options.TESTED_PER_CONTENT if contents else options.TESTED)
    config = SearchConfig(
        budget=parsed,
        trials=trials,
        floor=find_floor(profile, () if floors == ("none",) else floors or AUTO_FLOOR),
        storage=storage or str(logdir / "study.journal"),
        folder=logdir,
        name=out.stem,
        memory=memory,
        store=store,
        seed=seed,
        batch_size=options.batch_size_of(profile.model, batch_size),
        arguments=profile.made_for.settings.get("arguments", {}),
        layout=layout,
        interconnect=interconnect,
        videos=videos,
        engine=engine,
        content_by=content_by,
        score=options.find_score(
            parsed.score, vbench_home, device, [each for part in prompts.parts().values() for each in part]
        ),
    )
    code = start_workers(workers, device, videos)
    if code is not None:
        ctx.exit(code)
    config = replace(config, team=team_here())
    pipeline = _load_model(profile, device)
    with progress_bar("search") as advance:
        progress = _Progress(logdir, trials, advance, _remarks(profile, prompts, contents, config))
        config = replace(config, on_videos=progress.generated, on_count=progress.counted)
        result = search_variants(pipeline, profile, prompts, config, contents, progress.tried, _say_fitted)
    if not config.team.is_leader:
        return
    print_result(result, out, profile.steps, engine)
    say_where_to_look(config.storage, logdir)
    leave_result(result, search_document(result, document_of(result, out), profile, str(parsed), pipeline), out)
    error = result.judgement.error if result.judgement is not None and result.verdict == "accept" else 0.0
    front = [] if front_dir is None else _save_front(pipeline, profile, prompts, config, error, front_dir)
    summary = {**document_of(result, out), **({} if front_dir is None else {"front": front})}
    if front_dir is not None:
        leave_result(result, search_document(result, summary, profile, str(parsed), pipeline), out)
    if as_json:
        emit(summary)
    if not is_accepted(result):
        ctx.exit(1)


def _save_front(
    pipeline: Any, profile: Profile, prompts: Split, config: Any, error: float, folder: Path
) -> list[dict[str, Any]]:
    """Judges the schedules of the search on unseen prompts, writes the useful ones, and returns a row for each."""
    from pabtune.tuning.front import judge_front
    from pabtune.tuning.generation import Settings
    from pabtune.tuning.shared_schedules import schedules_of

    settings = Settings(steps=profile.asked_steps, batch_size=config.batch_size, arguments=config.arguments)
    schedules = schedules_of(pipeline, profile, prompts.tune, settings, config)
    with progress_bar("front") as advance:
        points = judge_front(pipeline, profile, schedules, prompts, config, error, advance)
    rows = []
    for point in points:
        row, compared, fewer = (each.to_document() for each in (point.evaluation, point.compared, point.fewer_steps))
        path = folder / f"{point.policy.name}.json"
        say(
            f"  {row['policy']:24} compute {row['compute_fraction']:.1%}, measured {row['speedup']:.2f}x, PSNR "
            f"{row['fidelity']['psnr_db']:.2f} dB (worst of {row['prompts']} {row['fidelity']['worst_psnr_db']:.2f}), "
            f"{point.policy.evidence['verdict']}; on {compared['prompts']} prompts {compared['fidelity']['psnr_db']:.2f} dB, "
            f"fewer steps {fewer['fidelity']['psnr_db']:.2f} dB at {fewer['speedup']:.2f}x"
            + ("" if point.is_useful else "; not useful, not written")
        )
        if point.is_useful:
            with_command(point.policy).save(path)
        rows.append({**row, "compared": compared, "fewer_steps": fewer, "file": str(path) if point.is_useful else None})
    others = of_earlier_fronts(folder, config.name, [row["file"] for row in rows])
    if others:
        say(
            f"  of an earlier search, and not part of this front: {', '.join(map(str, others))}; remove what you do not use"
        )
    return rows


def of_earlier_fronts(folder: Path, name: str, files: Sequence[str | None]) -> list[Path]:
    """Policies of fronts of this name in a folder that are not among the files that were written now."""
    return sorted(path for path in folder.glob(f"{escape(name)}-*of*.json") if str(path) not in files)


def is_accepted(result: SearchResult) -> bool:
    """Whether all that the policy of a search does was shown to hold the budget: its rules, and its variants."""
    policy = result.best
    if policy is None or (policy.rules and result.verdict != "accept"):
        return False
    return all(result.variants[content].verdict == "accept" for content in policy.variants)


def leave_result(result: SearchResult, document: dict[str, Any], out: Path) -> None:
    """Writes the policy, if there is one, and beside it what the search tried and found."""
    save_json(out.with_name(out.stem + RESULT_SUFFIX), document)
    if result.best is not None:
        with_command(result.best).save(out)


def with_command(policy: Policy) -> Policy:
    """A policy that says by which command it was found, and when."""
    return replace(policy, provenance={**policy.provenance, "made_by": made_by()})


def _say_fitted(done: int, total: int) -> None:
    say(f"schedules: {done} of {total} fitted")


def _check_content_by(content_by: str, per_content: bool, videos: int | None) -> None:
    if content_by != "prompt" and (not per_content or videos is not None):
        raise StudyError(f"--content-by {content_by} stands with --per-content, and without --videos")


def _check_front(folder: Path | None, videos: int | None) -> None:
    if folder is None:
        return
    if videos is not None:
        raise StudyError(
            "--front judges every point on all unseen prompts, whatever --videos allows; leave one of them out"
        )
    check_writable(folder / "policy.json")


def _engine(name: str | None, per_content: bool) -> Engine | None:
    """The engine that a policy is for; None = pabtune's own runtime."""
    engine = None if name is None else find_engine(name)
    if engine is not None and per_content:
        raise StudyError(f"--for {engine.name}: it has one schedule for all prompts; leave --per-content out")
    return engine


def _load_profile(path: Path) -> Profile:
    profile = Profile.load(path)
    if not profile.model:
        raise ProfileError(f"{path}: does not name the model to load; profile with `pabtune profile MODEL`")
    return profile


def _load_model(profile: Profile, device: str) -> Any:
    """The model of a profile, with the dtype and the attention kernel of the profile."""
    settings = profile.made_for.settings
    pipeline = options.load_model(profile.model, device, settings.get("dtype", "float32"))
    from pabtune.runtime.attention import use_attention

    use_attention(pipeline, settings.get("attention", "sdpa"))
    return pipeline


def _prompts(model: str, prompt_file: Path | None, seed: int, tested: int) -> Split:
    if prompt_file is not None or model != "shapes":
        return split_prompts(options.read_prompts(model, prompt_file, 0, 0, seed))
    return options.sample_split(options.TUNED, options.VALIDATED, tested, seed)


def _remarks(profile: Profile, prompts: Split, contents: Sequence[str], config: Any) -> list[str]:
    """What few steps can save at most, and which results will stay undecided for want of unseen prompts."""
    few_steps = [bound(profile.steps)] if profile.steps <= FEW_STEPS else []
    return few_steps + _what_is_too_few(prompts, contents, config.on_scale_of(prompts.test))


def _what_is_too_few(prompts: Split, contents: Sequence[str], config: Any) -> list[str]:
    """Which results will stay undecided for want of unseen prompts."""
    needed = least_prompts(config.budget)
    if needed is None:
        return [f"a budget of {config.budget} is accepted only if the policy is shown to gain points"]
    limited, remarks = None if config.videos is None else config.videos // (1 + len(contents)), []
    for content in (None, *contents):
        own, what = (
            (prompts, "the policy") if content is None else (prompts.of_content(content), f"the variant {content}")
        )
        count = len(own.test) if limited is None else min(len(own.test), limited)
        if count < needed:
            remarks.append(
                f"{count} prompts to test with: {what} will at best be undecided; accepting needs at least {needed}"
            )
    return remarks


class _Progress:
    """The search's progress bar, and its own trials in TensorBoard; remarks are printed once it is under way."""

    def __init__(self, logdir: Path, trials: int, advance: Advance, remarks: list[str]) -> None:
        self._logdir, self._trials, self._advance, self._remarks = logdir, trials, advance, remarks
        self._writers: dict[str | None, Any] = {}
        self._done, self._videos, self._is_under_way = 0, "", False

    def tried(self, content: str | None, candidate: Candidate, candidates: Sequence[Candidate]) -> None:
        """Writes a trial to TensorBoard."""
        from pabtune.report.tensorboard import open_writer, write_trial

        if content not in self._writers:
            self._writers[content] = open_writer(self._logdir / as_file_name(content) if content else self._logdir)
        write_trial(self._writers[content], candidate, candidates)
        self.counted(len(candidates))

    def counted(self, done: int) -> None:
        """Shows how many trials are finished, by whichever worker."""
        self._done = done
        if self._is_under_way:
            self._advance(self._done, self._trials, self._videos)

    def generated(self, count: float, limit: int | None) -> None:
        """Shows how many videos were generated."""
        if count < 1:  # the warm-up: a request that is refused right after it prints its error alone
            return
        self._is_under_way = True
        while self._remarks:
            say(self._remarks.pop(0))
        self._videos = f", {count:.0f} videos" if limit is None else f", {count:.0f} of {limit} videos"
        self._advance(self._done, self._trials, self._videos)
