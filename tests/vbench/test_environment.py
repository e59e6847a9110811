import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pabtune.records.errors import VbenchError
from pabtune.vbench import environment as module
from pabtune.vbench import runner, setup
from pabtune.vbench.environment import Environment, Lock, find_python, install, lock_weights, pins_digest
from pabtune.vbench.weights import WEIGHT_FILES, problem_of


def test_the_lock_file_reads_as_it_was_written(tmp_path, environment) -> None:
    lock = Lock(python="3.11.7", pins="0" * 64, packages={"vbench": "0.1.5"}, weights={"amt_model/amt-s.pth": "1" * 64})
    environment.save_lock(lock)
    assert environment.lock() == lock
    assert Environment(tmp_path / "none").lock() is None


def test_an_environment_whose_interpreter_is_gone_is_not_complete(environment) -> None:
    environment.python.unlink()
    assert environment.lock() is None
    with pytest.raises(VbenchError, match="VBench is not installed here; run: pabtune vbench setup"):
        environment.complete_lock()


def test_the_first_copy_of_a_weight_file_is_locked_and_stays(environment) -> None:
    path = environment.weights / "amt_model" / "amt-s.pth"
    path.parent.mkdir(parents=True)
    path.write_text("first")
    first = lock_weights(environment).weights
    path.write_text("second")
    assert lock_weights(environment).weights == first
    assert list(first) == ["amt_model/amt-s.pth"]


def test_python_must_be_the_one_that_the_pins_have_wheels_for(monkeypatch) -> None:
    assert find_python(sys.executable) == sys.executable
    monkeypatch.setattr(module, "PYTHON", (3, 2))
    with pytest.raises(VbenchError, match=r"VBench needs Python 3.2, of which there is none here"):
        find_python(None)
    with pytest.raises(VbenchError, match=r"is Python 3.1\d, but VBench needs 3.2"):
        find_python(sys.executable)


def test_an_installation_that_fails_names_its_log_and_leaves_no_lock(environment, monkeypatch) -> None:
    run = subprocess.run

    def fail(command, **options):
        if "pip" in command:
            command = [sys.executable, "-c", "import sys; sys.exit('ERROR: No matching distribution')"]
        return run(command, **options)

    monkeypatch.setattr(module.subprocess, "run", fail)
    with pytest.raises(VbenchError, match=r"^installing torch failed .*/setup.log: ERROR: No "):
        install(environment, sys.executable)
    assert environment.lock() is None
    assert "No matching distribution" in environment.log("setup").read_text()


def test_pins_are_exact() -> None:
    lines = (module.files("pabtune.vbench") / "pins.txt").read_text().splitlines()[1:]
    assert all(line.count("==") == 1 for line in lines)
    assert {"vbench==0.1.5", "torch==2.13.0", "transformers==4.33.2", "numpy==1.26.4"} <= set(lines)
    assert len(pins_digest()) == 64


def test_a_file_that_is_downloaded_again_is_locked_anew(environment, monkeypatch) -> None:
    """A copy cut short was locked by its checksum; the whole one was then refused for ever, and downloaded each time."""
    file = replace(next(iter(WEIGHT_FILES.values())), sha256="")
    monkeypatch.setitem(WEIGHT_FILES, file.name, file)
    path = environment.weights / file.name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    before = lock_weights(environment).weights[file.name]
    path.write_bytes(b"whole")
    assert "that lock.json has of it" in problem_of(file, environment.weights, before)
    monkeypatch.setattr(setup, "update_packages", lambda environment: None)
    monkeypatch.setattr(setup, "download", lambda file, folder: (folder / file.name).write_bytes(b"whole"))
    dimension = SimpleNamespace(files=(file.name,))
    report = setup.set_up(environment, [dimension], python=None, with_weights=True, say=lambda line: None)
    assert report.downloaded == (file.name,)
    assert problem_of(file, environment.weights, environment.lock().weights[file.name]) is None
    assert setup.set_up(environment, [dimension], python=None, with_weights=True, say=print).downloaded == ()


def test_a_lock_file_that_is_broken_says_what_to_do(environment) -> None:
    environment.lock_path.write_text("")
    with pytest.raises(VbenchError, match=r"lock.json.*remove the file, and run pabtune vbench setup again"):
        setup.set_up(environment, [], python=None, with_weights=False, say=print)


def test_dinos_link_is_made_by_several_at_once_and_follows_a_folder_that_moves(tmp_path) -> None:
    source = tmp_path / "a" / "dino_model" / "dino_vitbase16_pretrain.pth"
    source.parent.mkdir(parents=True)
    source.write_text("weights")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: runner.link_dino(tmp_path / "a"), range(40)))
    (tmp_path / "a").rename(tmp_path / "b")
    link = tmp_path / "b" / "torch" / "hub" / "checkpoints" / source.name
    assert link.read_text() == "weights"
    link.unlink()
    link.symlink_to(tmp_path / "a" / "gone")
    runner.link_dino(tmp_path / "b")
    assert link.read_text() == "weights"
