"""The record of a page: what stands in each section, as plain data. Knows what is shown, not how it looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pabtune.planning.curves import ALL_CONTENTS
from pabtune.planning.timelines import STATES, State, Timeline, timeline_of
from pabtune.planning.windows import windows_of
from pabtune.records.errors import PabtuneError
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.report.figures import CurvesData, curves_data
from pabtune.report.page.clips import Clips, clips_of
from pabtune.report.page.commands import Command, commands_of, versions_in_words
from pabtune.report.page.folder import Entry, Folder
from pabtune.report.page.panels import Panel, panels_of
from pabtune.report.page.results import Result, inside, result_of_policy, result_of_row, text, with_winner_named
from pabtune.report.page.words import NOTHING, prompts, short

MOST_PROFILES, MOST_POLICIES = 6, 40
"""Of a page; how many there are more is told."""

WORTH = 2.0
"""Speed from which on, where there is no verdict, closeness decides what a page begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one file is about: its name, and words by what they are called."""

    file: str
    kind: str
    rows: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCurves:
    """The U-shape of a profile, and its windows by content class and kind, in words."""

    name: str
    file: str
    data: CurvesData
    windows: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPicture:
    """A policy step by step.

    Attributes:
        name: of the policy.
        file: of it.
        timeline: None where the steps cannot be told.
        states: that stand in it.
        remark: why there is no timeline; may be empty.
    """

    name: str
    file: str
    timeline: Timeline | None
    states: tuple[State, ...]
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All of a page.

    Attributes:
        title: the models.
        is_of_one_model: whether there is one alone, which the headline can be said of.
        headline: the policy that the page is about; None = nothing was measured of any.
        facts: what was measured on what, a record for each file.
        curves: of profiles.
        policies: the headline's first.
        panels: fidelity over time.
        verdicts: results with a verdict, the headline's first.
        clips: worst videos.
        commands: in the order of the files.
        numbers: per file, what it says was measured.
        others: number of files of other kinds.
        left_out: number of profiles and of policies that are not shown.
    """

    title: str
    is_of_one_model: bool
    headline: Result | None
    facts: tuple[Facts, ...]
    curves: tuple[ProfileCurves, ...]
    policies: tuple[PolicyPicture, ...]
    panels: tuple[Panel, ...]
    verdicts: tuple[Result, ...]
    clips: Clips
    commands: tuple[Command, ...]
    numbers: Mapping[str, Sequence[Result]]
    others: int
    left_out: Mapping[str, int]

    def numbers_of(self, command: Command) -> list[Result]:
        """What the files of a command say was measured, the fastest first."""
        told = [result for file in command.files for result in self.numbers.get(file, ())]
        return sorted(told, key=lambda each: -(each.speedup or 0.0))

    def command_of(self, file: str) -> int | None:
        """Number of the command that made a file, from 1 on; None where there is none."""
        return next((i for i, command in enumerate(self.commands, start=1) if file in command.files), None)


def page_of(folder: Folder) -> Page:
    """The page of a folder."""
    of_policies = {entry.name: result_of_policy(entry.name, entry.value) for entry in folder.policies}
    judged = [*_of_searches(folder), *of_policies.values(), *_of_evaluations(folder)]
    panels = tuple(panels_of(folder))
    headline = _headline(judged, [each for panel in panels for each in panel.results])
    order = sorted(
        folder.policies,
        key=lambda entry: (
            headline is None or entry.value.name != headline.policy,
            -(of_policies[entry.name].speedup or 0.0),
        ),
    )
    numbers: dict[str, list[Result]] = {}
    for result in (*judged, *(each for panel in panels for each in panel.results)):
        known = numbers.setdefault(result.file, [])
        if result.is_measured and result not in known:
            known.append(result)
    models = list(dict.fromkeys(_models(folder)))
    return Page(
        title=", ".join(models) or "policies",
        is_of_one_model=len(models) == 1,
        headline=headline,
        facts=tuple(_facts(folder)),
        curves=tuple(_curves(entry) for entry in folder.profiles[:MOST_PROFILES]),
        policies=tuple(_picture(entry, folder.profiles) for entry in order[:MOST_POLICIES]),
        panels=panels,
        verdicts=_verdicts(judged, headline),
        clips=clips_of(folder),
        commands=tuple(commands_of(folder)),
        numbers=numbers,
        others=folder.others,
        left_out={
            "profiles": max(0, len(folder.profiles) - MOST_PROFILES),
            "policies": max(0, len(folder.policies) - MOST_POLICIES),
        },
    )


def _of_searches(folder: Folder) -> list[Result]:
    """What searches judged; on prompts that they did not choose on, by what `pabtune search` does."""
    results = []
    for entry in folder.searches:
        document = with_winner_named(entry.value)
        if document.get("judged") and document.get("judgement"):
            row = {**document["judged"], "judgement": document["judgement"]}
            result = result_of_row(entry.name, row, {**document, "split": "test"})
            results.append(replace(result, is_winner=True))
        for row in document.get("front") or ():
            results.append(result_of_row(entry.name, row, document))
    return results


def _of_evaluations(folder: Folder) -> list[Result]:
    return [
        result_of_row(entry.name, row, entry.value) for entry in folder.evaluations for row in entry.value["policies"]
    ]


def _headline(judged: Sequence[Result], others: Sequence[Result]) -> Result | None:
    """The result that the page begins with: what a search chose, else the fastest of those with the best verdict.

    Without any verdict it is the closest of those that are at least twice as fast as the full run, or else the fastest.
    """
    ours = [each for each in (*judged, *others) if each.role == "ours" and each.is_measured]
    verdicts = {"accept": 0, "undecided": 1, "reject": 2}

    def order(result: Result) -> tuple[bool, int, bool, float]:
        speedup = result.speedup or 0.0
        if result.judged is not None:
            return not result.is_winner, verdicts[result.judged.verdict], False, -speedup
        is_slow = speedup < WORTH
        return not result.is_winner, len(verdicts), is_slow, -speedup if is_slow else -(result.psnr_db or 0.0)

    return min(ours, key=order, default=None)


def _verdicts(judged: Sequence[Result], headline: Result | None) -> tuple[Result, ...]:
    """Each policy's verdicts once: what a policy's file repeats of its search is left out."""
    found: dict[tuple[Any, ...], Result] = {}
    for result in judged:
        if result.judged is not None:
            told = result.judged
            found.setdefault((result.policy, told.verdict, told.prompts, told.mean_drop), result)
    ranked = sorted(
        found.values(), key=lambda each: (headline is None or each.policy != headline.policy, -(each.speedup or 0.0))
    )
    return tuple(ranked)


def _models(folder: Folder) -> list[str]:
    profiled = [entry.value.model or entry.value.made_for.model or "" for entry in folder.profiles]
    told = [entry.value["model"] for entry in folder.documents]
    made_for = [] if profiled or told else [entry.value.made_for.model or "" for entry in folder.policies]
    return [short(each, 60) for each in (*profiled, *told, *made_for) if each]


def _facts(folder: Folder) -> list[Facts]:
    facts = [_of_profile(entry) for entry in folder.profiles]
    facts += [_of_document(entry, "search") for entry in folder.searches]
    facts += [_of_document(entry, "evaluation") for entry in folder.evaluations]
    facts += [_of_document(entry, "comparison") for entry in folder.comparisons]
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for entry in folder.policies:
        groups.setdefault(tuple(_of_policy(entry.value).items()), []).append(entry.name)
    for rows, files in groups.items():
        name = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        facts.append(Facts(file=name, kind="policy" if len(files) == 1 else f"{len(files)} policies", rows=dict(rows)))
    return facts


def _of_profile(entry: Entry[Profile]) -> Facts:
    profile = entry.value
    counts = ", ".join(f"{count} {short(content, 40)}" for content, count in profile.prompts.items())
    total = sum(profile.prompts.values())
    return Facts(
        file=entry.name,
        kind="profile",
        rows=_told(
            {
                "model": profile.model or None,
                "transformer": profile.made_for.model,
                **_settings(profile.made_for.settings),
                "steps": str(profile.steps),
                "scheduler": profile.made_for.scheduler,
                "prompts": f"{prompts(total)}: {counts}" if len(profile.prompts) > 1 else prompts(total),
                "layers": f"{len(profile.sites)} sites",
                "overhead": f"{profile.overhead:.2f}× plain generation",
                "versions": versions_in_words(profile.provenance) or None,
                "day": text(profile.provenance, "made_by", "date"),
            }
        ),
    )


def _of_policy(policy: Policy) -> dict[str, str]:
    made_for = policy.made_for
    return _told(
        {
            "made for": made_for.model or "any model",
            **_settings(made_for.settings),
            "steps": str(made_for.steps or "any"),
            "scheduler": made_for.scheduler,
            "budget": text(policy.evidence, "budget"),
            "device": text(policy.evidence, "measured_on", "device") or text(policy.evidence, "speedup", "device"),
            "versions": versions_in_words(policy.provenance) or None,
            "day": text(policy.provenance, "made_by", "date"),
        }
    )


def _of_document(entry: Entry[Mapping[str, Any]], kind: str) -> Facts:
    document = entry.value
    counted = {
        "search": lambda: f"{document['trials']} trials, {document.get('videos', 0):.0f} videos",
        "evaluation": lambda: prompts(max(row["prompts"] for row in document["policies"])),
        "comparison": lambda: (
            f"{prompts(document['prompts'])}, tuned on {document.get('calibration_prompts', 0)} others"
        ),
    }
    return Facts(
        file=entry.name,
        kind=kind,
        rows=_told(
            {
                "model": document["model"],
                "steps": str(document["steps"]),
                "budget": text(document, "budget"),
                "measured": counted[kind](),
                "device": text(document, "device") or text(document, "environment", "device"),
                "versions": versions_in_words(document.get("versions") or document.get("environment")) or None,
                "day": text(document, "made_by", "date"),
            }
        ),
    )


def _settings(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """Size, precision, device and attention kernel of a run."""
    names = {"size": "size", "dtype": "precision", "device": "device", "attention": "attention"}
    return {names[name]: text(settings, name) for name in names}


def _told(rows: Mapping[str, str | None]) -> dict[str, str]:
    return {name: short(value) for name, value in rows.items() if value is not None}


def _curves(entry: Entry[Profile]) -> ProfileCurves:
    of_contents = windows_of(entry.value)
    windows = {
        content: {
            kind: NOTHING if window.start is None else f"{window.start}–{(window.stop or 0) - 1}"
            for kind, window in kinds.items()
        }
        for content, kinds in sorted(of_contents.items(), key=lambda pair: pair[0] != ALL_CONTENTS)
    }
    return ProfileCurves(
        name=short(entry.value.name), file=entry.name, data=curves_data(entry.value), windows=windows
    )  # fmt: skip


def _picture(entry: Entry[Policy], profiles: Sequence[Entry[Profile]]) -> PolicyPicture:
    """A policy with the sites of its profile where that is at hand, else with those that its rules name."""
    policy, digest = entry.value, text(entry.value.provenance, "profile")
    profile = next((each.value for each in profiles if digest in (each.value.digest, _former(each.value))), None)
    timeline, remark = None, ""
    try:
        timeline = timeline_of(policy, profile=profile if digest is not None else None)
    except PabtuneError as error:
        remark = str(error)
    if timeline is not None and not timeline.rows:
        timeline, remark = None, "it has no rules for prompts of any class: everything computes"
    states = {state for row in timeline.rows for state in row.states} if timeline is not None else set()
    return PolicyPicture(
        name=short(policy.name),
        file=entry.name,
        timeline=timeline,
        states=tuple(state for state in STATES if state in states and state != "idle"),
        remark=short(remark, 300),
    )


def _former(profile: Profile) -> Any:
    return inside(profile.provenance, "upgraded_from")
