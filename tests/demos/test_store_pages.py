"""`--ui` of the demos whose store is what one looks at: the page tells while they run."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDERS = ("orders", "--orders", "12", "--kills", "0")
TEAMS = ("teams", "--jobs", "80", "--workers", "3", "--kills", "0")


@pytest.mark.demo
@pytest.mark.processes
@pytest.mark.parametrize(
    ("words", "panel"), [(ORDERS, "sagas"), (TEAMS, "queues")], ids=["orders", "teams"]
)
async def test_what_the_store_decides_is_on_the_page(words: tuple[str, ...], panel: str) -> None:
    """The URL is printed, the stream shows sagas or queues, and the demo ends as without."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "demos", *words, "--ui"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
    )
    try:
        assert running.stdout is not None
        url = ""
        async with asyncio.timeout(60):
            while not url:
                line = (await running.stdout.readline()).decode()
                assert line, "it ended before it told where the page is"
                url = line.partition("page: ")[2].strip()
        seen: dict[str, Any] = {}
        async with (
            asyncio.timeout(60),
            aiohttp.ClientSession() as session,
            session.get(f"{url.partition('#')[0]}/stream") as answer,
        ):
            async for told in answer.content:
                seen = json.loads(told[6:]) if told.startswith(b"data: ") else seen
                if (seen.get("store") or {}).get(panel):
                    break
        assert seen["replicas"] is None
        assert seen["store"][panel], "nothing was seen of it"
        async with asyncio.timeout(100):
            output = (await running.stdout.read()).decode()
            assert await running.wait() == 0, output
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
