import pytest

from pabtune.records.errors import VbenchError
from pabtune.vbench.dimensions import DIMENSIONS, find_dimensions
from pabtune.vbench.doctor import NOT_INSTALLED, OTHER_PINS, examine
from pabtune.vbench.environment import Environment, lock_weights
from pabtune.vbench.weights import WEIGHT_FILES


def by_name(environment, names=DIMENSIONS) -> dict:
    return {each.dimension.name: each for each in examine(environment, find_dimensions(names))}


def fill(environment, names) -> None:
    for name in names:
        path = environment.weights / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_on_an_empty_folder_every_dimension_says_what_to_do(tmp_path) -> None:
    found = by_name(Environment(tmp_path))
    assert len(found) == 16
    assert not any(each.can_run for each in found.values())
    assert found["temporal_flickering"].reasons == (NOT_INSTALLED,)
    assert found["dynamic_degree"].reasons[1] == "raft_model/models/raft-things.pth is missing"
    reason = str(found["dynamic_degree"].files[0])
    path = tmp_path / "weights" / "raft_model" / "models" / "raft-things.pth"
    assert reason.startswith(f"{path} is missing: about 21 MB from https://")
    assert "(in it: models/raft-things.pth), sha256 fcfa4125d641" in reason


def test_without_weights_the_dimension_without_a_network_can_run(environment) -> None:
    found = by_name(environment)
    assert [name for name, each in found.items() if each.can_run] == ["temporal_flickering"]
    assert not found["overall_consistency"].packages
    assert len(found["overall_consistency"].files) == 2
    assert found["scene"].packages == "ModuleNotFoundError: No module named 'vbench.scene'"


def test_with_its_files_a_dimension_can_run(environment) -> None:
    files = [name for name in DIMENSIONS["overall_consistency"].files if not WEIGHT_FILES[name].sha256]
    fill(environment, files)
    (only,) = by_name(environment, ["overall_consistency"])["overall_consistency"].files
    assert only.file == "ViCLIP/bpe_simple_vocab_16e6.txt.gz"


def test_a_file_with_another_checksum_is_told_from_a_missing_one(environment) -> None:
    fill(environment, ["raft_model/models/raft-things.pth", "amt_model/amt-s.pth"])
    lock_weights(environment)
    (raft,) = by_name(environment)["dynamic_degree"].files
    assert raft.problem.startswith("has another checksum")
    assert not by_name(environment)["motion_smoothness"].files  # nobody publishes its checksum: the first copy counts
    (environment.weights / "amt_model" / "amt-s.pth").write_text("cut sh")
    (amt,) = by_name(environment)["motion_smoothness"].files
    assert amt.problem.startswith("has another checksum")


def test_a_missing_package_is_named_with_the_way_to_install_it(environment) -> None:
    (environment.site_packages / "vbench" / "color.py").write_text("import detectron2")
    for imports in (True, False):
        (diagnosis,) = examine(environment, find_dimensions(["color"]), imports=imports)
        assert "the package detectron2 is missing, which is on no package index" in diagnosis.packages


def test_an_interpreter_that_dies_is_told(environment) -> None:
    (environment.site_packages / "vbench" / "scene.py").write_text(
        "import os, sys; print('out of it', file=sys.stderr); os._exit(3)"
    )
    found = by_name(environment, ["scene", "temporal_style"])
    assert found["scene"].packages == "VBench's process died before it was imported: out of it"


def test_other_pins_and_a_broken_lock_are_told(environment) -> None:
    text = environment.lock_path.read_text()
    environment.lock_path.write_text(text.replace(environment.lock().pins, "0" * 64))
    assert by_name(environment)["temporal_flickering"].packages == OTHER_PINS
    environment.lock_path.write_text("{")
    with pytest.raises(VbenchError, match=r"lock.json: broken JSON"):
        by_name(environment)


def test_an_unknown_dimension_is_refused() -> None:
    with pytest.raises(VbenchError, match="VBench has no dimension 'flicker'; it has subject_consistency, "):
        find_dimensions(["flicker"])
