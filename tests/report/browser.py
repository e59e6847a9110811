"""Chromium without a window, driven by its DevTools protocol: one page in it, its console, its requests, its pictures."""

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-allow-origins=*",
    "--autoplay-policy=no-user-gesture-required", "--hide-scrollbars",
)  # fmt: skip

LONGEST_S = 60
"""Until a browser has started, and for an answer."""


def find_program() -> str | None:
    """The browser's program; None if there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Tab:
    """One tab: sends commands, and notes what happens in it."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._next = connection, 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command."""
        self._next += 1
        self._connection.send(json.dumps({"id": self._next, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv())
            if message.get("id") == self._next:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript; a promise is waited for."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def show(self, page: Path, width: int = 1200, height: int = 900, scheme: str = "light", scale: float = 1) -> None:
        """Opens a file on a screen of a size, in light or dark."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.send("Page.navigate", url=page.absolute().as_uri())
        deadline = time.monotonic() + LONGEST_S
        while self.evaluate("document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page did not load"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions, and what the page's policy refused."""
        self.evaluate("new Promise((done) => setTimeout(done, 100))")
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"]["text"])
            elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
                found.append(str(parameters["args"]))
        return found

    def requests(self) -> list[str]:
        """What the page asked for, without its own file and what it holds."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "blob:"))][1:]

    def screenshot(self, *, is_whole: bool = False) -> bytes:
        """The page as PNG: what is on the screen, or all of it."""
        return base64.b64decode(
            self.send("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole, **self._clip(is_whole))[
                "data"
            ]
        )

    def _clip(self, is_whole: bool) -> Mapping[str, Any]:
        if not is_whole:
            return {}
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def pdf(self) -> bytes:
        """The page as it is printed on A4."""
        return base64.b64decode(
            self.send(
                "Page.printToPDF", printBackground=True, preferCSSPageSize=False, paperWidth=8.27, paperHeight=11.69
            )["data"]
        )


@contextmanager
def open_browser() -> Iterator[Tab]:
    """A browser with a profile of its own, which ends with the block; skips the test where there is none."""
    websocket = pytest.importorskip("websocket", reason="the driver is missing: pip install 'pabtune[browser]'")
    program = find_program()
    if program is None:
        pytest.skip("no Chromium here: install the package `chromium`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tempfile.mkdtemp(prefix="pabtune-browser-")
    words = [program, *FLAGS, f"--remote-debugging-port={port}", f"--user-data-dir={home}", "about:blank"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        connection = websocket.create_connection(_address(port), timeout=LONGEST_S)
        try:
            yield Tab(connection)
        finally:
            connection.close()
    finally:
        process.terminate()
        process.wait(timeout=LONGEST_S)
        shutil.rmtree(home, ignore_errors=True)


def _address(port: int) -> str:
    """Where the first tab listens."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                tabs = [each for each in json.load(answer) if each["type"] == "page"]
            return tabs[0]["webSocketDebuggerUrl"]
        except (OSError, IndexError):
            assert time.monotonic() < deadline, "the browser did not start"
            time.sleep(0.1)
