"""The report of the meetings demo as a person sees it: in Chromium, at 360 px, dark, on paper."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from demos.meetings import verdict
from demos.meetings.programme import Malformed, Talk
from demos.meetings.report import KINDS, Account, write_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NINE = datetime(2025, 2, 1, 9, tzinfo=UTC)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CONTRAST_MIN = 4.5

# Contrast of every text that is seen: WCAG 2.1, relative luminance, against the ground behind it.
CONTRASTS = """() => {
  const rgba = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; text = walker.nextNode();) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.getClientRects().length) continue;
    const one = light(rgba(getComputedStyle(node).color)), two = light(ground(node));
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    found.push([contrast, text.data.trim().slice(0, 40)]);
  }
  return found;
}"""


def account() -> Account:
    """A run with a booking of each kind, a failed check, long words, and all tables filled."""
    bookings = []
    for number, room in enumerate(["Room with a rather long name", "H.1301 (Cornil)"] * 12):
        start = NINE + timedelta(minutes=30 * number)
        talk = Talk(f"t{number}", room, start, start + timedelta(minutes=25), "track", "", ())
        talk = replace(talk, title=f"Talk {number} on " + "donaudampfschifffahrt" * (number % 3))
        bookings.append(verdict.Booked(talk, f"b{number}", room, start, talk.end, 1 + number % 2))
    late = replace(bookings[0], start=NINE + timedelta(hours=14), end=NINE + timedelta(hours=15))
    bookings[0] = late
    why = f"taken by booking {'0123456789abcdef' * 4}"
    return Account(
        title="A run",
        figures=[("bookings per second", "100")],
        checks=[verdict.Check("good", "0", ok=True), verdict.Check("bad", "f" * 90, ok=False)],
        bookings=bookings,
        refused=[verdict.Refused(bookings[1].talk, why)],
        yielded=[verdict.Refused(late.talk, why)],
        malformed=[Malformed(7, "no room")],
        clashes=["person ada is in two places"],
        story=[(0.5, "heal")],
        setbacks=[("3", "a hold timed out")],
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, account())
    return path


@pytest.mark.browser
@pytest.mark.processes
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_report_is_readable_at_any_width(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    """Nothing to scroll sideways, all text stands out, no bar without its title and its time."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 60
    assert [pair for pair in contrasts if pair[0] < CONTRAST_MIN] == []
    assert page.locator(".legend li").count() == len(KINDS)
    if width == 360:
        first = page.locator(".lane span").first
        assert first.locator("time").is_visible()
        sizes = page.eval_on_selector_all(
            ".lane span, td", "nodes => nodes.map(n => parseFloat(getComputedStyle(n).fontSize))"
        )
        assert min(sizes) >= 12
        assert page.evaluate(
            "[...document.querySelectorAll('.lane span')].every("
            "n => n.scrollWidth <= n.clientWidth + 1)"
        )
    assert complaints == []
    page.close()


@pytest.mark.browser
@pytest.mark.processes
def test_the_report_prints_every_talk_with_its_time(browser: Any, report: Path) -> None:
    """On paper there is no scrolling: the bars are lists, black on white, and all are there."""
    page = browser.new_page(viewport={"width": 794, "height": 1123}, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    bars = page.locator(".lane span")
    assert bars.count() == 24
    assert all(bars.nth(number).locator("time").is_visible() for number in range(24))
    assert [pair for pair in page.evaluate(CONTRASTS) if pair[0] < CONTRAST_MIN] == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf()[:5] == b"%PDF-"
    page.close()
