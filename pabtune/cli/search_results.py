"""What `pabtune search` says of its result: lines for people, and the document that `--json` prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pabtune.cli.output import print_judgement, say
from pabtune.engines.engine import Engine
from pabtune.planning.few_steps import FEW_STEPS, is_worth, nothing_worth
from pabtune.records.trials import SearchResult


def print_result(result: SearchResult, out: Path, steps: int, engine: Engine | None) -> None:
    """Prints the finalists, the verdict, and where the policy is.

    Args:
        result: of the search.
        out: the policy's file.
        steps: denoising steps of the full run.
        engine: that was searched for; None = pabtune itself.
    """
    say(f"study {result.study}: {len(result.candidates)} trials, {result.videos:.0f} videos")
    if steps <= FEW_STEPS and not is_worth(result):
        say(nothing_worth(steps, result.candidates))
    if result.verdict is None:
        hint = "" if result.best else "; allow a larger drop, try more --trials, or --floor none"
        say(f"no policy was found within the budget{hint}")
        if result.best is None:
            return
    _print_evaluations(result)
    _print_verdict(result)
    for content, variant in result.variants.items():
        say(f"  variant {content}: {variant.verdict or 'nothing found'}")
    _print_accuracy({} if result.best is None else result.best.evidence)
    if result.best is None:
        say(f"the rejected policy is not written and {out} is unchanged; allow a larger drop, or try more --trials")
    else:
        if not result.best.rules:
            say("prompts of other classes are computed whole: what was found for all of them was not accepted")
        say(f"policy -> {out}")
        if engine is not None:
            say(f"its file for {engine.name}: pabtune export {out} --to {engine.name}")


def _print_verdict(result: SearchResult) -> None:
    """What the verdict is, and on what."""
    if result.judgement is not None:
        print_judgement(result.judgement, "verdict: ")
    elif result.verdict == "reject":
        say("verdict: reject, where finalists were compared")
    elif result.verdict is not None:
        say(f"verdict: {result.verdict}, as no video was left for one")


def _print_evaluations(result: SearchResult) -> None:
    """The finalists, and what the one that was judged stood beside."""
    for finalist in result.finalists:
        row = finalist.to_document()
        say(
            f"  finalist: compute {row['compute_fraction']:.1%}, measured {row['speedup']:.2f}x, PSNR {row['psnr_db']:.2f} dB "
            f"(worst {row['worst_psnr_db']:.2f}), score drop {row['drop']:+.2f}: {row['standing']}"
        )
    for evaluation in result.evaluations:
        row = evaluation.to_document()
        fidelity = row["fidelity"]
        say(
            f"  {row['policy']:24} compute {row['compute_fraction']:.1%}, measured {row['speedup']:.2f}x, "
            f"PSNR {fidelity['psnr_db']:.2f} dB (worst {fidelity['worst_psnr_db']:.2f}), "
            + "".join(
                f"{each} {fidelity[each]:.4g} (worst {fidelity['worst_' + each]:.4g}), " for each in evaluation.measures
            )
            + f"score drop {row['score']['drop']:+.2f}"
        )


def _print_accuracy(evidence: Mapping[str, Any]) -> None:
    """What tells the content class, and how often it was right."""
    for key, what in (("classifier", "prompt"), ("first_steps", "first steps")):
        if key in evidence:
            told = evidence[key]
            say(
                f"content class by the {what}: {told['right']} of {told['prompts']} unseen ones right, {told['wrong']} wrong"
            )


def document_of(result: SearchResult, out: Path) -> dict[str, Any]:
    """The document that `--json` prints."""
    return {
        "study": result.study,
        "trials": len(result.candidates),
        "videos": result.videos,
        "verdict": result.verdict,
        "is_worth_caching": is_worth(result),
        "judgement": None if result.judgement is None else result.judgement.to_document(),
        "policy": str(out) if result.best else None,
        "finalists": [finalist.to_document() for finalist in result.finalists],
        "evaluations": [evaluation.to_document() for evaluation in result.evaluations],
        "judged": None if result.judged is None else result.judged.to_document(),
        "variants": {content: variant.verdict for content, variant in result.variants.items()},
    }
