"""What the processes of a recorded history do: serve, or be a client that writes down what it does.

A client's record is a file of its own, a line for each event, written with one system call: what
kill -9 can cut off is the end of the operation it was in.  The call is written down before it is
made and its answer after it came, each with the machine's monotonic time, which all processes
share: so two operations of which one ended before the other began are in that order in the record.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import transactional as t
from tests.transactional.histories.faults import FAULTS
from tests.transactional.histories.fork_server import serve
from tests.transactional.linearizability import FOREVER
from tests.transactional.workloads import WORKLOADS
from transactional.__main__ import main as command
from transactional.server.admission import Listen
from transactional.server.server import Authority

PATIENCE_S = 20.0
"""How long an authority may be away before a client gives up, which fails the test."""
IDS_EACH = 10_000
"""Process ids of one client: it takes another one after each outcome that it does not know."""


class FileRecorder:
    """Writes down what one process does; see ``Recorder``."""

    def __init__(self, path: Path, number: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._away = path.parent / "away"
        self._next = number * IDS_EACH

    def process(self) -> int:
        self._next += 1
        return self._next

    def add(self, process: int, kind: str, f: str, key: str, **fields: Any) -> None:
        event = {"process": process, "type": kind, "f": f, "key": key, "time_ns": 0} | fields
        event["time_ns"] = time.monotonic_ns()
        os.write(self._file, json.dumps(event).encode() + b"\n")

    async def back(self) -> None:
        """Wait for an authority that is said to be away."""
        async with asyncio.timeout(PATIENCE_S):
            while self._away.exists():  # noqa: ASYNC110 another process takes it away
                await asyncio.sleep(0.005)


def merged(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the events of several records as one history, in the order of their times."""
    events = [
        json.loads(line)
        for path in paths
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")  # the last one of a process that was killed may be half a line
    ]
    # At the same nanosecond a call comes before an answer: they may have overlapped.
    events.sort(key=lambda event: (event["time_ns"], event["type"] != "invoke"))
    return [{"index": index} | event for index, event in enumerate(events)]


def client(  # noqa: PLR0917 what a command line is
    url: str, workload: str, seed: int, number: int, steps: int, path: str
) -> int:
    """Be one client of a workload; return when its steps are done."""

    async def work() -> None:
        log = FileRecorder(Path(path), number)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    store = await t.connect(url)
                    break
                except t.UnavailableError:
                    await asyncio.sleep(0.02)
        await WORKLOADS[workload](store, log, random.Random(seed), steps)
        await store.close()

    asyncio.run(work())
    return 0


def authority(path: str, port: int, fault: str | None) -> int:
    """Be the authority of a file: the command that users give, or one with a fault."""
    if fault is None:
        return command(["serve", path, "--listen", f"127.0.0.1:{port}"])

    async def work() -> None:
        served = Authority(await FAULTS[fault].open(path), Listen(port=port))
        await served.start()
        print(f"listening on {served.url}", flush=True)
        await asyncio.sleep(FOREVER)

    asyncio.run(work())
    return 0


if __name__ == "__main__":
    serve({"client": client, "authority": authority})
