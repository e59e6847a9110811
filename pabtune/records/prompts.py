"""Prompts with their content class and seed, and their file: JSON lines, or one prompt per line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabtune.records.errors import PromptError
from pabtune.records.files import digest, write_atomically

ANY_CONTENT = "any"
"""Content class of a prompt whose file names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt, its content class, and the seed of its initial noise."""

    prompt: str
    content: str = ANY_CONTENT
    seed: int = 0


def as_prompts(prompts: Sequence[Prompt | str]) -> list[Prompt]:
    """Prompts as records; a text gets its index as seed."""
    return [Prompt(prompt=each, seed=index) if isinstance(each, str) else each for index, each in enumerate(prompts)]


def load_prompts(path: Path, seed: int = 0) -> list[Prompt]:
    """Reads a prompt file: each line a JSON object with `prompt` and, optionally, `content` and `seed`; or plain text.

    Args:
        path: the file.
        seed: where a line has no seed of its own, it gets this plus its line's index.

    Raises:
        PromptError: the file is missing or empty, or a line is broken.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PromptError(f"{path}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not a text file") from error
    prompts = []
    for index, line in enumerate(lines):
        if line.strip():
            fields = _parse_line(line, f"{path}, line {index + 1}")
            prompts.append(Prompt(**{"seed": seed + index, **fields}))
    if not prompts:
        raise PromptError(f"{path}: holds no prompts; make some with: pabtune prompts shapes --count 16 --out {path}")
    return prompts


def save_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Writes JSON lines with `prompt` and `content`, atomically; seeds come from the order of the lines."""
    lines = [json.dumps({"prompt": prompt.prompt, "content": prompt.content}) for prompt in prompts]
    write_atomically(path, lambda partial: partial.write_text("\n".join(lines) + "\n", encoding="utf-8"))


def digest_prompts(prompts: Sequence[Prompt]) -> str:
    """Checksum of prompts, content classes and seeds, in their order."""
    return digest([[prompt.prompt, prompt.content, prompt.seed] for prompt in prompts])


def _parse_line(line: str, source: str) -> dict[str, Any]:
    if not line.lstrip().startswith("{"):
        return {"prompt": line.strip()}
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise PromptError(f"{source}: broken JSON: {error.msg}") from error
    unknown = sorted(set(fields) - {"prompt", "content", "seed"})
    if unknown:
        raise PromptError(f"{source}: unknown key {unknown[0]!r}; a line holds `prompt`, `content`, `seed`")
    if not isinstance(fields.get("prompt"), str) or not isinstance(fields.get("content", ""), str):
        raise PromptError(f"{source}: `prompt` and `content` must be text, and `prompt` must be there")
    seed = fields.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise PromptError(f"{source}: `seed` must be a whole number of at least 0, but is {seed!r}")
    return dict(fields)
