"""VBench's prompts as pabtune ships them: the suites of its dimensions, and its eight content categories.

The lists are VBench's own (Apache-2.0; `lists/NOTICE` says whose, from where and which version). VBench need not be installed.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import chain, zip_longest

from pabtune.records.errors import PromptError
from pabtune.records.prompts import ANY_CONTENT, Prompt
from pabtune.vbench.dimensions import DIMENSIONS, find_dimensions

CATEGORIES = ("animal", "architecture", "food", "human", "lifestyle", "plant", "scenery", "vehicles")
"""Content categories of VBench, 100 prompts each."""

SHARED_SUITES: Mapping[str, str] = {
    "motion_smoothness": "subject_consistency",
    "dynamic_degree": "subject_consistency",
    "background_consistency": "scene",
    "aesthetic_quality": "overall_consistency",
    "imaging_quality": "overall_consistency",
}
"""Dimensions that are scored on the suite of another one."""

SUITES = tuple(name for name in DIMENSIONS if name not in SHARED_SUITES)
"""The 11 suites, in the order of VBench's tables."""

MOTION: Mapping[str, str] = {"temporal_flickering": "still", "subject_consistency": "motion"}
"""Content class of two suites: the one asks for frozen scenes ("In a still frame, …"), the other for subjects that move."""

AXES = ("categories", "motion")
"""Ways of dividing prompts into content classes: the eight categories, or `still` and `motion`."""


def suite_of(dimension: str) -> str:
    """The suite that a dimension is scored on.

    Raises:
        VbenchError: there is no such dimension.
    """
    (found,) = find_dimensions([dimension])
    return SHARED_SUITES.get(found.name, found.name)


def prompts_of_dimension(name: str) -> list[Prompt]:
    """The suite of a dimension in VBench's order; the class is `still` or `motion` by the suite (`MOTION`), else `any`.

    Raises:
        VbenchError: there is no such dimension.
    """
    suite = suite_of(name)
    content = MOTION.get(suite, ANY_CONTENT)
    return [Prompt(prompt=text, content=content) for text in _lines("dimensions", suite)]


def prompts_of_category(name: str) -> list[Prompt]:
    """The prompts of a category, which is their class, in VBench's order.

    Raises:
        PromptError: there is no such category.
    """
    if name not in CATEGORIES:
        raise PromptError(f"VBench has no category {name!r}; it has {', '.join(CATEGORIES)}")
    return [Prompt(prompt=text, content=name) for text in _lines("categories", name)]


def prompts_of_axis(name: str) -> list[Prompt]:
    """All prompts that have a class on an axis; two stand in two categories each, and have the class of the first.

    Args:
        name: `categories`, or `motion` for `still` and `motion`.

    Raises:
        PromptError: there is no such axis.
    """
    if name == "categories":
        found = [prompt for category in CATEGORIES for prompt in prompts_of_category(category)]
    elif name == "motion":
        found = [prompt for suite in MOTION for prompt in prompts_of_dimension(suite)]
    else:
        raise PromptError(f"VBench's prompts have no content {name!r}; they have {', '.join(AXES)}")
    distinct: dict[str, Prompt] = {}
    for prompt in found:
        distinct.setdefault(prompt.prompt, prompt)
    return list(distinct.values())


def draw_prompts(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """Draws prompts, of each content class as many as can be; a smaller draw is the beginning of a larger one.

    Raises:
        PromptError: there are fewer.
    """
    if count > len(prompts):
        raise PromptError(f"{count} prompts were asked for, but there are {len(prompts)}; ask for fewer, or for all")
    by_content: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda each: sha256(f"{seed}\n{each.prompt}".encode()).digest()):
        by_content.setdefault(prompt.content, []).append(prompt)
    rounds = zip_longest(*(by_content[content] for content in sorted(by_content)))
    return [prompt for prompt in chain.from_iterable(rounds) if prompt is not None][:count]


@cache
def _lines(folder: str, name: str) -> tuple[str, ...]:
    text = (files("pabtune.vbench") / "lists" / folder / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
