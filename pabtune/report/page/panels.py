"""Panels of the front: results that were measured on the same prompts and the same clock, and are drawn together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pabtune.records.policies import Policy
from pabtune.report.page.folder import Entry, Folder
from pabtune.report.page.results import (
    Result,
    Role,
    result_of_policy,
    result_of_row,
    result_of_setting,
    text,
    with_winner_named,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Results that have one colour.

    Attributes:
        name: in the legend.
        role: of all of them.
        results: in the order of the file.
        is_joined: whether a line goes through them: they are of one knob.
    """

    name: str
    role: Role
    results: tuple[Result, ...]
    is_joined: bool

    @property
    def drawable(self) -> list[Any]:
        """Those of which time and closeness are known."""
        return [each for each in self.results if each.time_share is not None and each.psnr_db is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A figure and a table.

    Attributes:
        title: what is compared.
        remark: on which prompts.
        file: that it is from; for policies that lie together the first of them.
        series: in the order of the legend.
    """

    title: str
    remark: str
    file: str
    series: tuple[Series, ...]

    @property
    def results(self) -> list[Result]:
        """Of all series."""
        return [each for series in self.series for each in series.results]

    @property
    def is_drawable(self) -> bool:
        """Whether there is anything to see: two points at least."""
        return sum(len(series.drawable) for series in self.series) > 1


def panels_of(folder: Folder) -> list[Panel]:
    """All panels of a folder: of comparisons, of searches and evaluations, and of policies by what their files say."""
    panels = [
        *(panel for entry in folder.searches for panel in _of_search(entry)),
        *(_of_rows(entry, entry.value["policies"], "Policies side by side") for entry in folder.evaluations),
        *(_of_comparison(entry) for entry in folder.comparisons),
    ]
    shown = {
        each.policy for panel in panels for each in panel.results
    }  # these panels say more than the policies' files
    rest = [entry for entry in folder.policies if entry.value.name not in shown]
    return [*panels, *_of_policies(rest)]


def _of_search(entry: Entry[Mapping[str, Any]]) -> list[Panel]:
    document, panels = with_winner_named(entry.value), []
    if document["evaluations"]:
        title = "What the search found, the floor and fewer steps"
        panels.append(_of_rows(entry, document["evaluations"], title, "where finalists were compared"))
    front = document.get("front") or []
    if front:
        ours = tuple(result_of_row(entry.name, row["compared"], document) for row in front)
        fewer = tuple(result_of_row(entry.name, row["fewer_steps"], document) for row in front)
        panels.append(
            Panel(
                title="The front and fewer steps",
                remark=f"each on the same {_prompts([*ours, *fewer])}, in turns with the full run",
                file=entry.name,
                series=(
                    Series(name="front", role="ours", results=ours, is_joined=True),
                    Series(name="fewer steps", role="fewer", results=fewer, is_joined=True),
                ),
            )
        )
    return panels


def _of_rows(
    entry: Entry[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], title: str, remark: str | None = None
) -> Panel:
    results = [result_of_row(entry.name, row, entry.value) for row in rows]
    fewer = tuple(each for each in results if each.role == "fewer")
    series = [
        Series(name=each.policy, role=each.role, results=(each,), is_joined=False)
        for each in results
        if each.role != "fewer"
    ]
    if fewer:
        series.append(Series(name="fewer steps", role="fewer", results=fewer, is_joined=True))
    on = f"on {_prompts(results)}, in turns with the full run"
    return Panel(
        title=title, remark=f"{on}, {remark}" if remark else on, file=entry.name, series=tuple(series)
    )  # fmt: skip


def _of_comparison(entry: Entry[Mapping[str, Any]]) -> Panel:
    document, methods = entry.value, {}
    for setting in document["settings"]:
        result = result_of_setting(entry.name, setting, document)
        methods.setdefault(setting["method"], {}).setdefault(setting["setting"], result)
    series = [
        Series(name=name, role=next(iter(found.values())).role, results=tuple(found.values()), is_joined=True)
        for name, found in methods.items()
    ]
    return Panel(
        title="Methods of the literature and pabtune's own",
        remark=f"on {document['prompts']} prompts, tuned on {document.get('calibration_prompts', 0)} others",
        file=entry.name,
        series=tuple(sorted(series, key=lambda each: ("ours", "fewer", "peer").index(each.role))),
    )


def _of_policies(entries: Iterable[Entry[Policy]]) -> list[Panel]:
    """Policies that were made from one profile and judged on the same prompts, where their files say what was measured."""
    groups: dict[tuple[str | None, ...], list[Result]] = {}
    for entry in entries:
        result = result_of_policy(entry.name, entry.value)
        if result.is_measured:
            made_for, provenance = entry.value.made_for, entry.value.provenance
            key = (made_for.model, made_for.fingerprint, text(provenance, "profile"), text(provenance, "judged_on"))
            groups.setdefault(key, []).append(result)
    return [_of_group(sorted(results, key=lambda each: each.time_share or 0)) for results in groups.values()]


def _of_group(results: Sequence[Result]) -> Panel:
    winners = tuple(each for each in results if each.is_winner)
    front = tuple(each for each in results if not each.is_winner)
    series = [
        Series(name="front" if len(front) > 1 else front[0].policy, role="ours", results=front, is_joined=True)
        if front
        else None,
        Series(name="chosen by the search", role="ours", results=winners, is_joined=False) if winners else None,
    ]
    return Panel(
        title="The front" if len(results) > 1 else "The policy",
        remark=f"as the policies' files say, each on {_prompts(results)}; times of different runs compare as shares alone",
        file=results[0].file,
        series=tuple(each for each in series if each is not None),
    )


def _prompts(results: Sequence[Result]) -> str:
    counts = sorted({each.prompts for each in results if each.prompts is not None})
    if not counts:
        return "an unknown number of prompts"
    if len(counts) > 1:
        return f"{counts[0]} to {counts[-1]} prompts"
    return "1 prompt" if counts[0] == 1 else f"{counts[0]} prompts"
