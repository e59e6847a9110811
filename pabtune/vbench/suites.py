"""VBench's own prompts: which dimension each belongs to, and what is annotated of it. Read from the installed package."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pabtune.records.errors import VbenchError
from pabtune.records.files import parse_json, read_text
from pabtune.vbench.dimensions import Dimension
from pabtune.vbench.environment import Environment
from pabtune.vbench.videos import Video


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrompt:
    """One of VBench's prompts: the dimensions whose suites it is in, and its annotations by dimension."""

    dimensions: frozenset[str]
    annotation: Mapping[str, Any]


def load_suites(environment: Environment) -> dict[str, OwnPrompt]:
    """VBench's prompts by text; one that stands in the list twice has the dimensions of both.

    Raises:
        VbenchError: the list is not in the environment, or has another form.
    """
    path = environment.site_packages / "vbench" / "VBench_full_info.json"
    entries = parse_json(read_text(path, VbenchError), str(path), VbenchError)
    prompts: dict[str, OwnPrompt] = {}
    try:
        for entry in entries:
            known = prompts.get(entry["prompt_en"], OwnPrompt(dimensions=frozenset(), annotation={}))
            prompts[entry["prompt_en"]] = OwnPrompt(
                dimensions=known.dimensions | set(entry["dimension"]),
                annotation={**known.annotation, **entry.get("auxiliary_info", {})},
            )
    except (TypeError, KeyError, AttributeError) as error:
        raise VbenchError(f"{path}: is no list of VBench's prompts: {json.dumps(str(error))}") from error
    return prompts


def videos_of_suite(videos: Sequence[Video], dimension: Dimension, suites: Mapping[str, OwnPrompt]) -> list[Video]:
    """The videos whose prompts are in a dimension's suite, which must all be there.

    Raises:
        VbenchError: prompts of the suite have no video.
    """
    suite = {text for text, prompt in suites.items() if dimension.name in prompt.dimensions}
    wanted = [video for video in videos if video.prompt in suite]
    missing = sorted(suite - {video.prompt for video in wanted})
    if missing:
        raise VbenchError(
            f"--official: {len(missing)} of {len(suite)} prompts of {dimension.name} have no video, the first is "
            f"{missing[0]!r}; leave --official out to score any prompts"
        )
    return wanted


def is_in_suite(prompt: str, dimension: Dimension, suites: Mapping[str, OwnPrompt]) -> bool:
    """Whether a prompt is of a dimension's suite."""
    return prompt in suites and dimension.name in suites[prompt].dimensions


def check_annotated(prompts: Iterable[str], dimension: Dimension, suites: Mapping[str, OwnPrompt]) -> None:
    """Refuses prompts that a dimension needs an annotation of and has none for.

    Raises:
        VbenchError: a prompt is not one that VBench annotates for this dimension.
    """
    if dimension.reads != "annotation":
        return
    others = [prompt for prompt in prompts if not is_in_suite(prompt, dimension, suites)]
    if others:
        raise VbenchError(f"{dimension.name} scores only VBench's own prompts of its suite, but got {others[0]!r}")
