"""Frames over kept WebSockets: for agents that cannot be dialled, and for fewer round trips.

Theory of operation. An agent dials each of its hubs once and keeps the connection (a `Line`); from
then on either end asks the other over it. The one that dialled knows the line by the hub's
address, the hub by a made-up place (`line:7`), which is never told to others: it is good for as
long as the connection is. A line that ended is dialled again, with a pause that doubles, up to two
intervals of gossip, and is jittered.

What crosses a line are the pieces of `replication.protocol.link`; its bounds are ours. A reader
that is not keeping up fills its socket first, then the outbox of its line, and then nothing more:
pushes to it coalesce, and when one piece waited `stalled_s` the line is dropped. Reading stops
while the outbox is half full or `inbound_exchanges_max` requests of the other end are under way:
backpressure.

A line is opened by challenge and response, so that nothing that was overheard opens another one:

    hub    --nonce----------------------------------------> agent
    hub    <-its nonce, and a proof over both of a key----- agent
    hub    --a proof over both of the same key------------> agent

Until then the connection is a stranger's, has a few seconds, and takes no place of `lines_max`.
From then on it carries frames of that key's principal and no other, each message is at most one
piece long, every frame authenticates itself as always, and the first that fails ends the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from replication.errors import BusyError, FrameError, PeerUnreachableError
from replication.protocol import HEAD_BYTES, PIECE_BYTES, Came, Link, PeerConnection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from replication.config import Config
    from replication.protocol import Keyring
    from replication.transport.base import LineNews, Serve, Traffic

logger = logging.getLogger("replication")

NONCE_BYTES = 16
CHALLENGE_S = 5.0
TRY_LATER = 1013
PIECE_MAX = HEAD_BYTES + PIECE_BYTES
MESSAGE_MAX = PIECE_MAX + 1  # aiohttp refuses a message *of* its limit
REDIAL_S = 0.25
REDIAL_INTERVALS_MAX = 2
"""Of gossip: the pause grows up to it. Nobody else can reach who sits behind a NAT, so a longer one
would be added to every heal."""
CLOSE_S = 1.0
HEARTBEAT_S = 20.0
"""Of the end that dialled: keeps a NAT's table warm and finds out about half-open connections."""


def names_in(certificate: Mapping[str, Any]) -> frozenset[str]:
    """The names that a certificate proves: its common name and DNS names."""
    subject = [field for part in certificate.get("subject", ()) for field in part]
    alternatives = certificate.get("subjectAltName", ())
    return frozenset(
        name for kind, name in (*subject, *alternatives) if kind in {"commonName", "DNS"}
    )


def _dialled(nonce: bytes, theirs: bytes) -> str:
    return f"line {nonce.hex()} {theirs.hex()} dialled"


def _accepted(nonce: bytes, theirs: bytes) -> str:
    return f"line {nonce.hex()} {theirs.hex()} accepted"


class Line:
    """One end of one kept connection, while it lasts."""

    def __init__(
        self,
        socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        config: Config,
        traffic: Traffic,
        abort: Callable[[], object],
    ) -> None:
        self.link = Link(config.outbox_bytes_max, config.body_bytes_max)
        self._socket = socket
        self._config = config
        self._traffic = traffic
        self._abort = abort
        self._room = asyncio.Semaphore(config.inbound_exchanges_max)
        self._queued = asyncio.Event()
        self._written = asyncio.Event()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._distrusted = False

    async def ask(self, frame: bytes) -> bytes:
        """One exchange over this line.

        Raises:
            PeerUnreachableError: the outbox is full, the line ended, or the time ran out.
        """
        try:
            number = self.link.ask(frame)
        except BusyError as error:
            raise PeerUnreachableError(str(error)) from error
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._queued.set()
        try:
            async with asyncio.timeout(self._config.total_timeout_s):
                came = await answer
        except TimeoutError as error:
            raise PeerUnreachableError("no answer over the kept connection") from error
        finally:
            del self._answers[number]
        if not came:
            raise PeerUnreachableError("the other end is busy")
        return came

    async def run(self, serve: Serve, connection: PeerConnection) -> None:
        """Carry exchanges both ways until the connection ends."""
        tasks = {
            asyncio.create_task(self._read(serve, connection)),
            asyncio.create_task(self._write()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for error in filter(None, (task.exception() for task in done)):
                self._note("line-failed", connection, str(error))
        finally:
            for task in tasks | self._serving:
                task.cancel()
            await asyncio.gather(*tasks, *self._serving, return_exceptions=True)
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(PeerUnreachableError("the kept connection ended"))
            await self._close()

    @staticmethod
    def _note(code: str, connection: PeerConnection, why: str) -> None:
        logger.info(code, extra={"facts": {"peer": connection.via, "why": why}})

    async def _close(self) -> None:
        with contextlib.suppress(TimeoutError, OSError, aiohttp.ClientError):
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close()
                return
        self._abort()

    async def _write(self) -> None:
        while True:
            piece = self.link.take()
            if piece is not None:
                await self._send(piece)
                self._written.set()
            elif self._distrusted:
                return
            else:
                self._queued.clear()
                await self._queued.wait()

    async def _send(self, piece: bytes) -> None:
        try:
            async with asyncio.timeout(self._config.stalled_s):
                await self._socket.send_bytes(piece)
        except TimeoutError:
            self._traffic.stalled += 1
            self._abort()
            raise

    async def _read(self, serve: Serve, connection: PeerConnection) -> None:
        while True:
            while self.link.full:
                self._written.clear()
                await self._written.wait()
            message = await self._socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                self._note("line-ended", connection, f"{message.type.name} {message.data}")
                return  # closed, or not one of ours
            try:
                came = self.link.receive(message.data)
            except FrameError as error:
                self._note("line-refused", connection, str(error))
                return
            if came is None:
                continue
            self._traffic.received += len(came.frame)
            if came.is_answer:
                waiting = self._answers.get(came.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(came.frame)
                continue
            await self._room.acquire()
            task = asyncio.create_task(self._serve(came, serve, connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, came: Came, serve: Serve, connection: PeerConnection) -> None:
        status, answer = int(HTTPStatus.REQUEST_TIMEOUT), b""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.total_timeout_s):
                    status, answer = await serve(came.frame, connection)
        finally:
            self._room.release()
        proves_nothing = status == HTTPStatus.UNAUTHORIZED and not answer
        self._distrusted = self._distrusted or proves_nothing
        self._traffic.sent += len(answer)
        self.link.answer(came.number, answer)
        self._queued.set()


class Lines:
    """The kept connections of one agent, by the place at which their other ends can be asked."""

    def __init__(self, config: Config, keys: Keyring, traffic: Traffic) -> None:
        self._config = config
        self._keys = keys
        self._traffic = traffic
        self._lines: dict[str, Line] = {}
        self._names: dict[str, frozenset[str]] = {}
        self._accepted = 0
        self._dialers: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._dice = random.Random()  # noqa: S311 - spreads load, guards nothing

    def get(self, via: str) -> Line | None:
        """The line to a place, if there is one now."""
        return self._lines.get(via)

    def names_at(self, via: str) -> frozenset[str] | None:
        """The names that the certificate at the other end of a line proves; None: no line."""
        if via.startswith("line:"):
            return self._names.get(via, frozenset())
        return self._names.get(via)

    async def accept(
        self,
        request: web.Request,
        names: frozenset[str],
        serve: Serve,
        line_news: LineNews,
        admitted: Callable[[web.Request], None],
    ) -> web.StreamResponse:
        """The handler of a GET that asks for a WebSocket; it returns when the line ends."""
        if "Origin" in request.headers:  # a web page, wherever it runs
            return web.Response(status=HTTPStatus.FORBIDDEN)
        socket = web.WebSocketResponse(
            max_msg_size=MESSAGE_MAX,
            compress=False,
            timeout=CLOSE_S,
            receive_timeout=3 * HEARTBEAT_S,
        )
        await socket.prepare(request)
        principal = await self._challenge(socket) if self._keys else ""
        if principal is None:
            await socket.close()
            return socket
        if len(self._lines) >= self._config.lines_max:
            await socket.close(code=TRY_LATER)
            return socket
        admitted(request)
        transport = request.transport
        abort = transport.abort if transport is not None else lambda: None
        self._accepted += 1
        connection = PeerConnection(f"line:{self._accepted}", names, principal)
        await self._run(
            Line(socket, self._config, self._traffic, abort), connection, serve, line_news
        )
        return socket

    async def _challenge(self, socket: web.WebSocketResponse) -> str | None:
        """The principal of the key that the other end proved, "" for the secret's; None: none."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            async with asyncio.timeout(CHALLENGE_S):
                await socket.send_bytes(nonce)
                message = await socket.receive()
                if message.type is not aiohttp.WSMsgType.BINARY:
                    return None
                theirs, proof = message.data[:NONCE_BYTES], message.data[NONCE_BYTES:]
                principal = self._keys.prover(_dialled(nonce, theirs), proof.decode("latin-1"))
                if principal is None or len(theirs) != NONCE_BYTES:
                    return None
                ours = self._keys.proof(_accepted(nonce, theirs), principal)
                await socket.send_bytes(ours.encode())
                return principal
        except (TimeoutError, OSError, aiohttp.ClientError):
            return None

    async def _respond(self, socket: aiohttp.ClientWebSocketResponse) -> bool:
        """Answer the challenge of a hub, and see that it knows the key, too."""
        nonce = (await socket.receive()).data
        if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES:
            return False
        ours = secrets.token_bytes(NONCE_BYTES)
        await socket.send_bytes(ours + self._keys.proof(_dialled(nonce, ours)).encode())
        shown = (await socket.receive()).data
        if not isinstance(shown, bytes):
            return False
        return self._keys.prover(_accepted(nonce, ours), shown.decode("latin-1")) is not None

    def keep(
        self, address: str, url: str, tls: ssl.SSLContext | None, serve: Serve, line_news: LineNews
    ) -> None:
        """Dial a hub now, and again whenever the line ends, until `close`."""
        work = self._kept(address, url, tls, serve, line_news)
        self._dialers.append(asyncio.create_task(work, name=f"line to {address}"))

    async def _kept(
        self, address: str, url: str, tls: ssl.SSLContext | None, serve: Serve, line_news: LineNews
    ) -> None:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_timeout_s)
            self._session = aiohttp.ClientSession(
                timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        session, pause_s = self._session, REDIAL_S
        most_s = max(REDIAL_S, REDIAL_INTERVALS_MAX * self._config.gossip_interval_s)
        while True:
            try:
                async with asyncio.timeout(self._config.total_timeout_s):
                    socket = await session.ws_connect(
                        url,
                        ssl=tls or True,
                        heartbeat=HEARTBEAT_S,
                        max_msg_size=MESSAGE_MAX,
                        timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                    )
                    trusted = not self._keys or await self._respond(socket)
                if trusted:
                    pause_s = REDIAL_S
                    line = Line(socket, self._config, self._traffic, lambda: None)
                    names = names_in(socket.get_extra_info("peercert") or {})
                    await self._run(line, PeerConnection(address, names), serve, line_news)
                else:
                    logger.warning("line-not-opened", extra={"facts": {"peer": address}})
                    await socket.close()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                facts = {"peer": address, "why": type(error).__name__}
                logger.debug("no-line", extra={"facts": facts})
            await asyncio.sleep(pause_s * (0.5 + self._dice.random()))
            pause_s = min(2 * pause_s, most_s)

    async def _run(
        self, line: Line, connection: PeerConnection, serve: Serve, line_news: LineNews
    ) -> None:
        self._lines[connection.via], self._names[connection.via] = line, connection.names
        line_news(connection.via, True)
        try:
            await line.run(serve, connection)
        finally:
            del self._lines[connection.via], self._names[connection.via]
            line_news(connection.via, False)

    async def close(self) -> None:
        """End all lines, and dial no more. Accepted ones end with their server."""
        for dialer in self._dialers:
            dialer.cancel()
        await asyncio.gather(*self._dialers, return_exceptions=True)
        self._dialers.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None
