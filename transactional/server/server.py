"""The HTTP authority: one store, served to many processes.

Theory of operation
-------------------
The authority owns an engine and adds nothing to its meaning: each request is one call of the store,
and its answer is sent when the store has answered, hence when the commit is durable.  Two doors
lead to the same calls:

* ``POST /v1/batch`` carries up to 512 requests and returns as many replies.  They run at once, in
  no order, like the concurrent callers that they come from; the engine commits them as a group.
* a path per operation, made for curl: ``PUT /v1/keys/KEY`` with ``If-Match: "REVISION"`` and
  ``Idempotency-Key``; ``docs/http-api.md`` and ``/openapi.json`` list them.

A client names the store's epoch in each request (``Store-Epoch``); after a restore it is refused.

Stopping is orderly: new requests are told 503 with ``"applied": false``, watchers' streams end,
what was accepted is finished, then the store is closed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from contextlib import contextmanager, suppress
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from aiohttp import ClientPayloadError, WSCloseCode, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from transactional import rules, wire
from transactional.caller import ANSWER_BYTES_MAX, Caller, Pool
from transactional.clock import microseconds
from transactional.errors import (
    ConflictError,
    EpochMismatchError,
    InvalidRequestError,
    NotFoundError,
    StoreClosedError,
    TooManyRequestsError,
    TransactionalError,
    UnauthorizedError,
)
from transactional.listener import close_listener
from transactional.server.admission import Listen
from transactional.server.bodies import OFF_LOOP_BYTES, parse, written, written_batch
from transactional.server.calls import call, fault, reply_all
from transactional.server.clients import Client
from transactional.server.door import Door
from transactional.server.metrics import CONTENT_TYPE, exposition
from transactional.server.scoped import ScopedStore
from transactional.server.watches import COMMAND_BYTES_MAX, Watches
from transactional.store import Measured, ServesRoles, Shareable, Store
from transactional.values import VALUE_BYTES_MAX, Absent, Delete, Exists, Put, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from transactional.values import Compacted, Compare, WatchEvent, Write
    from transactional.wire import Document

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUESTS_MAX: Final = 1024
"""Most requests being worked on, and most open watches; one more is told 429."""
PER_CLIENT_MAX: Final = 256
"""Most requests, and most watches, of one client of a list: the places of the others are theirs."""
HEARTBEAT_S: Final = 5.0
"""A silent watch sends a comment this often, so that both ends notice a dead connection."""
BODY_S: Final = 10.0
"""How long a body may take to arrive."""
ANSWER_S: Final = 30.0
"""How long a client may take to read an answer, or one event of a watch, before it is cut off."""
LINGER_S: Final = 2.0
"""How long the rest of a body is read that was refused, so that its sender hears why."""
IN_FLIGHT_BYTES_MAX: Final = 128 << 20
"""Most bytes of bodies and answers that are held at once; what goes beyond is told 429."""
SHARE_BYTES_MAX: Final = IN_FLIGHT_BYTES_MAX // 4
"""Most of them of one client of a list."""
STOP_S: Final = 10.0
"""How long a stop waits for requests that were accepted."""


_FORMS: Final = frozenset(
    {"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"}
)
_BROKEN: Final = (
    ConnectionError,
    ClientPayloadError,
    HttpProcessingError,
    web.RequestPayloadError,
)
_FIRST: Final = asyncio.FIRST_COMPLETED
_log = logging.getLogger(__name__)
_OPENAPI: Final = resources.files("transactional").joinpath("openapi.json").read_bytes()


_CLIENT: Final = web.RequestKey("client", Client)
_CALLER: Final = web.RequestKey("caller", Caller)
_STORE: Final[web.RequestKey[Store]] = web.RequestKey("store", object)  # type: ignore[arg-type]  # a protocol
_http = logging.getLogger("transactional.http")


def _no_bytes_of_strangers(record: logging.LogRecord) -> bool:
    """Let the HTTP server say that a handler failed, and by which kind of error; nothing else."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None or isinstance(error, HttpProcessingError | ConnectionError):
        return False
    record.msg, record.args = "a request failed by %s", (type(error).__name__,)
    record.exc_info = record.exc_text = record.stack_info = None
    return True


_http.addFilter(_no_bytes_of_strangers)


class Authority:
    """Serves one store until it is stopped; ``store`` is closed with it."""

    def __init__(self, store: Store, listen: Listen | None = None) -> None:
        self._store = store
        if isinstance(store, Shareable):
            store.share()
        self._listen = listen or Listen()
        # Looked at once: to ask a protocol of many methods costs as much as a small request.
        self._serves_roles = store if isinstance(store, ServesRoles) else None
        if self._listen.clients is not None and self._serves_roles is None:
            raise InvalidRequestError("this engine cannot tell its clients apart")
        self._refused = 0
        self._refusal_told_s = -1.0
        self._busy: Counter[str] = Counter()
        self._watches: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._revision = 0
        self._stopping = asyncio.Event()
        self._in_flight = Pool(IN_FLIGHT_BYTES_MAX, "of requests and answers are in flight")
        self._shares: WeakValueDictionary[str, Pool] = WeakValueDictionary()
        self._runner = web.AppRunner(
            self._application(),
            logger=_http,
            access_log=None,
            shutdown_timeout=STOP_S,
            auto_decompress=False,
            lingering_time=LINGER_S,
        )
        self._door: Door | None = None
        self._listening: asyncio.Server | None = None
        self.port = 0
        """The port it listens on, known after ``start``."""

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard])
        application.add_routes(
            [
                web.get("/openapi.json", self._openapi),
                web.get("/v1/status", self._status),
                web.get("/metrics", self._metrics),
                web.post("/v1/batch", self._batch),
                web.post("/v1/commit", self._one("commit")),
                web.get("/v1/keys", self._scan),
                web.get("/v1/keys/{key:[\\s\\S]+}", self._get_key),
                web.put("/v1/keys/{key:[\\s\\S]+}", self._put_key),
                web.delete("/v1/keys/{key:[\\s\\S]+}", self._delete_key),
                web.post("/v1/operations/{op_id:[\\s\\S]+}", self._resolve),
                web.post("/v1/leases", self._one("lease")),
                web.post("/v1/leases/{lease}", self._renew),
                web.delete("/v1/leases/{lease}", self._revoke),
                web.post("/v1/compact", self._compact),
                web.get("/v1/watch", self._watch),
                web.get("/v1/watches", self._watches_of_one),
            ]
        )
        return application

    @property
    def url(self) -> str:
        """Where clients find it."""
        scheme = "https" if self._listen.tls else "http"
        host = f"[{self._listen.host}]" if ":" in self._listen.host else self._listen.host
        return f"{scheme}://{host}:{self.port}"

    async def start(self) -> None:
        """Listen; raises OSError if the address is taken."""
        self._revision = (await self._store.get_many([])).revision
        await self._runner.setup()
        listen = self._listen
        server = self._runner.server
        assert server is not None  # it is set up
        self._door = Door(server, listen.tls)
        self._listening = await asyncio.get_running_loop().create_server(
            self._door, listen.host, listen.port, backlog=128
        )
        self.port = self._listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse what is new, finish what was accepted, close the store."""
        await self._hang_up()
        await self._store.close()

    async def _hang_up(self) -> None:
        self._stopping.set()
        if self._listening is not None:
            await close_listener(self._listening)
        await self._runner.cleanup()
        if self._door is not None:
            self._door.close()

    # --- around every request ---

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = None
        try:
            client = self._admit(request)  # who is not let in takes no place
            caller = self._caller_of(client)
            request[_CLIENT], request[_CALLER] = client, caller
            request[_STORE] = self._store_of(client, caller)
            watches = request.path in {"/v1/watch", "/v1/watches"}
            places = self._watches if watches else self._busy
            with _place(places, client), self._held_open(request):
                response = await handler(request)
                await _send(request, response)
                self._answers["ok"] += request.path != "/v1/batch"  # whose calls are counted
                return response
        except TransactionalError as error:
            if isinstance(error, UnauthorizedError):
                self._note_refusal(request)
            self._answers[error.code] += 1
            response = _as_error(error)
            if caller is None:
                response.force_close()  # a stranger's next request begins at the door again
            return response
        except web.HTTPException as error:
            reason = f"{request.method} {request.path}: {error.reason}"
            kind = NotFoundError if error.status == 404 else InvalidRequestError
            self._answers[kind.code] += 1
            return _as_error(kind(reason), error.status)
        except Exception:  # noqa: BLE001 a fault must reach its caller as what it is
            self._answers["fault"] += 1
            _log.exception("a fault in %s %r", request.method, request.path)
            op_id = request.headers.get("Idempotency-Key")
            return _as_error(fault(op_id, reads=request.method in {"GET", "HEAD"}))
        finally:
            if caller is not None:
                caller.release()

    def _note_refusal(self, request: web.Request) -> None:
        """Leave a trace of who was not let in: a line a second, and how many there were."""
        self._refused += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._refusal_told_s >= 1.0:
            told, self._refused, self._refusal_told_s = self._refused, 0, now_s
            _log.warning("%d requests were not let in, the last from %s", told, request.remote)

    @contextmanager
    def _held_open(self, request: web.Request) -> Iterator[None]:
        """Tell the door that the connection has a request that was let in, and when it ends."""
        if self._door is None:
            yield
            return
        self._door.admitted(request.protocol)
        try:
            yield
        finally:
            self._door.answered(request.protocol)

    def _caller_of(self, client: Client) -> Caller:
        """Return what counts the bytes of a request; a client of a list has a share of all."""
        pools = [self._in_flight]
        if client.name:
            share = self._shares.get(client.name) or Pool(
                SHARE_BYTES_MAX, f"of {client.name!r} are in flight"
            )
            self._shares[client.name] = share
            pools.append(share)
        return Caller(client.role, bytes_max=ANSWER_BYTES_MAX, pools=pools)

    def _admit(self, request: web.Request) -> Client:
        client = self._client_of(request)
        if self._stopping.is_set():
            raise StoreClosedError("the authority is stopping")
        epoch = request.headers.get(wire.EPOCH_HEADER)
        if epoch is not None and epoch != self._store.epoch:
            raise EpochMismatchError(given=epoch, current=self._store.epoch)
        return client

    def _client_of(self, request: web.Request) -> Client:
        headers = request.headers
        return self._listen.admit(
            headers.get(hdrs.HOST, ""), headers.get(hdrs.AUTHORIZATION), headers.get(hdrs.ORIGIN)
        )

    def _store_of(self, client: Client, caller: Caller) -> Store:
        """Return the store as the client may use it."""
        if self._serves_roles is not None:
            return ScopedStore(self._serves_roles, client, caller)
        return self._store

    # --- requests as JSON ---

    async def _call(self, request: web.Request, kind: str, doc: Document) -> Any:
        """Call the store once, and remember the revision that was seen."""
        answer, revision = await call(request[_STORE], kind, doc)
        self._revision = max(self._revision, revision)
        return answer

    async def _batch(self, request: web.Request) -> web.Response:
        requests = wire.entries((await _read_document(request)).get("requests"))
        if len(requests) > wire.BATCH_MAX:
            raise InvalidRequestError(f"{len(requests)} requests are more than {wire.BATCH_MAX}")
        replies, seen = await reply_all(request[_STORE], requests)
        self._revision = max(self._revision, seen)
        self._answers.update(
            [reply["error"]["code"] if "error" in reply else "ok" for reply in replies]
        )
        body = await written_batch(self._revision, replies, request[_CALLER].bytes_read)
        return web.Response(body=body, content_type="application/json")

    def _one(self, kind: str) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            return await _answer(
                request, await self._call(request, kind, await _read_document(request))
            )

        return handle

    # --- paths for people ---

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=_OPENAPI, content_type="application/json")

    async def _status(self, request: web.Request) -> web.Response:
        client = request[_CLIENT]
        snapshot = await self._store.get_many([])
        time_us = microseconds(await self._store.now())
        return _as_json(
            {
                "epoch": self._store.epoch,
                "revision": snapshot.revision,
                "time_us": time_us,
                "capabilities": wire.dump_capabilities(request[_STORE].capabilities),
                "client": {"name": client.name, "role": client.role},
            }
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        figures: dict[str, float] = {
            "revision": self._revision,
            "connections": len(self._door.connections) if self._door is not None else 0,
            "requests": self._busy.total(),
            "bytes_in_flight": self._in_flight.held,
            "watch_connections": self._watches.total(),
            "shared_watches": Watches.taken,
        }
        if isinstance(self._store, Measured):
            figures |= self._store.figures()
        text = exposition(figures, self._answers).encode()
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def _scan(self, request: web.Request) -> web.Response:
        query = request.query
        doc: Document = {"prefix": query.get("prefix", ""), "after": query.get("after")}
        doc["limit"] = _integer(query.get("limit", "1000"), "limit")
        return await _answer(request, await self._call(request, "scan", doc))

    async def _get_key(self, request: web.Request) -> web.Response:
        found = await request[_STORE].get(request.match_info["key"])
        if found is None:
            raise NotFoundError(f"{request.match_info['key']!r} is absent")
        headers = {hdrs.ETAG: f'"{found.revision}"'}
        return web.Response(
            body=found.value, content_type="application/octet-stream", headers=headers
        )

    async def _put_key(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        value = await _read_body(request, VALUE_BYTES_MAX)
        return await self._write_key(request, key, Put(key, value))

    async def _delete_key(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        return await self._write_key(request, key, Delete(key))

    async def _write_key(self, request: web.Request, key: str, write: Write) -> web.Response:
        op_id = request.headers.get("Idempotency-Key")
        try:
            commit = await request[_STORE].commit(_conditions(request, key), [write], op_id=op_id)
        except ConflictError as error:
            return _as_error(error, 412)
        response = _as_json(wire.dump_commit(commit))
        response.headers[hdrs.ETAG] = f'"{commit.revision}"'
        return response

    async def _resolve(self, request: web.Request) -> web.Response:
        _refuse_forms(request)
        op_id = request.match_info["op_id"]
        return _as_json(await self._call(request, "resolve", {"op_id": op_id}))

    async def _renew(self, request: web.Request) -> web.Response:
        _refuse_forms(request)
        lease = request.match_info["lease"]
        return _as_json(await self._call(request, "renew", {"lease": lease}))

    async def _revoke(self, request: web.Request) -> web.Response:
        await request[_STORE].revoke(request.match_info["lease"])
        return _as_json({"revoked": True})

    async def _compact(self, request: web.Request) -> web.Response:
        _refuse_forms(request)
        return _as_json(await self._call(request, "compact", {}))

    # --- watching: server-sent events ---

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        prefix = request.query.get("prefix", "")
        asked = request.headers.get("Last-Event-ID") or request.query.get("after")
        snapshot = await self._store.get_many([])
        after = _integer(asked, "after") if asked is not None else snapshot.revision
        rules.check_prefix(prefix)
        rules.check_cursor(after, snapshot.revision)
        request[_CLIENT].check_read(prefix)
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        response.content_type = "text/event-stream"
        try:
            await response.prepare(request)
            await self._stream(request, response, prefix, after)
        except ConnectionError:
            pass  # the watcher went
        except TimeoutError:
            _cut(request)  # it does not read
        except Exception:
            if not response.prepared:
                raise
            _log.exception("a watch broke off")  # its head is sent: all that is left is to end it
        return response

    async def _watches_of_one(self, request: web.Request) -> web.StreamResponse:
        """Serve all the watches of one client on one connection; see ``watches.py``."""
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=COMMAND_BYTES_MAX, timeout=STOP_S, compress=False
        )
        await socket.prepare(request)

        async def send(text: str) -> None:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await socket.send_str(text)
            except TimeoutError:
                _cut(request)  # it does not read

        def check_read(prefix: str) -> None:
            self._client_of(request).check_read(prefix)

        watches = Watches(self._store, send, check_read)
        looking = asyncio.create_task(self._look_after(watches, socket))
        try:
            async for message in socket:
                if message.type is not web.WSMsgType.TEXT:
                    break
                watches.obey(message.data)
        except InvalidRequestError as error:
            await socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=str(error).encode()[:100])
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await watches.close()
        return socket

    async def _look_after(self, watches: Watches, socket: web.WebSocketResponse) -> None:
        """Hang up when the authority stops; end now and then what may not be read any more."""
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._stopping.wait()
            with suppress(ConnectionError):
                await watches.look()
        await socket.close(code=WSCloseCode.GOING_AWAY)

    def _may_watch(self, request: web.Request, prefix: str) -> bool:
        """Say whether who opened a watch may still read what it tells."""
        try:
            self._client_of(request).check_read(prefix)
        except TransactionalError:
            return False
        return True

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, prefix: str, after: int
    ) -> None:
        await response.write(f"event: start\nid: {after}\ndata: {{}}\n\n".encode())
        events = self._store.watch(prefix, after=after)
        stop = asyncio.ensure_future(self._stopping.wait())
        upcoming = asyncio.ensure_future(_next(events))
        try:
            while not stop.done():
                await asyncio.wait([upcoming, stop], timeout=HEARTBEAT_S, return_when=_FIRST)
                if not self._may_watch(request, prefix):
                    return  # the token was taken out, or the right
                if not upcoming.done():
                    async with asyncio.timeout(ANSWER_S):
                        await response.write(b": alive\n\n")
                    continue
                event = upcoming.result()
                if event is None:
                    return  # the store was closed
                data = wire.encode(wire.dump_event(event))
                async with asyncio.timeout(ANSWER_S):
                    await response.write(f"id: {event.revision}\ndata: {data}\n\n".encode())
                upcoming = asyncio.ensure_future(_next(events))
        finally:
            stop.cancel()
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
            await events.aclose()


@contextmanager
def _place(places: Counter[str], client: Client) -> Iterator[None]:
    """Take one of the places for a while.

    Raises:
        TooManyRequestsError: there is none, or the client has its share.
    """
    if places.total() >= REQUESTS_MAX:
        raise TooManyRequestsError(f"{REQUESTS_MAX} requests are being worked on")
    if client.name and places[client.name] >= PER_CLIENT_MAX:
        raise TooManyRequestsError(f"{PER_CLIENT_MAX} requests of {client.name!r} are worked on")
    places[client.name] += 1
    try:
        yield
    finally:
        places[client.name] -= 1
        if not places[client.name]:
            del places[client.name]


async def _next(
    events: AsyncGenerator[WatchEvent | Compacted, None],
) -> WatchEvent | Compacted | None:
    return await anext(events, None)


def _as_json(doc: Any, status: int = 200) -> web.Response:
    """Return an answer with a JSON body."""
    body = wire.encode(doc).encode()
    return web.Response(body=body, content_type="application/json", status=status)


def _as_error(error: TransactionalError, status: int | None = None) -> web.Response:
    """Return an error as an answer; ``status`` overrides the one of its kind."""
    response = _as_json(wire.dump_error(error), status or wire.status_of(error))
    retry_after_s = error.details().get("retry_after_s")
    if isinstance(retry_after_s, float):
        response.headers[hdrs.RETRY_AFTER] = str(max(1, round(retry_after_s)))
    return response


async def _answer(request: web.Request, doc: Any) -> web.Response:
    """Return an answer that may be large."""
    body = await written(doc, request[_CALLER].bytes_read)
    return web.Response(body=body, content_type="application/json")


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    """Send a large answer while its bytes are still counted; who does not read it is cut off."""
    if request[_CALLER].bytes_read <= OFF_LOOP_BYTES or response.prepared:
        return  # the socket takes it, or it is a stream
    try:
        async with asyncio.timeout(ANSWER_S):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        _cut(request)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _read_document(request: web.Request) -> Document:
    """Return the body as a JSON object."""
    # A page in a browser can send any *other* content type without asking first.
    if request.content_type != "application/json":
        raise InvalidRequestError("the content type must be application/json")
    return wire.document(await parse(await _read_body(request, wire.BODY_BYTES_MAX)))


async def _read_body(request: web.Request, bytes_max: int) -> bytes:
    """Return the body; one that does not come is 408, and its place is free for somebody else."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
        raise web.HTTPUnsupportedMediaType(reason="Content-Encoding is not taken")
    if (request.content_length or 0) > bytes_max:
        raise web.HTTPRequestEntityTooLarge(bytes_max, request.content_length or 0)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.content.iter_any():
                if len(body) + len(piece) > bytes_max:
                    raise web.HTTPRequestEntityTooLarge(bytes_max, len(body) + len(piece))
                request[_CALLER].hold(len(piece))
                body += piece
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    except _BROKEN as error:
        raise InvalidRequestError("the body broke off, or is not in chunks as it says") from error
    return bytes(body)


def _refuse_forms(request: web.Request) -> None:
    """Refuse the content types that a page may post anywhere without asking first."""
    if hdrs.CONTENT_TYPE in request.headers and request.content_type in _FORMS:
        raise InvalidRequestError(f"the content type must not be {request.content_type}")


def _integer(found: str, name: str) -> int:
    """Return the whole number in a header or query: digits, and nothing that Python adds."""
    if not re.fullmatch("-?[0-9]{1,18}", found):
        raise InvalidRequestError(f"{name} is a whole number, not {found[:80]!r}")
    return int(found)


def _conditions(request: web.Request, key: str) -> list[Compare]:
    """Return If-Match and If-None-Match as compares (RFC 9110, section 13.1)."""
    compares: list[Compare] = []
    match request.headers.get(hdrs.IF_MATCH):
        case None:
            pass
        case "*":
            compares.append(Exists(key))
        case tag:
            compares.append(Revision(key, _integer(tag.strip('"'), "If-Match")))
    match request.headers.get(hdrs.IF_NONE_MATCH):
        case None:
            pass
        case "*":
            compares.append(Absent(key))
        case tag:
            raise InvalidRequestError(f"If-None-Match takes only *, not {tag!r}")
    return compares
