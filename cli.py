"""Launcher, for `python cli.py …` and `torchrun cli.py …`; the verbs live in pabtune/cli/."""

from pabtune.cli.main import run

if __name__ == "__main__":
    run()
