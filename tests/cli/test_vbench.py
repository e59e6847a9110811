import json

import pytest

from tests.vbench.conftest import environment, write_videos  # noqa: F401, a fixture


def test_doctor_on_a_bare_machine_ends_with_one_and_a_list(pabtune, tmp_path) -> None:
    done = pabtune("vbench", "doctor", "--home", str(tmp_path), "--json")
    document = done.document(code=1)
    assert len(document["dimensions"]) == 16
    assert not any(each["can_run"] for each in document["dimensions"])
    assert "0 of 16 dimensions can run" in done.stderr
    assert "run: pabtune vbench setup" in done.stderr
    assert "raft-things.pth is missing: about 21 MB from https://dl.dropboxusercontent.com" in done.stderr
    assert not list(tmp_path.iterdir())


def test_doctor_of_what_can_run_ends_with_zero(pabtune, environment) -> None:  # noqa: F811
    done = pabtune("vbench", "doctor", "--home", str(environment.home), "--dimension", "temporal_flickering")
    assert done.returncode == 0
    assert "1 of 1 dimensions can run" in done.stderr


def test_score_prints_the_promised_document(pabtune, environment, tmp_path) -> None:  # noqa: F811
    prompts = write_videos(tmp_path / "videos", ["0.9", "1.0"])
    words = ("vbench", "score", str(tmp_path / "videos"), "--prompts", str(prompts), "--home", str(environment.home))
    done = pabtune(*words, "--json")
    document = done.document()
    assert document["dimensions"]["temporal_flickering"]["raw"] == pytest.approx(0.95)
    assert len(document["not_run"]) == 8
    assert "temporal_flickering      0.9500 = 86.51 points, 2 videos" in done.stderr
    assert "2 known before" in pabtune(*words).stderr


def test_a_corrupt_video_is_one_line_and_the_others_are_kept(pabtune, environment, tmp_path) -> None:  # noqa: F811
    prompts = write_videos(tmp_path / "videos", ["0.9", "corrupt"])
    words = ("vbench", "score", str(tmp_path / "videos"), "--prompts", str(prompts), "--home", str(environment.home))
    done = pabtune(*words, "--dimension", "temporal_flickering", "--json")
    assert done.returncode == 2
    assert not done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "v-001.mp4: ValueError: cannot decode; scores so far are kept" in line
    assert len(list(environment.scores.rglob("*.json"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("score T/videos", "no prompts given: use --prompts FILE"),
        (
            "score T/videos --prompts T/videos.txt --home T/none",
            "VBench is not installed here; run: pabtune vbench setup",
        ),
        ("score T/none --prompts T/videos.txt", "cannot read this folder of videos"),
        ("score T/empty --prompts T/videos.txt", "holds no .mp4 videos"),
        ("score T/videos --prompts T/videos.txt --dimension beauty", "VBench has no dimension 'beauty'"),
        ("doctor --dimension beauty", "VBench has no dimension 'beauty'"),
        ("setup --python T/none --home T/new", "--python T/none: does not run"),
        ("setup --python false --home T/new", "--python false: does not run"),
        ("setup --home T/videos.txt --python python3.11", "cannot write here"),
        ("fly", "No such command 'fly'"),
    ],
)
def test_mistakes_exit_with_two_and_one_clear_line(pabtune, tmp_path, words, message) -> None:
    write_videos(tmp_path / "videos", ["0.9"])
    (tmp_path / "empty").mkdir()
    done = pabtune("vbench", *(word.replace("T/", f"{tmp_path}/") for word in words.split()))
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message.replace("T/", f"{tmp_path}/") in line


def test_setup_keeps_what_is_there_and_tells_what_it_could_not_download(pabtune, environment, monkeypatch) -> None:  # noqa: F811
    def refuse(url: str, timeout: float) -> None:
        raise TimeoutError(f"no answer in {timeout} s")

    monkeypatch.setattr("pabtune.vbench.setup.update_packages", lambda environment: None)  # the stand-in has no pip
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    done = pabtune("vbench", "setup", "--home", str(environment.home), "--dimension", "dynamic_degree", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["installed"] is False
    (reason,) = document["failed"].values()
    assert reason.endswith("models.zip: cannot be downloaded: no answer in 60 s")
    assert "not downloaded: raft_model/models/raft-things.pth: https://" in done.stderr
    done = pabtune("vbench", "setup", "--home", str(environment.home), "--no-weights")
    assert (done.returncode, done.stdout) == (0, "")
