"""The demo with few trials; `make demo` runs it whole."""


def test_the_demo_does_the_whole_main_job(pabtune, tmp_path) -> None:
    done = pabtune("demo", "--out", str(tmp_path), "--trials", "6", "--json")
    assert done.returncode in (0, 1), done.stderr
    document = done.document(done.returncode)
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
