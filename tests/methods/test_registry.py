"""Methods and settings by name."""

import pytest

from pabtune.methods.registry import METHODS, find_methods, find_settings
from pabtune.records.errors import MethodError


def test_methods_are_found_by_name_each_once() -> None:
    assert [method.name for method in find_methods("all")] == list(METHODS)
    assert [method.name for method in find_methods("fora, tgate,fora")] == ["fora", "tgate"]
    with pytest.raises(MethodError, match="unknown method 'teacup'; known: all, fewer-steps"):
        find_methods("fora,teacup")


def test_settings_are_numbers_in_the_range_of_the_knob() -> None:
    assert find_settings(["fora=2,3,2", "lemica=0.5"]) == {"fora": (2.0, 3.0), "lemica": (0.5,)}
    for text, message in {
        "fora=1": "fora: interval must be a whole number from 2 to 20, but is 1",
        "fora=2.5": "fora: interval must be a whole number from 2 to 20, but is 2.5",
        "lemica=1.5": "lemica: budget must be a number from 0.05 to 1, but is 1.5",
        "lemica=nan": "lemica: budget must be a number from 0.05 to 1, but is nan",
        "lemica=some": "lemica: budget must be numbers with commas between them, but is 'some'",
        "pab=300": "pab: digits must be one of 246, 357, 579, but is 300",
        "lemica": "a setting is METHOD=VALUE",
        "all=2": "a setting is METHOD=VALUE",
        "teacup=2": "unknown method 'teacup'",
    }.items():
        with pytest.raises(MethodError, match=message):
            find_settings([text])
