from pathlib import Path

import pytest

from tests.cli.conftest import POLICY, write_prompts


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_generate_says_what_it_did(pabtune, tmp_path, suffix) -> None:
    out = tmp_path / f"v{suffix}"
    done = pabtune(
        "generate", "shapes", "--policy", POLICY, "--prompt", "a red square moves slowly to the left", "--seed", "3",
        "--out", str(out), "--compare", "--json",
    )  # fmt: skip
    row = done.document()["videos"][0]
    assert out.stat().st_size > 500
    assert sum(row["broadcast_calls"].values()) > 0
    assert row["psnr_db"] > 20
    assert row["speedup"] > 0
    assert row["stored_bytes"] == 0
    assert "broadcast" in done.stderr


def test_generate_numbers_several_prompts(pabtune, tmp_path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 3, 5)
    words = ("generate", "shapes", "--prompts", prompts, "--prompt", "red", "--steps", "2")
    rows = pabtune(*words, "--out", str(tmp_path / "v.gif"), "--json").document()["videos"]
    assert [Path(row["out"]).name for row in rows] == [f"v-{index:03d}.gif" for index in range(4)]
    assert [row["seed"] for row in rows] == [0, 1, 2, 3]
    assert all(Path(row["out"]).exists() for row in rows)
