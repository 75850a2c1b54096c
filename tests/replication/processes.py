"""Starts workers (worker.py) and talks to them; kills only what it started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 240


@dataclass
class Worker:
    name: str
    process: asyncio.subprocess.Process
    address: str

    async def do(self, what: str, **order: Any) -> Any:
        """One order, one answer."""
        answer = await self.answer(what, **order)
        assert "ok" in answer, answer
        return answer["ok"]

    async def refusal(self, what: str, **order: Any) -> str:
        """One order that is not carried out; "Type of error: text"."""
        answer = await self.answer(what, **order)
        assert "error" in answer, answer
        return answer["error"]

    async def answer(self, what: str, **order: Any) -> dict[str, Any]:
        """Whatever the worker says to it."""
        self.process.stdin.write(json.dumps({"do": what, **order}).encode() + b"\n")
        await self.process.stdin.drain()
        line = await asyncio.wait_for(self.process.stdout.readline(), WAIT_S)
        return json.loads(line)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


async def start(name: str, env: dict[str, str] | None = None, **options: Any) -> Worker:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.replication.worker",
        json.dumps({"name": name, "secret": "a shared secret", **options}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=env,
    )
    line = await asyncio.wait_for(process.stdout.readline(), WAIT_S)
    return Worker(name, process, json.loads(line)["address"])


@contextlib.asynccontextmanager
async def team(directory: Path, names: list[str]) -> AsyncIterator[dict[str, Worker]]:
    """Workers that know the first one's address; stopped in the end, whatever happened."""
    workers: dict[str, Worker] = {}
    try:
        workers[names[0]] = await start(names[0], journal=str(directory / names[0]))
        seed = workers[names[0]].address
        for name in names[1:]:
            workers[name] = await start(name, journal=str(directory / name), peers=[seed])
        yield workers
    finally:
        for worker in workers.values():
            if worker.process.returncode is None:
                worker.process.stdin.close()
        for worker in workers.values():
            try:
                await asyncio.wait_for(worker.process.wait(), 10)
            except TimeoutError:
                await worker.kill()
