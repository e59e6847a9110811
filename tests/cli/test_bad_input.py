"""Fault 18 to 26: bad input of all kinds, at random, is answered with one line (`benchmarks/bad_input.py`)."""

import pytest
from bad_cases import Case, cases
from bad_input import Answer, fault_of, find_faults


def test_sixty_bad_inputs_are_answered_in_one_line() -> None:
    """Faults 18 to 26. Another seed than the benchmark's."""
    faults, codes = find_faults(seed=7, count=60)
    assert [fault for _, fault in faults] == []
    assert {code.split(": ")[1] for code in codes} <= {"0", "1", "2"}
    assert sum(count for code, count in codes.items() if code.endswith(": 2")) > 30


@pytest.mark.slow
def test_two_thousand_bad_inputs_are_answered_in_one_line() -> None:
    """Faults 18 to 26."""
    faults, _ = find_faults(seed=0, count=2000)
    assert [(case.words, fault) for case, fault in faults] == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(code=None, raised="Traceback"), "Traceback"),
        (Answer(code=1, stderr="Traceback (most recent call last):\n"), "Traceback"),
        (Answer(code=0, stderr="x.py:3: RuntimeWarning: overflow encountered in cast\n"), "overflow"),
        (Answer(code=2, stderr="error: no\nindeed\n"), "not one line"),
        (Answer(code=2, stderr="error: " + "x" * 500), "not one line"),
        (Answer(code=2, stderr="no\n"), "not one line"),
        (Answer(code=2, stderr="error: no\n", stdout="{}"), "not one line"),
        (Answer(code=3), "JSON Schema"),
        (Answer(code=-9), "exit code -9"),
        (Answer(code=2, stderr="error: no\n"), None),
        (Answer(code=0, stdout="{}"), None),
        (Answer(code=1), None),
    ],
)
def test_what_counts_as_a_bad_answer(answer, told) -> None:
    fault = fault_of(Case(kind="any"), answer)
    assert (fault is None) == (told is None)
    assert told is None or told in fault


def test_a_password_that_is_printed_is_a_bad_answer() -> None:
    """Fault 18."""
    case = Case(kind="option search", words=("search", "--storage", "postgresql://u:pass-word@h/d"))
    assert fault_of(case, Answer(code=2, stderr="error: postgresql://u:pass-word@h/d\n")) is not None
    assert fault_of(case, Answer(code=2, stderr="error: postgresql://u:***@h/d\n")) is None


def test_the_same_seed_makes_the_same_cases() -> None:
    first, second, other = (
        [(case.words, dict(case.files)) for case in cases(seed, 30) if case.kind != "document"] for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other
