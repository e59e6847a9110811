"""What a run will hold is known before it computes, on every pipeline class."""

import pytest

import pabtune
from pabtune.records.errors import PolicyError
from tests.pipelines.cases import CASES, policy, run, transformers_of

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.parametrize("name", CASES),
]

WEIGHED = {"hunyuan-1.5", "hunyuan-framepack", "mochi"}
"""Cases whose path hangs on the values of tensors: their outputs are weighed in the first call of each branch."""


def test_a_run_over_the_limit_is_refused_before_a_branch_computes(name, load) -> None:
    pipeline = load(name)
    calls = []
    for part in transformers_of(pipeline):
        part.register_forward_hook(lambda *_: calls.append(1))
    with pabtune.broadcast(pipeline, policy(name), memory=1) as active:
        with pytest.raises(PolicyError, match="more than the limit of 1 B"):
            run(pipeline, name)
        assert active.stored_bytes == 0
    assert len(calls) == (name in WEIGHED)


def test_what_is_foreseen_is_what_is_held(name, load) -> None:
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name)):
        plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy(name), memory=2**40) as active:
        assert (run(pipeline, name) == plain).all()
    assert 0 < active.summary()["most_stored_bytes"] <= active.predicted_bytes.max()
