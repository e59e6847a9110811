"""Examples as a user runs them: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def run_example(name: str, *words: str, folder: Path) -> str:
    """What an example prints when it is run in a folder."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *words], cwd=folder, env=ENVIRONMENT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
