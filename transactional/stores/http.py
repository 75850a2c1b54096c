"""The store of another process: a client of the HTTP authority that batches by itself.

Theory of operation
-------------------
Calls that are made at the same time share a request: coalescing without a timer
(``call_queue.py``).  Reads and writes have a queue each, so that a get never waits for somebody's
fsync; so have renewals of leases, which must be in time however much is being written.  What
neighbours in a batch are told must not be missing for one's own answer: calls that the authority
finds too large together go once more, in halves.

What a broken connection means: if it could not be made, nothing was sent, and everybody is told
``UnavailableError``.  If it broke later, the authority may have read the request.  Reads are then
sent once more; a commit is told ``OutcomeUnknownError`` with its op_id, never repeated here.

Leases: repeating a grant at worst leaves a lease that runs out, renewing and revoking twice is the
same as once; a lost answer to any of them is ``UnavailableError``, and repeating is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
from collections import deque
from contextlib import aclosing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp

from transactional import rules, wire
from transactional.clock import Clock, utc
from transactional.errors import (
    AnswerTooLargeError,
    InvalidRequestError,
    OpIdExpiredError,
    StoreClosedError,
    TooManyRequestsError,
    TransactionalError,
    UnavailableError,
)
from transactional.shield import shielded
from transactional.store import mint_op_id
from transactional.stores.call_queue import Call, CallQueue
from transactional.values import (
    SCAN_KEYS_MAX,
    Applied,
    Capabilities,
    Commit,
    CommitRequest,
    Compacted,
    Compare,
    Fenced,
    KeyValue,
    Lease,
    Snapshot,
    WatchEvent,
    Write,
)
from transactional.wire import BATCH_MAX

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from transactional.wire import Document

REQUEST_S: Final = 10.0
"""How long an answer is waited for; after that a commit's outcome is unknown."""
CONNECT_S: Final = 3.0
"""How long a connection may take; after that nothing was sent."""
PIECE_BYTES: Final = 1 << 20
"""A larger body is sent piece by piece, so that it does not hold up the loop."""
SILENCE_S: Final = 20.0
"""A watch that hears nothing for so long, not even a heartbeat, connects anew."""
BEHIND_EVENTS_MAX: Final = 256
"""So many events may wait for the owner of a watch; then it is taken off the line for a while."""
BEHIND_BYTES_MAX: Final = 4 << 20
"""The same in bytes."""
EVENT_BYTES_MAX: Final = 64 << 20
"""Largest event: a commit has 4 MiB, but a prefix that was deleted may have held many keys."""
WATCHES_TOLD_MAX: Final = 256
"""So many watches are begun by one message."""
IDLE_S: Final = 10.0
"""How long the connection of the watches is kept when nobody watches any more."""
RECONNECT_PAUSE_S: Final = 0.1
"""Pause between two attempts to connect a watch."""
RECONNECT_S: Final = 30.0
"""How long a watch tries to connect anew before it raises UnavailableError."""


_log = logging.getLogger(__name__)
_READS: Final = frozenset({"get", "get_many", "scan", "now"})


# --- the connection ------------------------------------------------------------------------------


class _Post:
    """Carries batches: the one place that knows what a transport error means."""

    def __init__(self, base: str, token: str | None, tls: ssl.SSLContext | None) -> None:
        self.base = base.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._headers, self._tls = headers, tls
        timeout = aiohttp.ClientTimeout(total=REQUEST_S, connect=CONNECT_S)
        connector = aiohttp.TCPConnector(limit=0, ssl=tls if tls is not None else True)
        self.session = aiohttp.ClientSession(
            headers=headers, timeout=timeout, connector=connector, auto_decompress=False
        )
        self.epoch = ""
        self.revision = 0

    async def status(self) -> Document:
        """Ask who is there, and remember its revision."""
        try:
            async with self.session.get(f"{self.base}/v1/status") as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"no authority at {self.base}: {_words(error)}") from error
        try:
            doc = _parse(body)
        except ValueError as error:
            raise UnavailableError(f"{self.base} is not a store's authority") from error
        self.saw(wire.whole(doc.get("revision")))
        return doc

    async def deliver(self, batch: list[Call[str]]) -> None:
        """Post a batch and answer its calls; reads whose answer was lost go once more."""
        lost = await self._try(batch)
        if lost is not None:
            again = [call for call in batch if call.op_id is None]
            for call in batch:
                if call.op_id is not None:
                    call.lost(lost)
            lost = await self._try(again) if again else None
            if lost is not None:
                for call in again:
                    call.lost(lost)
        if left := [call for call in batch if not call.cancelled]:  # too large, all together
            middle = -(-len(left) // 2)
            await self.deliver(left[:middle])
            if left[middle:]:
                await self.deliver(left[middle:])

    async def _try(self, batch: list[Call[str]]) -> str | None:
        """Post a batch; answer its calls and return None, or return why the answer was lost.

        Calls whose answers were too large together were not done, and are not answered.
        """
        body = ('{"requests":[' + ",".join([call.body for call in batch]) + "]}").encode()
        data = body if len(body) <= PIECE_BYTES else io.BytesIO(body)
        headers = {"Content-Type": "application/json", wire.EPOCH_HEADER: self.epoch}
        try:
            async with self.session.post(
                f"{self.base}/v1/batch", data=data, headers=headers
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            unavailable = f"no authority at {self.base}: {_words(error)}"
            for call in batch:
                call.fail(UnavailableError(unavailable))
            return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"the answer of {self.base} was lost: {_words(error)}"
        try:
            doc = _parse(answer)
        except ValueError:  # a proxy's words: they do not tell whether the authority got it
            return f"the answer of {self.base} is not JSON"
        except TransactionalError as error:  # the batch as a whole was refused: nothing was done
            for call in batch:
                call.fail(error)
            return None
        replies = wire.entries(doc.get("replies"))
        if len(replies) != len(batch):
            return f"{self.base} answered {len(replies)} of {len(batch)} requests"
        self.saw(wire.whole(doc.get("revision")))
        for call, reply in zip(batch, replies, strict=True):
            if len(batch) == 1 or _code(reply) != AnswerTooLargeError.code:
                _answer(call, reply)
        return None

    def renew_from_thread(self, lease: str) -> None:
        """Renew a lease over a connection of its own, without the event loop."""
        address = urlsplit(f"{self.base}/v1/batch")
        connection: HTTPConnection
        if address.scheme == "https":
            context = self._tls
            connection = HTTPSConnection(address.netloc, timeout=CONNECT_S, context=context)
        else:
            connection = HTTPConnection(address.netloc, timeout=CONNECT_S)
        body = wire.encode({"requests": [{"do": "renew", "lease": lease}]})
        headers = {
            "Content-Type": "application/json",
            wire.EPOCH_HEADER: self.epoch,
            **self._headers,
        }
        try:
            connection.request("POST", address.path, body.encode(), headers)
            doc = _parse(connection.getresponse().read())
            reply = wire.document(wire.entries(doc.get("replies"))[0])
        except (OSError, HTTPException, ValueError, IndexError) as error:
            raise UnavailableError(f"no authority at {self.base}: {_words(error)}") from error
        finally:
            connection.close()
        if "error" in reply:
            raise wire.load_error(wire.document(reply["error"]))

    async def line(self) -> aiohttp.ClientWebSocketResponse:
        """Open the connection that all the watches share.

        Raises:
            TransactionalError: the authority refuses it; said in its own words.
            UnavailableError: there is no connection.
        """
        url, headers = f"{self.base}/v1/watches", {wire.EPOCH_HEADER: self.epoch}
        try:
            async with asyncio.timeout(CONNECT_S):
                return await self.session.ws_connect(
                    url, headers=headers, heartbeat=SILENCE_S / 2, max_msg_size=EVENT_BYTES_MAX
                )
        except aiohttp.WSServerHandshakeError as refused:
            await self._why(url, headers)
            raise UnavailableError(
                f"{self.base} opens no line of watches: {refused.status}"
            ) from refused
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"no authority at {self.base}: {_words(error)}") from error

    async def _why(self, url: str, headers: dict[str, str]) -> None:
        """Ask in plain HTTP what the authority has against us, and raise it."""
        try:
            async with self.session.get(url, headers=headers) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"no authority at {self.base}: {_words(error)}") from error
        with contextlib.suppress(ValueError, InvalidRequestError):  # it is as it should be
            _parse(body)

    async def close(self) -> None:
        """Hang up."""
        await self.session.close()

    def saw(self, revision: int) -> None:
        """Remember that the store is at least at ``revision``."""
        self.revision = max(self.revision, revision)


def _code(reply: object) -> object:
    error = reply.get("error") if isinstance(reply, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def _answer(call: Call[str], reply: Document) -> None:
    try:
        if "error" in reply:
            call.fail(wire.load_error(reply["error"]))
        else:
            call.answer(reply["ok"])
    except (KeyError, TypeError, ValueError, InvalidRequestError) as error:
        # Words of another version: they do not tell what became of this call, only of this one.
        call.lost(f"the answer makes no sense: {_words(error)}")


def _parse(body: bytes) -> Document:
    """Return the document of an answer; raise the error it carries, ValueError if it is neither."""
    doc = json.loads(body)
    if not isinstance(doc, dict):
        raise ValueError("not an object")  # noqa: TRY004 one error for whatever is not ours
    if "code" in doc and "applied" in doc:
        raise wire.load_error(doc)
    return doc


def _words(error: BaseException) -> str:
    """Why it failed; of a connection that was not made, as the system says it."""
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return str(error) or type(error).__name__


# --- watches that share a connection -------------------------------------------------------------


class _Watch:
    """One watch of many: how far it has come, and what waits to be taken."""

    def __init__(self, prefix: str, after: int | None, now_s: float) -> None:
        self.prefix = prefix
        self.cursor = after
        """Behind which revision it goes on, should it have to begin anew; None: at the present."""
        self.since_s = now_s
        """Since when it may have been waiting for a connection."""
        self.number: int | None = None
        """Its name on the line; None: it is not on it."""
        self.ended: TransactionalError | bool = False
        self._items: deque[tuple[WatchEvent | Compacted, int]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether more waits to be taken than should."""
        return len(self._items) >= BEHIND_EVENTS_MAX or self._bytes >= BEHIND_BYTES_MAX

    @property
    def idle(self) -> bool:
        """Whether all that came was taken."""
        return not self._items

    def put(self, event: WatchEvent | Compacted, size: int) -> None:
        """Hand over an event of so many bytes."""
        self.cursor = event.revision
        self._items.append((event, size))
        self._bytes += size
        self._news.set()

    def end(self, error: TransactionalError | None = None) -> None:
        """Nothing comes any more."""
        self.ended = self.ended or error or True
        self._news.set()

    async def take(self) -> WatchEvent | Compacted | None:
        """Wait for the next event; None if the store was closed."""
        while not self._items:
            if self.ended:
                if isinstance(self.ended, TransactionalError):
                    raise self.ended
                return None
            self._news.clear()
            await self._news.wait()
        event, size = self._items.popleft()
        self._bytes -= size
        return event


class _WatchLine:
    """All the watches of one client, on one connection, which is there as long as they are.

    They are told apart by numbers.  When the connection breaks, each goes on from its own cursor on
    the next one.  A watch whose owner does not keep up is taken off the line, and comes back when
    he has taken what he was sent: it delays nobody else.  What the authority refuses is told to the
    watch at once; what it cannot be asked, after ``RECONNECT_S``.
    """

    def __init__(self, post: _Post, clock: Clock) -> None:
        self._post = post
        self._clock = clock
        self._watches: set[_Watch] = set()
        self._numbers: dict[int, _Watch] = {}
        self._last_number = 0
        self._to_add: list[_Watch] = []
        self._to_end: list[int] = []
        self._news = asyncio.Event()  # there is something to be said
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def follow(
        self, prefix: str, after: int | None
    ) -> AsyncGenerator[WatchEvent | Compacted, None]:
        """Yield the events of one watch; see ``Store.watch``."""
        if self._closed:
            return
        watch = _Watch(prefix, after, self._clock.elapsed_s())
        self._watches.add(watch)
        self._say(add=watch)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            while (event := await watch.take()) is not None:
                yield event
                if watch.number is None and watch.idle and not watch.ended:
                    self._say(add=watch)
        finally:
            self._watches.discard(watch)
            self._take_off(watch)

    def _say(self, *, add: _Watch) -> None:
        self._last_number += 1
        add.number = self._last_number
        self._numbers[add.number] = add
        self._to_add.append(add)
        self._news.set()

    def _take_off(self, watch: _Watch) -> None:
        if watch.number is not None:
            del self._numbers[watch.number]
            self._to_end.append(watch.number)
            watch.number = None
            self._news.set()

    async def _run(self) -> None:
        """Keep a connection as long as somebody watches, and a while longer."""
        away_since_s: float | None = None
        try:
            while self._watches:
                try:
                    line = await self._post.line()
                except TransactionalError as error:
                    now_s = self._clock.elapsed_s()
                    away_since_s = now_s if away_since_s is None else away_since_s
                    self._give_up(error, now_s, away_since_s)
                else:
                    away_since_s = None
                    try:
                        await self._talk(line)
                    finally:
                        await line.close()
                    away_since_s = self._clock.elapsed_s()
                if self._watches:
                    await asyncio.sleep(RECONNECT_PAUSE_S)
        finally:
            self._task = None
            if self._watches and not self._closed:  # some came while it ended
                self._task = asyncio.create_task(self._run())

    def _give_up(self, error: TransactionalError, now_s: float, away_since_s: float) -> None:
        """Tell the watches that will not be served: at once if they are refused, or in time."""
        later = isinstance(error, UnavailableError) and not isinstance(error, TooManyRequestsError)
        for watch in list(self._watches):
            if not later or now_s - max(away_since_s, watch.since_s) > RECONNECT_S:
                self._fail(watch, error)

    def _fail(self, watch: _Watch, error: TransactionalError) -> None:
        self._watches.discard(watch)
        self._take_off(watch)
        watch.end(error)

    async def _talk(self, line: aiohttp.ClientWebSocketResponse) -> None:
        """Say who watches what, and hand over what comes, until the connection ends."""
        self._numbers.clear()
        self._to_add.clear()
        self._to_end.clear()
        for watch in self._watches:
            watch.number = None
            if not watch.full:
                self._say(add=watch)
        speaking = asyncio.create_task(self._speak(line))
        try:
            async for message in line:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                self._hear(message.data)
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
            now_s = self._clock.elapsed_s()
            for watch in self._watches:
                watch.since_s = now_s

    async def _speak(self, line: aiohttp.ClientWebSocketResponse) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            while True:
                adds = [w for w in self._to_add[:WATCHES_TOLD_MAX] if w.number is not None]
                ends = self._to_end[:WATCHES_TOLD_MAX]
                del self._to_add[:WATCHES_TOLD_MAX], self._to_end[:WATCHES_TOLD_MAX]
                if adds or ends:
                    doc = {"add": [[w.number, w.prefix, w.cursor] for w in adds], "end": ends}
                    await line.send_str(wire.encode(doc))
                elif not self._to_add and not self._to_end:
                    self._news.clear()
                    try:
                        async with asyncio.timeout(None if self._watches else IDLE_S):
                            await self._news.wait()
                    except TimeoutError:
                        if not self._watches:
                            await line.close()
                            return

    def _hear(self, text: str) -> None:
        try:
            doc = _parse(text.encode())
            watch = self._numbers.get(wire.whole(doc.get("watch")))
            if watch is None:
                return  # it was ended, and this was on its way
            if "error" in doc:
                self._fail(watch, wire.load_error(wire.document(doc["error"])))
            elif "at" in doc:
                watch.cursor = wire.whole(doc["at"])
            else:
                event = wire.load_event(wire.document(doc.get("event")))
                watch.put(event, len(text))
                if watch.full:
                    self._take_off(watch)
        except (ValueError, InvalidRequestError):
            _log.exception("the authority at %s said something strange", self._post.base)

    async def close(self) -> None:
        """Hang up; whoever watches is told that it is over."""
        self._closed = True
        for watch in self._watches:
            watch.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


# --- the store -----------------------------------------------------------------------------------


class HTTPStore:
    """A Store behind an authority; made by ``open``, belongs to the event loop that opened it."""

    def __init__(self, post: _Post, capabilities: Capabilities, clock: Clock) -> None:
        self._post = post
        self._capabilities = capabilities
        self._clock = clock
        self._reads = CallQueue(post.deliver, batch_max=BATCH_MAX)
        self._writes = CallQueue(post.deliver, batch_max=BATCH_MAX)
        self._renewals = CallQueue(post.deliver, batch_max=BATCH_MAX)
        self._queues = {"renew": self._renewals, **dict.fromkeys(_READS, self._reads)}
        self._line = _WatchLine(post, clock)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> HTTPStore:
        """Connect to the authority at ``http(s)://HOST:PORT``.

        Raises:
            UnavailableError: nobody answers there, or nobody of ours.
            UnauthorizedError: the token is missing or wrong.
        """
        post = _Post(url, token, tls)
        try:
            status = await post.status()
            post.epoch = wire.text(status.get("epoch"))
            promises = wire.load_capabilities(wire.document(status.get("capabilities")))
        except BaseException:
            await post.close()
            raise
        return cls(post, promises, clock or Clock())

    @property
    def epoch(self) -> str:
        """Name of the store's life that this client opened."""
        return self._post.epoch

    @property
    def capabilities(self) -> Capabilities:
        """What the authority's engine promises, but shared."""
        return self._capabilities

    async def _ask(self, do: str, fields: Document, *, commit: str | None = None) -> Any:
        """Send one call and return its answer; ``commit`` is the op_id of one that writes."""
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        body = wire.encode({"do": do, **fields})
        queue = self._queues.get(do, self._writes)
        return await queue.ask(Call(body, len(body), op_id=commit))

    async def get(self, key: str) -> KeyValue | None:
        """Return the key as it stands, None if absent."""
        rules.check_key(key)
        return wire.load_key_value(await self._ask("get", {"key": key}))

    async def get_many(self, keys: Sequence[str]) -> Snapshot:
        """Return several keys at one revision."""
        rules.check_keys(keys)
        return wire.load_snapshot(await self._ask("get_many", {"keys": list(keys)}))

    async def scan(
        self, prefix: str, *, after: str | None = None, limit: int = SCAN_KEYS_MAX
    ) -> Snapshot:
        """Return keys under ``prefix`` behind ``after``, at one revision."""
        rules.check_scan(prefix, after, limit)
        found = await self._ask("scan", {"prefix": prefix, "after": after, "limit": limit})
        return wire.load_snapshot(found)

    async def commit(
        self,
        compares: Sequence[Compare],
        writes: Sequence[Write],
        otherwise: Sequence[Write] = (),
        *,
        op_id: str | None = None,
        by: str | None = None,
    ) -> Commit:
        """Decide and write at one point in time; see ``Store.commit``."""
        rules.check_commit(compares, writes, otherwise, op_id, by)
        if op_id is not None:
            return await self._commit(CommitRequest(compares, writes, otherwise, op_id, by))
        fresh = self.mint_op_id()
        try:
            return await self._commit(CommitRequest(compares, writes, otherwise, fresh, by))
        except OpIdExpiredError:
            # Never sent before, so not a repeat: we were idle for so long that what we know of the
            # revision is compacted.  Ask for the present one.
            await self._post.status()
            fresh = self.mint_op_id()
            return await self._commit(CommitRequest(compares, writes, otherwise, fresh, by))

    async def _commit(self, request: CommitRequest) -> Commit:
        fields = wire.dump_commit_request(request)
        commit = wire.load_commit(await self._ask("commit", fields, commit=request.op_id))
        self._post.saw(commit.revision)
        return commit

    async def resolve(self, op_id: str) -> Applied | Fenced:
        """Return what became of ``op_id``, fencing it off if nothing did."""
        rules.check_op_id(op_id)
        return wire.load_outcome(await self._ask("resolve", {"op_id": op_id}))

    async def lease(self, ttl_s: float) -> Lease:
        """Grant a lease."""
        rules.check_ttl(ttl_s)
        return wire.load_lease(await self._ask("lease", {"ttl_s": ttl_s}))

    async def renew(self, lease_id: str) -> Lease:
        """Start the lease's time anew."""
        return wire.load_lease(await self._ask("renew", {"lease": lease_id}))

    def renew_from_thread(self, lease_id: str) -> None:
        """Start the lease's time anew while the event loop is busy; see ``RenewsFromThreads``."""
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        self._post.renew_from_thread(lease_id)

    async def revoke(self, lease_id: str) -> None:
        """End the lease and delete its keys."""
        await self._ask("revoke", {"lease": lease_id})

    async def compact(self) -> int:
        """Have the engine remove all that is beyond its limits; return how many rows went.

        Raises:
            ForbiddenError: the client's role may not give the authority orders.
        """
        rows, more = 0, True
        while more:
            removed, more = await self.compact_piece()
            rows += removed
        return rows

    async def compact_piece(self) -> tuple[int, bool]:
        """Have a piece of it removed; return how many rows went, and whether there is more."""
        doc = wire.document(await self._ask("compact", {}))
        return wire.whole(doc.get("removed")), bool(doc.get("more"))

    async def now(self) -> datetime:
        """Return the authority's business time."""
        return utc(wire.whole((await self._ask("now", {})).get("time_us")))

    def elapsed_s(self) -> float:
        """Return seconds since this machine booted."""
        return self._clock.elapsed_s()

    def mint_op_id(self) -> str:
        """Return a fresh op_id."""
        return mint_op_id(self._post.epoch, self._post.revision)

    async def watch(
        self, prefix: str, *, after: int | None = None
    ) -> AsyncGenerator[WatchEvent | Compacted, None]:
        """Yield the commits under ``prefix`` across reconnects; see ``Store.watch``.

        All watches of this client share one connection.

        Raises:
            TooManyRequestsError: the authority has no room for one more watch.
            UnavailableError: the authority stayed away for ``RECONNECT_S`` seconds.
        """
        rules.check_prefix(prefix)
        async with aclosing(self._line.follow(prefix, after)) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        """Carry what was accepted, then hang up; once, and to the end, for all callers."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await shielded(self._closing)

    async def _close(self) -> None:
        for queue in (self._reads, self._writes, self._renewals):
            await queue.drain()
        await self._line.close()
        await self._post.close()
