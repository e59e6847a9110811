import re

import numpy as np
import pytest
from click.testing import CliRunner

from examples.own_score import command, moves
from tests.examples.running import ROOT


@pytest.mark.filterwarnings("ignore:.*what it costs in quality at 6 steps was never measured")
def test_it_judges_the_papers_preset(monkeypatch) -> None:
    monkeypatch.chdir(ROOT / "examples")  # where `own_score:moves` is found
    done = CliRunner().invoke(command, ["--steps", "6"])
    assert done.exit_code == 0, done.output
    drop, fidelity = re.fullmatch(r"pab246: drops by ([+-]\d+\.\d\d) points, (\d+\.\d) dB\n", done.stdout).groups()
    assert 15 < float(fidelity) < 60
    assert abs(float(drop)) < 50


def test_a_frozen_video_has_no_points_unless_the_prompt_asks_for_it() -> None:
    frozen = np.full((8, 4, 4, 3), 7, np.uint8)
    jumping = frozen.copy()
    jumping[::2] += 100
    assert [moves(each, "a square moves") for each in (frozen, jumping)] == [0, 100]
    assert [moves(each, "a square stands still") for each in (frozen, jumping)] == [100, 0]
