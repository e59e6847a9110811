import subprocess
import sys

import pytest

from pabtune.records.errors import VbenchError
from pabtune.vbench import environment as module
from pabtune.vbench.environment import Environment, Lock, find_python, install, lock_weights, pins_digest


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
