"""`pabtune demo`: profile, search, generate and evaluate on the embedded model."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabtune.catalog.frame_rates import usual_rate
from pabtune.cli import options
from pabtune.cli.left_files import made_by, save_pairs, search_document
from pabtune.cli.output import emit, progress_bar, say
from pabtune.cli.profile import describe
from pabtune.cli.report import write_page
from pabtune.cli.search import leave_result
from pabtune.cli.search_results import document_of
from pabtune.records.files import check_writable
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt
from pabtune.records.splits import Split

if TYPE_CHECKING:
    from pabtune.tuning.worst import VideoPair

BUDGET = "shapes>=-3.0"
"""Wider than for production: a verdict on a third of it takes three times the prompts."""

TRIALS = 10
SCHEDULE_SHARES = (0.4,)
"""Computed steps over all steps, for each of which the demo fits a schedule of whole calls."""

PROFILED, TUNED, VALIDATED, TESTED, SHOWN = 6, 10, 12, 240, 3
"""Numbers of prompts, small enough for the demo to take minutes on two cores; the verdict stops when it is clear."""


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/demo"), show_default=True,
    help="Folder for all output files.",
)  # fmt: skip
@click.option("--trials", type=click.IntRange(min=1), default=TRIALS, show_default=True, help="Trials of the search.")
@options.json_option
@click.pass_context
def command(ctx: click.Context, out: Path, trials: int, as_json: bool) -> None:
    """Profile, search, generate and evaluate on the embedded model: takes minutes on two cores."""
    began = time.monotonic()
    check_writable(out / "profile.json")
    document = run_demo(out, trials)
    document["seconds"] = round(time.monotonic() - began, 1)
    if as_json:
        emit(document)
    if document["verdict"] != "accept":
        ctx.exit(1)


def run_demo(out: Path, trials: int) -> dict[str, Any]:
    """Runs the demo and returns the document that `--json` prints."""
    say("pabtune demo: the embedded model generates 8 frames of one moving shape in 30 denoising steps.\n")
    from pabtune.report.tensorboard import open_writer

    pipeline = options.load_model("shapes", "cpu", "float32")
    writer = open_writer(out / "tensorboard")
    profile = _profile(pipeline, out, writer)
    result, prompts = _search(pipeline, profile, out, trials, writer)
    writer.close()
    if result.best is None:
        say("   no policy was found within the budget, or none held it on unseen prompts; try more --trials")
        _leave(pipeline, result, profile, out, [])
        return {"verdict": result.verdict, "trials": len(result.candidates), **_page(out)}
    worst = _generate(pipeline, result, prompts.test, out)
    _leave(pipeline, result, profile, out, save_pairs(out, worst, result.judged, usual_rate("Shapes")))
    document = {
        "verdict": result.verdict,
        "trials": len(result.candidates),
        "judgement": None if result.judgement is None else result.judgement.to_document(),
        "policies": [evaluation.to_document() for evaluation in result.evaluations],
        "speedup": result.evaluations[0].speedup,
        "rules": result.best.to_document()["rules"],
    }
    conclude(document, out)
    return {**document, **_page(out)}


def _page(out: Path) -> dict[str, str]:
    """Writes the page of the folder, as the last thing that the demo does, and says where it is."""
    report = write_page(out, out / "report.html")["report"]
    say(f"   {report}       all of it on one page, with the worst videos")
    return {"out": str(out), "report": report}


def _leave(pipeline: Any, result: Any, profile: Profile, out: Path, worst: Sequence[dict[str, Any]]) -> None:
    """Writes what the search tried and found beside its policy, with the worst videos of the prompts of the verdict."""
    summary = {**document_of(result, out / "policy.json"), "worst": list(worst)}
    document = search_document(result, summary, profile, BUDGET, pipeline)
    leave_result(result, document, out / "policy.json")


def _profile(pipeline: Any, out: Path, writer: Any) -> Profile:
    import pabtune
    from pabtune.report.figures import curves_data, draw_curves
    from pabtune.report.tensorboard import write_profile

    say("1. profile: how much does each kind of layer change from step to step?")
    prompts = options.read_prompts("shapes", None, PROFILED, sample_seed=1, part="tune")
    profile = _profile_of_before(pipeline, prompts, out / "profile.json")
    if profile is None:
        with progress_bar("profile") as advance:
            profile = pabtune.profile(pipeline, prompts, 30, name="demo", model="shapes", progress=advance)
        profile = replace(profile, provenance={**profile.provenance, "made_by": made_by()})
        profile.save(out / "profile.json")
    write_profile(writer, profile)
    draw_curves(curves_data(profile)).savefig(out / "u-shape.png", dpi=120)
    describe(profile)
    return profile


def _profile_of_before(pipeline: Any, prompts: Sequence[Prompt], path: Path) -> Profile | None:
    """The profile that an earlier demo left, of which the search goes on: a new one begins a new study."""
    from pabtune.records.errors import ProfileError
    from pabtune.records.prompts import digest_prompts
    from pabtune.runtime.weights import weights_digest
    from pabtune.tuning.provenance import versions

    try:
        profile = Profile.load(path)
    except ProfileError:
        return None
    wanted = {"prompts": digest_prompts(prompts), "weights": weights_digest(pipeline), **versions()}
    if not wanted.items() <= profile.provenance.items():
        return None
    say(f"   taken from {path}, which an earlier demo left; remove {path.parent} to begin anew")
    return profile


def _search(pipeline: Any, profile: Profile, out: Path, trials: int, writer: Any) -> tuple[Any, Split]:
    from pabtune.quality.budget import Budget
    from pabtune.quality.floors import Floor
    from pabtune.report.tensorboard import write_trial
    from pabtune.tuning.request import SearchConfig
    from pabtune.tuning.search import search_policy

    say(
        f"\n2. search: the fastest policy within the budget {BUDGET}, at least as close to the original as the paper's pab246"
    )
    prompts = options.sample_split(TUNED, VALIDATED, TESTED)
    config = SearchConfig(
        budget=Budget.parse(BUDGET),
        trials=trials,
        floor=Floor(preset="pab246"),
        storage=str(out / "study.journal"),
        folder=out,
        name="demo",
        arguments={},
        schedule_shares=SCHEDULE_SHARES,
        is_refined=False,
    )
    with progress_bar("search") as advance:

        def report(candidate: Any, candidates: Any) -> None:
            write_trial(writer, candidate, candidates)
            advance(len(candidates), trials)

        return search_policy(pipeline, profile, prompts, config, report), prompts


def _generate(pipeline: Any, result: Any, unseen: Sequence[Prompt], out: Path) -> "list[VideoPair]":
    """Generates the worst of the prompts of the verdict again, without and with the policy, and returns them as pairs."""
    import pabtune
    from pabtune.report.videos import contact_sheet, save_picture, save_video
    from pabtune.tuning.generation import Settings, generate
    from pabtune.tuning.worst import VideoPair

    say("\n3. generate: the same prompts and seeds without and with the policy, of those where it is furthest away")
    judged, by_text = result.judged, {prompt.prompt: prompt for prompt in unseen}
    places = sorted(range(len(judged.psnr_db)), key=lambda place: judged.psnr_db[place])[:SHOWN]
    prompts = [by_text[judged.prompts[place]] for place in places]
    plain = generate(pipeline, prompts, Settings(steps=30)).videos
    with pabtune.broadcast(pipeline, result.best):
        fast = generate(pipeline, prompts, Settings(steps=30)).videos
    for index, video in enumerate(fast):
        save_video(out / f"video-{index}.mp4", video, usual_rate("Shapes"))
    pairs = [each for pair in zip(plain, fast, strict=True) for each in pair]
    save_picture(out / "side-by-side.png", contact_sheet(pairs))
    return [
        VideoPair(
            policy=result.best.name,
            index=place,
            prompt=prompt,
            psnr_db=judged.psnr_db[place],
            without=before,
            under=after,
        )
        for place, prompt, before, after in zip(places, prompts, plain, fast, strict=True)
    ]


def conclude(document: dict[str, Any], out: Path) -> None:
    """Prints the summary: gains, costs, verdict and files."""
    best_row, paper_row, *rivals = document["policies"]
    rows = [("found policy", best_row), ("paper's pab246", paper_row)]
    rows += [(f"{row['policy'].removeprefix('steps:')} steps instead", row) for row in rivals]
    say(f"\n4. result: gains and costs on {best_row['prompts']} prompts and seeds that the search never saw\n")
    say(f"{'':22}{'compute':>10}{'measured':>11}{'PSNR':>10}{'worst':>11}{'score drop':>13}")
    for label, row in rows:
        fidelity = row["fidelity"]
        say(
            f"   {label:19}{row['compute_fraction']:>10.1%}{row['speedup']:>10.2f}x{fidelity['psnr_db']:>7.1f} dB"
            f"{fidelity['worst_psnr_db']:>8.1f} dB{row['score']['drop']:>+13.2f}"
        )
    if any(row["fidelity"]["psnr_db"] >= best_row["fidelity"]["psnr_db"] for row in rivals):
        say("\n   fewer steps are as close in the same time: more --trials may find better")
    say(f"\n   verdict on the budget {BUDGET}: {document['verdict']}{_reasons(document['judgement'])}")
    say("   rules: " + "; ".join(_rule_in_words(rule) for rule in document["rules"]))
    say(f"""
   {out}/policy.json        ship this: pabtune generate shapes --policy {out}/policy.json …
   {out}/u-shape.png        change over the steps, with the stable windows
   {out}/side-by-side.png   rows in pairs: without, with the policy
   {out}/video-0.mp4        a video made with it
   {out}/profile.json       the measurements; more: tensorboard --logdir {out}/tensorboard
""")


def _reasons(judgement: dict[str, Any] | None) -> str:
    if judgement is None:
        return ""
    low, high = judgement["ci95"] or (float("nan"),) * 2
    return (
        f", on {judgement['prompts']} further prompts: mean drop {judgement['mean_drop']:+.2f} ({low:+.2f} to {high:+.2f}), "
        f"{judgement['broken_share']:.1%} of the videos lose much more"
    )


def _rule_in_words(rule: dict[str, Any]) -> str:
    layers = f" of layers {', '.join(map(str, rule['layers']))}" if "layers" in rule else ""
    if "compute" in rule:
        what = "whole calls" if rule["kind"] == "transformer" else rule["kind"]
        return f"{what}{layers} in steps {', '.join(map(str, rule['compute']))}, {rule.get('payload', 'hold')} between"
    return f"{rule['kind']}{layers} every {rule['range']} steps in {rule['window'][0]}..{rule['window'][1] - 1}"
