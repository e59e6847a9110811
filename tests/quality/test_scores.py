import math
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pabtune.quality.budget import Budget
from pabtune.quality.scores import VideoScore, find_score
from pabtune.quality.shapes import score_clip
from pabtune.records.errors import BudgetError, PabtuneWarning, PromptError

VIDEO = np.zeros((1, 2, 2, 3), np.uint8)


def test_several_videos_are_scored_each_by_itself_with_its_prompt() -> None:
    videos = list(np.random.default_rng(0).integers(0, 255, (2, 8, 24, 24, 3), dtype=np.uint8))
    texts = ["a red square moves left", "a blue cross stands still"]
    score = find_score("shapes")
    assert (score.name, score.is_of_all) == ("shapes", False)
    expected = [score_clip(video, text).score for video, text in zip(videos, texts, strict=True)]
    assert expected[0] != expected[1]
    assert score.open(texts)(videos, texts) == expected


def test_a_score_of_ones_own_is_found_by_module_and_function(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_scores.py").write_text("def brightness(video, prompt):\n    return video.mean() / 2.55\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Budget.parse("own_scores:brightness>=-2").score == "own_scores:brightness"
    assert find_score("own_scores:brightness").open([""])([np.full((1, 2, 2, 3), 255)], [""]) == [pytest.approx(100)]
    for wrong in ("own_scores:darkness", "no_such_module:brightness"):
        with pytest.raises(BudgetError, match=f"cannot load the score '{wrong}'"):
            find_score(wrong)


def test_a_score_in_the_current_folder_is_found_by_the_installed_command(tmp_path) -> None:
    """Fault 11: an installed command has no current folder in its path, and the README's `my_scores.py` was not found."""
    (tmp_path / "my_scores.py").write_text("import colorsys\ndef aesthetics(video, prompt):\n    return 50.0\n")
    (tmp_path / "colorsys.py").write_text("raise SystemExit('shadows the library')\n")
    code = (
        "import sys; from pabtune.quality.scores import find_score as f; before = list(sys.path); "
        "video = __import__('numpy').zeros((1, 2, 2, 3), 'uint8'); "
        "print(f('my_scores:aesthetics').open([''])([video], ['']), sys.path == before)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout == "[50.0] True\n", done.stderr


def failing(video, prompt):
    raise RuntimeError("no weights\nand more")


def leaving(video, prompt):
    raise SystemExit


def returning(value, video, prompt):
    return value


class Odd:
    """What a user's function may return: neither a number nor a text to show."""

    def __float__(self) -> float:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


RETURNED = {
    "nan": math.nan,
    "inf": math.inf,
    "nan_of_numpy": np.float32("nan"),
    "beyond_floats": 10**400,
    "nothing": None,
    "text": "50",
    "a_list": [50.0],
    "an_array": np.ones(2),
    "an_empty_array": np.ones(0),
    "a_tensor": torch.ones(2),
    "an_empty_tensor": torch.ones(0),
    "a_nan_tensor": torch.tensor(math.nan),
    "complex": 1j,
    "odd": Odd(),
    "long": "x" * 100_000,
}
scores = SimpleNamespace(
    **{name: partial(returning, value) for name, value in RETURNED.items()}, failing=failing, leaving=leaving
)


@pytest.fixture
def own_scores(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_scores", scores)


@pytest.mark.usefixtures("own_scores")
@pytest.mark.parametrize("name", vars(scores))
def test_a_score_that_is_no_finite_number_is_refused_with_score_and_prompt(name) -> None:
    """Fault 25: one that raises, exits, or returns nan, infinity, None, text, an array or a tensor was a traceback."""
    with pytest.raises(BudgetError) as caught:
        find_score(f"own_scores:{name}").open(["a cat"])([VIDEO], ["a cat"])
    line = str(caught.value)
    assert f"'own_scores:{name}'" in line
    assert "'a cat'" in line
    assert "\n" not in line
    assert len(line) <= 480


@pytest.mark.parametrize(
    "value",
    [50, 50.0, np.float16(50), np.int8(50), np.full((1, 1), 50), torch.tensor(50), torch.full((1, 1), 50.0),
     torch.tensor(50.0, dtype=torch.bfloat16), Fraction(50), Decimal(50)],
    ids=repr,
)  # fmt: skip
def test_numbers_of_any_library_are_scores(monkeypatch, value) -> None:
    """Fault 25: those of numpy, and tensors of one element."""
    monkeypatch.setitem(sys.modules, "own_scores", SimpleNamespace(score=partial(returning, value)))
    (found,) = find_score("own_scores:score").open(["a cat"])([VIDEO], ["a cat"])
    assert (type(found), found) == (float, 50.0)


@pytest.mark.parametrize("value", [-0.5, 100.5, 1e6])
def test_a_score_outside_of_its_range_is_refused(value, tmp_path, monkeypatch) -> None:
    """Verdicts bet on 0..100."""
    (tmp_path / "wide_scores.py").write_text(f"def value(video, prompt):\n    return {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wide_scores", raising=False)
    with pytest.raises(BudgetError, match=r"must return 0..100, which verdicts rely on"):
        find_score("wide_scores:value").open(["a cat"])([VIDEO], ["a cat"])


def test_a_score_of_0_to_1_is_told() -> None:
    """The usual mistake: a budget of one point allowed it to lose everything."""
    score = VideoScore("mine", lambda video, prompt: 0.7)
    with pytest.warns(PabtuneWarning, match="the score 'mine' gives no more than one point of 100: is it on a scale"):
        score.open([""])([VIDEO], [""])
    assert VideoScore("mine", lambda video, prompt: 0.0).open([""])([VIDEO], [""]) == [0.0]


def test_the_embedded_models_score_is_for_its_videos_and_prompts() -> None:
    """On another model's it ended in a traceback, after that was loaded."""
    score = find_score("shapes")
    with pytest.raises(PromptError):
        score.open(["a red circle", "a cat on a mat"])
    with pytest.raises(BudgetError, match="the score 'shapes' is for videos of the embedded model"):
        score.open(["a red circle"])([np.zeros((9, 16, 16, 3), np.uint8)], ["a red circle"])
