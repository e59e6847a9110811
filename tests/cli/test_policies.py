import io
import sys

import numpy as np
import pytest

from pabtune.records.policies import Policy
from tests.cli.conftest import POLICY, PROFILE, ROOT
from tests.records.test_profiles import make_profile, with_sensitivity


def test_policies_lists_the_presets(pabtune) -> None:
    assert list(pabtune("policies", "--json").document()["presets"]) == ["none", "pab246", "pab357", "pab579"]
    assert "pab246" in pabtune("policies").stdout


def test_show_prints_a_row_for_each_kind(pabtune, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = pabtune("policies", "show", "pab246", "--profile", PROFILE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[4:8] == [
        "spatial all layers   ███████░█░█░█░█░█░█░█░█░██████  21/30 hold",
        "temporal all layers  ██████░░█░░░█░░░█░░░█░░░██████  16/30 hold",
        "cross all layers     ███████░░░░░█░░░░░█░░░░░██████  15/30 hold",
        "mlp all layers       ██████████████████████████████  30/30",
    ]


def test_show_reads_policies_by_name_and_from_files(pabtune) -> None:
    document = pabtune("policies", "show", POLICY, "--json").document()
    (rule,) = Policy.load(POLICY).rules
    assert document["rows"][0]["steps"]["compute"] == list(rule.compute)
    assert document["evidence"]["verdict"] == "accept"
    named = pabtune("policies", "show", "every:2:linear", "--steps", "8", "--json").document()
    assert named["rows"][0]["steps"] == {"compute": [0, 1, 2, 4, 6, 7], "broadcast": [3, 5]}


def test_show_draws_a_figure(pabtune, tmp_path) -> None:
    out = tmp_path / "shown.png"
    done = pabtune("policies", "show", POLICY, "--out", str(out))
    assert (done.returncode, done.stderr) == (0, f"written: {out}\n")
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "9/30 scaled" in done.stdout


def test_show_uses_letters_where_blocks_cannot_be_printed(pabtune, monkeypatch) -> None:
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    pabtune("policies", "show", "every:2", "--steps", "6")
    printed.seek(0)
    assert "whole call   ######--####  5/6 hold" in printed.read()


MISTAKES = {
    "no such file": ("show nothing.json", "neither a policy file nor a preset"),
    "unknown preset": ("show pab1", "neither a policy file nor a preset"),
    "odd name": ("show every:1", "is not a number from 2 to 9999"),
    "a profile as policy": (f"show {PROFILE}", "key `schema` must be"),
    "a policy as profile": (f"show pab246 --profile {POLICY}", "not a pabtune.profile file"),
    "no such profile": ("show pab246 --profile none.json", "No such file"),
    "zero steps": ("show pab246 --steps 0", "0 is not in the range"),
    "other steps": ("show steps:22 --steps 30", "a run of 22 denoising steps, not of 30"),
    "wrong content": ("show pab246 --content wild", "no variant for content 'wild'"),
    "not a PNG": ("show pab246 --out T/shown.jpg", "a figure must end in .png"),
    "no such folder": ("show pab246 --out T/none/shown.png", "there is no folder"),
    "a folder": ("show pab246 --out T/folder.png", "is a folder"),
    "no policy": ("show", "Missing argument 'POLICY'"),
    "unknown command": ("draw pab246", "No such command 'draw'"),
    "ranking by an old profile": ("rank T/old.json every:2", "cannot rank schedules: it was made before"),
    "nothing to rank": (f"rank {PROFILE}", "Missing argument 'POLICY...'"),
    "flag before the command": ("--json show pab246", "pabtune policies show POLICY --json"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_exit_with_two_and_one_line(pabtune, tmp_path, name) -> None:
    words, message = MISTAKES[name]
    (tmp_path / "folder.png").mkdir()
    make_profile().save(tmp_path / "old.json")
    done = pabtune("policies", *words.replace("T/", f"{tmp_path}/").split())
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_a_policy_between_two_of_the_shipped_front(pabtune, tmp_path) -> None:
    front = ROOT / "policies" / "shapes-30steps-front"
    ends = [str(front / f"shapes-30steps-{count}of30.json") for count in (12, 15)]
    done = pabtune("policies", "between", *ends, "--compute", "13", "--out", str(tmp_path / "p.json"))
    assert done.returncode == 0
    assert "unmeasured" in done.stderr
    (rule,) = Policy.load(tmp_path / "p.json").rules
    assert len(rule.compute) == 13
    for words, told in (
        ((*ends, "--compute", "20"), "20 computed steps are not between the 12"),
        ((ends[0], str(tmp_path / "no.json"), "--compute", "13"), "no.json"),
        ((*ends, "--compute", "0"), "--compute"),
    ):
        refused = pabtune("policies", "between", *words, "--out", str(tmp_path / "q.json"))
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert told in refused.stderr


def test_rank_orders_policies_by_a_profile_alone(pabtune, tmp_path) -> None:
    profile = with_sensitivity(make_profile(12), products=np.stack([np.eye(12)] * 2))
    profile.save(tmp_path / "p.json")
    names = ["every:4", "every:2", "none"]
    ranked = pabtune("policies", "rank", str(tmp_path / "p.json"), *names, "--json").document()["ranking"]
    assert [each["policy"] for each in ranked] == ["none", "every:2", "every:4"]
    assert ranked[1]["computed"] == [0, 1, 2, 4, 6, 8, 10, 11]
    assert ranked[0]["worst_error"] == 0 < ranked[1]["worst_error"] < ranked[2]["worst_error"]
    shown = pabtune("policies", "rank", str(tmp_path / "p.json"), *names, "--content", "still").stdout.splitlines()
    assert shown[1].startswith("every:2    8/12 computed  error of the latents")
    other = pabtune("policies", "rank", str(tmp_path / "p.json"), *names, "--content", "wild")
    assert "has no content 'wild'" in other.refusal()
