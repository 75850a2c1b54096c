"""A real browser for tests: headless Chromium, driven by Playwright over the page as it is served.

Where Chromium is missing the tests are skipped, loudly, with the command that brings it; where
``CONVOCA_REQUIRE`` names ``chromium``, as a CI does, they fail instead. With ``CONVOCA_IMAGES`` set
(`make images`) the tests leave pictures of the page in docs/images as they pass by; without it they
write nothing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
MISSING = "browser chromium is not here: apt-get install chromium"
WIDE, NARROW = {"width": 1280, "height": 720}, {"width": 360, "height": 740}
LOOKS = ("wide light", "wide dark", "narrow light", "narrow dark")
WITHIN_MS = 30_000


def executable() -> str:
    """Where Chromium is; skips, or fails where it is required."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if "chromium" in os.environ.get("CONVOCA_REQUIRE", "").split(","):
            pytest.fail(f"{MISSING} (CONVOCA_REQUIRE names it)", pytrace=False)
        pytest.skip(MISSING)
    return found


class Watched:
    """What a page said on its console, and which hosts it asked."""

    def __init__(self, page: Any) -> None:
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.own = ""
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _said(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(self.own):
            self.foreign.append(request.url)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Any]:
    """A page at a URL; it must have complained of nothing, and asked nobody else, when it ends."""
    from playwright.async_api import async_playwright

    path = executable()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            context = await browser.new_context(**{"viewport": WIDE, **options})
            context.set_default_timeout(WITHIN_MS)
            page = await context.new_page()
            watched = Watched(page)
            watched.own = url.partition("/ui")[0] + "/"
            await page.goto(url)
            yield page
            assert watched.errors == []
            assert watched.foreign == []
        finally:
            await browser.close()


async def pictured(page: Any, name: str, *looks: str) -> None:
    """Leave pictures of this moment, in all `LOOKS` or in these; only if they are asked for.

    What moves stands still for them.
    """
    if not os.environ.get("CONVOCA_IMAGES"):
        return
    IMAGES.mkdir(exist_ok=True)
    for size, scheme in (look.split() for look in looks or LOOKS):
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        width = (WIDE if size == "wide" else NARROW)["width"]
        await page.set_viewport_size({"width": width, "height": 400})  # no more than there is
        await page.wait_for_timeout(700)
        path = IMAGES / f"{name}-{size}-{scheme}.png"
        await page.screenshot(path=str(path), full_page=True)
    await page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    await page.set_viewport_size(WIDE)


async def until(page: Any, expression: str, arg: object = None) -> None:
    """Wait until an expression of JavaScript, or a function of `arg`, is true.

    Playwright's own wait evaluates text inside of the page, which the page's policy forbids.
    """
    try:
        async with asyncio.timeout(WITHIN_MS / 1000):
            while not await page.evaluate(expression, arg):  # noqa: ASYNC110 - it asks
                await asyncio.sleep(0.05)
    except TimeoutError:
        told = await page.evaluate("document.body.innerText")
        pytest.fail(f"this did not come true: {expression}\n{told}", pytrace=False)
