"""Processes in a moment: one program that has everything imported and forks whoever is asked for.

Run as a program it reads commands as JSON lines and says what became of each child::

    ["start", 7, "client", [...], "7.out"]     fork; child 7 runs PROGRAMS["client"](*[...])
    ["signal", 7, 9]                           send it a signal, if it still runs
                     [7, -9]                   it ended, by its status or by this signal

It has no thread and no loop, so a child is a whole process of its own.  It alone reaps its
children, so a signal never meets another process that was given the same number.  When its input
ends it kills what is left: nothing outlives the test, however that ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


# --- the program ---------------------------------------------------------------------------------


def serve(programs: Mapping[str, Callable[..., int]]) -> None:
    """Read commands from stdin until it ends."""
    running: dict[int, int] = {}  # pid -> the number it was asked for under
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    rest = b""
    while True:
        select.select([0, wake], [], [])
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 1 << 12)
        _reap(running)
        if not select.select([0], [], [], 0)[0]:
            continue
        read = os.read(0, 1 << 16)
        if not read:
            break
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            what, number, *more = json.loads(line)
            if what == "start":
                running[_fork(programs, *more)] = number
            else:
                for pid in [pid for pid, known in running.items() if known == number]:
                    os.kill(pid, more[0])
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _fork(programs: Mapping[str, Callable[..., int]], name: str, given: list[Any], out: str) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
        status = programs[name](*given)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        ended = [running.pop(pid), os.waitstatus_to_exitcode(status)]
        os.write(1, json.dumps(ended).encode() + b"\n")


# --- who asks ------------------------------------------------------------------------------------


class Child:
    """A process that was forked for us."""

    def __init__(self, server: ForkServer, number: int) -> None:
        self._server = server
        self._number = number
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its exit status; negative: the signal that ended it."""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        if not self.ended.done():
            self._server.tell("signal", self._number, int(number))


class ForkServer:
    """One program, in which ``module`` is imported, and the children it forks."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._hearing = asyncio.create_task(self._hear())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._hearing
        await self._process.wait()

    def tell(self, *command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    def start(self, program: str, *given: object, out: Path) -> Child:
        """Fork a child that runs a program; what it prints goes to ``out``."""
        child = Child(self, len(self._children))
        self._children.append(child)
        out.unlink(missing_ok=True)
        self.tell("start", len(self._children) - 1, program, given, str(out))
        return child

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, status = json.loads(line)
            self._children[number].ended.set_result(status)
        for child in self._children:
            child.ended.cancel()
