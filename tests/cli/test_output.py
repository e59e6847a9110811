import json

import pytest

from pabtune.cli.output import emit, progress_bar, say


def test_words_go_to_stderr_and_the_document_to_stdout(capsys) -> None:
    say("for a person")
    emit({"b": 1, "a": [2]})
    told = capsys.readouterr()
    assert told.err == "for a person\n"
    assert json.loads(told.out) == {"a": [2], "b": 1}


def test_a_document_never_holds_what_json_does_not_know() -> None:
    with pytest.raises(ValueError, match="JSON"):
        emit({"psnr": float("inf")})


def test_a_bar_that_never_moves_writes_nothing(capsys) -> None:
    with progress_bar("search"):
        pass
    assert capsys.readouterr().err == ""
