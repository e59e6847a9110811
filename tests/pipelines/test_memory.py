"""What a run will hold is known before it computes, on every pipeline class."""

import pytest

import pabtune
from pabtune.records.errors import PolicyError
from tests.pipelines.cases import CASES, policy, run, transformers_of

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.parametrize("name", CASES),
]


def test_a_run_over_the_limit_is_refused_before_anything_computes(name, load) -> None:
    pipeline = load(name)
    calls = []
    for part in transformers_of(pipeline):
        part.register_forward_hook(lambda *_: calls.append(1))
    with pabtune.broadcast(pipeline, policy(name), memory=1) as active:
        with pytest.raises(PolicyError, match="more than the limit of 1 B"):
            run(pipeline, name)
        assert active.stored_bytes == 0
    assert not calls


def test_what_is_foreseen_is_what_is_held(name, load) -> None:
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name)):
        plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy(name), memory=2**40) as active:
        assert (run(pipeline, name) == plain).all()
    assert 0 < active.summary()["most_stored_bytes"] <= active.predicted_bytes.max()


def test_branches_to_come_are_weighed_before_the_first_call(name, load) -> None:
    """A limit that the first branch alone would hold, but not all of them."""
    pipeline, calls = load(name), []
    with pabtune.broadcast(pipeline, policy(name), memory=2**40) as active:
        run(pipeline, name)
    for part in transformers_of(pipeline):
        part.register_forward_hook(lambda *_: calls.append(1))
    too_little = int(active.predicted_bytes.max()) - 1
    with (
        pabtune.broadcast(pipeline, policy(name), memory=too_little),
        pytest.raises(PolicyError, match="more than the limit"),
    ):
        run(pipeline, name)
    assert not calls
