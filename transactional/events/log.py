"""The event log: streams of what happened, one total order over all of them, append only.

The order.  Appends are one after the other, because each one moves the head on (`append` says how
that stays fast), and positions have no gaps: a tailer that has seen position n has seen all of
1..n.  Numbers drawn from a sequence before the commit would become visible out of order, and
tailers would lose events.

The time.  `at` grows along positions, and a question about time T fixes the answer: if T lies
behind the last event, the head is moved to T before the question is answered, and whatever is
appended later is later than T.  So "the state at T" is one state, for ever.

    log = EventLog(store)
    await log.append("order-17", [NewEvent("OrderPlaced", {"pieces": 2})], expected=NO_STREAM)
    async for event in log.read("order-17"):
        print(event.position, event.type, event.data)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from transactional.clock import BusinessClock
from transactional.events.append import Appender
from transactional.events.audit import Verification, erase
from transactional.events.layout import Head, LogLayout
from transactional.events.reader import LogReader, find_end
from transactional.events.state import fold
from transactional.events.subscription import (
    ATTEMPTS_MAX,
    DELIVERY_EVENTS_MAX,
    TURN_TTL_S,
    Consumer,
    Share,
    parked,
    replay,
)
from transactional.sweeper import RETENTION_S, Removal, Sweeper, check_retention
from transactional.values import ANY, Delete, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping, Sequence
    from datetime import datetime

    from transactional.events.append import Appended
    from transactional.events.audit import Finding
    from transactional.events.event import Json, NewEvent, RecordedEvent
    from transactional.events.state import Position, Reducer, StateAt
    from transactional.events.subscription import Delivery, Parked
    from transactional.store import Store
    from transactional.values import Compare, Expected, KeyValue, Write

S = TypeVar("S")


async def _all_of_them(old: Sequence[KeyValue], _before_us: int) -> list[Removal]:
    return [Removal([Revision(e.key, e.revision)], [Delete(e.key)]) for e in old]


class EventLog:
    """A log in a store.  Any number of processes append, read and follow it."""

    def __init__(
        self,
        store: Store,
        *,
        namespace: str = "log",
        upcasters: Mapping[str, Sequence[Callable[[Json], Json]]] | None = None,
        retention_s: float = RETENTION_S,
    ) -> None:
        """Open the log.

        What a caller's op_id appended is known for `retention_s`, at least 7 days, and is then
        taken away in passing (`compact` does it at once); after that the same one appends anew.

        `upcasters` bring old data to the newest schema when it is read: by event type, function
        number n makes schema n + 2 of schema n + 1.
        """
        self.store = store
        self.layout = layout = LogLayout(namespace)
        check_retention(retention_s)
        self._sweeper = Sweeper(store, layout.op(), layout.swept, _all_of_them, retention_s)
        self._reader = LogReader(store, self.layout, upcasters or {})
        self._appender = Appender(store, self.layout, BusinessClock(store))

    # --- appending ------------------------------------------------------------------------------

    async def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected: int | Expected = ANY,
        guards: Mapping[str, int | Expected] | None = None,
        actor: str = "",
        causation: str = "",
        correlation: str = "",
        op_id: str = "",
        compares: Sequence[Compare] = (),
        fence: Sequence[Compare] = (),
        writes: Sequence[Write] = (),
    ) -> Appended:
        """Append `events` to `stream`: all of them, in order, or none.  See `append_many`."""
        return await self.append_many(
            {stream: events},
            expected={stream: expected},
            guards=guards,
            actor=actor,
            causation=causation,
            correlation=correlation,
            op_id=op_id,
            compares=compares,
            fence=fence,
            writes=writes,
        )

    async def append_many(
        self,
        events: Mapping[str, Sequence[NewEvent]],
        *,
        expected: Mapping[str, int | Expected] | None = None,
        guards: Mapping[str, int | Expected] | None = None,
        actor: str = "",
        causation: str = "",
        correlation: str = "",
        op_id: str = "",
        compares: Sequence[Compare] = (),
        fence: Sequence[Compare] = (),
        writes: Sequence[Write] = (),
    ) -> Appended:
        """Append to several streams in one commit.

        `expected` is the version each stream must have (NO_STREAM, STREAM_EXISTS, ANY or a number),
        `guards` the same for streams that are only read.  `compares`, a lock's `fence` and `writes`
        of the caller's own join the commit.  With an `op_id` a repeat, however much later, returns
        the first answer, whatever its versions and `compares` say by then.  A call that is
        cancelled may still take effect.  Limits of one append: 256 KiB of JSON, 4096 events.

        Raises:
            WrongVersionError: a stream is at another version; nothing was written.
            ConflictError: one of `compares`, or the `fence`, does not hold; nothing was written.
            OperationIdReusedError: the op_id is of an append of other events or with other
                `writes`; nothing was written.
            InvalidRequestError: no events, data that is not JSON, or a limit; nothing was sent.
            CorruptStoreError: something lies where the log is to go on; nothing was written.
            UnavailableError, OutcomeUnknownError: as for any commit.
        """
        appended = await self._appender.append_many(
            events,
            expected=expected,
            guards=guards,
            actor=actor,
            causation=causation,
            correlation=correlation,
            op_id=op_id,
            compares=(*compares, *fence),
            writes=writes,
        )
        if op_id:
            await self._sweeper.pass_by()
        return appended

    async def compact(self) -> int:
        """Take away what is known of op_ids older than the retention; how many.  O(op_ids)."""
        return await self._sweeper.sweep()

    # --- reading --------------------------------------------------------------------------------

    async def head(self) -> Head:
        """The log's end: last position, the time up to which it is fixed, the chain's hash."""
        return await self._reader.head()

    async def version(self, stream: str) -> int:
        """The stream's last version, 0 if it has no event."""
        return (await find_end(self.store, self.layout, stream)).version

    def read(
        self, stream: str, *, after: int = 0, upto: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """Events of the stream with versions above `after` and up to `upto`, in order."""
        return self._reader.read(stream, after=after, upto=upto)

    def read_all(self, *, after: int = 0, upto: int | None = None) -> AsyncIterator[RecordedEvent]:
        """Events of all streams with positions above `after` and up to `upto`, in order."""
        return self._reader.read_all(after=after, upto=upto)

    def follow(self, *, after: int = 0) -> AsyncIterator[RecordedEvent]:
        """`read_all`, and then whatever is appended, for ever."""
        return self._reader.follow(after=after)

    def subscribe(
        self,
        group: str,
        *,
        after: int = 0,
        streams: str = "",
        events_max: int = DELIVERY_EVENTS_MAX,
        partitions: int = 1,
        attempts_max: int | None = ATTEMPTS_MAX,
        ttl_s: float = TURN_TTL_S,
    ) -> AsyncIterator[Delivery]:
        """Deliver each event once to the consumer group, for ever; `commit` each delivery.

        A group begins behind position `after`, as its first consumer says.  `streams` is a prefix
        of the streams' names; consumers with another prefix have another checkpoint in the group.

        The consumers of a group share its events: what one of them handles, no other is given while
        it lives.  With one partition that is one delivery at a time, in the order of the log; with
        `partitions` as many at the same time, each stream in its order.  The number belongs to the
        group and cannot be changed.  A consumer that dies holds its turn up for `ttl_s` seconds.

        A delivery that was not committed comes again, one event at a time; an event that was
        delivered `attempts_max` times (None: for ever) is parked, and the group goes on behind it.

        Raises:
            InvalidRequestError: a limit, or the group has another number of partitions.
        """
        share = Share(group, after, streams, events_max, partitions, attempts_max, ttl_s)
        return Consumer(self._reader, self._appender, share).deliveries()

    async def parked(self, group: str, *, streams: str = "") -> tuple[Parked, ...]:
        """The events that the group gave up, in the order of positions."""
        return await parked(self._reader, group, streams)

    async def replay(
        self, group: str, *, streams: str = "", positions: Container[int] | None = None
    ) -> int:
        """Have the group's parked events (those at `positions`, or all) delivered again; how many.

        They come one by one beside the group's other events, with fresh attempts.
        """
        return await replay(self._reader, group, streams, positions)

    # --- state and care -------------------------------------------------------------------------

    async def state(
        self,
        stream: str,
        reducer: Reducer[S],
        *,
        at: int | Position | datetime | None = None,
    ) -> StateAt[S]:
        """The stream folded by `reducer`, now or `at` a version, a `Position` or a time, inclusive.

        Raises:
            InvalidTimeError: the time is naive, or still to come.
        """
        return await fold(self._reader, stream, reducer, at)

    async def verify(
        self,
        *,
        noted: Head | str | Iterable[Head | str] = (),
        reducers: Iterable[Reducer[Any]] = (),
    ) -> tuple[Finding, ...]:
        """What was altered, added or removed in the log; nothing if all is well.

        `noted` are heads of the past that were kept elsewhere: each a `Head`, or as text what
        `str(head)` gave, or its hash alone.  The log must have passed through each of them.  Only
        they tell of a log that was rewritten consistently, or cut off and grown again.

        Snapshots and the records of op_ids are compared with the events.  Those of `reducers` are
        made anew, for a forged one can be told by nothing else: O(events) for each snapshot.

        O(events); holds one hash per stream in memory.

        Raises:
            InvalidRequestError: a text in `noted` is no head.
        """
        notes = [noted] if isinstance(noted, Head | str) else noted
        return await Verification(self._reader, notes, reducers).run()

    async def erase(self, stream: str, *, versions: Container[int] | None = None) -> int:
        """Erase the data of the stream's events (of `versions`, or all); the chain still holds.

        When it returns, the data is in no stream, snapshot, op_id's record or watch of the store,
        and in no byte of its SQLite file: O(file), in steps between which commits go on.  If that
        takes longer than 5 s, the rest is done afterwards (metric ``scrub_pages``).  The envelopes
        stay: type, time, actor, and what their names say.  Copies outside of the store
        (backups, what consumers made of it, what was on its way to a watcher) are not reached.
        Returns how many events had data until now.
        """
        return await erase(self._reader, stream, lambda v: versions is None or v in versions)

    # --- time -----------------------------------------------------------------------------------

    async def position_at(self, moment: datetime) -> int:
        """The last position at `moment` (aware, inclusive); the answer never changes afterwards.

        O(log positions) reads; a moment behind the last event costs a commit that fixes it.

        Raises:
            InvalidTimeError: the moment is naive, or still to come.
        """
        return await self._reader.position_at(moment)
