"""The command with a study in PostgreSQL, run for real."""

import json

import pytest
from optuna.trial import TrialState

from pabtune.tuning.study import open_study
from tests.cli.conftest import start, write_prompts

pytestmark = pytest.mark.postgres


def test_the_command_searches_in_it_with_two_workers_and_with_another_machines_beside_them(
    postgres, short_profile, tmp_path
) -> None:
    """The other machine has folders of its own, and begins later: it finds the study, and judges what it ends with."""
    words = [
        "search", short_profile, "--budget", "shapes>=-80", "--prompts", write_prompts(tmp_path / "many.jsonl", 18, 6),
        "--floor", "none", "--storage", postgres, "--json",
    ]  # fmt: skip
    here, there = (
        (*words, "--out", f"{tmp_path}/{each}.json", "--logdir", f"{tmp_path}/{each}") for each in ("a", "b")
    )
    first = start(*here, "--trials", "6", "--workers", "2")
    beside = start(*there, "--trials", "6")
    documents = []
    for each in (first, beside):
        out, err = each.communicate(timeout=300)
        assert each.returncode == 1, err  # undecided on so few prompts
        documents.append(json.loads(out))
        assert f"optuna-dashboard {postgres}" in err
    assert [each["trials"] for each in documents] == [6, 6]
    assert documents[0]["study"] == documents[1]["study"]
    study = open_study(postgres, documents[0]["study"])[0]
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 6
    assert not study.get_trials(states=(TrialState.RUNNING,))
    workers = {trial.user_attrs["worker"]["process"] for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    assert len(workers) >= 2
