"""An authority in a process of its own that can be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING

from transactional.listener import close_listener

if TYPE_CHECKING:
    from pathlib import Path


class AuthorityProcess:
    """``python -m transactional serve`` on one file or URL; the port stays over restarts."""

    said = ""
    """Its first line."""

    def __init__(self, path: Path | str, *options: str) -> None:
        self._path = path
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "transactional",
            "serve",
            str(self._path),
            "--listen",
            f"127.0.0.1:{self.port}",
            *self._options,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.said = line = (await self._process.stdout.readline()).decode()
        assert line.startswith("listening on "), line
        self.port = int(line.split()[2].rpartition(":")[2])

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def stop(self) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        return await self._process.wait()


class Relay:
    """A TCP relay between a client and an authority that can lose requests and answers."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []
        self.lose_requests = False
        self.lose_answers = False
        self.lost = 0
        """How often a connection was cut for one of these."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        await close_listener(self._server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._ends.append(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:  # the authority is down
            self._tasks.discard(task)
            writer.close()
            return
        self._ends.append(up_writer)
        ways = [
            asyncio.create_task(self._copy(reader, up_writer, "lose_requests")),
            asyncio.create_task(self._copy(up_reader, writer, "lose_answers")),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, up_writer):
                end.close()
            self._tasks.discard(task)

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, loses: str
    ) -> None:
        while data := await source.read(1 << 16):
            if getattr(self, loses):
                self.lost += 1
                return  # both connections close: what was sent is lost, or its answer is
            sink.write(data)
            await sink.drain()
