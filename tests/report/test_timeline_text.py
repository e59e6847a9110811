"""Lines of text, exactly, and that they keep to the width."""

import pytest

from pabtune.planning.presets import find_policy
from pabtune.planning.timelines import timeline_of
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.report.timeline_text import ASCII_SYMBOLS, summary_lines, timeline_lines
from tests.cli.conftest import FRONT_POLICY, POLICY
from tests.planning.test_timelines import EVERY_KIND, of_two_transformers


def test_every_kind_in_80_columns() -> None:
    assert timeline_lines(timeline_of(EVERY_KIND), 80) == [
        "every kind, 12 steps",
        "",
        "step                 0         5         10",
        "whole call           ████▄▄██░░▄▄▄▄██░░██▄▄▄▄  7.5/12 linear:0.7",
        "guidance difference  ████░░██··░░░░██··██░░░░  5/12 hold",
        "block layer 0        ████░░░░··▄▄▄▄██··░░▄▄▄▄  5/12 hold",
        "spatial layer 0      ████······▄▄▄▄██····▄▄▄▄  5/12",
        "spatial layers 1+    ████░░░░··▄▄▄▄██··░░▄▄▄▄  5/12 hold",
        "temporal layer 1     ██░░▄▄██··░░░░░░··██░░░░  3.5/12 hold",
        "cross layer 0        ██░░······▄▄▄▄██····▄▄▄▄  4/12 hold",
        "cross layers 1+      ██░░░░░░··▄▄▄▄██··██░░░░  4/12 hold",
        "mlp layer 0          ██░░······▄▄▄▄██····▄▄▄▄  4/12 hold",
        "",
        "█ computes   ▄ computes one guidance branch   ░ broadcasts   · not reached",
        "",
        "computed: 10 of 12 steps call the transformer, 1 compute everything in it",
        "made for: 12 steps",
    ]


def test_a_shipped_policy_with_its_evidence() -> None:
    """Figures are those of its file, which is made anew now and then."""
    policy = Policy.load(FRONT_POLICY)
    computed, evidence = policy.rules[0].compute or (), policy.evidence
    psnr_db, worst_psnr_db = (evidence["fidelity"][key] for key in ("psnr_db", "worst_psnr_db"))
    lines = timeline_lines(timeline_of(policy), 80, ASCII_SYMBOLS)
    assert lines[:-2] == [
        "shapes-30steps-12of30, 30 steps",
        "",
        "step         0    5    10   15   20   25",
        "noise level  1.00 0.94 0.86 0.75 0.60 0.38",
        f"whole call   {''.join('#' if step in computed else '-' for step in range(30))}  12/30 scaled",
        "",
        "# computes   - broadcasts",
        "",
        "computed: 12 of 30 steps call the transformer; 40.0% of all site calls compute",
        "made for: STDiT3Transformer3DModel, 30 steps, FlowMatchEulerDiscreteScheduler",
    ]
    assert " ".join(" ".join(lines[-2:]).split()) == (
        f"measured: accept, {evidence['speedup']['measured']:.2f}x as fast on cpu, mean PSNR {psnr_db:.2f} dB, worst "
        f"{worst_psnr_db:.2f} dB, score drop {evidence['score_drop']['mean']:+.2f}, "
        f"{evidence['prompts']} prompts"
    )


def test_more_steps_than_columns_go_on_below() -> None:
    lines = timeline_lines(timeline_of(find_policy("every:2"), steps=70), 60)
    assert lines[2:7] == [
        "step         0    5    10   15   20   25   30",
        f"whole call   {'███░' + '█░' * 15}█",
        "",
        "step         35   40   45   50   55   60   65",
        f"whole call   {'░█' * 16}░██  37/70 hold",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("name", ["pab246", "latte/pab236", "open-sora-plan-1.1/delta-dit", "every:2:quadratic:0.25"])
def test_no_line_is_wider_than_the_terminal(name, width) -> None:
    assert max(map(len, timeline_lines(timeline_of(find_policy(name)), width))) <= width


def test_rows_name_their_transformer_where_there_are_several() -> None:
    policy = Policy(name="p", rules=(Rule(kind="spatial", compute=(0, 3)),))
    lines = timeline_lines(timeline_of(policy, profile=of_two_transformers()), 80)
    assert lines[4:6] == [
        "transformer spatial all layers    ██░░        1/2 hold",
        "transformer_2 spatial all layers      ████░░  2/3 hold",
    ]  # fmt: skip


def test_evidence_may_be_anything() -> None:
    evidence = {"verdict": ["accept"], "speedup": 3, "fidelity": {"psnr_db": "high"}, "prompts": True}
    assert summary_lines(timeline_of(Policy(name="p", evidence=evidence)))[1:] == []


def test_text_of_a_file_cannot_move_the_cursor() -> None:
    policy = Policy(name="a\x1b[2Jb\nc", evidence={"verdict": "\x1b[31mred"}, made_for=MadeFor(model="\x07"))
    assert all(line.isprintable() for line in timeline_lines(timeline_of(policy), 80))


@pytest.mark.parametrize(
    ("policy", "steps", "note"),
    [
        (find_policy("pab246"), None, "assumed to fall evenly"),
        (find_policy("open-sora-1.2/pab246"), 20, "interpolated"),
        (find_policy("open-sora-1.2/pab246"), 20, "carried over to this one"),
        (Policy(name="p", variants={"slow": (), "fast": ()}), None, "variants for slow, fast"),
    ],
)
def test_notes_say_how_the_picture_came_about(policy, steps, note) -> None:
    assert any(note in line for line in summary_lines(timeline_of(policy, steps)))
    assert not [line for line in summary_lines(timeline_of(Policy.load(POLICY))) if line.startswith("note")]
