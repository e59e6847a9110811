"""What stands on a page, from files as the verbs leave them."""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pabtune.records.errors import FileError
from pabtune.records.files import save_json
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.profiles import Profile
from pabtune.report.page import clips
from pabtune.report.page.commands import as_line
from pabtune.report.page.folder import read_folder
from pabtune.report.page.page import Page, page_of
from pabtune.report.page.rendering import as_html
from pabtune.report.page.results import result_of_policy
from pabtune.report.page.svg import even_ticks, path
from pabtune.report.page.words import points, verdict_in_words
from tests.report.folders import (
    FRONT,
    POLICY,
    PROFILE,
    leave_all,
    leave_comparison,
    leave_evaluation,
    leave_front,
    leave_profile,
    leave_search,
)

EMPTY = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")


class Checked(HTMLParser):
    """Elements that are closed in their order, attributes by element, headings in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.headings, self.attributes = [], [], []

    def handle_starttag(self, tag, attributes) -> None:
        self.attributes.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attributes) -> None:
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def page(folder: Path) -> Page:
    return page_of(read_folder(folder))


def checked(html: str) -> Checked:
    parser = Checked()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def leave(folder: Path) -> Path:
    leave_all(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "other.json").write_text('{"schema": "pabtune.layout/1"}')
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return leave(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Page:
    """The page of all kinds of files."""
    return page(leave(tmp_path_factory.mktemp("all")))


def test_files_are_known_by_what_they_say_they_are(folder) -> None:
    (folder / "policy.json").rename(folder / "profile.json")
    found = read_folder(folder)
    assert [entry.name for entry in found.profiles] == ["shapes-30steps.json"]
    assert len(found.policies) == 1 + len(list(FRONT.glob("*.json")))
    assert [len(each) for each in (found.evaluations, found.searches, found.comparisons)] == [1, 0, 1]
    assert found.others == 2 + 2 * 2 * 2  # the two above, and videos of two pairs of two policies


def test_a_copy_of_a_file_counts_once(folder) -> None:
    (folder / "again").mkdir()
    (folder / "again" / "policy.json").write_bytes(POLICY.read_bytes())
    assert len(read_folder(folder).policies) == 1 + len(list(FRONT.glob("*.json")))


def test_the_page_has_all_sections_and_is_well_formed(whole) -> None:
    html = as_html(whole)
    parser = checked(html)
    for section in ("verdict", "front", "policy", "curves", "videos", "facts", "reproduce"):
        assert f'<section id="{section}">' in html
    assert parser.headings[0] == 1
    assert parser.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(parser.headings, parser.headings[1:], strict=False))
    assert ("html", {"lang": "en"}) in parser.attributes
    assert all(attributes.get("alt") for tag, attributes in parser.attributes if tag == "img")
    assert all(attributes["aria-label"] for tag, attributes in parser.attributes if tag in ("svg", "video"))
    ids = [attributes["id"] for _, attributes in parser.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_on_a_page_is_fetched_from_elsewhere(whole) -> None:
    for tag, attributes in checked(as_html(whole)).attributes:
        for name in ("src", "href", "poster", "data", "srcset"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), (tag, attributes)


def test_the_same_folder_gives_the_same_page(folder) -> None:
    assert as_html(page(folder)) == as_html(page(folder))


def test_the_headline_is_what_the_search_chose(whole) -> None:
    best = whole.headline
    assert (best.policy, best.file, best.judged.verdict) == ("shapes-30steps", "policy.json", "accept")
    html = as_html(whole)
    assert "<h1>shapes: 3.18× as fast, 44.3 dB to the full run</h1>" in html
    assert "−0.10 to +0.01" in html


def test_a_search_names_its_winner_and_shows_it_once(tmp_path, pipeline) -> None:
    leave_search(tmp_path, pipeline)
    result = page(tmp_path)
    assert (result.headline.policy, result.headline.speedup, result.headline.file) == (
        "found",
        3.0,
        "found.result.json",
    )
    assert [each.policy for each in result.panels[0].results] == ["found", "pab246", "steps:10"]
    assert [panel.title for panel in result.panels] == [
        "What the search found, the floor and fewer steps", "The front and fewer steps",
    ]  # fmt: skip
    assert [(series.name, series.role, len(series.results)) for series in result.panels[1].series] == [
        ("front", "ours", 2), ("fewer steps", "fewer", 2),
    ]  # fmt: skip
    checked(as_html(result))


def test_prompts_and_names_cannot_be_markup(tmp_path) -> None:
    name = "<img src=x onerror=alert(1)>"
    leave_evaluation(tmp_path)
    policy = Policy.load(POLICY)
    replace(policy, name=name, evidence={**policy.evidence, "measured_on": {"device": name}}).save(tmp_path / "p.json")
    html = as_html(page(tmp_path))
    assert html.count("<script") == 1
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert" in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    checked(html)


@pytest.mark.parametrize(
    "evidence",
    [
        {"speedup": "fast", "fidelity": [1], "verdict": {"accept": 1}, "prompts": "many"},
        {"speedup": {"measured": 0}, "verdict": "accept", "score_drop": 3, "classes": [1, 2], "budget": 7},
        {"speedup": {"measured": -1}, "verdict": "<b>", "ci95": None, "fidelity": {"psnr_db": True}},
        {
            "verdict": "undecided",
            "score_drop": {"ci95": [1], "mean": "x"},
            "classes": {"a": {"verdict": "reject"}, "b": 3},
        },
        {"variants": [1], "verdict": ["accept"], "budget": "shapes>=abc", "measured_on": [], "prompts": -3},
        {"verdict": "reject", "budget": "shapes>=1e-3", "score_drop": {"mean": 1, "ci95": ["a", "b"]}, "prompts": 2.5},
    ],
)
@pytest.mark.parametrize(
    "provenance", [{}, {"judged_on": 3, "profile": ["x"], "made_by": 7, "between": [1], "trial": "x"}]
)
def test_odd_evidence_is_left_out(tmp_path, evidence, provenance) -> None:
    """It is free in policies: strings where numbers are expected, and missing keys."""
    policy = Policy.load(POLICY)
    replace(policy, evidence=evidence, provenance={**provenance, "made_by": {"command": [1, "x"], "date": 3}}).save(
        tmp_path / "policy.json"
    )
    html = as_html(page(tmp_path))
    checked(html)
    assert "nan" not in html.lower()
    assert page(tmp_path).headline is None


def test_unseen_is_said_only_where_the_file_says_so() -> None:
    policy = Policy.load(POLICY)
    assert "that the search did not see" in verdict_in_words(result_of_policy("p", policy).judged)
    for provenance in ({}, {**policy.provenance, "judged_on": policy.provenance["prompts"]}, {"judged_on": 3}):
        other = result_of_policy("p", replace(policy, provenance=provenance)).judged
        assert "see" not in verdict_in_words(other)
        assert other.prompts == policy.evidence["prompts"]


def test_an_evaluation_on_any_prompts_claims_nothing_about_them(tmp_path) -> None:
    leave_evaluation(tmp_path, prompt="a red circle")
    document = json.loads((tmp_path / "evaluation.json").read_text())
    assert document["split"] == "mixed"
    assert "did not see" not in as_html(page(tmp_path))
    save_json(tmp_path / "evaluation.json", {**document, "split": "test"})
    assert "did not see" in as_html(page(tmp_path))


def test_a_search_has_one_command_which_a_shell_reads(whole) -> None:
    """The shipped front is of two searches."""
    commands = whole.commands
    searches = {tuple(shlex.split(each.line)): each.files for each in commands if "search" in each.line}
    policies = [Policy.load(path) for path in (POLICY, *FRONT.glob("*.json"))]
    assert set(searches) == {("pabtune", *policy.provenance["made_by"]["command"]) for policy in policies}
    assert sum(len(files) for files in searches.values()) == len(policies)
    (profile,) = [command for command in commands if command.line.startswith("pabtune profile")]
    assert shlex.split(profile.line) == [
        "pabtune",
        "profile",
        "shapes",
        "--steps",
        "30",
        "--out",
        "shapes-30steps.json",
    ]


def test_every_number_leads_to_a_command_or_to_why_there_is_none(whole) -> None:
    result = whole
    files = {file for command in result.commands for file in command.files}
    assert {each.file for each in result.verdicts} | {panel.file for panel in result.panels} <= files
    assert all(command.line or command.remark for command in result.commands)
    html = as_html(result)
    assert set(re.findall(r'href="#command-(\d+)"', html)) <= set(re.findall(r'id="command-(\d+)"', html))


def test_commands_tell_no_passwords_and_no_places_of_a_machine() -> None:
    words = (
        "search",
        "/home/me/p.json",
        "--storage",
        "postgresql://me:secret@host/db",
        "--out=/tmp/o.json",
        "a b",
        "C:\\x\\y",
    )
    assert "ecret" not in as_line(("search", "--storage", "postgresql://me:s@ecret@host/db"))
    line = as_line(words)
    assert "secret" not in line
    assert shlex.split(line) == [
        "pabtune", "search", "p.json", "--storage", "postgresql://me:***@host/db", "--out=o.json", "a b", "y",
    ]  # fmt: skip


def test_the_worst_videos_come_first_and_the_others_are_counted(tmp_path, monkeypatch) -> None:
    leave_evaluation(tmp_path)
    found = page(tmp_path).clips
    assert [each.psnr_db for each in found.pairs] == [25.0, 27.0, 30.0, 40.0]
    assert all(each.without.video.startswith("data:video/mp4;base64,") for each in found.pairs)
    assert all((each.without.width, each.without.height) == (192, 192) for each in found.pairs)
    monkeypatch.setattr(clips, "MOST_PAIRS", 1)
    assert list(page(tmp_path).clips.left_out.values()) == [3]
    assert "3 pairs are left out: for lack of room" in as_html(page(tmp_path))
    monkeypatch.setattr(clips, "MOST_BYTES_OF_ALL", 100)
    assert page(tmp_path).clips.pairs == ()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside.mp4", "outside"),
        ("/etc/passwd", "not .mp4"),
        ("gone.mp4", "missing"),
        ("broken.mp4", "can be read"),
        ("a\x00b.mp4", "missing"),
        ("x" * 5000 + ".mp4", "missing"),
    ],
)
def test_videos_that_cannot_be_shown_are_named(tmp_path, name, reason) -> None:
    leave_evaluation(tmp_path / "in")
    (tmp_path / "outside.mp4").write_bytes((tmp_path / "in" / "worst-mine-1-with.mp4").read_bytes())
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no video")
    document = json.loads((tmp_path / "in" / "evaluation.json").read_text())
    document["videos"] = [{**document["videos"][0], "with": name}]
    save_json(tmp_path / "in" / "evaluation.json", document)
    ((told, count),) = page(tmp_path / "in").clips.left_out.items()
    assert count == 1
    assert re.search(reason, told)


def test_a_comparison_has_a_curve_for_each_method_and_ours_first(tmp_path) -> None:
    leave_comparison(tmp_path)
    (panel,) = page(tmp_path).panels
    assert [(series.name, series.role, len(series.results)) for series in panel.series] == [
        ("pabtune", "ours", 2), ("fewer-steps", "fewer", 2), ("teacache", "peer", 2),
    ]  # fmt: skip
    assert panel.series[0].results[0].speedup == pytest.approx(2.0)
    best = page(tmp_path).headline
    assert (best.policy, best.psnr_db) == ("pabtune, k 1.2", 36.0)  # the closest of those that are twice as fast


def test_what_nobody_measured_is_drawn_as_a_gap(tmp_path) -> None:
    profile = Profile.load(PROFILE)
    arrays = {name: array.copy() for name, array in profile.arrays.items()}
    arrays["change"][..., 5:9] = float("nan")
    replace(profile, arrays=arrays).save(tmp_path / "profile.json")
    html = as_html(page(tmp_path))
    assert "nan" not in html.lower()
    assert path([(0, 1), (1, float("nan")), (2, 3), (3, 3)]) == "M0 1M2 3L3 3"


def test_only_a_profile_makes_a_page_too(tmp_path) -> None:
    leave_profile(tmp_path)
    html = as_html(page(tmp_path))
    assert "No speed and no closeness has been measured yet" in html
    assert '<section id="front">' not in html
    checked(html)


def test_a_policy_of_very_many_steps_stays_small(tmp_path) -> None:
    Policy.from_document(
        {
            "schema": "pabtune.policy/2",
            "name": "long",
            "steps": 10_000,
            "rules": [{"kind": "mlp", "range": 2, "window": [0, 9999]}],
        }
    ).save(tmp_path / "p.json")
    assert len(as_html(page(tmp_path))) < 2_000_000


def test_a_folder_that_holds_nothing_of_ours_says_what_to_run(tmp_path) -> None:
    (tmp_path / "a.json").write_text('{"x": 1}')
    with pytest.raises(FileError, match="holds nothing that pabtune measured; run `pabtune demo"):
        read_folder(tmp_path)


def test_ticks_are_round_and_points_have_no_negative_zero() -> None:
    assert even_ticks(0, 104, 10) == [0, 20, 40, 60, 80, 100]
    assert even_ticks(-0.1, 1.1, 7) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert (points(-0.004), points(-0.4), points(None)) == ("+0.00", "−0.40", "–")


def test_policies_by_speed_and_the_front_beside_the_winner(tmp_path) -> None:
    leave_front(tmp_path)
    result = page(tmp_path)
    assert [picture.name for picture in result.policies[:3]] == [
        "shapes-30steps", "shapes-30steps-7of30", "shapes-30steps-8of30",
    ]  # fmt: skip
    (panel,) = result.panels
    assert [(series.name, len(series.results)) for series in panel.series] == [
        ("front", len(list(FRONT.glob("*.json")))),
        ("chosen by the search", 1),
    ]


def test_policies_of_two_models_are_two_fronts(tmp_path) -> None:
    """Without provenance they were joined to one."""
    policy = Policy.load(POLICY)
    for model in ("WanTransformer3DModel", "LTXVideoTransformer3DModel"):
        made_for = MadeFor(model=model, steps=30)
        replace(policy, name=model, made_for=made_for, provenance={}).save(tmp_path / f"{model}.json")
    assert len(page(tmp_path).panels) == 2


@pytest.mark.parametrize("evidence", [{"ci95": [-1e308, 1e308]}, {"budget": "shapes>=-" + "9" * 400}])
def test_numbers_that_nothing_measures_are_not_drawn(tmp_path, evidence) -> None:
    policy = Policy.load(POLICY)
    replace(policy, evidence={**policy.evidence, **evidence}).save(tmp_path / "policy.json")
    checked(as_html(page(tmp_path)))
