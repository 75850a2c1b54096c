"""Starts, directs and ends the processes of a demo.

The question answered here: how does one process direct others without a protocol worth the name?
Each actor is a child process that reads commands from its standard input and tells what happens on
its standard output, one JSON object per line in both directions:

    director                         actor
       | -- {"do": "block", ...} ------> |
       | <----- {"tell": "booked", ...}  |
       | -- SIGKILL ------------------>  x        (a real one; the journal is what remains)

An actor whose standard input ends stops by itself, so that nothing outlives a director that was
killed; at the latest after `STOP_S_MAX`, whatever it waits for. A program that does not read its
standard input has a keeper for that (`python -m demos.stage PROGRAM`). Lines are bounded
(`LINE_BYTES_MAX`), and so is the time that the director waits for one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LINE_BYTES_MAX = 16 * 1024 * 1024  # a dump of all calendars is the longest line, well below 1 MiB
STOP_S_MAX = 5.0  # an actor that does not stop in this time is killed
STDERR_LINES_KEPT = 40  # of each actor, to explain an end that nobody asked for

Told = dict[str, Any]


class StageError(Exception):
    """An actor did not start, fell silent or ended unasked; the demo cannot go on.

    Attributes:
        hint: what the caller can do about it.
    """

    def __init__(
        self, message: str, hint: str = "run it again; the same --seed repeats it"
    ) -> None:
        super().__init__(message)
        self.hint = hint


class Actor:
    """A child process of the director: commands in, tellings out, and real signals.

    Args:
        name: how the actor is called in messages.
        listener: is given each telling as it arrives; it must not block.
        obeys: whether it reads commands and ends with them; others have a keeper who does, and
            ends them by SIGTERM.
    """

    def __init__(
        self, name: str, listener: Callable[[str, Told], None], *, obeys: bool = True
    ) -> None:
        self.name = name
        self._obeys = obeys
        self._listener = listener
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._errors: deque[str] = deque(maxlen=STDERR_LINES_KEPT)
        self._expected_end = False
        self._answers: dict[str, asyncio.Future[Told]] = {}

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def failure(self) -> str | None:
        """Why the process ended although nobody asked it to, or None."""
        if self._process is None or self._process.returncode is None or self._expected_end:
            return None
        last = self._errors[-1] if self._errors else "no word on standard error"
        return f"{self.name} ended with status {self._process.returncode}: {last}"

    async def start(self, *command: str, greeting: str = "ready") -> None:
        """Start `python -m command...`; the previous process, if any, must have ended.

        `greeting` is what it says first; `hear` finds it even if it is asked for later.
        """
        self._answers = {greeting: asyncio.get_running_loop().create_future()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *(command if self._obeys else ("demos.stage", *command)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            start_new_session=True,  # Ctrl-C reaches the director alone, which then ends its actors
        )
        # Not before: until now it was the end of the one before that was expected.
        self._process, self._expected_end = process, False
        self._readers = [
            asyncio.create_task(self._read_tellings(process)),
            asyncio.create_task(self._read_errors(process)),
        ]

    async def _read_tellings(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                told = {"tell": "line", "text": line.decode(errors="replace").rstrip()}
            waiting = self._answers.get(str(told.get("tell")))
            if waiting and not waiting.done():
                waiting.set_result(told)
            self._listener(self.name, told)
        for future in self._answers.values():
            future.cancel()

    async def _read_errors(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            if line.strip():
                self._errors.append(line.decode(errors="replace").rstrip())

    def say(self, do: str, **fields: Any) -> None:
        """Send a command; to an actor that has ended it is lost, like any word to the dead."""
        if self._process and self._process.stdin and self.running:
            self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")

    async def hear(self, tell: str, *, timeout_s: float) -> Told:
        """Wait for the next telling of one kind.

        Raises:
            StageError: the actor ended, or did not say it in `timeout_s` seconds.
        """
        future = self._answers.get(tell)
        if future is None:
            future = self._answers[tell] = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(asyncio.shield(future), timeout_s)
        except TimeoutError:
            raise StageError(f"{self.name} did not say {tell!r} in {timeout_s:g} s") from None
        except asyncio.CancelledError:
            if not future.cancelled():
                raise
            await self._ended()
            raise StageError(self.failure or f"{self.name} ended before it said {tell!r}") from None
        finally:
            self._answers.pop(tell, None)

    async def ask(self, do: str, *, timeout_s: float, **fields: Any) -> Told:
        """Send a command and wait for the telling of the same name."""
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._answers[do] = future
        if not self.running:
            raise StageError(self.failure or f"{self.name} is not running")
        self.say(do, **fields)
        return await self.hear(do, timeout_s=timeout_s)

    def freeze(self) -> None:
        """SIGSTOP: it does nothing more until `thaw`, so that what it is at can be looked at."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on as if nothing had been."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self.running:
            with suppress(ProcessLookupError):
                # One that is kept goes with its keeper.
                os.killpg(self._process.pid, number)

    async def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        self._expected_end = True
        self._signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> None:
        """End its commands and wait; who does not stop in time is killed."""
        self._expected_end = True
        if self._process and self.running:
            if self._process.stdin:
                self._process.stdin.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_S_MAX)
        await self.kill()

    async def _ended(self) -> None:
        if self._process:
            await self._process.wait()
        if self._readers:
            await asyncio.wait(self._readers, timeout=STOP_S_MAX)


def tell(what: str, **fields: Any) -> None:
    """An actor's word to its director, whole and at once."""
    line = json.dumps({"tell": what, **fields}).encode() + b"\n"
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


async def commands() -> AsyncIterator[Told]:
    """An actor's commands, until its standard input ends."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield json.loads(line)
    end = threading.Timer(STOP_S_MAX, os._exit, (1,))  # the director waits no longer, if he lives
    end.daemon = True
    end.start()


def free_addresses(count: int) -> list[str]:
    """`count` loopback addresses that nobody listened on a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in sockets]
    for listener in sockets:
        listener.close()
    return addresses


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep(command: list[str]) -> int:
    """Run a program that reads nothing, and end it when our own standard input ends."""
    child = subprocess.Popen([sys.executable, "-m", *command], stdin=subprocess.DEVNULL)

    def until_told() -> None:
        while sys.stdin.buffer.read(1024):
            pass
        child.terminate()

    threading.Thread(target=until_told, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(_keep(sys.argv[1:]))
