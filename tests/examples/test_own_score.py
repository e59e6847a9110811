import re

import numpy as np

from examples.own_score import moves
from tests.examples.running import ROOT, run_example


def test_it_judges_the_papers_preset(tmp_path) -> None:
    told = run_example("own_score.py", "--steps", "6", folder=ROOT / "examples")
    drop, fidelity = re.fullmatch(r"pab246: drops by ([+-]\d+\.\d\d) points, (\d+\.\d) dB\n", told).groups()
    assert 15 < float(fidelity) < 60
    assert abs(float(drop)) < 50


def test_a_frozen_video_has_no_points_unless_the_prompt_asks_for_it() -> None:
    frozen = np.full((8, 4, 4, 3), 7, np.uint8)
    jumping = frozen.copy()
    jumping[::2] += 100
    assert [moves(each, "a square moves") for each in (frozen, jumping)] == [0, 100]
    assert [moves(each, "a square stands still") for each in (frozen, jumping)] == [100, 0]
