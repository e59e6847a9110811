"""What the leader of a team tells the others."""

import threading
import time

from pabtune.tuning.teams import ALONE, Team


def test_others_wait_for_the_leader_and_take_its_value(tmp_path) -> None:
    told = []
    follower = Team(rank=1, folder=tmp_path / "start-0")
    thread = threading.Thread(target=lambda: told.append(follower.of_leader("store", "exact")))
    thread.start()
    time.sleep(0.2)
    assert told == []
    assert Team(folder=tmp_path / "start-0").of_leader("store", "int8") == "int8"
    thread.join(timeout=10)
    assert told == ["int8"]


def test_who_is_alone_leads_and_writes_nothing() -> None:
    assert ALONE.is_leader
    assert ALONE.of_leader("store", None) is None
