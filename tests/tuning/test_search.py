"""Small searches on the real classes: what is tried, what survives a kill, what wins."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

import pabtune
from pabtune.catalog import CATALOG, ModelCard
from pabtune.catalog.card import sites_in
from pabtune.planning.costs.memory import held_bytes
from pabtune.planning.masks import resolve
from pabtune.records.errors import BudgetError, ProfileError, StudyError
from pabtune.records.prompts import Prompt
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.search import Budget, _open_study, search_policy
from pabtune.tuning.space import Space
from tests.conftest import draw, make_pipeline

CAPTIONS = [
    f"a {color} {shape} {motion}"
    for color in ("red", "blue")
    for shape in ("square", "cross")
    for motion in ("stands still", "rises slowly", "bounces quickly", "moves left")
]
SEARCHED = [Prompt(prompt=text, content="slow", seed=seed) for seed, text in enumerate(CAPTIONS[:4])]
UNSEEN = [Prompt(prompt=text, content="slow", seed=seed) for seed, text in enumerate(CAPTIONS[4:])]


def config(folder: Path, **changes) -> SearchConfig:
    standard = SearchConfig(
        budget=Budget(score="shapes", largest_drop=60.0), trials=9, floor="pab579",
        storage=str(folder / "study.journal"), folder=folder, name="found", arguments={},
    )  # fmt: skip
    return replace(standard, **changes)


@pytest.fixture(scope="module")
def found(profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    seen = []
    result = search_policy(
        make_pipeline(), profile, SEARCHED, UNSEEN, config(folder), lambda own, every: seen.append((own, len(every)))
    )
    return result, seen, folder


def test_the_first_trials_are_the_known_ones(found) -> None:
    result, seen, _ = found
    origins = [candidate.origin for candidate in result.candidates]
    assert origins[:4] == ["no broadcast", "preset pab246", "preset pab357", "preset pab579"]
    assert origins[-1] == "sampler"
    assert len(origins) == 9
    assert [count for _, count in seen] == list(range(1, 10))


def test_the_winner_is_the_fastest_confirmed_candidate_and_carries_its_evidence(found, tmp_path) -> None:
    result, _, _ = found
    feasible = [each for each in result.candidates if each.outcome.is_feasible and each.policy.rules]
    assert result.best is not None
    assert result.best.rules in [each.policy.rules for each in feasible]
    assert result.best.evidence["prompts"] == len(UNSEEN)
    assert result.best.evidence["verdict"] == result.verdict
    assert result.best.provenance["study"] == result.study
    assert result.evaluations[0].compute_fraction == pytest.approx(result.best.evidence["compute_fraction"], abs=1e-3)
    result.best.save(tmp_path / "best.json")
    assert pabtune.Policy.load(tmp_path / "best.json") == result.best


def test_the_same_request_resumes_and_another_does_not(found, profile) -> None:
    result, _, folder = found
    more = []
    again = search_policy(
        make_pipeline(), profile, SEARCHED, UNSEEN, config(folder, trials=10), lambda own, _: more.append(own.number)
    )
    assert again.study == result.study
    assert more == [9]
    assert [c.policy.rules for c in again.candidates[:9]] == [c.policy.rules for c in result.candidates]
    other = search_policy(
        make_pipeline(),
        profile,
        SEARCHED,
        UNSEEN,
        config(folder, trials=1, budget=Budget(score="shapes", largest_drop=1.0)),
    )
    assert other.study != result.study
    assert len(other.candidates) == 1


def test_a_dead_workers_trial_is_tried_again(profile, tmp_path) -> None:
    space, settings = Space(profile), config(tmp_path)
    study = _open_study(profile, SEARCHED, space, settings)
    trial = study.ask()
    trial.suggest_int("mlp.range", 1, 7)
    trial.set_user_attr("worker", f"{os.uname().nodename}:{2**22 + 1}")
    again = _open_study(profile, SEARCHED, space, settings)
    states = [each.state for each in again.get_trials()]
    assert states[0] == optuna.trial.TrialState.FAIL
    queued = [each for each in again.get_trials(states=(optuna.trial.TrialState.WAITING,))]
    assert queued[-1].system_attrs["fixed_params"] == trial.params
    assert queued[-1].user_attrs.get("origin") == "no broadcast"


SCRIPT = """
import sys
from pathlib import Path
import pabtune
from tests.tuning.test_search import SEARCHED, UNSEEN, config
from tests.conftest import make_pipeline
from pabtune.tuning.search import search_policy
folder = Path(sys.argv[1])
profile = pabtune.Profile.load(folder / "profile.json")
search_policy(make_pipeline(), profile, SEARCHED, UNSEEN, config(folder, trials=int(sys.argv[2])),
              lambda own, every: print(own.number, flush=True))
"""


def start(folder: Path, trials: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(trials)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip


def test_a_killed_search_loses_no_finished_trial(profile, tmp_path) -> None:
    profile.save(tmp_path / "profile.json")
    process = start(tmp_path, 50)
    finished = [int(process.stdout.readline()) for _ in range(3)]
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    numbers = []
    result = search_policy(
        make_pipeline(),
        profile,
        SEARCHED,
        UNSEEN,
        config(tmp_path, trials=6),
        lambda own, _: numbers.append(own.number),
    )
    assert {candidate.number for candidate in result.candidates} >= set(finished)
    assert len(result.candidates) >= 6
    assert not set(numbers) & set(finished)
    json.dumps([candidate.outcome.to_document() for candidate in result.candidates])


def test_two_processes_share_a_study(profile, tmp_path) -> None:
    profile.save(tmp_path / "profile.json")
    workers = [start(tmp_path, 8) for _ in range(2)]
    numbers = [[int(line) for line in worker.communicate(timeout=300)[0].split()] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    assert all(numbers)
    assert len(set(numbers[0]) | set(numbers[1])) == len(numbers[0]) + len(numbers[1])
    assert 8 <= len(numbers[0]) + len(numbers[1]) <= 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "at least 1 trial"),
        ({"floor": "pab999"}, "unknown preset 'pab999'"),
        ({"storage": "study.txt"}, "neither a URL .* nor a journal file"),
        ({"storage": "nosuchdb://x/y"}, "cannot use the storage"),
    ],
)
def test_wrong_requests_are_refused(profile, pipeline, tmp_path, changes, message) -> None:
    with pytest.raises(StudyError, match=message):
        search_policy(pipeline, profile, SEARCHED, UNSEEN, config(tmp_path, **changes))


def test_sqlite_is_a_storage(profile, pipeline, tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    result = search_policy(pipeline, profile, SEARCHED, UNSEEN, config(tmp_path, trials=2, storage=url))
    assert len(result.candidates) == 2
    assert (tmp_path / "study.db").exists()


def test_seen_prompts_and_foreign_profiles_are_refused(profile, pipeline, tmp_path) -> None:
    with pytest.raises(StudyError, match="both searched with and confirmed with"):
        search_policy(pipeline, profile, SEARCHED, SEARCHED, config(tmp_path))
    foreign = replace(profile, made_for=replace(profile.made_for, fingerprint="sha256:" + "0" * 64))
    fewer = CATALOG.with_card(
        ModelCard(transformer="STDiT3Transformer3DModel", sites=sites_in("spatial_blocks", mlp="mlp"))
    )
    with pytest.raises(ProfileError, match="of another model"):
        search_policy(pipeline, profile, SEARCHED, UNSEEN, replace(config(tmp_path), catalog=fewer))
    with pytest.raises(ProfileError, match="of another model"):
        search_policy(pipeline, foreign, SEARCHED, UNSEEN, config(tmp_path))
    with pytest.raises(BudgetError):
        pabtune.search(pipeline, profile, CAPTIONS, budget="beauty>=-1")


def test_the_public_call_finds_a_policy(profile, pipeline, tmp_path) -> None:
    study = pabtune.search(
        pipeline, profile, CAPTIONS, budget="shapes>=-60", trials=3, floor=None, folder=tmp_path, name="mine"
    )
    assert study.best.name == "mine"
    assert len(study.candidates) == 3


def test_under_a_limit_of_memory_outputs_in_eight_bits_take_part(profile, tmp_path) -> None:
    space = Space(profile)
    first = dict(space.first_trials())
    mask = resolve(space.policy(first["profile at 0.01"], "p"), profile.sites, space.schedule())
    memory = int(held_bytes(mask, profile.site_bytes).max() * 0.5)
    limited = config(tmp_path, trials=12, memory=memory, batch_size=1, floor=None)
    result = search_policy(make_pipeline(), profile, SEARCHED, UNSEEN, limited)
    tried = {each.origin: each for each in result.candidates}
    assert tried["profile at 0.01"].outcome.prompts == 0 < tried["profile at 0.01, int8"].outcome.prompts
    assert result.best is not None
    with pabtune.broadcast(make_pipeline(), result.best, memory=memory) as run:
        draw(run._target.pipeline, num_inference_steps=profile.steps)
    assert run.summary()["most_stored_bytes"] <= memory
    with pytest.raises(ProfileError, match="holds no sizes to limit memory by; profile again"):
        search_policy(make_pipeline(), replace(profile, site_int8_bytes=()), SEARCHED, UNSEEN, limited)
