"""What verbs note of the command that ran."""

import click

from pabtune.cli.layout import ARGUMENTS
from pabtune.cli.left_files import made_by


def test_a_command_is_noted_without_passwords_and_from_the_current_folder_on(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "search", f"{tmp_path}/a/p.json", "--storage", "postgresql://me:secret@host/db", f"--out={tmp_path}/o.json", "/else/x"
    )  # fmt: skip
    with click.Context(click.Command("x")) as context:
        context.meta[ARGUMENTS] = words
        noted = made_by()
    assert noted["command"] == [
        "search", "a/p.json", "--storage", "postgresql://me:***@host/db", "--out=o.json", "/else/x",
    ]  # fmt: skip
    assert len(noted["date"]) == 10


def test_without_a_command_line_there_is_no_command() -> None:
    assert made_by()["command"] == []
