"""`pabtune evaluate`: speed, fidelity and score of policies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from pabtune.cli import options
from pabtune.cli.engine_files import HELP, find_choice, made_for_pipeline, policies_only, read_document
from pabtune.cli.left_files import EVALUATION_FILE, evaluation_document, save_pairs
from pabtune.cli.output import emit, print_judgement, progress_bar, say
from pabtune.engines.reading.configuration import Configuration
from pabtune.quality.budget import Budget
from pabtune.quality.floors import Floor
from pabtune.quality.measures import EVERY, MEASURES
from pabtune.quality.scores import NO_SCORE, Score
from pabtune.quality.verdict import look_error
from pabtune.records.errors import BudgetError, FileError, PromptError
from pabtune.records.evaluations import Evaluation
from pabtune.records.files import as_file_name, check_writable, save_json
from pabtune.records.policies import Policy, Store, check_content
from pabtune.records.prompts import Prompt
from pabtune.records.splits import split_of
from pabtune.records.verdicts import Judgement

if TYPE_CHECKING:
    from pabtune.tuning.worst import WorstVideos

PROMPTS = 24
"""Captions of the embedded model where the user names no file."""

WORST = 3
"""Pairs of videos of each policy that --out leaves."""


SEARCHED = {"prompts", "compared_on", "judged_on", "between"}
"""Keys of the provenance of policies that a search chose on some prompts, or that were made of such."""


@click.command()
@click.argument("model")
@click.option("--policy", "names", multiple=True, required=True, help=f"{HELP} Repeat for several.")
@options.prompts_option(
    f"Prompts to generate; default for `shapes`: {PROMPTS} captions that no search sees, with --budget at most "
    f"{options.TESTED}. Under a policy that a search found only those to test with count for the verdict."
)
@click.option(
    "--budget",
    "budget_text",
    help="For example 'shapes>=-1.0': says of each policy whether it holds this budget, after as many prompts as that takes. "
    "Exit code 1: one is rejected; 0: each is accepted or undecided.",
)
@options.largest_loss_option
@click.option(
    "--floor",
    "floors",
    multiple=True,
    help="With --budget: a limit on the worst video, such as worst-psnr>=30 (dB) or worst-ssim>=0.9, beyond which a video "
    "counts as broken; repeat it for several.",
)
@click.option(
    "--score",
    help="Absolute score: `shapes`, `vbench-quality`, vbench:DIMENSION, `vbench` (the total, on VBench's own prompts), "
    "module:function, `none`; default: `shapes` for `shapes`, else none.",
)
@options.vbench_option
@click.option(
    "--measure",
    "measures",
    multiple=True,
    type=click.Choice(list(MEASURES)),
    help="Fidelity beside PSNR and SSIM; repeat for several. "
    + "; ".join(f"{n}: {m.says}" for n, m in MEASURES.items())
    + ".",
)
@click.option(
    "--through-codec",
    is_flag=True,
    help="Measure fidelity of H.264 videos, as the papers do, not of raw frames; the score sees raw frames.",
)
@click.option(
    "--content",
    help="Use the policies' variants for this content class; `auto`: the one that a policy tells by the prompt or "
    "the first steps; default: the one that a prompt file names.",
)
@options.out_option(
    f"Folder for {EVALUATION_FILE}, which is what --json prints, and the {WORST} worst videos of each policy beside the full "
    "run's.",
    required=False,
)
@options.batch_option
@options.store_option("as the policy says")
@options.any_steps_option
@options.run_options
@options.json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    names: tuple[str, ...],
    prompt_file: Path | None,
    budget_text: str | None,
    largest_loss: float | None,
    floors: tuple[str, ...],
    score: str | None,
    vbench_home: Path | None,
    measures: tuple[str, ...],
    through_codec: bool,
    content: str | None,
    out: Path | None,
    batch_size: int | None,
    store: Store | None,
    any_steps: bool,
    run: options.RunOptions,
    as_json: bool,
) -> None:
    """Measure speed, fidelity and score of policies against unaccelerated MODEL: same prompts, seeds and noise."""
    choices = [find_choice(name, model, run.steps) for name in names]
    check_content(policies_only(choices), content)
    bar = _bar(budget_text, largest_loss, floors, len(choices))
    if bar is not None and score not in (None, bar.budget.score):
        raise BudgetError(f"the budget is on {bar.budget.score!r}, but --score is {score!r}; leave --score out")
    if out is not None:
        check_writable(out / EVALUATION_FILE)
    prompts = _prompts(model, prompt_file, run.seed, choices, bar)
    name = bar.budget.score if bar else score or ("shapes" if model == "shapes" else NO_SCORE)
    found = options.find_score(name, vbench_home, run.device, prompts)
    bar = bar and bar.on_scale_of(found, prompts)
    from pabtune.tuning.evaluate import evaluate
    from pabtune.tuning.generation import frame_rate
    from pabtune.tuning.judging import measured_on
    from pabtune.tuning.worst import WorstVideos

    worst = WorstVideos(WORST)
    pipeline, arguments = run.load(model)
    policies = made_for_pipeline(choices, pipeline, run.steps)
    _check_names(policies, out)
    with progress_bar("evaluate") as advance:
        evaluations = evaluate(
            pipeline,
            policies,
            prompts,
            run.steps,
            score=found or NO_SCORE,
            measures=tuple(dict.fromkeys((*measures, *(bar.floor.on_demand if bar else ())))),
            through_codec=through_codec,
            batch_size=options.batch_size_of(model, batch_size),
            arguments=arguments,
            store=store,
            any_steps=any_steps,
            content=content,
            progress=advance,
            on_videos=None if out is None else worst.add,
            is_done=None if bar is None or found is None or found.is_of_all else bar.is_clear,
            repeat=bar is not None,
        )
    for remark in remarks(evaluations[0]):
        say(remark)
    judgements = None if bar is None else [bar.judge(each) for each in evaluations]
    rows = zip(evaluations, judgements or repeat(None), map(read_document, choices), strict=False)
    document = evaluation_document(
        [_document(*row) for row in rows], prompts, model=model, steps=run.steps, device=measured_on(pipeline)["device"],
        budget=None if bar is None else str(bar.budget),
    )  # fmt: skip
    if out is not None:
        _leave(out, document, evaluations, worst, frame_rate(pipeline, arguments))
    if as_json:
        emit(document)
        say(f"{len(evaluations[0].psnr_db)} prompts, {run.steps} steps")
    else:
        print_table(evaluations)
    for policy, judgement in zip(policies, judgements or (), strict=False):
        print_judgement(judgement, f"{policy.name}: ")
    if out is not None:
        say(f"evaluation and worst videos -> {out}; one page of it: pabtune report {out}")
    ctx.exit(1 if any(judgement.verdict == "reject" for judgement in judgements or ()) else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What policies are judged by: the budget, and how wrong the verdict on each of them may be."""

    budget: Budget
    floor: Floor
    error: float

    def on_scale_of(self, score: Score | None, prompts: Sequence[Prompt]) -> "Bar":
        """The bar, whose budget knows how far a video of these prompts can fall by the score."""
        return replace(self, budget=self.budget.on_scale_of(score, [prompt.prompt for prompt in prompts]))

    def judge(self, evaluation: Evaluation) -> Judgement:
        """The verdict on a policy."""
        from pabtune.tuning.judging import final_judgement

        return final_judgement(evaluation, self.budget, self.error, self.floor)

    def is_clear(self, evaluation: Evaluation) -> bool:
        """Whether a policy is not undecided any more."""
        from pabtune.tuning.judging import is_decided

        return is_decided(evaluation, self.budget, self.error, self.floor)


def _bar(text: str | None, largest_loss: float | None, floors: Sequence[str], policies: int) -> Bar | None:
    """From options; policies that are judged on the same prompts share the error.

    Raises:
        BudgetError: something cannot be read, is no limit on the worst video, or goes with a budget that is not there.
    """
    floor = Floor.parse(*floors)
    if floor.preset is not None or not all(limit.is_worst for limit in floor.limits):
        raise BudgetError(f"a verdict takes limits on the worst video, such as worst-psnr>=30, not {floor}")
    if text is not None:
        return Bar(budget=Budget.parse(text, largest_loss), floor=floor, error=look_error(1) / policies)
    if floors or largest_loss is not None:
        raise BudgetError("--floor and --largest-loss belong to a verdict; name its --budget")
    return None


def _prompts(
    model: str, prompt_file: Path | None, seed: int, choices: Sequence[Policy | Configuration], bar: Bar | None
) -> list[Prompt]:
    count = PROMPTS if bar is None else options.TESTED
    prompts = options.read_prompts(model, prompt_file, count, sample_seed=4, seed=seed, part="test")
    own = policies_only(choices)
    if bar is not None and prompt_file is not None and len(own) < len(choices):
        say("a file of an engine does not say what it was tuned on: if a search of yours, leave that one's prompts out")
    if bar is None or not any(SEARCHED & set(policy.provenance) for policy in own):
        return prompts
    unseen = [prompt for prompt in prompts if split_of(prompt.prompt) == "test"]
    if not unseen:
        raise PromptError("none of the prompts is to test with; a verdict on what a search may have seen is none")
    if len(unseen) < len(prompts):
        say(
            f"{len(prompts) - len(unseen)} of {len(prompts)} prompts are to tune on or to validate with, and are left out"
        )
    return unseen


def _check_names(policies: Sequence[Any], out: Path | None) -> None:
    """Refuses policies of one name where their videos are left in files by these names.

    Raises:
        FileError: two have the same name, or one that of the unaccelerated videos.
    """
    from pabtune.tuning.worst import REFERENCE

    if out is not None and any(policy.name == REFERENCE for policy in policies):
        raise FileError(f"--out {out}: a policy is called {REFERENCE!r}, as the unaccelerated videos are; rename it")
    names = [as_file_name(policy.name) for policy in policies]
    twice = next((policy.name for policy, name in zip(policies, names, strict=True) if names.count(name) > 1), None)
    if out is not None and twice is not None:
        raise FileError(
            f"--out {out}: two policies are called {twice!r}, or so in the names of files; their videos need different names"
        )


def _leave(
    out: Path, document: dict[str, Any], evaluations: Sequence[Evaluation], worst: "WorstVideos", frames_per_second: int
) -> None:
    """Leaves the worst videos of each policy in a folder, and the document, which names them."""
    document["videos"] = [
        row for each in evaluations for row in save_pairs(out, worst.pairs(each.policy), each, frames_per_second)
    ]
    save_json(out / EVALUATION_FILE, document)


def _document(evaluation: Evaluation, judgement: Judgement | None, read: Mapping[str, Any]) -> dict[str, Any]:
    document = {**evaluation.to_document(), **read}
    return document if judgement is None else {**document, "judgement": judgement.to_document()}


def remarks(evaluation: Evaluation) -> list[str]:
    """What was done to the frames before they were measured."""
    found = [
        f"{figure}: frames were enlarged {measured.enlarged} times, pixel by pixel"
        for figure, measured in evaluation.measures.items()
        if measured.enlarged > 1
    ]
    if evaluation.repeated is not None:
        again, what = evaluation.repeated, "identical videos"
        if again.psnr_db < EVERY["psnr"].highest:
            what = f"PSNR {again.psnr_db:.1f} dB, score changes of up to {again.score_change:.2f} points"
        found.append(f"the unaccelerated model twice: {what}")
    return found + ([f"fidelity through a codec: {evaluation.codec}"] if evaluation.codec is not None else [])


def print_table(evaluations: list[Evaluation]) -> None:
    """Prints speed, fidelity and score of each policy as a table."""
    counts = sorted({len(evaluation.psnr_db) for evaluation in evaluations})
    told = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    table = Table(title=f"{told} prompts, against the unaccelerated video of the same seed")
    measures = tuple(evaluations[0].measures)
    columns = ("policy", "compute", "measured speed", "PSNR dB", "worst", "SSIM", *measures, "score", "drop")
    for column in columns:
        is_name = column == "policy"
        table.add_column(
            column.replace("_", " "), justify="left" if is_name else "right", overflow="fold" if is_name else "ellipsis"
        )
    for evaluation in evaluations:
        row = evaluation.to_document()
        table.add_row(
            row["policy"],
            f"{row['compute_fraction']:.1%}",
            f"{row['speedup']:.2f}x",
            f"{row['fidelity']['psnr_db']:.2f}",
            f"{row['fidelity']['worst_psnr_db']:.2f}",
            f"{row['fidelity']['ssim']:.4f}",
            *(f"{row['fidelity'][figure]:.4g}" for figure in measures),
            *([f"{row['score']['policy']:.2f}", f"{row['score']['drop']:+.2f}"] if row["score"] else ["-", "-"]),
        )
    Console(stderr=True).print(table)
