"""The page in real headless Chromium: narrow, by keys alone, dark, still, and read as tables."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import convoca
from convoca.page import Page
from tests.browser import NARROW, executable, opened, pictured, until
from transactional import Interval, Saga, Step, StepRefused, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.browser, pytest.mark.processes]
TABS = ("Replicas", "Bookings", "Sagas", "Queues", "Members")


@asynccontextmanager
async def team() -> AsyncIterator[convoca.Member]:
    """Two members with documents, and a store with bookings, sagas and a queue, on one page."""
    executable()
    store = await connect("memory:")
    async with (
        convoca.join("ann", team="page", peers=[], store=store, ui=True) as ann,
        convoca.join("bob", team="page", peers=[ann.agent.address]) as bob,
    ):
        ann.counter("stock/widget").increment(5)
        ann.register("plan").set({"step": "wrap", "by": "ann"})
        bob.set("tags").add("urgent")
        begin = datetime(2030, 1, 7, 9, tzinfo=UTC)
        slots = [
            Interval(begin + timedelta(hours=n), begin + timedelta(hours=n + 1)) for n in range(4)
        ]
        await ann.rooms.book("turing", slots[0], holder="ann")
        await ann.rooms.hold("turing", slots[1], holder="bob", ttl_s=120)
        await ann.rooms.hold("hopper", slots[2], holder="cyd", ttl_s=1.5)
        await ann.rooms.book("hopper", slots[0], holder="dee")
        await ann.rooms.release(await ann.rooms.hold("lovelace", slots[3], holder="eve", ttl_s=60))

        def refuse(_: Any) -> None:
            raise StepRefused("no flight on that day")

        steps = [Step("hotel", lambda _: 1, lambda _: None)]
        good = Saga("trip", [*steps, Step("flight", lambda _: 1, lambda _: None)])
        bad = Saga("bad-trip", [*steps, Step("flight", refuse)])
        async with ann.sagas([good, bad]) as sagas:
            await sagas.execute("trip", "trip-1")
            await sagas.execute("bad-trip", "trip-2")
        queue = ann.queue("mail")
        await queue.put("m1", {})
        await queue.put("m2", {})
        claimed = await queue.claim(n=1)
        try:
            yield ann
        finally:
            assert claimed
            await queue.close()
    await store.close()


async def loaded(page: Any) -> None:
    """Until both replicas are drawn, equal, and the store was read."""
    await until(
        page,
        "[...document.querySelectorAll('#ring .node')].map((n) => n.dataset.state).join('')"
        " === 'AA'",
    )
    await page.wait_for_selector("#tab-bookings:visible")


async def test_the_store_is_shown_with_what_is_held_counting_down() -> None:
    """Hatched and counting, confirmed, expired by itself; sagas with what was undone; queues."""
    async with team() as ann, opened(ann.page) as page:
        await loaded(page)
        await page.get_by_role("tab", name="Bookings").click()
        held = page.locator(".slot.held", has_text="bob")
        before = await held.text_content()
        await until(
            page,
            "(old) => [...document.querySelectorAll('.slot.held')]"
            ".some((s) => /bob/.test(s.textContent) && s.textContent !== old)",
            before,
        )
        assert "s left" in await held.text_content()
        hatch = await held.evaluate("(s) => getComputedStyle(s).backgroundImage")
        assert "repeating-linear-gradient" in hatch
        await page.wait_for_selector(".slot.expired:has-text('cyd')")
        await until(page, "document.querySelectorAll('.slot.confirmed').length === 2")
        assert "given back" in await page.text_content(".slot.released")
        await pictured(page, "bookings", "wide light", "narrow dark")
        await page.get_by_role("tab", name="Sagas").click()
        undone = page.locator(".run", has_text="trip-2")
        assert "compensated" in await undone.text_content()
        chips = [
            await chip.get_attribute("aria-label") for chip in await undone.locator(".step").all()
        ]
        assert chips == ["hotel: undone, 1 attempts", "flight: refused, 1 attempts"]
        await page.get_by_role("tab", name="Queues").click()
        row = page.locator("#queue-rows tr").first
        await row.wait_for()
        cells = await row.locator("th, td").all_text_contents()
        assert cells == ["mail", "0", "1", "1", "0", "0", "0"]
        await page.get_by_role("tab", name="Members").click()
        await until(page, "document.querySelectorAll('#member-rows tr').length === 2")


async def test_every_panel_wears_its_badge() -> None:
    """Eventual where replicas may differ, linearizable where the store decided."""
    async with team() as ann, opened(ann.page) as page:
        await loaded(page)
        for name in TABS:
            await page.get_by_role("tab", name=name).click()
            panel = page.locator("[role=tabpanel]:visible")
            badges = set(await panel.locator(".badge").all_text_contents())
            wanted = "Eventual" if name in {"Replicas", "Members"} else "Linearizable"
            assert badges == {wanted}


async def test_nothing_is_wider_than_a_small_phone() -> None:
    """360 px: each view fits; what is wide scrolls inside of its own region, by keys too."""
    async with team() as ann, opened(ann.page, viewport=NARROW) as page:
        await loaded(page)
        for name in TABS:
            await page.get_by_role("tab", name=name).click()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360, name
            wide = await page.evaluate(
                "[...document.querySelectorAll('[role=tabpanel]:not([hidden]) *')].filter((e) =>"
                " e.getBoundingClientRect().right > 361 && !e.closest('.scroll, [role=tablist]'))"
                ".map((e) => e.outerHTML.slice(0, 80))"
            )
            assert wide == [], name
        small = await page.evaluate(
            "[...document.querySelectorAll('button')].filter((b) => b.offsetParent &&"
            " Math.min(b.offsetWidth, b.offsetHeight) < 24).map((b) => b.outerHTML)"
        )
        assert small == [], "WCAG 2.5.8: a target is 24 px at least"


async def test_keys_alone_are_enough() -> None:
    """Tab, arrows, Enter, Escape and Space: views, provenance, tables and orders; focus is seen."""
    async with team() as ann, opened(ann.page) as page:
        await loaded(page)
        focused = "document.activeElement"

        async def tab_to(selector: str, presses: int = 60) -> None:
            for _ in range(presses):
                await page.keyboard.press("Tab")
                if await page.evaluate(f"{focused}.matches({selector!r})"):
                    outline = await page.evaluate(f"getComputedStyle({focused}).outlineStyle")
                    assert outline != "none", selector
                    return
            pytest.fail(f"no Tab leads to {selector}")

        await tab_to(".skip")
        await tab_to("[role=tab]")
        await page.keyboard.press("ArrowRight")
        assert await page.evaluate(f"{focused}.textContent") == "Bookings"
        assert await page.is_visible("#bookings")
        await page.keyboard.press("End")
        assert await page.is_visible("#members")
        await page.keyboard.press("Home")
        assert await page.is_visible("#replicas")
        await tab_to("details.behind summary")
        await page.keyboard.press("Enter")
        assert await page.is_visible("#ring-rows")
        await tab_to("#documents-rows button")
        name = await page.evaluate(f"{focused}.getAttribute('aria-label')")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#provenance[open] .fate.shown")
        assert await page.evaluate(
            "document.querySelector('#provenance').contains(document.activeElement)"
        )
        await page.keyboard.press("Escape")
        assert await page.evaluate(f"{focused}.getAttribute('aria-label')") == name
        await page.keyboard.press("Shift+Tab")
        for _ in range(40):
            if await page.evaluate(f"{focused}.dataset.verb") == "partition":
                break
            await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Space")
        await page.wait_for_selector("#ring .link.cut", state="attached")
        assert await page.text_content("#told") == "ann is cut off from 1 others"
        assert await page.evaluate(f"{focused}.dataset.verb") == "partition", "focus stays"


async def test_behind_each_picture_stands_a_table() -> None:
    """For who does not see it: a name for the picture, and a table with the same content."""
    async with team() as ann, opened(ann.page) as page:
        await loaded(page)
        pictures = page.locator("svg[role=img]")
        assert await pictures.count() == 3
        for number in range(3):
            picture = pictures.nth(number)
            assert len(await picture.get_attribute("aria-label")) > 10
            card = picture.locator("xpath=ancestor::section")
            await card.locator("details.behind summary").click()
            await card.locator("tbody tr").first.wait_for()
        await until(
            page,
            "[...document.querySelectorAll('#ring-rows tr')]"
            ".map((row) => row.textContent.slice(0, 4)).join() === 'annA,bobA'",
        )
        await page.get_by_role("tab", name="Bookings").click()
        await page.locator("#bookings-behind summary").click()
        # The parts of a store are read one after the other, bookings not always first.
        await until(page, "document.querySelectorAll('#booking-rows tr').length === 5")
        unnamed = await page.evaluate(
            "[...document.querySelectorAll('button, [role=region], [role=tabpanel], dialog')]"
            ".filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')"
            " || e.textContent.trim())).map((e) => e.outerHTML)"
        )
        assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_follows_the_colours_of_the_system(scheme: str) -> None:
    """Dark ground under light text, or the reverse; no colour is left behind."""
    async with team() as ann, opened(ann.page, color_scheme=scheme) as page:
        await loaded(page)
        ground, ink = await page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.body).color]"
        )
        bright = [sum(map(int, c[4:-1].split(","))) for c in (ground, ink)]
        assert (bright[0] < bright[1]) == (scheme == "dark")


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
async def test_nothing_moves_for_who_does_not_want_it(motion: str) -> None:
    """Exchanges are drawn as motion only if motion is welcome; they are counted all the same."""
    async with team() as ann, opened(ann.page, reduced_motion=motion) as page:
        await loaded(page)
        await page.evaluate(
            "window.moved = 0; setInterval(() => { moved += document.getAnimations().length }, 30)"
        )
        await until(
            page,
            "[...document.querySelectorAll('#ring g')].some((g) => Number(g.dataset.pulses) > 2)",
        )
        assert (await page.evaluate("moved") > 0) == (motion == "no-preference")


async def test_who_has_no_token_sees_and_cannot_order() -> None:
    """The buttons are there, off, and say why."""
    async with team() as ann, opened(ann.page.partition("#")[0]) as page:
        await loaded(page)
        button = page.get_by_role("button", name="Partition")
        assert await button.is_disabled()
        assert "token" in await button.get_attribute("title")


async def test_a_page_of_a_store_alone_shows_no_replicas() -> None:
    """Tabs are there for what there is."""
    executable()
    store = await connect("memory:")
    async with Page("store", store=lambda: store) as served, opened(served.url) as page:
        await page.wait_for_selector("#timeline .nothing")
        names = await page.locator("[role=tab]:visible").all_text_contents()
        assert names == ["Bookings", "Sagas", "Queues"]
    await store.close()
