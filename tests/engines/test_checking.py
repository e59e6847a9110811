"""What engines tell of a run, against the mask; what cache-dit really returns is in `tests/engines/test_in_cache_dit.py`."""

import json

import pytest

from pabtune.engines.checking import check
from pabtune.engines.exports import export
from pabtune.engines.plan import Facts
from pabtune.records.errors import FileError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from tests.engines.policies import BEHIND_THE_FIRST, held, made_for

EXPORT = export(held(BEHIND_THE_FIRST), "cache-dit")
HELD = [1, 3, 4, 7]


def stats(held_steps=HELD, second=HELD, steps=10, calls=20) -> dict:
    """One entry as cache-dit 1.5.3 returns it, without what is not read."""
    return {
        "cached_steps": held_steps, "cfg_cached_steps": second, "accumulated_executed_steps": steps,
        "accumulated_transformer_executed_steps": calls,
    }  # fmt: skip


def differences(document) -> tuple[str, ...]:
    return check(EXPORT, json.dumps(document), "f").differences


def test_the_steps_of_the_mask_are_equal() -> None:
    assert differences([0, 2, 5, 6, 8, 9]) == ()
    assert differences({"transformer": [9, 8, 6, 5, 2, 0]}) == ()
    assert differences([stats(), stats()]) == ()


def test_steps_that_differ_are_named() -> None:
    assert differences([0, 1, 2, 5, 6, 8, 9]) == ("computed at steps 1, which the mask holds",)
    assert differences([0, 5, 6, 8, 9]) == ("held at steps 2, which the mask computes",)
    off_by_one = stats(held_steps=[2, 4, 5, 8])
    assert differences([off_by_one, off_by_one]) == (
        "computed at steps 1, 3, 7, which the mask holds",
        "held at steps 2, 5, 8, which the mask computes",
    )
    assert differences([stats(second=[]), stats()]) == (
        "second call of a step: nothing was cached: all 10 steps computed, 4 should have been held",
    )
    assert differences([stats(steps=12, calls=24)] * 2) == ("the run had 12 steps, but the mask is of 10",)


def test_a_run_in_which_nothing_was_cached_says_so() -> None:
    assert differences(list(range(10))) == ("nothing was cached: all 10 steps computed, 4 should have been held",)
    assert differences([stats(steps=0, calls=0)]) == (
        "nothing ran under cache-dit: it was not enabled, or no video was generated since",
    )


def test_one_call_of_a_step_has_no_second_list() -> None:
    assert differences([stats(second=[], calls=10)] * 2) == ()


def test_each_transformer_has_entries_of_its_own() -> None:
    rule = Rule(kind="stack", compute=(0, 2, 5, 6, 8, 9), layers=BEHIND_THE_FIRST)
    two = Policy(name="two", rules=(rule,), made_for=made_for(names=("transformer", "transformer_2")))
    exported = export(two, "cache-dit", Facts(boundary=0.55))
    first, second = stats([1, 3, 4], [1, 3, 4], 5, 10), stats([2], [2], 5, 10)
    assert check(exported, json.dumps([first, second, first, second]), "f").differences == ()
    assert check(exported, json.dumps([second, first, second, first]), "f").differences[0].startswith("transformer: ")
    with pytest.raises(FileError, match="3 entries, which do not belong to 2 transformers"):
        check(exported, json.dumps([first, second, first]), "f")
    with pytest.raises(FileError, match="or one for each of transformer, transformer_2"):
        check(exported, "[0, 1]", "f")


LOG = """[2026-11-26] SCM: generated mask with 6 compute steps, 4 cache steps (preset=none)
[2026-11-26] SCM enabled: 6 compute steps, 4 cache steps, policy=static
"""


def test_a_servers_log_tells_counts() -> None:
    """Lines as SGLang 0.5.23 writes them (`cache_dit_integration.py`)."""
    sglang = export(held(BEHIND_THE_FIRST), "sglang")
    assert check(sglang, LOG, "f").differences == ()
    assert "does not tell the steps themselves" in check(sglang, LOG, "f").seen
    assert check(sglang, LOG.replace("static", "dynamic"), "f").differences == (
        "policy dynamic: a threshold decides at the steps that the mask holds",
    )
    assert check(sglang, LOG.replace("6 compute", "7 compute"), "f").differences == (
        "a mask of 7 computed and 4 held steps ran",
        "no mask of 6 computed and 4 held steps ran",
    )
    assert check(sglang, "INFO sglang server is ready\n", "f").differences == (
        "nothing was cached: no line of the log says that a mask was generated",
    )


@pytest.mark.parametrize(
    "text",
    ["", " \n", "hello", "3", '{"a": 1}', "[0, 1.5]", "[]x", '[{"cached_steps": [1]}]', '{"other": [0]}', "[" * 9999],
)
def test_what_is_nothing_of_it_is_refused(text) -> None:
    with pytest.raises(FileError):
        check(EXPORT, text, "f")


def test_what_cache_dit_prints_of_a_static_mask_has_no_steps() -> None:
    """`summary(pipe, details=True)` logs steps only beside differences, which a static mask does not take."""
    printed = "[Cache-DiT] Cache Context Options: WanTransformerBlock\n[Cache-DiT] steps_computation_policy='static'\n"
    with pytest.raises(FileError, match="logs no steps of a static mask"):
        check(EXPORT, printed, "f")


def test_a_preset_is_checked_as_itself() -> None:
    """What the policy says was not given to the engine."""
    exported = export(held(BEHIND_THE_FIRST, made_for=made_for(steps=28, sigmas=None)), "vllm-omni")
    ran = json.dumps([0, 1, 2, 3, 6, 12, 19, 27])  # `ultra`
    assert check(exported, ran, "f").differences == ()


def test_windows_of_attention_are_no_mask() -> None:
    exported = export(Policy(name="p", rules=(Rule(kind="mlp", compute=(0,)),)), "videosys")
    with pytest.raises(FileError, match="takes no mask of a policy"):
        check(exported, "[0]", "f")


@pytest.mark.parametrize("calls", [None, "many"])
def test_odd_counts_of_calls_are_refused(calls) -> None:
    with pytest.raises(FileError, match="accumulated_transformer_executed_steps must be a whole number"):
        differences([stats(calls=calls)] * 2)
