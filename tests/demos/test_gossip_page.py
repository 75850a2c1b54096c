"""The gossip demo's page in real headless Chromium: five real agents, cut, healed, and one room."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demos.gossip.load import PLACES
from tests.browser import executable, opened, pictured, until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
STATES = "[...document.querySelectorAll('#ring .node')].map((n) => n.dataset.state).join('')"
# One question each: nodes write all the time, so what two questions see may be two moments.
PARTED = f"""
    {STATES} === 'AAABB'
    && new Set([...document.querySelectorAll('#ring .node circle')]
        .map((circle) => getComputedStyle(circle).fill)).size === 2
    && document.querySelector('#summary').textContent.includes('2 states')
    && document.querySelector('#ring').getAttribute('aria-label')
        .startsWith('state A: ada, bob, cyd; state B: dee, eve; 6 links cut')
"""
HEALED = f"""
    {STATES} === 'AAAAA'
    && !document.querySelector('td.differs')
    && !document.querySelector('#ring .link.cut')
    && document.querySelector('#summary').textContent.includes('nothing diverged')
"""

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.demo]


@pytest.fixture
def demo() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The demo as a user starts it, and its URL."""
    executable()
    running = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "demos", "gossip", "--nodes", "5", "--ui"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert running.stdout is not None
        url = ""
        for line in running.stdout:
            url = url or (line.startswith("page: ") and line[6:].strip()) or ""
            if "have met" in line:
                break
        assert url, running.stderr and running.stderr.read()
        yield url, running
    finally:
        running.kill()
        running.communicate()


async def order(page: Any, name: str) -> None:
    await page.get_by_role("button", name=name, exact=True).click()


async def diverged(page: Any) -> None:
    """Cut the network and let everybody write, until both sides differ."""
    await order(page, "Partition")
    await until(page, "document.querySelectorAll('#ring .link.cut').length === 6")
    await order(page, "Write burst")
    await until(page, f"{STATES} === 'AAABB' && document.querySelectorAll('td.differs').length > 5")


async def tells_of_a_loss(page: Any, document: str) -> bool:
    """Whether the provenance of a document has one write shown and another that lost to it."""
    await page.locator(f"button[data-document='{document}']").first.click()
    await page.wait_for_selector("#provenance[open] .fate.shown")
    fates = await page.locator("#provenance-rows .fate").all_text_contents()
    assert sum(fate == "shown" for fate in fates) == 1, fates
    await page.keyboard.press("Escape")
    await page.wait_for_selector("#provenance", state="hidden")
    return any(fate.startswith("lost to ") for fate in fates)


async def test_five_agents_diverge_heal_and_book_one_room_once(
    demo: tuple[str, subprocess.Popen[str]],
) -> None:
    """What a reader of the README does: cut, write, look who wrote what, book twice, heal."""
    url, running = demo
    async with opened(url) as page:
        assert "token" not in await page.evaluate("location.href"), "it is not left in the URL"
        await until(page, f"{STATES} === 'AAAAA'")

        # A partition: two colours, cut links dashed, and values that differ marked.
        await diverged(page)
        await until(page, PARTED)
        await pictured(page, "partition")

        # Provenance: who wrote what is shown on the other side, and when.
        await page.locator("td.differs button[data-document='status/east']").first.click()
        await page.wait_for_selector("#provenance[open] .fate.shown")
        row = await page.text_content("#provenance-rows tr:first-child")
        assert re.search(r"shown\[?'?(dee|eve)", row), row
        assert re.search(r"(dee|eve) #\d+\d\d:\d\d:\d\d$", row), row
        await page.keyboard.press("Escape")

        # A room wanted from both sides at once: one winner.
        await order(page, "Book twice")
        log = page.locator("#log")
        await until(
            page,
            "/was refused/.test(document.querySelector('#log').textContent)"
            " && /has it/.test(document.querySelector('#log').textContent)",
        )
        await page.get_by_role("tab", name="Bookings").click()
        await page.wait_for_selector("#timeline .slot.confirmed")
        await until(page, "document.querySelectorAll('#timeline .slot').length === 1")
        winner = await page.text_content("#timeline .slot b")
        lines = await log.locator("li span").all_text_contents()
        refused = [line for line in lines if "was refused" in line]
        assert len(refused) == 1
        assert refused[0].endswith(f"was refused, {winner} has it")
        await page.get_by_role("tab", name="Replicas").click()

        # Heal: one colour, everywhere the same, and who lost to whom. Nodes go on writing, and
        # the next write of a status replaces winner and loser, so it is looked for more than once.
        for _ in range(5):
            await order(page, "Heal")
            await until(page, HEALED)
            if any([await tells_of_a_loss(page, f"status/{place}") for place in PLACES]):
                break
            await diverged(page)
        else:
            pytest.fail("the other side's write is not told to have lost")
        await pictured(page, "healed")

        # One dies, a link is slow, and all is well again.
        await order(page, "Slow link")
        await page.wait_for_selector("#ring .link.slow", state="attached")
        await order(page, "Kill")
        await until(page, f"{STATES} === 'AAAA'")
        await order(page, "Heal")
        await until(page, f"{STATES} === 'AAAAA' && !document.querySelector('#ring .link.slow')")

    # Ctrl-C ends the writing; the demo closes with its checks.
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, output + errors
    assert "nothing acknowledged is lost" in output
    assert output.endswith("checks hold (exit status 0)\n")
    assert errors == ""
