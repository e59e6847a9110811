import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pabtune.records.errors import FileError, PolicyError
from pabtune.records.files import (
    check_writable,
    digest,
    holding_file,
    load_json,
    parse_json,
    save_json,
    write_atomically,
)

ROOT = Path(__file__).parents[2]
SCHEMA = "pabtune.policy/2"


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    save_json(path, {"old": 1})

    def fail_half_way(partial: Path) -> None:
        partial.write_text("{half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail_half_way)
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        save_json(tmp_path / "file.json", {"x": float("nan")})
    assert not (tmp_path / "file.json").exists()


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write here"):
        check_writable(tmp_path / "file" / "below.json")
    with pytest.raises(FileError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(FileError, match="cannot write here"):
        save_json(tmp_path / "file" / "below.json", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"broken JSON in line 1"),
        ('{"schema": "pabtune.policy/2", "name": NaN}', r"NaN is not allowed"),
        ("[]", r"this is not a pabtune.policy file"),
        ('{"schema": "pabtune.policy/3"}', r"made by another version of pabtune"),
        ('{"schema": "pabtune.policy/2", "name": "x", "rules": [], "speed": 1}', r"'speed' was unexpected"),
        ('{"schema": "pabtune.policy/2", "rules": []}', r"'name' is a required property"),
        (
            '{"schema": "pabtune.policy/2", "name": "x", "rules": [{"kind": "spatial", "range": 0}]}',
            r"rules\[0\]\.range: 0 is less than the minimum of 1",
        ),
    ],
)
def test_a_wrong_document_is_refused_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text)
    with pytest.raises(PolicyError, match=message) as caught:
        load_json(path, SCHEMA, PolicyError)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="No such file"):
        load_json(tmp_path / "none.json", SCHEMA, PolicyError)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match="not a text file"):
        load_json(tmp_path / "binary.json", SCHEMA, PolicyError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ('{"a": ' * 65 + "1" + "}" * 65, "nested more than 64 deep"),
        (r'{"name": "\ud800"}', r"\\ud800 alone is no character"),
        (r'{"\udfff": 1}', r"\\udfff alone is no character"),
        ('{"evidence": {"drop": 1e999}}', "the number 1e999 is too large"),
        ('{"evidence": [-1e999]}', "the number -1e999 is too large"),
        ("9" * 5000, "has more than 64 bits"),
        (str(2**64), "has more than 64 bits"),
        (str(-(2**63) - 1), "has more than 64 bits"),
        ('{"rules": [1], "rules": []}', "the key 'rules' stands twice"),
        ('[{"a": {"range": 2, "b": 1, "range": 9}}]', "the key 'range' stands twice"),
    ],
)
def test_json_beyond_our_types_is_refused_with_its_file(text: str, message: str) -> None:
    """Fault 19: each was a traceback, of the recursion or of what came after."""
    with pytest.raises(PolicyError, match=message) as caught:
        parse_json(text, "p.json", PolicyError)
    assert str(caught.value).startswith("p.json: broken JSON: ")
    assert len(str(caught.value)) < 200


def test_json_within_our_types_is_read() -> None:
    assert parse_json("[" * 63 + "]" * 63, "p.json", PolicyError)
    assert parse_json(f"[{2**64 - 1}, {-(2**63)}]", "p.json", PolicyError) == [2**64 - 1, -(2**63)]
    assert parse_json(r'"\ud83d\ude00"', "p.json", PolicyError) == "😀"


@pytest.mark.parametrize("key", ["name", "store", "x" * 100_000])
def test_of_a_long_value_the_beginning_is_quoted(tmp_path: Path, key: str) -> None:
    """Fault 21: 20 MB were printed once."""
    path = tmp_path / "policy.json"
    save_json(path, {"schema": SCHEMA, "name": "p", "rules": [], key: ["y" * 1_000_000]})
    with pytest.raises(PolicyError) as caught:
        load_json(path, SCHEMA, PolicyError)
    assert len(str(caught.value)) <= 480
    assert key[:40] in str(caught.value)


HOLDER = """
import sys, time
from pathlib import Path
from pabtune.records.files import holding_file
with holding_file(Path(sys.argv[1]), "a"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_process_at_a_time_is_in_a_part_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    lock, entered = tmp_path / "lock", threading.Event()

    def enter() -> None:
        with holding_file(lock, "a"):
            entered.set()

    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert holder.stdout.readline() == "held\n"
    with holding_file(lock, "b"):  # another part
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.3)
    holder.kill()
    holder.communicate()
    assert entered.wait(10)
    thread.join()
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


def test_what_a_link_points_at_is_replaced_and_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    save_json(tmp_path / "shared" / "p.json", {"a": 1})
    (tmp_path / "p.json").symlink_to(tmp_path / "shared" / "p.json")
    save_json(tmp_path / "p.json", {"a": 2})
    assert (tmp_path / "p.json").is_symlink()
    assert json.loads((tmp_path / "shared" / "p.json").read_text()) == {"a": 2}
