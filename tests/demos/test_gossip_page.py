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

from tests.browser import executable, opened, pictured, until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
STATES = "[...document.querySelectorAll('#ring .node')].map((n) => n.dataset.state).join('')"

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


async def test_five_agents_diverge_heal_and_book_one_room_once(
    demo: tuple[str, subprocess.Popen[str]],
) -> None:
    """What a reader of the README does: cut, write, look who wrote what, book twice, heal."""
    url, running = demo
    async with opened(url) as page:
        assert "token" not in await page.evaluate("location.href"), "it is not left in the URL"
        await until(page, f"{STATES} === 'AAAAA'")

        # A partition: two colours, cut links dashed, and values that differ marked.
        await order(page, "Partition")
        await until(page, "document.querySelectorAll('#ring .link.cut').length === 6")
        await order(page, "Write burst")
        await until(page, f"{STATES} === 'AAABB'")
        await until(page, "document.querySelectorAll('td.differs').length >= 6")
        colours = await page.evaluate(
            "[...document.querySelectorAll('#ring .node circle')]"
            ".map((c) => getComputedStyle(c).fill)"
        )
        assert len(set(colours)) == 2
        assert "2 states" in await page.text_content("#summary")
        said = await page.get_attribute("#ring", "aria-label")
        assert said.startswith("state A: ada, bob, cyd; state B: dee, eve; 6 links cut"), said
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
        assert await page.locator("#timeline .slot").count() == 1
        winner = await page.text_content("#timeline .slot b")
        lines = await log.locator("li span").all_text_contents()
        refused = [line for line in lines if "was refused" in line]
        assert len(refused) == 1
        assert refused[0].endswith(f"was refused, {winner} has it")
        await page.get_by_role("tab", name="Replicas").click()

        # Heal: one colour, everywhere the same.
        await order(page, "Heal")
        await until(page, f"{STATES} === 'AAAAA'")
        await until(page, "!document.querySelector('td.differs')")
        assert await page.locator("#ring .link.cut").count() == 0
        assert "nothing diverged" in await page.text_content("#summary")
        await page.locator("button[data-document='status/east']").first.click()
        await page.wait_for_selector("#provenance[open] .fate.shown")
        fates = await page.locator("#provenance-rows .fate").all_text_contents()
        assert sum(fate == "shown" for fate in fates) == 1
        assert any(fate.startswith("lost to ") for fate in fates), "the other side's write"
        await page.keyboard.press("Escape")
        await pictured(page, "healed")

        # One dies, a link is slow, and all is well again.
        await order(page, "Slow link")
        await page.wait_for_selector("#ring .link.slow", state="attached")
        await order(page, "Kill")
        await until(page, f"{STATES} === 'AAAA'")
        await order(page, "Heal")
        await until(page, f"{STATES} === 'AAAAA'")
        assert await page.locator("#ring .link.slow").count() == 0

    # Ctrl-C ends the writing; the demo closes with its checks.
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, output + errors
    assert "nothing acknowledged is lost" in output
    assert output.endswith("checks hold (exit status 0)\n")
    assert errors == ""
