"""Serves the page on loopback: static files, a stream of pictures, and orders.

Theory of operation. One task looks while somebody does, `LOOKS_PER_S` times a second at replicas
and about once at the store, and whoever follows is sent what is new, at his own pace: a slow reader
gets fewer pictures, each whole.

    browser                                     page
      | GET /ui, /ui/page.css, /ui/page.js        >   the same for everybody, telling nothing
      | GET /ui/stream       Authorization: token >   text/event-stream: one `look` after the other
      | GET /ui/explain?...  Authorization: token >   who wrote a value, when, and what it replaced
      | POST /ui/orders      Authorization: token >   burst, partition, kill, slow, heal, book

*Who may.* The page is served on loopback only; whoever wants it elsewhere has a tunnel, which
authenticates and encrypts. Values and orders are asked for under a name of loopback: a name that
was rebound to it is refused, and so is every request that a page of somebody else makes (`Origin`,
`Sec-Fetch-Site`). *Orders* need the token that the URL carries behind its `#`, so it is sent to
nobody by following the link and stands in no log. *Looking* needs it, too, if the agent has a
secret; without one this machine may look, as it may at the agent's own door. The token is drawn
anew at each start. Every order is a line of the logger `convoca.page`, and every token that does
not fit.

Nothing on the page comes from another host, and the policy that goes with each answer says so:
`default-src 'self'`, no inline script, no inline style, no frame around it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections import deque
from contextlib import suppress
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

from convoca.errors import PageError
from convoca.page.decisions import Decisions
from convoca.page.picture import Refused, drawn
from replication import ReplicationError
from replication.addresses import is_loopback, split_address
from replication.listener import close_listener
from replication.transport import BoundedLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from convoca.page.picture import Replicas
    from transactional import Store

LOOKS_PER_S: Final = 4
TAKE_S: Final = 30.0
"""Who takes nothing for so long loses his place, and comes back when he can."""
FOLLOWERS_MAX: Final = 16
ORDER_BYTES_MAX: Final = 4096
NAME_CHARACTERS_MAX: Final = 512
MOMENTS_MAX: Final = 600
REMARKS_MAX: Final = 200
STORE_LOOK_S: Final = 1.0
STORE_REST: Final = 10.0
"""The next look at the store waits so many times as long as the last one took."""
QUIET_S: Final = 15.0
"""A stream on which nothing is new says so after this time, and learns that its reader is gone."""
FILES: Final = {
    "/ui": ("page.html", "text/html"),
    "/ui/page.css": ("page.css", "text/css"),
    "/ui/page.js": ("page.js", "text/javascript"),
    "/ui/charts.js": ("charts.js", "text/javascript"),
    "/ui/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
logger = logging.getLogger("convoca.page")
logger.addHandler(logging.NullHandler())  # quiet unless asked


class Page:
    """The page of one team: replicas, or a store, or both.

    Args:
        title: whose page it is.
        replicas: where pictures of replicas come from; None: there are none to show.
        store: gives the store, or raises UnavailableError while it is out of reach; None: none.
        listen: `HOST:PORT` on loopback, port 0 for a free one.
        guarded: looking needs the token, too.

    Raises:
        PageError: `listen` is not loopback. Nothing is served.
    """

    def __init__(
        self,
        title: str,
        *,
        replicas: Replicas | None = None,
        store: Callable[[], Store] | None = None,
        listen: str = "127.0.0.1:0",
        guarded: bool = False,
    ) -> None:
        try:
            self._host, self._port, _ = split_address(listen)
        except ReplicationError as error:
            raise PageError(f"cannot serve the page at {listen!r}: {error}") from error
        if not is_loopback(self._host):
            raise PageError(f"the page is served on loopback only, not at {self._host}")
        self._title = title
        self._replicas = replicas
        self._decisions = None if store is None else Decisions(store)
        self._guarded = guarded
        self._token = secrets.token_urlsafe(24)
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._looking: list[asyncio.Task[None]] = []
        self._followers = 0
        self._followed = asyncio.Event()
        self._news = asyncio.Condition()
        self._number = 0
        self._now: dict[str, Any] = {"title": title, "orders": []}
        self._store_now: dict[str, Any] = {}
        self._store_number = 1
        self._moments: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MOMENTS_MAX)
        self._remarks: deque[tuple[int, dict[str, Any]]] = deque(maxlen=REMARKS_MAX)
        self._last_remark: tuple[float, str] | None = None
        self._log = BoundedLog(logger)

    async def start(self) -> Self:
        """Serve; PageError if the address cannot be used."""
        app = web.Application(client_max_size=ORDER_BYTES_MAX, middlewares=[_with_headers])
        for path in FILES:
            app.router.add_get(path, self._file)
        app.router.add_get("/", self._home)
        app.router.add_get("/ui/stream", self._stream)
        app.router.add_get("/ui/explain", self._explain)
        app.router.add_post("/ui/orders", self._order)
        runner = web.AppRunner(app, logger=logger, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            server = runner.server
            assert server is not None  # it is set up
            self._listening = await asyncio.get_running_loop().create_server(
                server, self._host, self._port
            )
        except OSError as error:
            await runner.cleanup()
            raise PageError(
                f"cannot serve the page at {self._host}:{self._port}: {error.strerror}"
            ) from error
        self._runner = runner
        self._port = self._listening.sockets[0].getsockname()[1]
        self._looking = [asyncio.create_task(self._look(), name=f"page of {self._title}")]
        if self._decisions is not None:
            self._looking += [
                asyncio.create_task(self._look_at_store(self._decisions, part))
                for part in self._decisions.parts
            ]
        return self

    async def close(self) -> None:
        """End every stream, then serve no more."""
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        if self._listening is not None:
            await close_listener(self._listening)
            self._listening = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def address(self) -> str:
        """Where it is served, without what lets somebody give orders."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/ui"

    @property
    def url(self) -> str:
        """Where it is served, with the token: for whoever may give orders."""
        return f"{self.address}#token={self._token}"

    # ------------------------------------------------------------------------------ looking

    async def _look(self) -> None:
        """Look as long as somebody follows."""
        while True:
            await self._followed.wait()
            try:
                await self._picture()
            except asyncio.CancelledError:
                raise
            except Exception:  # what cannot be shown ends no page
                logger.exception("look-failed")
            await asyncio.sleep(1 / LOOKS_PER_S)

    async def _picture(self) -> None:
        now: dict[str, Any] = {"title": self._title, "now_ms": _now_ms()}
        if self._replicas is not None:
            picture = await self._replicas.look()
            now |= drawn(picture)
            now["orders"] = list(self._replicas.orders)
            fresh = list(picture.remarks)
            if self._last_remark in fresh:
                fresh = fresh[fresh.index(self._last_remark) + 1 :]
            self._last_remark = fresh[-1] if fresh else self._last_remark
            moment = {key: now[key] for key in ("now_ms", "diverged", "states", "bytes")}
        else:
            now |= {"orders": [], "replicas": None}
            fresh, moment = [], {}
        async with self._news:
            self._number += 1
            if moment:
                self._moments.append((self._number, moment))
            for at_s, text in fresh:
                remark = {"at_ms": round(at_s * 1000), "text": text}
                self._remarks.append((self._number, remark))
            self._now = now
            self._news.notify_all()

    async def _look_at_store(self, decisions: Decisions, part: str) -> None:
        while True:
            await self._followed.wait()
            began_s = time.monotonic()
            try:
                found = await decisions.look(part)
            except Exception as error:  # as above
                logger.exception("look-failed")
                found = {part: [], f"{part}_error": type(error).__name__}
            if {**self._store_now, **found, "now_ms": 0} != {**self._store_now, "now_ms": 0}:
                self._store_number += 1
            self._store_now.update(found)
            await asyncio.sleep(max(STORE_LOOK_S, STORE_REST * (time.monotonic() - began_s)))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if not self._may_look(request):
            return web.Response(status=HTTPStatus.FORBIDDEN)
        if self._followers >= FOLLOWERS_MAX:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "5"})
        orders = self._token_fits(request)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", **HEADERS})
        self._followers += 1
        self._followed.set()
        try:
            with suppress(ConnectionError, TimeoutError):  # the reader has gone, or takes nothing
                await stream.prepare(request)
                await self._send_all(stream, orders=orders)
        finally:
            self._followers -= 1
            if not self._followers:
                self._followed.clear()
        return stream

    async def _send_all(self, stream: web.StreamResponse, *, orders: bool) -> None:
        seen = store_seen = 0
        while True:
            async with self._news:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wait_for_news(seen), QUIET_S)
                if self._number == seen:
                    text = ": nothing is new\n\n"
                else:
                    fresh = self._store_number > store_seen
                    document = self._since(seen, orders=orders, store=fresh)
                    text = f"event: look\ndata: {document}\n\n"
                    seen, store_seen = self._number, self._store_number
            async with asyncio.timeout(TAKE_S):
                await stream.write(text.encode())

    async def _wait_for_news(self, seen: int) -> None:
        await self._news.wait_for(lambda: self._number > seen)

    def _since(self, seen: int, *, orders: bool, store: bool) -> str:
        """The present picture, and what this follower does not know: moments, remarks, the store.

        The store is sent whole where anything of it changed.
        """
        document = {
            **self._now,
            "may_order": orders,
            "has_store": self._decisions is not None,
            "moments": [moment for number, moment in self._moments if number > seen],
            "remarks": [remark for number, remark in self._remarks if number > seen],
        }
        if store:
            document["store"] = self._store_now
        return json.dumps(document, ensure_ascii=True, separators=(",", ":"))

    async def _explain(self, request: web.Request) -> web.Response:
        if not self._may_look(request):
            return web.Response(status=HTTPStatus.FORBIDDEN)
        replica, name = request.query.get("replica", ""), request.query.get("name", "")
        if self._replicas is None or max(len(replica), len(name)) > NAME_CHARACTERS_MAX:
            return web.json_response({"error": "there is nothing to explain"}, status=404)
        try:
            return web.json_response({"lines": list(await self._replicas.explain(replica, name))})
        except Refused as error:
            return web.json_response({"error": str(error)}, status=HTTPStatus.CONFLICT)

    # ------------------------------------------------------------------------------ ordering

    async def _order(self, request: web.Request) -> web.Response:
        if not _is_own(request) or not self._token_fits(request):
            self._log.line("order-refused", at=request.remote)
            return web.Response(status=HTTPStatus.FORBIDDEN)
        if request.content_type != "application/json":
            return web.Response(status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        if not 0 <= (request.content_length or -1) <= ORDER_BYTES_MAX:
            return web.Response(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        verb = _verb_of(await request.read())
        if self._replicas is None or verb not in self._replicas.orders:
            return web.json_response({"error": "that cannot be ordered here"}, status=400)
        self._log.line("order", verb=verb, at=request.remote)
        try:
            return web.json_response({"done": await self._replicas.execute(verb)})
        except Refused as error:
            return web.json_response({"error": str(error)}, status=HTTPStatus.CONFLICT)

    # ------------------------------------------------------------------------------ who may

    def _may_look(self, request: web.Request) -> bool:
        return _is_own(request) and (not self._guarded or self._token_fits(request))

    def _token_fits(self, request: web.Request) -> bool:
        shown = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not shown:
            return False
        if hmac.compare_digest(shown, f"Bearer {self._token}".encode()):
            return True
        self._log.line("token-refused", of=request.path, at=request.remote)
        return False

    # ------------------------------------------------------------------------------ files

    async def _file(self, request: web.Request) -> web.Response:
        if not _names_loopback(request):
            return web.Response(status=HTTPStatus.FORBIDDEN)
        name, content_type = FILES[request.path]
        body = files("convoca.page").joinpath("static", name).read_bytes()
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    async def _home(self, request: web.Request) -> web.Response:
        if not _names_loopback(request):
            return web.Response(status=HTTPStatus.FORBIDDEN)
        return web.Response(status=HTTPStatus.FOUND, headers={"Location": "/ui"})


@web.middleware
async def _with_headers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(HEADERS)
        raise
    if not response.prepared:
        response.headers.update(HEADERS)
    return response


def _names_loopback(request: web.Request) -> bool:
    """Whether it was asked for under a name of loopback: one that was rebound to it is none."""
    host = request.headers.get("Host", "")
    name, bracket, _ = host.partition("]")
    name = name.strip("[") if bracket else host.partition(":")[0]
    return is_loopback(request.remote or "") and is_loopback(name)


def _is_own(request: web.Request) -> bool:
    """Whether nobody's page but ours asks: a browser says who does."""
    origin = request.headers.get("Origin")
    own = f"http://{request.headers.get('Host', '')}"
    site = request.headers.get("Sec-Fetch-Site", "none")
    return (
        _names_loopback(request)
        and (origin is None or origin == own)
        and site in {"none", "same-origin"}
    )


def _verb_of(body: bytes) -> str:
    """The verb of an order, "" if it is none."""
    try:
        return str(json.loads(body)["verb"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""


def _now_ms() -> int:
    return round(time.time() * 1000)
