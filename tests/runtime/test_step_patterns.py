import pytest

from pabtune.records.sites import Site
from pabtune.runtime.plans import CallRecord
from pabtune.runtime.step_patterns import line_of, step_pattern

SITES = [
    Site(transformer="transformer", path="blocks.0.attn", kind="full", layer=0, block="blocks.0"),
    Site(transformer="transformer", path="blocks.1.attn", kind="full", layer=1, block="blocks.1"),
    Site(transformer="transformer", path="blocks.0.mlp", kind="mlp", layer=0, block="blocks.0"),
    Site(transformer="transformer", path="", kind="transformer", layer=0, block=""),
]


def record(step: int, computed, broadcast=(), branch: str = "cond", **more) -> CallRecord:
    computed = None if computed is None else frozenset(computed)
    return CallRecord(
        transformer="transformer", step=step, branch=branch, computed=computed, broadcast=frozenset(broadcast), **more
    )


def test_each_symbol() -> None:
    """All compute; a layer is broadcast; a branch is; all of a kind; the whole call; half of its samples; nothing yet."""
    records = [
        record(0, {0, 1, 2, 3}),
        record(1, {0, 2, 3}, {1}),
        record(2, {0, 1, 2, 3}),
        record(2, {2, 3}, {0, 1}, branch="uncond"),
        record(3, {2, 3}, {0, 1}),
        record(4, None, {3}),
        record(5, {0, 1, 2, 3}, is_halved=True),
    ]
    assert step_pattern(records, SITES, 8) == {"full": "#++-.+..", "mlp": "####.+..", "transformer": "####-+.."}


def test_a_loop_of_more_steps_than_the_last_one_is_shown_whole() -> None:
    assert step_pattern([record(0, {2}), record(2, {2})], SITES[:3], 1)["mlp"] == "#.#"
    assert step_pattern([], SITES[:3], 2) == {"full": "..", "mlp": ".."}


@pytest.mark.parametrize(("calls", "line"), [((), "..."), (((0, 1), (0, 2), (2, 2)), "+.-")])
def test_a_line_adds_up_the_calls_of_a_step(calls, line) -> None:
    assert line_of(calls, 3) == line
