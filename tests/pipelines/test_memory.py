"""What a run will hold is known in its first step, which broadcasts nothing, on every pipeline class."""

import pytest

import pabtune
from pabtune.records.errors import PolicyError
from tests.pipelines.cases import EVERYDAY, cases, policy, run

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.parametrize("name", cases(EVERYDAY)),
]


def test_a_run_over_the_limit_is_refused_in_its_first_step(name, load) -> None:
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name), memory=1) as active:
        with pytest.raises(PolicyError, match="more than the limit of 1 B"):
            run(pipeline, name)
        assert active.stored_bytes == 0
        assert {record.step for record in active.records} <= {0}
        assert not active.broadcast_calls


def test_what_is_foreseen_is_what_is_held(name, load) -> None:
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name)):
        plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy(name), memory=2**40) as active:
        assert (run(pipeline, name) == plain).all()
    assert 0 < active.summary()["most_stored_bytes"] <= active.predicted_bytes.max()


def test_a_limit_that_not_all_branches_keep_is_refused_in_the_first_step(name, load) -> None:
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name), memory=2**40) as active:
        run(pipeline, name)
    too_little = int(active.predicted_bytes.max()) - 1
    with pabtune.broadcast(pipeline, policy(name), memory=too_little) as active:
        with pytest.raises(PolicyError, match="more than the limit"):
            run(pipeline, name)
        assert not active.broadcast_calls
