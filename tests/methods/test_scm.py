"""cache-dit's presets as a method; their masks are tested in `tests/planning/test_scm.py`."""

import pytest

from pabtune.methods.method import Recordings
from pabtune.methods.scm import SCM
from pabtune.planning.scm import computed_steps
from pabtune.records.errors import ModelError
from pabtune.tuning.generation import Settings
from tests.conftest import make_pipeline


def test_a_setting_is_a_preset_that_holds_all_blocks() -> None:
    (rule,) = SCM().at(3, None, 30).rules
    assert (rule.kind, rule.layers, rule.compute) == ("stack", None, computed_steps("fast", 30))


def test_few_steps_are_refused() -> None:
    recordings = Recordings(make_pipeline(), [], Settings(steps=15))
    with pytest.raises(ModelError, match="for 16 steps and more"):
        SCM().calibrate(recordings, (1,))
