"""The event log: streams of what happened, one total order over all of them, append only.

The order.  Appends are one after the other, because each one moves the head on (`event_append` says
how that stays fast), and positions have no gaps: a tailer that has seen position n has seen all of
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

import asyncio
import json
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from transactional.clock import BusinessClock, as_utc
from transactional.errors import InvalidRequestError, InvalidTimeError
from transactional.events.append import Appender, find_end
from transactional.events.audit import Verification, erase
from transactional.events.event import NAME_CHARS_MAX, Origin, recorded, told
from transactional.events.layout import Head, LogLayout
from transactional.events.request import APPEND_BYTES_MAX, Part, Pending
from transactional.events.state import fold
from transactional.events.subscription import DELIVERY_EVENTS_MAX, deliveries
from transactional.retry import Decision, decided
from transactional.store import next_change
from transactional.values import ANY, Put, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence

    from transactional.errors import ConflictError
    from transactional.events.audit import Finding
    from transactional.events.event import Json, NewEvent, RecordedEvent
    from transactional.events.request import Appended
    from transactional.events.state import Position, Reducer, StateAt
    from transactional.events.subscription import Delivery
    from transactional.store import Store
    from transactional.values import Compare, Expected, KeyValue, Write

S = TypeVar("S")

PAGE_KEYS: Final = 256
"""How many commits or batches are read at once."""
ENVELOPE_BYTES: Final = 400
"""What an event takes besides its data, generously."""
BYTES_AT_ONCE: Final = 256 << 10
"""How much is decoded before the event loop gets a turn; a few milliseconds' work."""


class EventLog:
    """A log in a store.  Any number of processes append, read and follow it."""

    def __init__(
        self,
        store: Store,
        *,
        namespace: str = "log",
        upcasters: Mapping[str, Sequence[Callable[[Json], Json]]] | None = None,
    ) -> None:
        """Open the log.

        `upcasters` bring old data to the newest schema when it is read: by event type, function
        number n makes schema n + 2 of schema n + 1.
        """
        self.store = store
        self.layout = LogLayout(namespace)
        self._clock = BusinessClock(store)
        self._appender = Appender(store, self.layout, self._clock)
        self._upcasters = upcasters or {}

    # --- appending ------------------------------------------------------------------------------

    async def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected: int | Expected = ANY,
        guards: Mapping[str, int] | None = None,
        actor: str = "",
        causation: str = "",
        correlation: str = "",
        op_id: str = "",
        compares: Sequence[Compare] = (),
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
            writes=writes,
        )

    async def append_many(
        self,
        events: Mapping[str, Sequence[NewEvent]],
        *,
        expected: Mapping[str, int | Expected] | None = None,
        guards: Mapping[str, int] | None = None,
        actor: str = "",
        causation: str = "",
        correlation: str = "",
        op_id: str = "",
        compares: Sequence[Compare] = (),
        writes: Sequence[Write] = (),
    ) -> Appended:
        """Append to several streams in one commit.

        `expected` is the version each stream must have (NO_STREAM, STREAM_EXISTS, ANY or a number),
        `guards` the same for streams that are only read.  `compares` and `writes` of the caller's
        own join the commit.  With an `op_id` a repeat, however much later, returns the first
        answer.  A call that is cancelled may still take effect.

        Raises:
            WrongVersionError: a stream is at another version; nothing was written.
            ConflictError: one of `compares` does not hold; nothing was written.
            OperationIdReusedError: the op_id is of an append of other events; nothing was written.
            InvalidRequestError: no events, data that is not JSON, or a limit; nothing was sent.
            UnavailableError, OutcomeUnknownError: as for any commit.
        """
        if not events:
            raise InvalidRequestError("an append has at least one event for each stream")
        size, parts = 0, []
        longest = max(len(actor), len(causation), len(correlation), len(op_id))
        for stream, new in events.items():
            if not stream or max(longest, len(stream)) > NAME_CHARS_MAX:
                limit = f"names of streams, actors and op_ids: 1-{NAME_CHARS_MAX}"
                raise InvalidRequestError(limit)
            if not new:
                raise InvalidRequestError("an append has at least one event for each stream")
            batch = tuple([told(event) for event in new])
            parts.append(Part(stream, batch, expected.get(stream, ANY) if expected else ANY))
            size += sum([event.bytes + ENVELOPE_BYTES for event in batch])
        if size > APPEND_BYTES_MAX:
            raise InvalidRequestError(f"an append of {size} bytes, {APPEND_BYTES_MAX} are allowed")
        answer = asyncio.get_running_loop().create_future()
        origin = Origin(actor, op_id, causation, correlation)
        return await self._appender.append(
            Pending(tuple(parts), origin, guards or {}, compares, writes, answer, size)
        )

    # --- reading --------------------------------------------------------------------------------

    async def head(self) -> Head:
        """The log's end: last position, the time up to which it is fixed, the chain's hash."""
        entry = await self.store.get(self.layout.head)
        return Head.decode(entry.value) if entry else Head()

    async def version(self, stream: str) -> int:
        """The stream's last version, 0 if it has no event."""
        return (await find_end(self.store, self.layout, stream)).version

    async def read(
        self, stream: str, *, after: int = 0, upto: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """Events of the stream with versions above `after` and up to `upto`, in order."""
        async for entry in self.entries(
            self.layout.stream(stream), self.layout.stream(stream, after)
        ):
            for event in recorded(json.loads(entry.value), self._upcasters):
                if upto is not None and event.version > upto:
                    return
                if event.version > after:
                    yield event

    async def read_all(
        self, *, after: int = 0, upto: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """Events of all streams with positions above `after` and up to `upto`, in order."""
        async for entry in self.entries(self.layout.at(), self.layout.at(after)):
            for batch in json.loads(entry.value)["batches"]:
                for event in recorded(batch, self._upcasters):
                    if upto is not None and event.position > upto:
                        return
                    if event.position > after:
                        yield event

    async def follow(self, *, after: int = 0) -> AsyncIterator[RecordedEvent]:
        """`read_all`, and then whatever is appended, for ever."""
        while True:
            seen = await self.store.get_many([self.layout.head])
            async for event in self.read_all(after=after):
                after = event.position
                yield event
            await next_change(self.store, self.layout.head, seen.revision)

    def subscribe(
        self,
        group: str,
        *,
        after: int = 0,
        streams: str = "",
        events_max: int = DELIVERY_EVENTS_MAX,
    ) -> AsyncIterator[Delivery]:
        """Deliver each event once to the consumer group, for ever; `commit` each delivery.

        A group that has no checkpoint yet begins behind position `after`.  `streams` is a prefix of
        the streams' names.  A delivery that was not committed comes again.
        """
        return deliveries(self, group, after=after, streams=streams, events_max=events_max)

    async def entries(self, prefix: str, after: str) -> AsyncIterator[KeyValue]:
        """Keys under `prefix` behind `after`, read in pages; the loop gets a turn in between."""
        since_turn = 0
        while True:
            page = await self.store.scan(prefix, after=after, limit=PAGE_KEYS)
            for entry in page.items.values():
                after = entry.key
                yield entry
                since_turn += len(entry.value)
                if since_turn > BYTES_AT_ONCE:
                    since_turn = 0
                    await asyncio.sleep(0)
            if not page.more:
                return

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
        return await fold(self, stream, reducer, at)

    async def verify(self) -> tuple[Finding, ...]:
        """Recompute the hash chain from the beginning; what was altered, nothing if all is well.

        O(events); holds one hash per stream in memory.
        """
        return await Verification(self).run()

    async def erase(self, stream: str, *, versions: Container[int] | None = None) -> int:
        """Erase the data of the stream's events (of `versions`, or all); the chain still holds.

        The envelopes stay: type, time, actor.  Returns how many events had data until now.  Copies
        outside of the store (backups, what consumers made of it) are not reached.
        """
        return await erase(self, stream, lambda v: versions is None or v in versions)

    # --- time -----------------------------------------------------------------------------------

    async def position_at(self, moment: datetime) -> int:
        """The last position at `moment` (aware, inclusive); the answer never changes afterwards.

        O(log positions) reads; a moment behind the last event costs a commit that fixes it.

        Raises:
            InvalidTimeError: the moment is naive, or still to come.
        """
        moment = as_utc(moment)
        if moment > await self.store.now():
            raise InvalidTimeError(f"{moment} is still to come")

        async def decide(_: ConflictError | None) -> Decision[Head]:
            entry = await self.store.get(self.layout.head)
            head = Head.decode(entry.value) if entry else Head()
            if moment < head.at:
                return Decision(head)
            fixed = Head(head.position, moment, head.hash)
            compare = Revision(self.layout.head, entry.revision if entry else 0)
            return Decision(fixed, [compare], [Put(self.layout.head, fixed.encode())])

        head, fixed = await decided(self.store, decide)
        return head.position if fixed else await self._search(moment, head.position)

    async def _search(self, moment: datetime, last: int) -> int:
        """The greatest position up to `last` whose commit is not after `moment`."""
        low, high = 0, last  # position `low` is known to qualify, those above `high` are not
        while low < high:
            middle = (low + high + 1) // 2
            after = self.layout.at(middle - 1)
            page = await self.store.scan(self.layout.at(), after=after, limit=1)
            (entry,) = page.items.values()
            batches = json.loads(entry.value)["batches"]
            if datetime.fromisoformat(batches[0]["at"]) <= moment:
                low = int(entry.key.rpartition("/")[2])
            else:
                high = batches[0]["position"] - 1
        return low
