"""The demo with few trials; `make demo` runs it whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_demo_does_the_whole_main_job(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "demo", "--out", str(tmp_path), "--trials", "6", "--json"],
        capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(done.stdout)
    assert document["trials"] == 6
    assert document["verdict"] in ("accept", "undecided")
    own, paper = document["policies"]
    assert own["compute_fraction"] < 1.0
    assert paper["policy"] == "pab246"
    for name in (
        "profile.json",
        "profile.safetensors",
        "policy.json",
        "u-shape.png",
        "side-by-side.png",
        "video-0.mp4",
    ):
        assert (tmp_path / name).stat().st_size > 0
    assert "what it gained and cost" in done.stderr
