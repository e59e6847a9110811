"""The server as a process, asked over HTTP by several clients."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pabtune.records.policies import Policy
from tests.examples.running import ENVIRONMENT, ROOT

POLICY = ROOT / "policies" / "shapes-30steps-front" / "shapes-30steps-15of30.json"
PROMPT = "a red square moves slowly to the left"
STEPS = 10


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "examples" / "serve.py"), "--port", str(port), "--waiting", "1"]
    process = subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path_factory.mktemp("server"))
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def wait_for(port: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)


def generate(url: str, **changes) -> tuple[int, bytes, dict]:
    body = json.dumps({"prompt": PROMPT, "steps": STEPS} | changes).encode()
    request = urllib.request.Request(f"{url}/generate", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read(), json.loads(answer.headers["x-step-pattern"])
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def metrics(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    values = [re.fullmatch(r"(pabtune_\w+(?:\{.*\})?) (\d+)", line).groups() for line in lines]
    return {name: float(value) for name, value in values}


def test_requests_at_once_are_answered_one_by_one_or_refused_and_counted(url) -> None:
    status, alone, pattern = generate(url)
    assert (status, alone[:4]) == (200, b"GIF8")
    computed, served = (pattern["transformer"].count(symbol) for symbol in "#-")
    assert computed + served == STEPS
    assert served > 0
    before = metrics(url)
    assert before['pabtune_computed_calls_total{kind="transformer"}'] == computed
    assert before['pabtune_broadcast_calls_total{kind="transformer"}'] == served
    assert before["pabtune_stored_bytes"] == 0
    assert before["pabtune_most_stored_bytes"] > 0
    (info,) = (name for name in before if name.startswith("pabtune_policy_info"))
    assert f'digest="{Policy.load(POLICY).digest}"' in info
    assert f'steps_transformer="{pattern["transformer"]}"' in info

    with ThreadPoolExecutor(5) as threads:  # one is drawn, one waits, the others are refused
        answers = list(threads.map(lambda _: generate(url), range(5)))
    done = [answer for answer in answers if answer[0] == 200]
    refused = [answer for answer in answers if answer[0] == 503]
    assert len(done) + len(refused) == 5
    assert len(done) >= 2
    assert refused
    assert all(answer[1:] == (alone, pattern) for answer in done)
    assert all(b"try again" in answer[1] for answer in refused)
    after = metrics(url)
    assert after['pabtune_requests_total{outcome="done"}'] == 1 + len(done)
    assert after['pabtune_requests_total{outcome="busy"}'] == len(refused)
    assert after['pabtune_computed_calls_total{kind="transformer"}'] == computed * (1 + len(done))


def test_a_request_that_the_policy_is_not_for_is_told_so_and_the_next_one_is_served(url) -> None:
    status, told, _ = generate(url, steps=4)
    assert status == 422
    assert b"steps" in told
    assert generate(url, guidance_scale=1.0)[0] == 200
    assert metrics(url)['pabtune_requests_total{outcome="refused"}'] == 1
