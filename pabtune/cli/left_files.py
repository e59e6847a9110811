"""What verbs leave behind for `pabtune report`: the command that ran, documents with their schema, pairs of videos."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pabtune.cli.layout import ARGUMENTS
from pabtune.records.evaluations import SCHEMA as EVALUATION
from pabtune.records.evaluations import Evaluation
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt
from pabtune.records.splits import split_of
from pabtune.records.trials import SCHEMA as SEARCH
from pabtune.records.trials import Candidate, SearchResult

RESULT_SUFFIX = ".result.json"
"""Of the file beside a policy that says what its search tried; its name has the policy's, since searches share folders."""

EVALUATION_FILE = "evaluation.json"


def made_by() -> dict[str, Any]:
    """This command, without passwords and with paths from the current folder on, and the day."""
    context = click.get_current_context(silent=True)
    words = () if context is None else context.meta.get(ARGUMENTS, ())
    return {"command": [_shown(word) for word in words], "date": datetime.now(UTC).date().isoformat()}


def _shown(word: str) -> str:
    if "://" in word:
        from pabtune.tuning.study import without_secrets

        word = without_secrets(word, "")[0]
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    here = Path.cwd()
    if value.startswith(f"{here}/"):
        value = Path(value).relative_to(here).as_posix()
    return f"{option}{equals}{value}"


def evaluation_document(
    rows: Sequence[Mapping[str, Any]],
    prompts: Sequence[Prompt],
    *,
    model: str,
    steps: int,
    device: str,
    budget: str | None,
) -> dict[str, Any]:
    """What `pabtune evaluate` prints and leaves.

    Args:
        rows: of the policies.
        prompts: that they were measured on, or some of.
        model: name or path.
        steps: of the full run.
        device: where it ran.
        budget: that they were judged by.
    """
    from pabtune.tuning.provenance import versions

    parts = {split_of(prompt.prompt) for prompt in prompts}
    return {
        "schema": EVALUATION,
        "model": model,
        "steps": steps,
        "device": device,
        **({} if budget is None else {"budget": budget}),
        "split": parts.pop() if len(parts) == 1 else "mixed",
        "versions": versions(),
        "policies": list(rows),
        "made_by": made_by(),
    }


def search_document(
    result: SearchResult, summary: Mapping[str, Any], profile: Profile, budget: str, pipeline: Any
) -> dict[str, Any]:
    """What `pabtune search` leaves beside its policy.

    Args:
        result: what was found.
        summary: what `--json` prints of it.
        profile: that it was searched on.
        budget: that was held to.
        pipeline: the model, on its device.
    """
    from pabtune.tuning.judging import measured_on
    from pabtune.tuning.provenance import versions

    return {
        **summary,
        "schema": SEARCH,
        "model": profile.model,
        "steps": profile.steps,
        "device": measured_on(pipeline)["device"],
        "budget": budget,
        "profile": profile.digest,
        "name": None if result.best is None else result.best.name,
        "versions": versions(),
        "tried": [_trial(candidate) for candidate in result.candidates],
        "made_by": made_by(),
    }


def _trial(candidate: Candidate) -> dict[str, Any]:
    outcome = candidate.outcome
    return {
        "number": candidate.number,
        "origin": candidate.origin,
        "status": outcome.status,
        "predicted_time": outcome.predicted_time,
        "compute_fraction": outcome.compute_fraction,
        "psnr_db": None if outcome.measured is None else outcome.measured.psnr_db,
        "drop": None if outcome.measured is None else outcome.measured.drop,
        "is_feasible": outcome.is_feasible,
    }


def save_pairs(
    folder: Path, pairs: Sequence[Any], evaluation: Evaluation, frames_per_second: int
) -> list[dict[str, Any]]:
    """Writes pairs of videos of one policy, and returns what a document says of them.

    Args:
        folder: for the files.
        pairs: of videos, the worst first.
        evaluation: of the policy, of which the pairs are some prompts.
        frames_per_second: of the files.
    """
    from pabtune.records.files import as_file_name
    from pabtune.report.videos import save_video

    rows = []
    for place, pair in enumerate(pairs, start=1):
        stem = f"worst-{as_file_name(pair.policy)}-{place}"
        names = {"without": f"{stem}-without.mp4", "with": f"{stem}-with.mp4"}
        save_video(folder / names["without"], pair.without, frames_per_second)
        save_video(folder / names["with"], pair.under, frames_per_second)
        rows.append(
            {
                "policy": pair.policy,
                "prompt": pair.prompt.prompt,
                "seed": int(pair.prompt.seed),
                "psnr_db": evaluation.psnr_db[pair.index],
                **({"drop": evaluation.drops[pair.index]} if evaluation.scores else {}),
                **names,
            }
        )
    return rows
