"""Prompts with their content class and seed, and their file: JSON lines, or one prompt per line."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

from pabtune.records.errors import PromptError
from pabtune.records.files import digest, parse_json, read_text, write_atomically

ANY_CONTENT = "any"
"""Content class of a prompt whose file names none."""

SEEDS = 2**63
"""Number of seeds: torch takes 64 bits, of which indices of prompts need some."""

SEED_STRIDE = 1_000_003
"""Between seeds of one prompt: more than any list of prompts with numbered seeds has."""

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 pair, or a byte that was no UTF-8: no text that could be encoded."""

OTHER_FORMS: Mapping[str, re.Pattern[str]] = {
    "a JSON array": re.compile(r"\[\s*([\[{\"].*|\])?"),
    "YAML": re.compile(r"---|-?\s*(prompts?|content|seed)\s*:.*"),
    "a table": re.compile(r"\W?(prompt|content|seed)\W?(\s*[,;\t|]\s*\W?\w+\W?)+", re.IGNORECASE),
}
"""How files begin that hold prompts in another form."""

LIST_ITEM = re.compile(r"-\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt, its content class, and the seed of its initial noise."""

    prompt: str
    content: str = ANY_CONTENT
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, SupportsIndex) or not 0 <= self.seed < SEEDS:
            raise PromptError(
                f"`seed` must be a whole number of at least 0, with 63 bits at most, but is {self.seed!r}"
            )
        for name in ("prompt", "content"):
            if SURROGATE.search(getattr(self, name)):
                raise PromptError(f"`{name}` must be text, but {getattr(self, name)!r} holds half a character")

    def reseeded(self, number: int) -> "Prompt":
        """The same prompt with another seed for each number; 0 = its own."""
        return replace(self, seed=(self.seed + SEED_STRIDE * number) % SEEDS)


def as_prompts(prompts: Sequence[Prompt | str]) -> list[Prompt]:
    """Prompts as records; a text gets its index as seed."""
    return [Prompt(prompt=each, seed=index) if isinstance(each, str) else each for index, each in enumerate(prompts)]


def load_prompts(path: Path, seed: int = 0) -> list[Prompt]:
    """Reads a prompt file: each line a JSON object with `prompt` and, optionally, `content` and `seed`; or plain text.

    Args:
        path: the file.
        seed: where a line has no seed of its own, it gets this plus its line's index.

    Raises:
        PromptError: the file is missing or empty, a line is broken, or it is JSON of another form, YAML, or a table.
    """
    text = read_text(path, PromptError)
    _check_form(text, str(path))
    prompts = []
    for index, line in enumerate(text.split("\n")):
        if line.strip():
            fields = _parse_line(line, f"{path}, line {index + 1}")
            prompts.append(Prompt(**{"seed": seed + index, **fields}))
    if not prompts:
        raise PromptError(f"{path}: holds no prompts; make some with: pabtune prompts shapes --count 16 --out {path}")
    return prompts


def save_prompts(path: Path, prompts: Sequence[Prompt], *, seeds: bool = False) -> None:
    """Writes JSON lines with `prompt` and `content`, atomically; with `seeds` also `seed`, which else is that of the line."""
    names = ("prompt", "content", "seed") if seeds else ("prompt", "content")
    lines = [json.dumps({name: getattr(prompt, name) for name in names}) for prompt in prompts]
    write_atomically(path, lambda partial: partial.write_text("\n".join(lines) + "\n", encoding="utf-8"))


def digest_prompts(prompts: Sequence[Prompt]) -> str:
    """Checksum of prompts, content classes and seeds, in their order."""
    return digest([[prompt.prompt, prompt.content, prompt.seed] for prompt in prompts])


def _check_form(text: str, source: str) -> None:
    """Refuses files that hold prompts in another form, whose lines would be taken for prompts."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return
    form = next((name for name, pattern in OTHER_FORMS.items() if pattern.fullmatch(lines[0])), None)
    if form is None and len(lines) > 1 and all(LIST_ITEM.match(line) for line in lines):
        form = "a list in YAML"
    if form is not None:
        raise PromptError(
            f'{source}: looks like {form}; write one prompt per line, or on each line {{"prompt": …, "content": …, "seed": …}}'
        )


def _parse_line(line: str, source: str) -> dict[str, Any]:
    if not line.lstrip().startswith("{"):
        return {"prompt": line.strip()}
    fields = parse_json(line, source, PromptError)
    unknown = sorted(set(fields) - {"prompt", "content", "seed"})
    if unknown:
        raise PromptError(f"{source}: unknown key {unknown[0]!r}; a line holds `prompt`, `content`, `seed`")
    if not isinstance(fields.get("prompt"), str) or not isinstance(fields.get("content", ""), str):
        raise PromptError(f"{source}: `prompt` and `content` must be text, and `prompt` must be there")
    try:
        Prompt(**fields)
    except PromptError as error:
        raise PromptError(f"{source}: {error}") from error
    return dict(fields)
