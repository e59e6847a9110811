"""The page in Chromium: nothing is complained about or fetched, videos play, phones need no horizontal scrolling."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pabtune.report.page.folder import read_folder
from pabtune.report.page.page import page_of
from pabtune.report.page.rendering import as_html
from tests.report.browser import Tab, open_browser
from tests.report.folders import leave_all

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("left")
    leave_all(folder)
    (folder / "report.html").write_text(as_html(page_of(read_folder(folder))), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_the_page_fits_its_screen_and_is_quiet(tab, page, width, scheme) -> None:
    tab.show(page, width=width, scheme=scheme)
    assert tab.complaints() == []
    assert tab.requests() == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    paper, ink = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    bright = [sum(map(int, color[4:-1].split(","))) / 3 for color in (paper, ink)]
    assert (bright[0] > 230 and bright[1] < 60) if scheme == "light" else (bright[0] < 40 and bright[1] > 200)
    shown = tab.evaluate(
        "[...document.querySelectorAll('svg')].filter((e) => e.getBoundingClientRect().width).map((e) => e.classList[0])"
    )
    assert set(shown) == {"narrow" if width < 640 else "wide"}


def test_videos_play_and_pairs_run_together(tab, page) -> None:
    tab.show(page)
    count = tab.evaluate("document.querySelectorAll('video').length")
    assert count == 8
    tab.evaluate("document.querySelector('.pair').scrollIntoView(); document.querySelector('.pair video').play()")
    times = "[...document.querySelectorAll('.pair')[0].querySelectorAll('video')].map((video) => video.currentTime)"
    deadline = time.monotonic() + 30
    while not all(0 < each for each in tab.evaluate(times)):
        assert time.monotonic() < deadline, tab.evaluate(times)
        time.sleep(0.05)
    assert tab.evaluate(
        "[...document.querySelectorAll('video')].every((video) => video.muted && video.loop && !video.error)"
    )
    ready = (
        "[...document.querySelectorAll('video')].every((video) => video.readyState >= 2 && video.videoWidth === 192)"
    )
    while not tab.evaluate(ready):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert tab.complaints() == []


def test_a_script_in_a_prompt_does_not_run(tab, page) -> None:
    tab.show(page)
    assert tab.evaluate("document.scripts.length") == 1
    assert "<script>alert('x')</script>" in tab.evaluate("document.querySelector('.pair figcaption').textContent")


def test_paper_shows_stills_and_every_policy(tab, page) -> None:
    tab.show(page, scheme="dark")
    tab.send("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert tab.evaluate(
        "[...document.querySelectorAll('video')].every((video) => !video.getBoundingClientRect().width)"
    )
    assert tab.evaluate(
        "[...document.querySelectorAll('.still')].every((still) => still.getBoundingClientRect().width > 50)"
    )
    assert tab.evaluate(
        "[...document.querySelectorAll('details svg.wide')].every((each) => each.getBoundingClientRect().height > 20)"
    )
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.pdf().startswith(b"%PDF-")


def test_a_script_from_elsewhere_is_refused(tab, page, tmp_path) -> None:
    """The page's own policy: what is seen here would be seen by the tests above."""
    html = page.read_text(encoding="utf-8").replace(
        "</body>", "<script>console.error(1)</script><img src='https://x.invalid/y'></body>"
    )
    (tmp_path / "other.html").write_text(html, encoding="utf-8")
    tab.show(tmp_path / "other.html")
    assert len(tab.complaints()) >= 2
