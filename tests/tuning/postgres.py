"""A PostgreSQL server of its own for tests, on a free port of this machine, gone when they end."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USERS = ("postgres", "nobody")
"""Whom the server runs as where the tests run as root, which it refuses."""


def find_programs() -> Path | None:
    """Folder of initdb and pg_ctl; None if there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((each for each in folders if (each / "initdb").exists() and (each / "pg_ctl").exists()), None)


def install_programs() -> None:
    """Installs the server from Debian; skips the tests where that cannot be."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("no PostgreSQL server here (initdb), and it cannot be installed: that takes root and apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update",), ("install", "--yes", "--no-install-recommends", "postgresql")):
        done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(
                f"no PostgreSQL server here (initdb), and apt-get {words[0]} failed: {done.stderr.strip()[-200:]}"
            )


@contextmanager
def server() -> Iterator[str]:
    """URL of a new, empty database."""
    if find_programs() is None:
        install_programs()
    programs = find_programs()
    assert programs is not None
    user = _user()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Not in pytest's folder, which only its owner may enter.
    home = Path(tempfile.mkdtemp(prefix="pabtune-postgres-", dir="/tmp"))
    try:
        if user is not None:
            shutil.chown(home, user)

        def call(program: str, *words: str) -> None:
            with (home / "log").open("a") as log:
                subprocess.run([programs / program, *words], user=user, cwd=home, stdout=log, stderr=log, check=True)

        data = str(home / "data")
        call("initdb", "--pgdata", data, "--username", "pabtune", "--auth", "trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home} -c fsync=off"
        call("pg_ctl", "start", "--wait", "--pgdata", data, "--log", str(home / "server.log"), "--options", options)
        try:
            yield f"postgresql://pabtune@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", data)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _user() -> str | None:
    """Whom the server runs as; None = whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    known = Path("/etc/passwd").read_text()
    return next(user for user in USERS if f"\n{user}:" in known)
