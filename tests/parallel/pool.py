"""Worker processes that live as long as the tests and run one case after another, so that each imports torch once."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
WORKER = Path(__file__).parent / "worker.py"
SECONDS = 570
"""Timeout of one case."""


class Worker:
    """One worker process and the connection to it."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder, Listener(str(Path(folder) / "socket")) as listener:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen([sys.executable, str(WORKER), "--serve", listener.address], env=environment)
            self.connection: Connection = listener.accept()


class Pool:
    """As many workers as the largest case needs; each case has a process group of its own."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []

    def run(self, processes: int, case: str, names: Sequence[str]) -> list[list[dict]]:
        """Runs a case in the first processes; returns the rows of each."""
        while len(self._workers) < processes:
            self._workers.append(Worker())
        workers = self._workers[:processes]
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = str(probe.getsockname()[1])
        for rank, worker in enumerate(workers):
            environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
            worker.connection.send((environment, case, tuple(names)))
        try:
            return self._collect(workers)
        except BaseException:
            self.close()  # the others may wait for the one that failed
            raise

    def _collect(self, workers: list[Worker]) -> list[list[dict]]:
        rows: dict[int, list[dict]] = {}
        ranks = {worker.connection: rank for rank, worker in enumerate(workers)}
        while ranks:
            ready = wait(list(ranks), SECONDS)
            assert ready, "no process answered in time"
            for connection in ready:
                kind, answer = connection.recv()
                rank = ranks.pop(connection)
                assert kind == "rows", f"rank {rank}:\n{answer}"
                rows[rank] = json.loads(answer)
        return [rows[rank] for rank in sorted(rows)]

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()
            worker.connection.close()
        self._workers.clear()
