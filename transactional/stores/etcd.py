"""The store on an etcd cluster, which survives the loss of a minority of its members.

Theory of operation
-------------------
A commit is one transaction of etcd's (``etcd_txn.py`` tells how keys lie there).  Its revision is
etcd's, so revisions are those of the whole cluster; that they rise is all that is promised::

    if   no record of the op_id, and the clock is the one this was built with
    then if   the compares hold
         then the writes, the record
         else otherwise with its record, or else: report what did not hold
    else report the record and the clock

So the same transaction that writes also remembers the op_id, and one that is repeated, by whoever
and however late, finds the record.  A write is sent once.  If its answer is lost, its caller is
told ``OutcomeUnknownError``; ``resolve`` reads the record, or writes one that fences the op_id off.
Only what certainly wrote nothing (the clock had moved, a lease for records was over) is built anew
and sent again, by this module.

Reads.  Versions before 3.4.42, 3.5.28 and 3.6.9 can answer a linearizable read from a state that is
too old (a member that was paused for a moment; etcd-io/etcd#20418).  A transaction that may write
is decided in the log of all members, so there a read carries a delete of a key that is never there:
it costs a round of the log, and writes nothing.  Reads that come together share a transaction.  The
first pages of a scan are so read, and the rest at the same revision.

Memory of the past.  Records of operations and marks of deletes are attached to etcd leases of this
client's, a few minutes' worth to each, so that etcd forgets them.  How old a revision is, is told
by what this client itself saw, or else by the clock as it was at that revision; where etcd has
compacted that, an op_id is ``OpIdExpiredError`` and an ``Unchanged`` does not hold.

Watches are streams, one each.  They are silent while nothing happens, and so are those of a member
that was cut off.  So while anybody watches, members with streams are asked now and then how far
they are; one that is behind what the cluster had told a while before loses its streams, which go
on at another from where they were.

Leases are etcd's: whole seconds, two at the least, and longer after a change of leader.  A lease
is over when etcd says so; its keys go in the commit by which the first client that hears of it
deletes them.  Meanwhile they are still there, and no new put can be attached.

What is not here: the values of the past belong to etcd.  ``forget`` compacts the whole cluster up
to the commit, so a watch from before is told ``Compacted``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import random
import secrets
from base64 import b64decode
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from transactional import rules
from transactional.caller import OWNER
from transactional.clock import BusinessTime, Clock, utc
from transactional.errors import (
    AnswerTooLargeError,
    ClockJumpedError,
    ConflictError,
    CorruptStoreError,
    EpochMismatchError,
    InvalidRequestError,
    LeaseExpiredError,
    NewerFormatError,
    OperationIdReusedError,
    OpIdExpiredError,
    OpIdFencedError,
    OutcomeUnknownError,
    StoreClosedError,
    TooManyRequestsError,
    TransactionalError,
    UnavailableError,
    WeakServerError,
)
from transactional.shield import shielded
from transactional.store import BY_LEASE, mint_op_id, this_user
from transactional.stores import etcd_txn as e
from transactional.stores.call_queue import Call, CallQueue
from transactional.stores.etcd_gateway import ATTEMPT_S, Endpoint, Gateway, Lost, Rejected
from transactional.stores.etcd_server import RESERVED, Address, Facts, look
from transactional.values import (
    COMMIT_BYTES_MAX,
    READ_BYTES_MAX,
    SCAN_KEYS_MAX,
    Absent,
    Applied,
    Capabilities,
    Commit,
    Compacted,
    Delete,
    DeletePrefix,
    Exists,
    Fenced,
    KeyChange,
    KeyValue,
    Lease,
    LeaseAlive,
    Put,
    Revision,
    Snapshot,
    Unchanged,
    ValueIs,
    WatchEvent,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
    from datetime import datetime

    from transactional.stores.etcd_txn import Document
    from transactional.values import Compare, Write

FORMAT: Final = 1
"""Of what lies in etcd; see ``etcd_txn.py``."""
ENTRY_BYTES: Final = 64
"""What an operation is taken to cost in a request beside its key and value."""
READS_MAX: Final = 100
"""Keys that are read in one transaction."""
FIRST_PAGE: Final = 32
"""Keys of a scan that are read at first; the next ones by how large these are."""
BEHIND_US: Final = 2_000
"""The clock may be this far behind the wall; twice as far for each commit that had to be sent again
because somebody set it, up to a fifth of a second or ``BEHIND_ROUNDS`` round trips..."""
BEHIND_US_MAX: Final = 200_000
BEHIND_ROUNDS: Final = 8
CALMED: Final = 0.9995
"""... and less again by this factor for each commit that had not.  Setting the clock makes all that
are on their way go round once more: who is alone sets it often, and who is in a crowd seldom."""
AWAY_S_MAX: Final = 30 * 86_400.0
"""How far the wall clock may be from the store's time when it is opened."""
SPARE_S: Final = 900.0
"""How much longer records and marks are kept than they are relied on."""
ROTATIONS: Final = 16
"""An etcd lease for records takes new ones for this part of its time..."""
ATTACHED_MAX: Final = 1000
"""... or until it has about so many: what ends together is deleted together."""
MOMENT_S: Final = 5.0
"""How often it is noted which revision was seen when."""
REAP_S: Final = 0.02
"""Clients that hear of a lease's end wait up to so long, and most of them find it done."""
REAP_KEYS_MAX: Final = 50
"""Keys of an ended lease that go in one commit; more go in several."""
NOTED_KEYS_MAX: Final = 8
"""So many keys of a lease are remembered by who put them, to end it without a look..."""
NOTED_LEASES_MAX: Final = 256
"""... and for so many leases; so many are known to be over."""
SWEEP_S: Final = 30.0
"""How often it is looked whether a lease ended unheard."""
HEALTH_S: Final = 1.0
"""How often members that have streams are asked how far they are."""
RECONNECT_PAUSE_S: Final = 0.05
RECONNECT_S: Final = 30.0
"""How long a watch tries to connect anew before it raises UnavailableError."""
WATCHES_MAX: Final = 4096
"""Most watches of one client."""
FOLLOWS_MAX: Final = 20
"""How often a member that is behind a revision is asked for it, so long as it does not follow."""
ROUNDS_MAX: Final = 1000
"""How often a commit is built anew because the clock had moved."""

_log = logging.getLogger(__name__)


# --- small parts of the store --------------------------------------------------------------------


class _Moments:
    """Which revision was seen when, by boot time; for as long as ages are asked for."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, revision: int) -> None:
        """Note that this revision was the store's, now and then."""
        if self._seen and now_s - self._seen[-1][0] < MOMENT_S:
            return
        self._seen.append((now_s, revision))
        while self._seen[0][0] < now_s - self._keep_s:
            self._seen.popleft()

    def younger(self, revision: int, age_s: float, now_s: float) -> bool:
        """Say whether a revision is known to have been the last less than ``age_s`` ago."""
        return any(at_s >= now_s - age_s and seen <= revision for at_s, seen in self._seen)


class _Shelf:
    """etcd leases to which this client attaches what etcd shall forget after ``keep_s``.

    The next one is asked for while the last one is still good: nobody waits for it but the first,
    and who comes after a long pause.
    """

    def __init__(
        self,
        keep_s: float,
        grant: Callable[[int], Coroutine[Any, Any, str]],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._part_s = keep_s / ROTATIONS
        self._ttl_s = math.ceil(keep_s + self._part_s + SPARE_S)
        self._grant = grant
        self._start = start
        self._renewing: asyncio.Task[None] | None = None
        self._failure: TransactionalError | None = None
        self._lease: str | None = None
        self._since_s = 0.0
        self._attached = 0

    async def take(self, now_s: float) -> str:
        """Return the lease for a few more keys; the error of the grant if there is none."""
        age_s = now_s - self._since_s
        good = self._lease is not None and age_s < self._part_s + SPARE_S / 2
        if not good or age_s >= self._part_s or self._attached >= ATTACHED_MAX:
            if self._renewing is None or self._renewing.done():
                self._renewing = self._start(self._renew(now_s))
            if not good:
                await asyncio.shield(self._renewing)
                if self._failure is not None:
                    raise self._failure
        if self._lease is None:
            raise UnavailableError("the lease for records ended at once")
        self._attached += 1
        return self._lease

    async def _renew(self, now_s: float) -> None:
        try:
            self._lease = await self._grant(self._ttl_s)
        except TransactionalError as error:
            self._failure = error
        else:
            self._failure, self._since_s, self._attached = None, now_s, 0

    def lost(self) -> None:
        """It is over: this process stood still for too long."""
        self._lease = None


@dataclass(frozen=True, slots=True)
class _ClockKey:
    """The clock as it was seen: its base, and the revision that set it."""

    base_us: int
    revision: int

    @classmethod
    def of(cls, found: Document) -> _ClockKey:
        return cls(int(b64decode(found["value"])), int(found["mod_revision"]))


@dataclass(frozen=True, slots=True)
class _Dead:
    """A compare of ours: the lease's heartbeat is gone, and the key still noted under it."""

    lease: str
    key: str


@dataclass(frozen=True, slots=True)
class _Has:
    """A compare of ours: the lease has these keys, noted at these revisions, and no other."""

    lease: str
    noted: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Reap:
    """A write of ours: delete what a lease has, if it still has it; ``revision`` noted it."""

    lease: str
    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class _Stop:
    """A write of ours: end the heartbeat of a lease."""

    lease: str


@dataclass(frozen=True, slots=True)
class _Request:
    """What one commit is about, ours and callers'."""

    compares: Sequence[Compare | _Dead | _Has]
    writes: Sequence[Write | _Reap | _Stop]
    otherwise: Sequence[Write]
    op_id: str
    by: str
    content: bytes


@dataclass(slots=True, eq=False)
class _Stream:
    """A stream that is open: where it leads, and how to cut it."""

    endpoint: Endpoint
    cut: Callable[[], None]


class _Compacted(Exception):  # noqa: N818 handled here
    """etcd has forgotten the revision."""


class _BehindError(UnavailableError):
    """The member that was asked has not come so far."""


class _CompactedTo(Exception):  # noqa: N818 handled here
    """etcd has forgotten what a watch would begin with."""

    def __init__(self, revision: int) -> None:
        self.revision = revision


# --- the store -----------------------------------------------------------------------------------


class EtcdStore:
    """A Store on a cluster; made by ``open``, belongs to the event loop that opened it.

    Every call is O(1) round trips, a scan one for each page; a compare of a prefix costs etcd
    O(keys under it).
    """

    def __init__(self, gateway: Gateway, address: Address, facts: Facts, clock: Clock) -> None:
        self._gateway = gateway
        self._address = address
        self.facts = facts
        self._clock = clock
        self._layout = e.Layout(address.name)
        self._by = this_user()
        self._time = BusinessTime()
        self._told_us = 0
        self._setting = 0  # commits on their way that set the clock
        self._cluster = ""
        self._epoch = ""
        self._epoch_revision = 0
        self._base = _ClockKey(0, 0)
        self._revision = 0
        limits = address.retention
        longest_s = max(limits.index_retention_s, limits.minted_retention_s)
        self._moments = _Moments(longest_s)
        self._shelf = _Shelf(longest_s, self._grant, self._start)
        self._own_shelf = _Shelf(limits.op_id_retention_s, self._grant, self._start)
        self._reads = CallQueue[str](self._deliver, batch_max=READS_MAX)
        self._noted: dict[str, dict[str, int]] = {}
        self._over: deque[str] = deque(maxlen=NOTED_LEASES_MAX)
        self._streams: set[_Stream] = set()
        self._watches = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._resent = 0
        self._behind_us = float(BEHIND_US)
        self._round_s = 0.0

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
        accept_clock: bool = False,
    ) -> EtcdStore:
        """Connect to a cluster; make the store if it is not there.

        Raises:
            UnavailableError: no member answers, or there is no majority.
            AccessDeniedError: etcd does not know the user, or does not let him do what is needed.
            NewerFormatError: the store is of a later version of this library.
            WeakServerError: a member does not call fsync, and the URL does not name that.
            ClockJumpedError: the wall clock is 30 days from the store's time.
        """
        address = Address.parse(url, tls)
        gateway = Gateway(
            address.urls, user=address.user, tls=address.tls, request_s=address.request_s
        )
        try:
            await gateway.authenticate()
            facts = await look(gateway, e.Layout(address.name))
            idle = [url for url, syncs in facts.syncs.items() if syncs is False]
            if idle and "fsync" not in address.weak:
                raise WeakServerError(
                    ("fsync",), f"{', '.join(idle)} runs without fsync (--unsafe-no-fsync)"
                )
            store = cls(gateway, address, facts, clock or Clock())
            await store._begin(accept_clock=accept_clock)
        except Rejected as error:
            await gateway.close()
            raise InvalidRequestError(f"etcd: {error.words}") from error
        except BaseException:
            await gateway.close()
            raise
        return store

    async def _begin(self, *, accept_clock: bool) -> None:
        layout = self._layout
        wall_us = self._time.next_us(self._clock.wall_us(), self._clock.elapsed_s())
        made = {"epoch": secrets.token_hex(4), "format": FORMAT}
        txn = e.Txn(
            [e.is_absent(layout.epoch)],
            [
                e.put(layout.epoch, json.dumps(made).encode()),
                e.put(layout.clock, b"%d" % wall_us),
                e.get_range(layout.epoch),
                e.get_range(layout.clock),
            ],
            [e.get_range(layout.epoch), e.get_range(layout.clock)],
        )
        # Repeated it finds what it made the first time.
        answer = await self._ask(txn, repeatable=True)
        epoch, clock = (e.kvs(part)[0] for part in e.parts(answer)[-2:])
        doc = json.loads(b64decode(epoch["value"]))
        if (found := doc.get("format")) != FORMAT:
            if isinstance(found, int) and found > FORMAT:
                raise NewerFormatError(f"the store {self._address.name!r}", found, FORMAT)
            raise CorruptStoreError(f"{self._address.name!r} is of format {found}")
        # A snapshot that is restored makes another cluster, and so another life of the store.
        self._epoch = f"{doc['epoch']}{int(self._cluster):x}"[:32]
        self._epoch_revision = int(epoch["create_revision"])
        self._base = _ClockKey.of(clock)
        known_us = e.time_us(self._base.base_us, self._base.revision)
        if abs(wall_us - known_us) > AWAY_S_MAX * 1e6 and not accept_clock:
            raise ClockJumpedError(clock=utc(wall_us).isoformat(), store=utc(known_us).isoformat())
        self._start(self._reap_ended())
        self._start(self._look_after_streams())

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the store on etcd ended", exc_info=error)

    @property
    def epoch(self) -> str:
        """Name of this life of the store."""
        return self._epoch

    @property
    def capabilities(self) -> Capabilities:
        """What this cluster was seen to keep; see ``Facts``."""
        return Capabilities(
            "etcd",
            durable=self.facts.durable,
            shared=True,
            fault_tolerant=self.facts.members >= 3,
            max_operations=self.facts.operations_max - RESERVED,
            commit_bytes_max=min(COMMIT_BYTES_MAX, self._bytes_max),
            forgets_in_place=False,
        )

    @property
    def _bytes_max(self) -> int:
        return self._address.request_bytes_max - (RESERVED + 2) * ENTRY_BYTES - 2048

    def advice(self) -> list[str]:
        """Return what an operator should know of the cluster; see ``Advises``."""
        return self.facts.advice()

    def figures(self) -> Mapping[str, float]:
        """Return what there is to watch; see ``Measured``."""
        return {
            "watches": self._watches,
            "failovers_total": self._gateway.failovers,
            "resent_total": self._resent,
            "clock_refused_total": self._time.refused,
        }

    # --- asking etcd ---

    async def _ask(self, txn: e.Txn, *, repeatable: bool) -> Document:
        """Send a transaction; errors as ``Gateway.ask``, and EpochMismatchError."""
        return await self._send("/kv/txn", txn.body(), repeatable=repeatable)

    async def _send(
        self, path: str, body: str, *, repeatable: bool, fresh: bool = True
    ) -> Document:
        """Send a request; the answer to one that is ``fresh`` is of no earlier time than this."""
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        before = self._revision if fresh else 0
        answer = await self._gateway.ask(path, body, repeatable=repeatable)
        self._heard(answer, before)
        return answer

    def _heard(self, answer: Document, before: int) -> None:
        """Take in what the header of an answer tells."""
        header = answer.get("header", {})
        cluster = str(header.get("cluster_id", ""))
        revision = int(header.get("revision", 0))
        self._cluster = self._cluster or cluster
        if cluster != self._cluster or 0 < revision < before:
            # Another cluster, or the same one further back: a snapshot was restored.
            raise EpochMismatchError(given=self._epoch, current=f"of cluster {int(cluster):x}")
        self._revision = max(self._revision, revision)
        self._moments.note(self._clock.elapsed_s(), self._revision)

    async def _read(self, operations: Sequence[str]) -> tuple[int, list[Document]]:
        """Read at one point in time, no earlier than the call; return the revision and answers.

        The clock is read, too: who looks and then commits builds with the clock as it is.
        """
        wanted: list[str | e.Txn] = [*operations, e.get_range(self._layout.clock)]
        if not self.facts.fresh_reads:
            wanted.append(e.delete(self._layout.nothing))
        try:
            answer = await self._ask(e.Txn(success=wanted), repeatable=True)
        except Rejected as error:
            raise _of_read(error) from error
        count = len(operations)
        found = e.parts(answer)
        self._saw_clock(e.kvs(found[count]))
        return int(answer["header"]["revision"]), found[:count]

    async def _at(
        self, revision: int, operation: Callable[..., str], *, attempts: int = FOLLOWS_MAX
    ) -> Document:
        """Read what was there at a revision that is no later than what this client saw.

        What was is the same at every member that has come so far: none asks the others.
        """
        txn = e.Txn(success=[operation(revision=revision, serializable=True)])
        for left in reversed(range(attempts)):
            try:
                sent = self._send("/kv/txn", txn.body(), repeatable=True, fresh=False)
                return e.parts(await sent)[0]
            except Rejected as error:
                if "compacted" in error.words:
                    raise _Compacted from error
                if "future" not in error.words:
                    raise _of_read(error) from error
            if left:
                await asyncio.sleep(RECONNECT_PAUSE_S)  # a member that is a little behind
        raise _BehindError(f"no member knows revision {revision}")

    async def _deliver(self, calls: list[Call[str]]) -> None:
        """Read for several callers in one transaction."""
        try:
            revision, answers = await self._read([call.body for call in calls])
        except TransactionalError as error:
            for call in calls:
                call.fail(error)
            return
        for call, answer in zip(calls, answers, strict=True):
            call.answer((revision, answer))

    async def _one(self, operation: str) -> tuple[int, Document]:
        """Read one thing, together with others who read now."""
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        found: tuple[int, Document] = await self._reads.ask(
            Call(operation, len(operation), op_id=None)
        )
        return found

    async def _present(self) -> int:
        """Return the store's revision."""
        return (await self._one(e.get_range(self._layout.clock)))[0]

    # --- reading ---

    async def get(self, key: str) -> KeyValue | None:
        """Return the key as it stands, None if absent."""
        rules.check_key(key)
        _, answer = await self._one(e.get_range(self._layout.key(key)))
        found = e.kvs(answer)
        return e.loaded(key, found[0]) if found else None

    async def get_many(self, keys: Sequence[str]) -> Snapshot:
        """Return several keys at one revision; one round trip for each hundred of them."""
        rules.check_keys(keys)
        wanted = sorted(set(keys))
        at = self._layout.key
        first = [e.get_range(at(key)) for key in wanted[:READS_MAX]]
        while True:
            revision, answers = await self._read(first)
            try:
                for start in range(READS_MAX, len(wanted), READS_MAX):
                    rest: list[str | e.Txn] = [
                        e.get_range(at(key), revision=revision, serializable=True)
                        for key in wanted[start : start + READS_MAX]
                    ]
                    body = e.Txn(success=rest).body()
                    answer = await self._send("/kv/txn", body, repeatable=True, fresh=False)
                    answers += e.parts(answer)
            except Rejected as error:
                if "compacted" in error.words or "future" in error.words:
                    continue
                raise _of_read(error) from error
            break
        found = [
            e.loaded(key, held[0])
            for key, answer in zip(wanted, answers, strict=True)
            if (held := e.kvs(answer))
        ]
        return Snapshot(revision, {item.key: item for item in rules.read_all(found, OWNER)})

    async def scan(
        self, prefix: str, *, after: str | None = None, limit: int = SCAN_KEYS_MAX
    ) -> Snapshot:
        """Return keys under ``prefix`` behind ``after``, at one revision."""
        rules.check_scan(prefix, after, limit)
        while True:
            try:
                return await self._scan(prefix, after, limit)
            except _Compacted:
                continue  # between two parts of a page: it is read anew

    async def scan_at(
        self, revision: int, prefix: str, *, after: str | None = None, limit: int = SCAN_KEYS_MAX
    ) -> Snapshot:
        """Return keys as they were at a revision, as one member knows them; see `ReadsThePast`."""
        rules.check_scan(prefix, after, limit)
        try:
            return await self._scan(prefix, after, limit, revision)
        except (_Compacted, _BehindError):
            return await self.scan(prefix, after=after, limit=limit)

    async def _scan(
        self, prefix: str, after: str | None, limit: int, revision: int = 0
    ) -> Snapshot:
        layout = self._layout
        start, end = layout.key(prefix), layout.end(prefix)
        if after is not None and after >= prefix:
            if not after.startswith(prefix) and after > prefix:
                return Snapshot(await self._present(), {})
            start = layout.after(after)
        items: list[KeyValue] = []
        size, ask = 0, min(limit + 1, FIRST_PAGE)
        attempts = 1 if revision else FOLLOWS_MAX
        while True:
            operation = partial(e.get_range, start, end, limit=ask)
            if revision:
                answer = await self._at(revision, operation, attempts=attempts)
            else:
                revision, answer = await self._one(operation())
            held, before = e.kvs(answer), len(items)
            for kv in held:
                key = layout.name_at(kv["key"])
                if e.MARK not in key:
                    items.append(e.loaded(key, kv))
                    size += len(key) + len(items[-1].value)
            marks = len(held) - len(items) + before
            more = bool(answer.get("response_range", {}).get("more"))
            if not more or len(items) > limit or size > READ_BYTES_MAX:
                page, beyond = rules.page_of(items, limit, OWNER)
                return Snapshot(revision, {item.key: item for item in page}, more=beyond or more)
            start = layout.behind(held[-1]["key"])
            if 2 * marks > len(held):  # where marks are there are often more of them
                start = await self._behind_marks(start, end, revision)
            mean = max(1, size // max(1, len(items)))
            ask = max(1, min(limit + 1 - len(items), (READ_BYTES_MAX - size) // mean + 1))

    async def _behind_marks(self, start: str, end: str, revision: int) -> str:
        """Return where the next key that is no mark lies, or the end; reads no values."""
        operation = partial(e.get_range, end=end, limit=SCAN_KEYS_MAX, keys_only=True)
        while True:
            answer = await self._at(revision, partial(operation, start))
            places = [kv["key"] for kv in e.kvs(answer)]
            for place in places:
                if e.MARK not in self._layout.name_at(place):
                    return str(place)
            if not answer.get("response_range", {}).get("more"):
                return end
            start = self._layout.behind(places[-1])

    # --- time ---

    async def now(self) -> datetime:
        """Return the business time: later than every commit acknowledged before.

        It is the last commit's unless the wall clock has gone on by more than a few milliseconds
        (a fifth of a second in a busy store); then the clock is set, which is a commit.
        """
        revision, answer = await self._one(e.get_range(self._layout.clock))
        while True:
            self._saw_clock(e.kvs(answer))
            base = self._base
            wanted_us = self._wanted_us(base, revision)
            if wanted_us is None:
                break
            raised = wanted_us - e.SPACING_US * (revision + 1)
            txn = e.Txn(
                [e.is_written_at(self._layout.clock, base.revision)],
                [e.put(self._layout.clock, b"%d" % raised)],
                [e.get_range(self._layout.clock)],
            )
            # Sent twice it may set the clock twice, to the same: harmless.
            answer = await self._ask(txn, repeatable=True)
            revision = int(answer["header"]["revision"])
            if e.succeeded(answer):
                self._base = base = _ClockKey(raised, revision)
                break
            answer = e.parts(answer)[0]
        last_us = e.time_us(base.base_us, revision)
        self._told_us = max(last_us + 1, min(self._told_us + 1, last_us + e.SPACING_US - 1))
        return utc(self._told_us)

    def _saw_clock(self, found: Sequence[Document]) -> None:
        if not found:
            raise EpochMismatchError(given=self._epoch, current="none: the store was deleted")
        seen = _ClockKey.of(found[0])
        if seen.revision > self._base.revision:
            self._base = seen

    def _saw_set(self, base_us: int, revision: int) -> None:
        if revision > self._base.revision:
            self._base = _ClockKey(base_us, revision)

    def _wanted_us(self, base: _ClockKey, revision: int) -> int | None:
        """Return the time to set the clock to; None: it may stay behind as far as it is."""
        next_us = e.time_us(base.base_us, revision + 1)
        if next_us > self._time.last_us:
            self._time.resume(next_us, self._clock.elapsed_s())
        wall_us = self._time.next_us(self._clock.wall_us(), self._clock.elapsed_s())
        if wall_us - next_us >= self._behind_us or next_us <= self._told_us:
            return max(wall_us, self._told_us + 1)
        return None

    def elapsed_s(self) -> float:
        """Return seconds since this machine booted."""
        return self._clock.elapsed_s()

    def mint_op_id(self) -> str:
        """Return a fresh op_id."""
        return mint_op_id(self._epoch, self._revision)

    async def _younger(self, revision: int, age_s: float) -> bool:
        """Say whether it is known that what was the last revision was so less than this ago."""
        if self._moments.younger(revision, age_s, self._clock.elapsed_s()):
            return True
        # The commit that came next ended its being the last.
        revision = max(revision, self._epoch_revision)
        try:
            present, _ = await self._one(e.get_range(self._layout.clock))
            if revision >= present:
                return True
            at = partial(e.get_range, self._layout.clock)
            found = e.kvs(await self._at(revision + 1, at))
        except _Compacted:
            return False
        if not found:
            return False  # before the store was made
        then_us = e.time_us(_ClockKey.of(found[0]).base_us, revision + 1)
        return self._time.last_us - then_us < age_s * 1e6

    async def _knows(self, since: int) -> bool:
        """Say whether it is known what changed after a revision."""
        if since > self._revision and since > await self._present():
            return False
        return await self._younger(since, self._address.retention.index_retention_s)

    # --- writing ---

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
        content = rules.fingerprint(compares, writes, otherwise)
        if op_id is None:
            if not self._moments.younger(
                self._revision, self._address.retention.minted_retention_s / 2, self.elapsed_s()
            ):
                await self._present()
            op_id = self.mint_op_id()
        elif await self._is_expired(op_id):
            _, answer = await self._one(e.get_range(self._layout.operation(op_id)))
            if not e.kvs(answer):
                raise OpIdExpiredError(op_id)
        by = by or self._by
        request = _Request(compares, writes, otherwise, op_id, by, content)
        commit = await self._commit(request)
        if any(write.forget for write in (writes if commit.succeeded else otherwise)):
            await self._forget(op_id, commit.revision)
        return commit

    async def _is_expired(self, op_id: str) -> bool:
        """Say whether an op_id is too old for its record to be relied on; see ``rules``."""
        revision = rules.minted_revision(op_id, self._epoch, 1 << 62)
        if revision is None:
            return False
        if revision > self._revision:
            present = await self._present()
            rules.minted_revision(op_id, self._epoch, present)
        age_s = self._address.retention.minted_retention_s
        return not await self._younger(revision, age_s)

    async def _commit(self, request: _Request) -> Commit:
        """Build the transaction and send it, until the clock is the one it was built with."""
        for _ in range(ROUNDS_MAX):
            built = _Build(self, request)
            await built.prepare()
            txn = built.txn()
            if txn.operations > self.facts.operations_max or built.size > self._bytes_max:
                raise InvalidRequestError(
                    f"{txn.operations} operations in {built.size} bytes are more than this etcd"
                    f" takes at once: {self.facts.operations_max} (--max-txn-ops), and"
                    f" {self._bytes_max} bytes (--max-request-bytes, request_bytes_max= in the URL)"
                )
            self._setting += built.sets_clock
            begun_s = self._clock.elapsed_s()
            try:
                answer = await self._ask(txn, repeatable=not built.writes_anything)
            except Lost as error:
                raise OutcomeUnknownError(request.op_id, str(error)) from error
            except Rejected as error:
                if "lease not found" not in error.words:
                    raise InvalidRequestError(f"etcd: {error.words}") from error
                self._shelf.lost()
                self._own_shelf.lost()
                continue
            finally:
                self._setting -= built.sets_clock
            self._round_s += (self._clock.elapsed_s() - begun_s - self._round_s) / 8
            commit = built.outcome(answer)
            if commit is not None:
                self._behind_us = max(BEHIND_US, self._behind_us * CALMED)
                return commit
            self._resent += 1
            most_us = max(BEHIND_US_MAX, BEHIND_ROUNDS * self._round_s * 1e6)
            self._behind_us = min(most_us, 2 * self._behind_us)
        raise UnavailableError("the clock of the store is set all the time")

    async def _forget(self, op_id: str, revision: int) -> None:
        """Have the cluster forget what was before a revision, on disk too."""
        body = f'{{"revision":"{revision}","physical":true}}'
        try:
            await self._send("/kv/compaction", body, repeatable=True)
        except Rejected as error:
            if "compacted" not in error.words:
                raise OutcomeUnknownError(
                    op_id, f"written, not forgotten: {error.words}"
                ) from error
        except TransactionalError as error:
            raise OutcomeUnknownError(op_id, f"written, but not forgotten: {error}") from error

    async def resolve(self, op_id: str) -> Applied | Fenced:
        """Return what became of ``op_id``, fencing it off if nothing did."""
        rules.check_op_id(op_id)
        expired = await self._is_expired(op_id)
        place = self._layout.operation(op_id)
        if expired:
            _, answer = await self._one(e.get_range(place))
            found = e.kvs(answer)
            if not found:
                raise OpIdExpiredError(op_id)
        else:
            found = await self._fence(op_id, place)
        outcome = e.Outcome.of(found[0])
        if outcome.fate == e.Outcome.FENCED:
            return Fenced(op_id)
        return Applied(self._commit_of(outcome), outcome.content)

    async def _fence(self, op_id: str, place: str) -> list[Document]:
        """Write the record that fences an op_id off, unless there is one; return what is there."""
        for _ in range(2):
            lease = await self._record_lease(op_id)
            fence = e.Outcome(self._base.base_us, e.Outcome.FENCED, b"").encode()
            look = e.get_range(place)
            txn = e.Txn([e.is_absent(place)], [e.put(place, fence, lease), look], [look])
            try:
                answer = await self._ask(txn, repeatable=True)  # twice is the same as once
            except Rejected as error:
                if "lease not found" not in error.words:
                    raise InvalidRequestError(f"etcd: {error.words}") from error
                self._shelf.lost()
                self._own_shelf.lost()
                continue
            return e.kvs(e.parts(answer)[-1])
        raise UnavailableError("etcd grants no lease for records")

    def _commit_of(self, outcome: e.Outcome, *, replayed: bool = False) -> Commit:
        time = utc(e.time_us(outcome.base_us, outcome.revision))
        succeeded = outcome.fate == e.Outcome.APPLIED
        return Commit(outcome.revision, succeeded, time, replayed=replayed)

    async def _record_lease(self, op_id: str) -> str:
        shelf = self._shelf if op_id.startswith("op:") else self._own_shelf
        return await shelf.take(self.elapsed_s())

    # --- leases ---

    async def _grant(self, ttl_s: int) -> str:
        """Have etcd grant a lease; a lost answer leaves one that runs out."""
        try:
            answer = await self._send("/lease/grant", f'{{"TTL":"{ttl_s}"}}', repeatable=True)
        except Rejected as error:
            raise UnavailableError(f"etcd grants no lease: {error.words}") from error
        return str(answer["ID"])

    async def lease(self, ttl_s: float) -> Lease:
        """Grant a lease: for whole seconds, and for two at the least, as etcd counts."""
        rules.check_ttl(ttl_s)
        lease = await self._grant(math.ceil(ttl_s))
        place = self._layout.heartbeat(lease)
        put = e.put(place, json.dumps(ttl_s).encode(), lease)
        try:
            await self._ask(e.Txn(success=[put]), repeatable=True)
        except Rejected as error:
            raise UnavailableError(f"the lease ended at once: {error.words}") from error
        return Lease(lease, ttl_s)

    async def renew(self, lease_id: str) -> Lease:
        """Start the lease's time anew."""
        if not lease_id.isdecimal():
            raise LeaseExpiredError(lease_id)
        # Alive for etcd, and not revoked by us: a revocation that etcd did not hear of counts.
        body = f'{{"ID":"{lease_id}"}}'
        try:
            answer = await self._gateway_keepalive(body)
        except Rejected as error:
            raise LeaseExpiredError(lease_id) from error
        _, found = await self._one(e.get_range(self._layout.heartbeat(lease_id)))
        if not int(answer.get("result", {}).get("TTL", 0)) or not e.kvs(found):
            raise LeaseExpiredError(lease_id)
        return Lease(lease_id, float(json.loads(b64decode(e.kvs(found)[0]["value"]))))

    async def _gateway_keepalive(self, body: str) -> Document:
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        return await self._gateway.ask("/lease/keepalive", body, repeatable=True)

    def renew_from_thread(self, lease_id: str) -> None:
        """Start the lease's time anew while the event loop is busy; see ``RenewsFromThreads``."""
        if self._closing is not None:
            raise StoreClosedError("the store is closed")
        if not lease_id.isdecimal():
            raise LeaseExpiredError(lease_id)
        answer = self._gateway.post_blocking("/lease/keepalive", f'{{"ID":"{lease_id}"}}')
        if not int(answer.get("result", {}).get("TTL", 0)):
            raise LeaseExpiredError(lease_id)

    async def revoke(self, lease_id: str) -> None:
        """End the lease and delete its keys: in one commit, if they are no more than fifty."""
        if not lease_id.isdecimal():
            return
        noted = tuple(sorted(self._noted.pop(lease_id, {}).items()))
        stop = _Stop(lease_id)
        known = 0 < len(noted) <= NOTED_KEYS_MAX
        if not known or not await self._reap(lease_id, noted, _Has(lease_id, noted), stop):
            place = self._layout.heartbeat(lease_id)
            start, end = self._layout.attachments(lease_id)
            _, answers = await self._read(
                [e.get_range(place), e.get_range(start, end, limit=REAP_KEYS_MAX)]
            )
            if not e.kvs(answers[0]) and not e.kvs(answers[1]):
                return
            await self._reap(lease_id, self._noted_in(lease_id, answers[1]), None, stop)
            await self._reap_rest(lease_id)
        self._over.append(lease_id)
        self._start(self._revoke(lease_id))

    async def _revoke(self, lease: str) -> None:
        """Have etcd forget a lease that is over for us; else it runs out by itself."""
        with contextlib.suppress(TransactionalError, Rejected, Lost):
            await self._send("/lease/revoke", f'{{"ID":"{lease}"}}', repeatable=True)

    def _noted_in(self, lease: str, answer: Document) -> list[tuple[str, int]]:
        """Return which keys a lease has, and the revisions that noted it."""
        skip = f"a/{lease}/"
        return [
            (self._layout.path_at(kv["key"]).removeprefix(skip), int(kv["mod_revision"]))
            for kv in e.kvs(answer)
        ]

    def _note(self, writes: Sequence[Write | _Reap | _Stop], revision: int) -> None:
        """Remember which keys leases have."""
        for write in writes:
            if isinstance(write, Put) and write.lease is not None:
                noted = self._noted.setdefault(write.lease, {})
                if len(noted) <= NOTED_KEYS_MAX:  # one more says that they are too many
                    noted[write.key] = revision
        while len(self._noted) > NOTED_LEASES_MAX:
            del self._noted[next(iter(self._noted))]

    async def _reap(
        self,
        lease: str,
        noted: Sequence[tuple[str, int]],
        compare: _Dead | _Has | None,
        *also: _Stop,
    ) -> bool:
        """Delete keys of a lease in one commit, by the lease; say whether the compare held.

        Repeated it finds that they are gone.

        Raises:
            UnavailableError: it is not known.
        """
        writes: list[Write | _Reap | _Stop] = [*also]
        writes += [_Reap(lease, key, revision) for key, revision in noted]
        request = _Request(
            [compare] if compare is not None else [],
            writes,
            (),
            self.mint_op_id(),
            BY_LEASE,
            secrets.token_bytes(16),
        )
        try:
            await self._commit(request)
        except ConflictError:
            return False
        except OutcomeUnknownError as error:
            raise UnavailableError(error.reason) from error
        return True

    async def _reap_rest(self, lease: str) -> None:
        start, end = self._layout.attachments(lease)
        while True:
            _, answer = await self._one(e.get_range(start, end, limit=REAP_KEYS_MAX))
            noted = self._noted_in(lease, answer)
            if not noted:
                return
            # Who finds that another client was faster looks what is left.
            await self._reap(lease, noted, _Dead(lease, noted[0][0]))

    async def _reap_ended(self) -> None:
        """Delete the keys of leases that ended: at once if it is heard, else when it is seen."""
        start, end = self._layout.heartbeats
        while True:
            since = self._revision  # before the sweep: what ends beside it is heard all the same
            try:
                await self._sweep()
                async with asyncio.timeout(SWEEP_S * random.uniform(0.8, 1.2)):
                    changes = self._changes(start, end, since, patient=True)
                    async with contextlib.aclosing(changes):
                        async for group, _ in changes:
                            for event in group:
                                if event.get("type") == "DELETE":
                                    lease = self._layout.path_at(event["kv"]["key"])[2:]
                                    self._start(self._reap_soon(lease))
            except TimeoutError:
                continue
            except (TransactionalError, _CompactedTo):
                if self._closing is not None:
                    return
                await asyncio.sleep(RECONNECT_PAUSE_S * 10)

    async def _reap_soon(self, lease: str) -> None:
        await asyncio.sleep(random.uniform(0, REAP_S))
        if lease in self._over:
            return  # it was ended here, and its keys with it
        with contextlib.suppress(TransactionalError):  # the next sweep finds it
            await self._reap_rest(lease)

    async def _sweep(self) -> None:
        """Delete what ended leases left, having ended unheard."""
        start, end = self._layout.all_attachments
        while True:
            _, answer = await self._one(e.get_range(start, end, limit=1, keys_only=True))
            found = e.kvs(answer)
            if not found:
                return
            lease = self._layout.path_at(found[0]["key"]).split("/")[1]
            _, beats = await self._one(e.get_range(self._layout.heartbeat(lease)))
            if not e.kvs(beats):
                await self._reap_rest(lease)
            start = self._layout.attachments(lease)[1]

    # --- watching ---

    async def watch(
        self, prefix: str, *, after: int | None = None
    ) -> AsyncGenerator[WatchEvent | Compacted, None]:
        """Yield the commits under ``prefix`` across members; see ``Store.watch``.

        Raises:
            TooManyRequestsError: this client has ``WATCHES_MAX`` watches.
            UnavailableError: no member answered for ``RECONNECT_S`` seconds.
        """
        rules.check_prefix(prefix)
        if after is None:
            after = await self._present()
        elif self._closing is not None:
            raise StoreClosedError("the store is closed")
        elif after > self._revision:
            rules.check_cursor(after, await self._present())
        rules.check_cursor(after, self._revision)
        if self._watches >= WATCHES_MAX:
            raise TooManyRequestsError(f"{WATCHES_MAX} watches are open")
        self._watches += 1
        start, end = self._layout.key(prefix), self._layout.end(prefix)
        cursor = after
        try:
            while True:
                try:
                    async with contextlib.aclosing(self._changes(start, end, cursor)) as changes:
                        async for group, revision in changes:
                            cursor = revision
                            event = await self._event(group, revision)
                            if event is not None:
                                yield event
                    return  # noqa: TRY300 the store was closed
                except _CompactedTo as forgotten:
                    yield Compacted(cursor, forgotten.revision)
                    cursor = forgotten.revision
        finally:
            self._watches -= 1

    async def _changes(
        self, start: str, end: str, cursor: int, *, patient: bool = False
    ) -> AsyncGenerator[tuple[list[Document], int], None]:
        """Yield what changed in a range behind a cursor, by revisions, from whatever member.

        Ends when the store is closed.  ``patient``: it does so however long no member answers.
        """
        away_since_s: float | None = None
        while not self._is_closed():
            endpoint = self._gateway.order()[0]
            first = max(cursor + 1, self._epoch_revision)
            body = (
                f'{{"create_request":{{"key":"{start}","range_end":"{end}",'
                f'"start_revision":"{first}","progress_notify":true}}}}'
            )
            reason = "the stream ended"
            try:
                async with contextlib.aclosing(self._frames(endpoint, body)) as frames:
                    async for frame in frames:
                        away_since_s = None
                        if forgotten := int(frame.get("compact_revision", 0)):
                            raise _CompactedTo(max(forgotten, cursor))
                        for revision, group in _by_revision(frame.get("events", [])):
                            if revision > cursor:
                                cursor = revision
                                yield group, revision
                        if not frame.get("events") and not frame.get("created"):  # progress
                            cursor = max(cursor, int(frame["header"].get("revision", 0)))
            except UnavailableError as error:
                reason = error.reason
            if self._is_closed():
                return
            self._gateway.distrust(endpoint)
            now_s = self._clock.elapsed_s()
            away_since_s = away_since_s or now_s
            if now_s - away_since_s > RECONNECT_S and not patient:
                raise UnavailableError(reason)
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _frames(self, endpoint: Endpoint, body: str) -> AsyncGenerator[Document, None]:
        """Yield what one member says of a watch until it, or we, end the stream."""
        async with self._gateway.stream(endpoint, "/watch", body) as (lines, cut):
            stream = _Stream(endpoint, cut)
            self._streams.add(stream)
            try:
                async for result in lines:
                    yield result
                    if result.get("canceled"):
                        raise UnavailableError(str(result.get("cancel_reason", "canceled")))
            finally:
                self._streams.discard(stream)

    def _is_closed(self) -> bool:
        return self._closing is not None

    async def _event(self, group: Sequence[Document], revision: int) -> WatchEvent | None:
        """Return what one commit did to the watched keys; None: nothing but marks."""
        changes: list[KeyChange] = []
        row: e.Row | None = None
        for event in group:
            kv = event["kv"]
            key = self._layout.name_at(kv["key"])
            if event.get("type") == "DELETE":
                if e.MARK not in key:
                    changes.append(KeyChange(key, None))
                continue
            found = e.Row.decode(key, b64decode(kv.get("value", "")))
            row = row or found
            if e.MARK not in key:
                changes.append(KeyChange(key, e.loaded(key, kv)))
        if not changes:
            return None
        if row is None:  # deletes alone: who did it stands in a mark that was not watched
            row = await self._mark_of(changes[0].key, revision)
        changes.sort(key=lambda change: change.key)
        return WatchEvent(revision, utc(e.time_us(row.base_us, revision)), tuple(changes), row.by)

    async def _mark_of(self, key: str, revision: int) -> e.Row:
        """Return the mark that a delete left, or what is known without it."""
        folder = e.folder_of(key)
        for name, (start, end) in (
            (f"{folder}{e.MARK}", self._layout.marks(folder)),
            ("p/", self._layout.prefix_marks),
        ):
            try:
                answer = await self._at(revision, partial(e.get_range, start, end))
            except _Compacted:
                break
            for kv in e.kvs(answer):
                if int(kv["mod_revision"]) == revision:
                    path = self._layout.path_at(kv["key"])
                    place = path if name == "p/" else path.removeprefix("k/")
                    return e.Row.decode(place, b64decode(kv["value"]))
        return e.Row(self._base.base_us, "", None, b"")

    async def _look_after_streams(self) -> None:
        """Cut the streams of members that do not keep up; see the theory of operation."""
        look = f'{{"key":"{self._layout.clock}","serializable":true,"keys_only":true}}'
        while not self._is_closed():
            await asyncio.sleep(HEALTH_S * random.uniform(0.8, 1.2))
            if not self._streams:
                continue
            try:
                told = await self._present()
            except TransactionalError:
                continue  # no majority: no member knows more than another
            await asyncio.sleep(HEALTH_S / 2)
            for endpoint in {stream.endpoint for stream in self._streams}:
                try:
                    answer = await self._gateway.ask_one(endpoint, "/kv/range", look, ATTEMPT_S)
                    behind = int(answer["header"]["revision"]) < told
                except (TransactionalError, Rejected):
                    behind = True
                if behind:
                    self._gateway.distrust(endpoint)
                    for stream in [s for s in self._streams if s.endpoint is endpoint]:
                        stream.cut()

    # --- the end ---

    async def close(self) -> None:
        """Finish what was accepted, then hang up; once, and to the end, for all callers."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await shielded(self._closing)

    async def _close(self) -> None:
        await self._gateway.drain()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in list(self._streams):
            stream.cut()
        await self._gateway.close()


# --- one commit ----------------------------------------------------------------------------------


class _Build:
    """One attempt of a commit: what has to be known first, the transaction, what came of it."""

    def __init__(self, store: EtcdStore, request: _Request) -> None:
        self._store = store
        self._layout = store._layout
        self._compares = [*dict.fromkeys(request.compares)]
        self._writes = request.writes
        self._otherwise = request.otherwise
        self._op_id = request.op_id
        self._by = request.by
        self._content = request.content
        self._place = self._layout.operation(request.op_id)
        self._values: dict[str, tuple[int, bytes | None]] = {}
        self._never: set[Unchanged] = set()
        self._lease = self._marks_lease = ""
        self._base_us = 0
        self._clock = _ClockKey(0, 0)
        self.writes_anything = bool(request.writes or request.otherwise)
        self.sets_clock = False
        self.size = 0

    async def prepare(self) -> None:
        """Find out what the transaction is built with."""
        store = self._store
        compared = [c.key for c in self._compares if isinstance(c, ValueIs)]
        if compared:
            snapshot = await store.get_many(compared)
            for key in compared:
                found = snapshot.items.get(key)
                self._values[key] = (found.revision, found.value) if found else (0, None)
        for compare in self._compares:
            if isinstance(compare, Unchanged) and not await store._knows(compare.since):
                self._never.add(compare)
        if self.writes_anything:
            self._lease = await store._record_lease(self._op_id)
            deletes = (Delete, DeletePrefix, _Reap)
            if any(isinstance(w, deletes) for w in (*self._writes, *self._otherwise)):
                self._marks_lease = await store._shelf.take(store.elapsed_s())
        # Nothing is awaited from here on: all of a process's commits agree about the clock.
        self._clock = store._base
        self._base_us = store._base.base_us
        if self.writes_anything:
            wanted_us = store._wanted_us(store._base, store._revision)
            told = e.time_us(self._base_us, store._revision + 1) <= store._told_us
            if wanted_us is not None and (told or not store._setting):
                self._base_us = wanted_us - e.SPACING_US * (store._revision + 1)
                self.sets_clock = True

    # --- the transaction ---

    def txn(self) -> e.Txn:
        """Return the transaction."""
        layout = self._layout
        outer = [e.is_absent(self._place), e.is_written_at(layout.clock, self._clock.revision)]
        look: list[str | e.Txn] = [e.get_range(self._place), e.get_range(layout.clock)]
        compares = [text for compare in self._compares for text in self._compare(compare)]
        if any(isinstance(compare, Unchanged) for compare in self._compares):
            since = min(c.since for c in self._compares if isinstance(c, Unchanged))
            compares.append(e.unwritten_since(*layout.prefix_marks, since))
        compares = [*dict.fromkeys(compares)]
        leases = _leases_of(self._writes)
        chosen = self._list(self._writes, e.Outcome.APPLIED)
        if not self._otherwise:
            alive = [e.is_there(layout.heartbeat(lease)) for lease in leases]
            report = [self._report(compare) for compare in self._compares]
            report += [e.get_range(layout.heartbeat(lease)) for lease in leases]
            if not chosen and not self._store.facts.fresh_reads:
                chosen = [e.delete(layout.nothing)]
            return e.Txn([*outer, *compares, *alive], e.spread(chosen), e.spread([*look, *report]))
        guards = [
            e.is_written_at(layout.key(key), revision)
            for key, (revision, _) in self._values.items()
        ]
        inner = e.Txn(
            compares,
            self._if_alive(leases, chosen),
            self._if_alive(
                _leases_of(self._otherwise), self._list(self._otherwise, e.Outcome.OTHERWISE)
            ),
        )
        return e.Txn([*outer, *guards], [inner], look)

    def _if_alive(self, leases: Sequence[str], entries: Sequence[str | e.Txn]) -> list[str | e.Txn]:
        if not leases:
            return e.spread(entries)
        places = [self._layout.heartbeat(lease) for lease in leases]
        return [
            e.Txn(
                [e.is_there(place) for place in places],
                e.spread(entries),
                [e.get_range(place) for place in places],
            )
        ]

    def _compare(  # noqa: C901, PLR0911 one for each kind
        self, compare: Compare | _Dead | _Has
    ) -> list[str]:
        at = self._layout.key
        match compare:
            case Revision(key, revision):
                return [e.is_written_at(at(key), revision)]
            case Exists(key):
                return [e.is_there(at(key))]
            case Absent(key):
                return [e.is_absent(at(key))]
            case ValueIs(key, value):
                revision, held = self._values[key]
                if held != value:
                    return [e.is_absent(self._layout.clock)]  # which is there: it does not hold
                return [e.is_written_at(at(key), revision)]
            case LeaseAlive(lease):
                return [e.is_there(self._layout.heartbeat(lease))]
            case _Dead(lease, key):
                noted = self._layout.attached(lease, key)
                return [e.is_absent(self._layout.heartbeat(lease)), e.is_there(noted)]
            case _Has(lease, keys):
                return self._has(lease, keys)
            case Unchanged():
                if compare in self._never:
                    return [e.is_absent(self._layout.clock)]
                return self._unchanged(compare)

    def _has(self, lease: str, keys: Sequence[tuple[str, int]]) -> list[str]:
        """Compare the keys of a lease, and that nothing lies between them, before or behind."""
        start, end = self._layout.attachments(lease)
        found: list[str] = []
        for key, revision in keys:
            place = self._layout.attached(lease, key)
            found += [e.none_there(start, place), e.is_written_at(place, revision)]
            start = self._layout.behind(place)
        return [*found, e.none_there(start, end)]

    def _unchanged(self, compare: Unchanged) -> list[str]:
        prefix, since = compare.prefix, compare.since
        folder = e.folder_of(prefix)
        found = [e.unwritten_since(self._layout.key(prefix), self._layout.end(prefix), since)]
        if folder != prefix:  # the marks of the folder lie before the prefix
            found.append(e.unwritten_since(*self._layout.marks(folder), since))
        return found

    def _report(self, compare: Compare | _Dead | _Has) -> str | e.Txn:
        match compare:
            case Unchanged(_, since):
                marks = e.unwritten_since(*self._layout.prefix_marks, since)
                return e.Txn([*self._unchanged(compare), marks])
            case LeaseAlive(lease) | _Dead(lease) | _Has(lease):
                return e.get_range(self._layout.heartbeat(lease))
            case _:
                return e.get_range(self._layout.key(compare.key))

    def _list(self, writes: Sequence[Write | _Reap | _Stop], fate: int) -> list[str | e.Txn]:
        if not writes:
            return []
        record = e.Outcome(self._base_us, fate, self._content).encode()
        entries: list[str | e.Txn] = [e.put(self._place, record, self._lease)]
        if self.sets_clock:
            entries.append(e.put(self._layout.clock, b"%d" % self._base_us))
        folders: dict[str, int] = {}
        for number, write in enumerate(writes):
            entries += self._write(write, number, folders)
        return entries

    def _write(
        self, write: Write | _Reap | _Stop, number: int, folders: dict[str, int]
    ) -> list[str | e.Txn]:
        layout = self._layout
        match write:
            case Put(key, value, lease):
                raw = e.Row(self._base_us, self._by, lease, value).encode(key)
                self.size += len(key) + len(raw) + ENTRY_BYTES
                row = e.put(layout.key(key), raw)
                return [row, e.put(layout.attached(lease, key), b"")] if lease else [row]
            case Delete(key):
                return [self._delete(key, e.is_there(layout.key(key)), folders)]
            case _Reap(lease, key, revision):
                was = e.is_written_at(layout.key(key), revision)
                return [self._delete(key, was, folders), e.delete(layout.attached(lease, key))]
            case DeletePrefix(prefix):
                start, end = layout.key(prefix), layout.end(prefix)
                mark = e.Row(self._base_us, self._by, None, b"").encode(f"p/{number:02x}")
                put = e.put(layout.prefix_mark(number), mark, self._marks_lease)
                self.size += 4 * ENTRY_BYTES + 2 * len(prefix)
                return [e.Txn([e.any_there(start, end)], [e.delete(start, end), put])]
            case _Stop(lease):
                return [e.delete(layout.heartbeat(lease))]

    def _delete(self, key: str, holds: str, folders: dict[str, int]) -> e.Txn:
        folder = e.folder_of(key)
        count = folders[folder] = folders.get(folder, -1) + 1
        self.size += 4 * ENTRY_BYTES + 3 * len(key)
        mark = e.Row(self._base_us, self._by, None, b"").encode(f"{folder}{e.MARK}{count:02x}")
        put = e.put(self._layout.mark(folder, count), mark, self._marks_lease)
        return e.Txn([holds], [e.delete(self._layout.key(key)), put])

    # --- what came of it ---

    def outcome(self, answer: Document) -> Commit | None:
        """Return the commit; None: it has to be built anew.

        Raises:
            ConflictError, LeaseExpiredError, OperationIdReusedError, OpIdFencedError: as decided.
        """
        revision = int(answer["header"]["revision"])
        if e.succeeded(answer):
            if not self._otherwise:
                return self._made(revision, chosen=True)
            inner = e.parts(answer)[0]["response_txn"]
            chosen = e.succeeded(inner)
            leases = _leases_of(self._writes if chosen else self._otherwise)
            if leases and not e.succeeded(e.parts(inner)[0]["response_txn"]):
                lists = e.parts(e.parts(inner)[0]["response_txn"])
                raise LeaseExpiredError(_missing(leases, lists) or leases[0])
            return self._made(revision, chosen=chosen)
        count = 2
        leases = []
        if not self._otherwise:
            leases = _leases_of(self._writes)
            count += len(self._compares) + len(leases)
        record, clock, *report = e.flat(e.parts(answer), count)
        if e.kvs(record):
            return self._replayed(e.kvs(record)[0])
        self._store._saw_clock(e.kvs(clock))
        if self._otherwise or self._store._base.revision != self._clock.revision:
            return None  # the clock was set, or a value that was compared has changed
        return self._refused(report, leases, revision)

    def _made(self, revision: int, *, chosen: bool) -> Commit:
        store = self._store
        writes = self._writes if chosen else self._otherwise
        if self.sets_clock and writes:
            store._saw_set(self._base_us, revision)
        store._note(writes, revision)
        time_us = e.time_us(self._base_us, revision)
        return Commit(revision, chosen, utc(time_us))

    def _replayed(self, found: Document) -> Commit:
        first = e.Outcome.of(found)
        if first.fate == e.Outcome.FENCED:
            raise OpIdFencedError(self._op_id)
        if first.content != self._content:
            raise OperationIdReusedError(self._op_id)
        return self._store._commit_of(first, replayed=True)

    def _refused(
        self, report: Sequence[Document], leases: Sequence[str], revision: int
    ) -> Commit | None:
        """Raise what the report says; None if a value that was compared has changed meanwhile."""
        current: dict[str, KeyValue | None] = {}
        failed: list[Compare] = []
        for compare, part in zip(self._compares, report, strict=False):
            found = e.kvs(part)
            match compare:
                case Unchanged():
                    holds = compare not in self._never and e.succeeded(part["response_txn"])
                case LeaseAlive():
                    holds = bool(found)
                case _Dead() | _Has():
                    raise ConflictError((), {}, revision)
                case _:
                    item = e.loaded(compare.key, found[0]) if found else None
                    current[compare.key] = item
                    holds = _holds(compare, item)
            if not holds:
                failed.append(compare)
        if failed:
            raise ConflictError(tuple(failed), current, revision)
        gone = _missing(leases, report[len(self._compares) :])
        if gone is not None:
            raise LeaseExpiredError(gone)
        return None


def _leases_of(writes: Sequence[Write | _Reap | _Stop]) -> list[str]:
    """Return the leases that are put, each once."""
    return [*dict.fromkeys(w.lease for w in writes if isinstance(w, Put) and w.lease)]


def _missing(leases: Sequence[str], answers: Sequence[Document]) -> str | None:
    """Return the first lease without a heartbeat."""
    pairs = zip(leases, answers, strict=False)
    return next((lease for lease, answer in pairs if not e.kvs(answer)), None)


def _holds(compare: Revision | Exists | Absent | ValueIs, item: KeyValue | None) -> bool:
    match compare:
        case Revision(_, revision):
            return (item.revision if item else 0) == revision
        case Exists():
            return item is not None
        case Absent():
            return item is None
        case ValueIs(_, value):
            return item is not None and item.value == value


def _by_revision(events: Sequence[Document]) -> list[tuple[int, list[Document]]]:
    """Return the events of a frame, commit by commit."""
    found: dict[int, list[Document]] = {}
    for event in events:
        found.setdefault(int(event["kv"]["mod_revision"]), []).append(event)
    return sorted(found.items())


def _of_read(error: Rejected) -> TransactionalError:
    """Return what a read that etcd refused means to its caller."""
    if "larger than max" in error.words:
        return AnswerTooLargeError(error.words)
    return InvalidRequestError(f"etcd: {error.words}")
