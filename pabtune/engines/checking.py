"""Whether an engine ran the mask that it was given, by what it tells of a run.

Read are what `cache_dit.summary(pipe)` returns, printed or as JSON, or logs with its details; an SGLang server's log, which
tells counts alone; and JSON lists of the steps that computed, by transformer.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pabtune.engines.export import Export
from pabtune.engines.step_masks import StepMask, span
from pabtune.records.errors import FileError

SAVE_SUMMARY = 'json.dump([vars(each) for each in cache_dit.summary(pipe)], open("summary.json", "w"), default=str)'
"""What a user does after a run, to have something to check."""

DYNAMIC = "policy dynamic: a threshold decides at the steps that the mask holds"
"""Said even where the steps were the same: for another prompt they need not be."""

_STATS = re.compile(
    r"cached_steps=\[(?P<held>[\d, ]*)\].*?cfg_cached_steps=\[(?P<second>[\d, ]*)\].*?"
    r"accumulated_executed_steps=(?P<steps>\d{1,9}), accumulated_transformer_executed_steps=(?P<calls>\d{1,9})",
    re.DOTALL,
)
_MASK_LINE = re.compile(r"SCM: generated mask with (\d{1,9}) compute steps, (\d{1,9}) cache steps")
_POLICY_LINE = re.compile(r"SCM enabled.*policy=(\w+)")
_SERVER = re.compile(r"sglang|SCM", re.IGNORECASE)
_PRINTED = "Cache Context Options:"
_COUNTS = re.compile(r"Executed Steps: (\d{1,9}), Transformer Executed Steps: (\d{1,9})")
_LISTED = re.compile(r"(CFG )?Cache Steps: \d{1,9}, \[([\d, ]*)\]")
_BY_THRESHOLD = "steps_computation_policy='dynamic'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How a run compares with the mask.

    Attributes:
        differences: in words; empty = it ran the mask.
        seen: what was compared.
    """

    differences: tuple[str, ...]
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stats:
    """What cache-dit tells of one list of blocks, or of a transformer."""

    held: tuple[int, ...]
    second_held: tuple[int, ...]
    steps: int
    calls: int


def check(export: Export, text: str, source: str) -> Check:
    """Compares a run with the mask of an export.

    Args:
        export: with masks.
        text: what the engine told of the run.
        source: names the text in messages.

    Raises:
        FileError: the text is nothing of what is read, or the export has no mask.
    """
    if not export.masks:
        raise FileError(f"{export.engine.name} takes no mask of a policy, so that none can be checked")
    if not text.strip():
        raise FileError(f"{source}: is empty; after a run, save it: {SAVE_SUMMARY}")
    document = _json(text)
    if document is not None:
        return _with_policy(_check_document(export.masks, document, source), text)
    if "CacheStats(" in text:
        found = [
            _Stats(
                held=_numbers(each["held"]), second_held=_numbers(each["second"]), steps=int(each["steps"]),
                calls=int(each["calls"]),
            )
            for each in _STATS.finditer(text)
        ]  # fmt: skip
        return _with_policy(_check_stats(export.masks, found, source), text)
    if _PRINTED in text:
        return _with_policy(_check_stats(export.masks, _printed(text, source), source), text)
    if _MASK_LINE.search(text) or _SERVER.search(text):
        return _check_log(export.masks, text)
    raise FileError(
        f"{source}: neither what cache_dit.summary returns, nor a server's log, nor a JSON list of computed steps; after a "
        f"run, save it: {SAVE_SUMMARY}"
    )


def _with_policy(checked: Check, text: str) -> Check:
    """Adds what a configuration tells that cache-dit prints beside the steps."""
    if _BY_THRESHOLD not in text:
        return checked
    return replace(checked, differences=(*checked.differences, DYNAMIC))


def _printed(text: str, source: str) -> list[_Stats]:
    """What `cache_dit.summary(pipe, details=True)` logs, list by list and transformer by transformer.

    Raises:
        FileError: there are no steps: of a static mask it logs none.
    """
    found = []
    for section in text.split(_PRINTED)[1:]:
        counts = _COUNTS.search(section)
        lists = {bool(second): _numbers(steps) for second, steps in _LISTED.findall(section)}
        if counts is None or False not in lists:
            raise FileError(f"{source}: cache-dit logs no steps of a static mask; save what it returns: {SAVE_SUMMARY}")
        found.append(
            _Stats(held=lists[False], second_held=lists.get(True, ()), steps=int(counts[1]), calls=int(counts[2]))
        )
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d{1,9}", text))


def _check_document(masks: Sequence[StepMask], document: Any, source: str) -> Check:
    """Compares with lists of computed steps, or with what cache-dit returned."""
    if isinstance(document, list) and document and all(isinstance(each, dict) for each in document):
        return _check_stats(masks, [_stats(each, source) for each in document], source)
    if isinstance(document, list) and len(masks) == 1:
        document = {masks[0].transformer: document}
    if not isinstance(document, dict) or not all(_is_steps(each) for each in document.values()):
        raise FileError(
            f"{source}: a list of the steps that computed is needed, [0, 1, 4], or one for each of "
            f"{', '.join(mask.transformer for mask in masks)} by its name"
        )
    if set(document) != {mask.transformer for mask in masks}:
        raise FileError(
            f"{source}: has steps of {', '.join(document) or 'nothing'}, but the masks are of "
            f"{', '.join(mask.transformer for mask in masks)}"
        )
    differences = [
        line for mask in masks for line in _compare(mask, set(document[mask.transformer]), mask.transformer, len(masks))
    ]
    return Check(differences=tuple(differences), seen="the steps that computed")


def _is_steps(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)


def _stats(document: Mapping[str, Any], source: str) -> _Stats:
    """One entry of what cache-dit returned, as JSON."""
    held, second = document.get("cached_steps"), document.get("cfg_cached_steps", [])
    steps = document.get("accumulated_executed_steps")
    if not (_is_steps(held) and _is_steps(second) and isinstance(steps, int)):
        raise FileError(
            f"{source}: an entry lacks cached_steps, cfg_cached_steps or accumulated_executed_steps; save it with "
            f"{SAVE_SUMMARY}"
        )
    calls = document.get("accumulated_transformer_executed_steps", steps)
    if not isinstance(calls, int):
        raise FileError(f"{source}: accumulated_transformer_executed_steps must be a whole number, but is {calls!r}")
    return _Stats(held=tuple(held or ()), second_held=tuple(second), steps=steps, calls=calls)


def _check_stats(masks: Sequence[StepMask], found: Sequence[_Stats], source: str) -> Check:
    """Compares with what cache-dit tells: lists of blocks first, one transformer after the other, then the transformers."""
    if not any(each.steps for each in found):
        return Check(
            differences=("nothing ran under cache-dit: it was not enabled, or no video was generated since",),
            seen="what cache_dit.summary returned",
        )
    lists, rest = divmod(len(found) - len(masks), len(masks))
    if rest or lists < 1:
        raise FileError(f"{source}: has {len(found)} entries, which do not belong to {len(masks)} transformers")
    owners = [mask for mask in masks for _ in range(lists)] + list(masks)
    differences = dict.fromkeys(
        line for mask, stats in zip(owners, found, strict=True) for line in _compare_stats(mask, stats, len(masks))
    )
    return Check(differences=tuple(differences), seen="what cache_dit.summary returned")


def _compare_stats(mask: StepMask, stats: _Stats, count: int) -> Iterator[str]:
    """Differences of one entry from a mask, for each guidance branch."""
    steps = len(mask.computes)
    if stats.steps != steps:
        where = f"{mask.transformer}: " if count > 1 else ""
        yield f"{where}the run had {stats.steps} steps, but the mask is of {steps}"
        return
    yield from _compare(mask, set(range(steps)) - set(stats.held), mask.transformer, count)
    if stats.calls > stats.steps:
        name = f"{mask.transformer}, second call" if count > 1 else "second call of a step"
        yield from _compare(mask, set(range(steps)) - set(stats.second_held), name, 2)


def _compare(mask: StepMask, computed: set[int], name: str, count: int) -> Iterator[str]:
    """Differences of computed steps from a mask, in words."""
    where = f"{name}: " if count > 1 else ""
    wished = set(mask.computed_steps)
    if computed - wished and not (wished - computed) and len(computed) >= len(mask.computes):
        yield f"{where}nothing was cached: all {len(mask.computes)} steps computed, {mask.held} should have been held"
        return
    if computed - wished:
        yield f"{where}computed at steps {span(computed - wished)}, which the mask holds"
    if wished - computed:
        yield f"{where}held at steps {span(wished - computed)}, which the mask computes"


def _check_log(masks: Sequence[StepMask], text: str) -> Check:
    """Compares with the counts of a server's log."""
    counts = {(int(computes), int(holds)) for computes, holds in _MASK_LINE.findall(text)}
    wished = {(len(mask.computed_steps), mask.held) for mask in masks}
    differences = []
    if not counts:
        differences.append("nothing was cached: no line of the log says that a mask was generated")
    for computes, holds in sorted(counts - wished):
        differences.append(f"a mask of {computes} computed and {holds} held steps ran")
    if counts:
        differences += [
            f"no mask of {computes} computed and {holds} held steps ran" for computes, holds in sorted(wished - counts)
        ]
    for policy in sorted(set(_POLICY_LINE.findall(text)) - {"static"}):
        differences.append(DYNAMIC if policy == "dynamic" else f"policy {policy}, which is not known here")
    return Check(
        differences=tuple(differences), seen="numbers of steps in a log, which does not tell the steps themselves"
    )
