"""Frames over HTTP: one exchange is one POST, or travels over a kept WebSocket (`websocket`).

Theory of operation. Addresses are `host:port` with an optional path behind it (`/_replica` by
default), so that many agents can share one server. Connections are let in, and timed, by `door`. A
body is read within `read_timeout_s`, at most `body_bytes_max` of it, and its seal is checked; only
then does it take one of `inbound_exchanges_max` places, or of `BRIEF_PLACES` times as many with at
most `BRIEF_BYTES` (503 with Retry-After if there is none): many may ask at once, and to refuse a
question costs as much as the answer. So whoever proves nothing takes no place; he is told 401, and
nothing else. Content-Encoding is refused: aiohttp would inflate without a declared size.

The client bounds every wait, and opens a circuit (`circuit`) around an address that keeps failing:
a hung peer costs a few waiting exchanges instead of all.

What the HTTP server has to say goes to the logger `replication.http`, and only as the kind of an
error: a stranger's bytes belong in no log, and what strangers send is not worth a line at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from replication.addresses import PATH, joined_address, split_address
from replication.descriptors import blind, kept_from_children
from replication.errors import ListenError, PeerUnreachableError
from replication.listener import close_listener
from replication.protocol import Keyring, PeerConnection
from replication.transport.admin import AdminServer
from replication.transport.base import LineNews, Serve, Traffic
from replication.transport.circuit import Circuits
from replication.transport.door import IDLE_S, Door
from replication.transport.websocket import Lines, names_in

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from replication.config import Config
    from replication.transport.base import Handlers

Application = web.Application
PROOF = "X-Convoca-Proof"
MEDIA_TYPE = "application/x-convoca-frame"
BRIEF_BYTES = 2048
BRIEF_PLACES = 16
NAMES_MAX = 4096
UNAUTHENTICATED = "no key that is known here sealed this frame\n"
"""What a frame that proves nothing is told: nothing of ours."""
logger = logging.getLogger("replication.http")


def _no_bytes_of_strangers(record: logging.LogRecord) -> bool:
    """Let through that a handler failed, and by which kind of error; nothing else."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None or isinstance(error, HttpProcessingError | ConnectionError):
        return False
    record.msg, record.args = "request-failed", ()
    record.exc_info = record.exc_text = record.stack_info = None
    record.facts = {"error": type(error).__name__}
    return True


logger.addFilter(_no_bytes_of_strangers)


def _not_from_a_peer(request: web.Request) -> HTTPStatus | None:
    """Why a POST is not a peer's; a web page is the one to keep out, wherever it runs.

    A browser lets any page POST plain text to loopback, but names the page in `Origin`, and asks
    before it sends our media type.
    """
    if "Origin" in request.headers:
        return HTTPStatus.FORBIDDEN
    plain = request.headers.get("Content-Encoding", "identity") == "identity"
    if not plain or request.content_type != MEDIA_TYPE:
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return None


def _turned_away(status: HTTPStatus) -> web.Response:
    """An answer without a frame."""
    if status is HTTPStatus.UNAUTHORIZED:
        return web.Response(status=status, text=UNAUTHENTICATED)
    busy = status is HTTPStatus.SERVICE_UNAVAILABLE
    return web.Response(status=status, headers={"Retry-After": "1"} if busy else None)


def _certified_names(transport: asyncio.BaseTransport | None) -> frozenset[str]:
    """Names that the certificate of the other end proves: its common name and DNS names."""
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    return names_in(certificate) if certificate else frozenset()


class HttpTransport:
    """One agent's server and client.

    Args:
        listen: `host:port[/path]`; port 0 takes a free one; "" does not listen.
        config: limits and timeouts.
        server_tls, client_tls: contexts for TLS (and mutual TLS); None is plain HTTP.
        admin: what operators see and ask for, if this transport serves any.
        keys: with them, a body over `unauthenticated_bytes_max` is read, and a line accepted,
            only if a header proves that its sender knows one.
        hubs: addresses to keep a WebSocket to.
    """

    def __init__(
        self,
        listen: str,
        config: Config,
        *,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        admin: Handlers | None = None,
        keys: Keyring | None = None,
        hubs: Iterable[str] = (),
    ) -> None:
        self.traffic = Traffic()
        self._keys = keys or Keyring()
        tokens = self._keys.cluster or self._keys.own
        self._admin = AdminServer(admin, tokens) if admin is not None else None
        self._hubs = tuple(hubs)
        self._lines = Lines(config, self._keys, self.traffic)
        self._listen = listen
        self._config = config
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._serve: Serve | None = None
        self._line_news: LineNews = lambda *_: None
        self._inbound = {False: 0, True: 0}  # those under way: of any size, and the brief ones
        self._circuits = Circuits(config.gossip_interval_s / 2)
        self._large = 0
        """Bodies being read that are larger than what anybody may send."""
        self._door: Door | None = None
        self._server: asyncio.Server | None = None
        self._path = PATH
        self._names: dict[str, frozenset[str]] = {}
        """URL -> names in the certificate that it showed last."""

    # ------------------------------------------------------------------------------ serving

    async def listen(self, serve: Serve, line_news: LineNews, port: int = 0) -> str:
        """Bind, serve and dial the hubs; the address with the real port.

        Where any port will do, `port` is tried first.
        """
        self._serve, self._line_news = serve, line_news
        self._session = self._new_session()
        for hub in self._hubs:
            self._lines.keep(hub, self._url_of(hub), self._client_tls, serve, line_news)
        if not self._listen:
            return ""
        host, wanted, path = split_address(self._listen)
        app = web.Application(
            client_max_size=self._config.body_bytes_max, middlewares=[self._timed]
        )
        self._route(app, path)
        if self._admin is not None:
            self._admin.add_to(app.router)
        runner = web.AppRunner(
            app,
            logger=logger,
            access_log=None,
            auto_decompress=False,
            shutdown_timeout=0.5,
            keepalive_timeout=IDLE_S,
        )
        self._runner = runner  # a start that is cancelled from here on closes it
        kept_from_children(self)
        await runner.setup()
        assert runner.server is not None
        needed = self._config.outbound_exchanges_max
        self._path, self._door = path, Door(runner.server, self._server_tls, needed=needed)
        try:
            self._server = await self._bind(self._door, host, wanted or port, wanted)
        except OSError as error:
            await self._stop_serving()
            why = "the port is busy" if error.errno == errno.EADDRINUSE else error.strerror
            raise ListenError(f"cannot listen on {host}:{wanted}: {why}") from error
        bound = self._server.sockets[0].getsockname()[1]
        return joined_address(host, bound, path)

    @staticmethod
    async def _bind(door: Door, host: str, port: int, fallback: int) -> asyncio.Server:
        """Serve at a port, or, if somebody else has it, at another one."""
        loop = asyncio.get_running_loop()
        if port != fallback:
            with contextlib.suppress(OSError):
                return await loop.create_server(door, host, port)
        return await loop.create_server(door, host, fallback)

    def mount(
        self, app: Application, path: str, agent: AbstractAsyncContextManager[object]
    ) -> None:
        """Exchange frames through an application that somebody else serves."""
        self._route(app, path)

        async def lifetime(_: Application) -> AsyncIterator[None]:
            async with agent:
                yield

        app.cleanup_ctx.append(lifetime)

    def _route(self, app: Application, path: str) -> None:
        app.router.add_post(path, self.handle)
        app.router.add_get(path, self.handle_line, allow_head=False)

    async def handle_line(self, request: web.Request) -> web.StreamResponse:
        """The handler of a GET that asks for a WebSocket."""
        if self._serve is None:
            return _turned_away(HTTPStatus.SERVICE_UNAVAILABLE)
        names = _certified_names(request.transport)
        return await self._lines.accept(
            request, names, self._serve, self._line_news, self._admit_line
        )

    def _admit_line(self, request: web.Request) -> None:
        if self._door is not None:
            self._door.admitted(request.protocol)

    async def handle(self, request: web.Request) -> web.Response:
        """The handler of one POST; also what `mount` adds to an existing application."""
        frame = await self._sealed_frame(request)
        if isinstance(frame, HTTPStatus):
            return _turned_away(frame)
        brief = len(frame) <= BRIEF_BYTES
        places = self._config.inbound_exchanges_max * (BRIEF_PLACES if brief else 1)
        if self._serve is None or self._inbound[brief] >= places:
            return _turned_away(HTTPStatus.SERVICE_UNAVAILABLE)
        if self._door is not None:
            self._door.admitted(request.protocol)
        self._inbound[brief] += 1
        try:
            async with asyncio.timeout(self._config.total_timeout_s):
                connection = PeerConnection(names=_certified_names(request.transport))
                status, answer = await self._serve(frame, connection)
        except TimeoutError:
            return _turned_away(HTTPStatus.REQUEST_TIMEOUT)
        finally:
            self._inbound[brief] -= 1
        self.traffic.sent += len(answer)
        headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        return web.Response(status=status, body=answer, content_type=MEDIA_TYPE, headers=headers)

    async def _sealed_frame(self, request: web.Request) -> bytes | HTTPStatus:
        """The body, sealed by a key that is known here; or why it is not taken."""
        refused = _not_from_a_peer(request)
        if refused is not None:
            return refused
        if not self._may_send(request):
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        large = (request.content_length or 0) > self._config.unauthenticated_bytes_max
        if large and self._large >= self._config.inbound_exchanges_max:
            return HTTPStatus.SERVICE_UNAVAILABLE
        self._large += large
        try:
            async with asyncio.timeout(self._config.read_timeout_s):
                frame = await request.read()
        except TimeoutError:
            return HTTPStatus.REQUEST_TIMEOUT
        finally:
            self._large -= large
        self.traffic.received += len(frame)
        if self._keys.sealed(frame):
            return frame
        self.traffic.unauthenticated += 1
        return HTTPStatus.UNAUTHORIZED

    @web.middleware
    async def _timed(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Tell the door when a page is worked on, and when a request is over."""
        door = self._door
        if door is None or request.protocol is None:
            return await handler(request)
        if request.path != self._path:
            door.working(request.protocol)
        try:
            response = await handler(request)
            if not door.knows(request.protocol):
                response.force_close()  # the next request of a stranger begins at the door again
            return response
        finally:
            door.answered(request.protocol)

    def _may_send(self, request: web.Request) -> bool:
        """Whether a body of the announced size is worth reading; chunked ones announce none."""
        size = request.content_length
        if not self._keys or (size is not None and size <= self._config.unauthenticated_bytes_max):
            return size is None or size <= self._config.body_bytes_max
        if size is None or size > self._config.body_bytes_max:
            return False
        return self._keys.proves(f"size {size}", request.headers.get(PROOF, ""))

    # ------------------------------------------------------------------------------ asking

    def _new_session(self) -> aiohttp.ClientSession:
        config = self._config
        timeout = aiohttp.ClientTimeout(
            total=config.total_timeout_s,
            connect=config.connect_timeout_s,
            sock_connect=config.connect_timeout_s,
            sock_read=config.read_timeout_s,
        )
        connector = aiohttp.TCPConnector(limit=config.outbound_exchanges_max, limit_per_host=8)
        return aiohttp.ClientSession(
            timeout=timeout,
            connector=connector,
            headers={"Content-Type": MEDIA_TYPE},
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def exchange(self, address: str, frame: bytes) -> bytes:
        """POST a frame; the answer's bytes, whatever its status (it says itself what is wrong)."""
        if self._session is None:
            raise PeerUnreachableError("the transport is closed")
        line = self._lines.get(address)
        if line is not None:
            self.traffic.sent += len(frame)
            return await line.ask(frame)
        if address.startswith("line:"):
            raise PeerUnreachableError(f"{address} ended")
        if not self._circuits.begin(address, asyncio.get_running_loop().time()):
            failures = self._circuits.failures(address)
            raise PeerUnreachableError(f"{address} failed {failures} times; it was just tried")
        answered = False
        try:
            answer = await self._post(self._session, self._url_of(address), frame)
            answered = True
        except PeerUnreachableError:  # it answered, if only that it is busy
            answered = True
            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise PeerUnreachableError(f"{address}: {type(error).__name__}") from error
        finally:
            self._circuits.end(address, answered=answered)
        return answer

    def _note_names(self, url: str, transport: asyncio.BaseTransport | None) -> None:
        self._names.pop(url, None)
        if len(self._names) >= NAMES_MAX:
            del self._names[next(iter(self._names))]
        self._names[url] = _certified_names(transport)

    def names_at(self, address: str) -> frozenset[str]:
        """The names that a certificate proved there when it answered last; none without one."""
        names = self._lines.names_at(address)
        return self._names.get(self._url_of(address), frozenset()) if names is None else names

    def _url_of(self, address: str) -> str:
        host, port, path = split_address(address)
        scheme = "https" if self._client_tls else "http"
        return f"{scheme}://{joined_address(host, port)}{path}"

    async def _post(self, session: aiohttp.ClientSession, url: str, frame: bytes) -> bytes:
        tls = self._client_tls or True
        proof = {}
        if self._keys and len(frame) > self._config.unauthenticated_bytes_max:
            proof = {PROOF: self._keys.proof(f"size {len(frame)}")}
        async with session.post(
            url, data=frame, ssl=tls, headers=proof, allow_redirects=False
        ) as response:
            if self._client_tls is not None:  # as long as the connection is this answer's
                connection = response.connection
                self._note_names(url, connection.transport if connection is not None else None)
            self.traffic.sent += len(frame)
            limit = self._config.body_bytes_max
            if (response.content_length or 0) > limit:
                raise PeerUnreachableError(f"the answer of {url} is over the limit")
            pieces: list[bytes] = []
            size = 0
            async for piece in response.content.iter_any():
                size += len(piece)
                if size > limit:
                    raise PeerUnreachableError(f"the answer of {url} is over the limit")
                pieces.append(piece)
            self.traffic.received += size
            if not size or response.content_type != MEDIA_TYPE:
                self.traffic.turned_away += response.status == HTTPStatus.UNAUTHORIZED
                raise PeerUnreachableError(f"{url} answered {response.status} without a frame")
            return b"".join(pieces)

    def forget(self) -> None:
        """In a forked child: the port is the parent's."""
        if self._server is not None:
            blind(sock.fileno() for sock in self._server.sockets)

    async def _stop_serving(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await close_listener(server)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._door is not None:
            self._door.close()
            self._door = None

    async def close(self) -> None:
        """Stop accepting, finish or cut what is under way, close connections."""
        await self._lines.close()
        await self._stop_serving()
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._serve = None
