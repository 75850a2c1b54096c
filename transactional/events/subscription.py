"""Subscriptions: each event handled once per group, because effect and checkpoint are one commit.

A group's checkpoint is the position up to which its events are dealt with.  A delivery is a few
events behind it; `delivery.commit(writes, events)` makes the handler's effects and the new
checkpoint in *one* commit that compares the old one.  So an effect in the store (a write, further
events) happens exactly once per group, whatever crashes and however many consumers share a group.
Effects outside of the store are made at least once: give them the event's id as idempotency key.

    async for delivery in log.subscribe("mailer"):
        mails = {f"outbox/{e.data['to']}": [NewEvent("Mail", e.data)] for e in delivery.events}
        await delivery.commit(events=mails)

Sharing.  Whoever delivers takes the *turn* first: a key under his lease, taken in a commit that
compares the checkpoint, so no two consumers handle the same events while both live.  With one
partition (the default) a group handles its events in the order of the log, one delivery at a time,
by whichever consumer is free.  With more, streams are dealt out to partitions by a hash of their
names, each with a checkpoint and a turn of its own: as many consumers work at the same time, and
each stream is still handled in order.  A consumer that dies loses the turn with its lease::

    free --take: compare the checkpoint--> taken --commit: compare the checkpoint--> free, further
      ^                                      |
      +--- not committed, or lease over -----+     attempts_max times, alone: parked, further

Poison.  An attempt is counted before the event is handed out, so one that takes its consumer with
it is counted too.  What was not committed comes again one event at a time, until the one that
cannot be handled stands alone; after `attempts_max` attempts it is parked under a key of its own,
the group goes on behind it, and `replay` delivers it again when the handler is mended.

Consumers that ask for other `streams` have another checkpoint: what one passes over, another wants.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from zlib import crc32

from transactional import rules
from transactional.errors import (
    ConflictError,
    InvalidRequestError,
    LeaseExpiredError,
    TransactionalError,
    UnavailableError,
)
from transactional.events.layout import Head
from transactional.retry import Decision, decided, settled_commit
from transactional.store import next_change, scan_all
from transactional.values import Absent, Delete, Put, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Mapping, Sequence

    from transactional.events.append import Appender
    from transactional.events.event import NewEvent, RecordedEvent
    from transactional.events.reader import LogReader
    from transactional.store import Store
    from transactional.values import Compare, Snapshot, Write

DELIVERY_EVENTS_MAX: Final = 100
"""How many events one delivery holds unless the subscriber says otherwise."""
ATTEMPTS_MAX: Final = 5
"""How often an event is delivered before it is parked, unless the subscriber says otherwise."""
TURN_TTL_S: Final = 30.0
"""How long a consumer that died keeps its turn, unless the subscriber says otherwise."""
PARTITIONS_MAX: Final = 64
"""Most partitions of a group: the keys of all of them are read at once."""
REPLAY_MAX: Final = 60
"""How many parked events one commit gives back."""
AGAIN: Final = "again"
"""The partition of parked events that are to be delivered again."""


# --- what is handed out --------------------------------------------------------------------------


@dataclass(slots=True)
class Delivery:
    """Events that the group has not dealt with; `commit` says that it has.

    `attempt` counts from 1 how often the event was delivered alone; of several events it is 1.
    """

    events: tuple[RecordedEvent, ...]
    position: int
    attempt: int
    _store: Store = field(repr=False)
    _appender: Appender = field(repr=False)
    _checkpoint: Revision = field(repr=False)
    _done: tuple[Write, ...] = field(repr=False)
    _undone: tuple[Write, ...] = field(repr=False)
    _committed: bool = field(default=False, repr=False)
    _conflicted: bool = field(default=False, repr=False)

    @property
    def committed(self) -> bool:
        """Whether the group has dealt with these events."""
        return self._committed

    async def commit(
        self,
        *,
        writes: Sequence[Write] = (),
        compares: Sequence[Compare] = (),
        events: Mapping[str, Sequence[NewEvent]] | None = None,
        actor: str = "",
    ) -> bool:
        """Write the handler's effects and the group's checkpoint in one commit.

        `events` are appended to their streams, with the last delivered event as their cause.
        False, and nothing written, if another consumer of the group dealt with them, which happens
        only if this one was away for longer than its lease.

        Raises:
            ConflictError: one of `compares` does not hold; nothing was written.
        """
        if self._committed:
            return False
        writes = [*self._done, *writes]
        compares = [self._checkpoint, *compares]
        try:
            if events:
                cause = self.events[-1].id
                await self._appender.append_many(
                    events, actor=actor, causation=cause, compares=compares, writes=writes
                )
            else:
                await settled_commit(self._store, compares, writes)
        except ConflictError as conflict:
            if self._checkpoint in conflict.failed:
                return False
            self._conflicted = True
            raise
        self._committed = True
        return True

    async def give_back(self) -> None:
        """Let the group have the events again, at once; asking for the next delivery does it too.

        The attempt counts, unless a compare of the handler's own did not hold in `commit`.
        """
        writes = self._undone if self._conflicted else self._undone[:1]
        with suppress(ConflictError):  # it is another's by now, or was given back before
            await settled_commit(self._store, [self._checkpoint], writes)


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a group gave up after so many attempts."""

    position: int
    stream: str
    version: int
    attempts: int


# --- how far a partition is ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Progress:
    """A partition's checkpoint.

    `attempts` were made on the event that comes next, alone.  Up to position `alone` events are
    delivered one by one, for one of them was in a delivery that failed.  `again`: of the partition
    of that name, the positions to be delivered.
    """

    position: int
    attempts: int = 0
    alone: int = 0
    again: tuple[int, ...] = ()

    def encode(self) -> bytes:
        return json.dumps([self.position, self.attempts, self.alone, self.again]).encode()

    @classmethod
    def decode(cls, value: bytes) -> _Progress:
        position, attempts, alone, again = json.loads(value)
        return cls(position, attempts, alone, tuple(again))

    def behind(self, last: int) -> _Progress:
        """What it is when the events up to `last` are dealt with."""
        if self.again:
            return replace(self, attempts=0, again=self.again[1:])
        return replace(self, position=last, attempts=0)


@dataclass(frozen=True, slots=True)
class Share:
    """What a subscriber asked for."""

    group: str
    after: int
    streams: str
    events_max: int
    partitions: int
    attempts_max: int | None
    ttl_s: float

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            InvalidRequestError: it is outside of the limits.
        """
        if self.after < 0 or self.events_max < 1:
            raise InvalidRequestError("after is 0 or more, events_max 1 or more")
        if not 1 <= self.partitions <= PARTITIONS_MAX:
            raise InvalidRequestError(f"a group has 1 to {PARTITIONS_MAX} partitions")
        if self.attempts_max is not None and self.attempts_max < 1:
            raise InvalidRequestError("attempts_max is 1 or more, or None: never park")
        rules.check_ttl(self.ttl_s)


# --- a consumer ----------------------------------------------------------------------------------


class Consumer:
    """One subscriber: takes turns, hands out deliveries, gives back what was not committed."""

    def __init__(self, log: LogReader, appender: Appender, share: Share) -> None:
        share.check()
        self._log = log
        self._store = log.store
        self._appender = appender
        self._share = share
        self._root = log.layout.group(share.group, share.streams)
        rules.check_key(f"{self._root}/{AGAIN}/turn")
        self._names = [AGAIN, *map(str, range(share.partitions))]
        self._after = share.after
        self._passed: dict[str, int] = {}  # positions up to here are not of the partition's streams
        self._lease = ""
        self._renewing: asyncio.Task[None] | None = None

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """What the group has not dealt with, for ever; see `EventLog.subscribe`."""
        await self._join()
        try:
            while True:
                seen = await self._look()
                delivery = None
                for name in tuple(self._names):
                    delivery = await self._take(name, seen)
                    if delivery is not None:
                        yield delivery
                        if not delivery.committed:
                            await delivery.give_back()
                        # The others first next time, or one busy partition starves them.
                        self._names.remove(name)
                        self._names.append(name)
                        break
                if delivery is None:
                    await self._change(seen.revision)
        finally:
            await self._leave()

    async def _join(self) -> None:
        """Agree with the group's other consumers on partitions and on where it began."""
        mine = json.dumps({"partitions": self._share.partitions, "after": self._share.after})

        async def decide(_: ConflictError | None) -> Decision[bytes]:
            entry = await self._store.get(self._root)
            if entry is not None:
                return Decision(entry.value)
            return Decision(mine.encode(), [Absent(self._root)], [Put(self._root, mine.encode())])

        agreed = json.loads((await decided(self._store, decide))[0])
        if agreed["partitions"] != self._share.partitions:
            raise InvalidRequestError(
                f"group {self._share.group!r} has {agreed['partitions']} partitions,"
                f" not {self._share.partitions}"
            )
        self._after = agreed["after"]

    async def _look(self) -> Snapshot:
        keys = [key for name in self._names for key in (self._key(name), self._turn(name))]
        return await self._store.get_many([self._log.layout.head, *keys])

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _turn(self, name: str) -> str:
        return f"{self._root}/{name}/turn"

    async def _take(self, name: str, seen: Snapshot) -> Delivery | None:
        """Take the partition's turn, if it is free and there is something to do."""
        if self._turn(name) in seen.items:
            return None
        entry = seen.items.get(self._key(name))
        progress = _Progress.decode(entry.value) if entry else _Progress(self._after)
        events, last = await self._next(name, progress, seen)
        if not events:
            return None
        checkpoint = Revision(self._key(name), seen.revision_of(self._key(name)))
        most = self._share.attempts_max
        if most is not None and progress.attempts >= most:
            await self._park(checkpoint, progress, events[0])
            return await self._take(name, await self._look())
        if len(events) > 1:  # none of them is to blame before it was alone
            taken = replace(progress, alone=last)
        else:
            taken = replace(progress, attempts=progress.attempts + 1)
        revision = await self._commit_turn(name, checkpoint, taken)
        if not revision:
            return None  # another one was faster
        free = Delete(self._turn(name))
        return Delivery(
            tuple(events),
            last,
            max(1, taken.attempts),
            self._store,
            self._appender,
            Revision(checkpoint.key, revision),
            (free, Put(checkpoint.key, progress.behind(last).encode())),
            (free, Put(checkpoint.key, progress.encode())),
        )

    async def _next(
        self, name: str, progress: _Progress, seen: Snapshot
    ) -> tuple[list[RecordedEvent], int]:
        """The partition's next events, and the position up to which it is then dealt with."""
        if name == AGAIN:
            if not progress.again:
                return [], 0
            wanted = progress.again[0]
            found = [e async for e in self._log.read_all(after=wanted - 1, upto=wanted)]
            return found, wanted
        position = max(progress.position, self._passed.get(name, 0))
        head = seen.items.get(self._log.layout.head)
        if head is None or Head.decode(head.value).position <= position:
            return [], position
        single = progress.attempts or progress.position < progress.alone
        most = 1 if single else self._share.events_max
        events: list[RecordedEvent] = []
        async for event in self._log.read_all(after=position):
            position = event.position
            if self._is_mine(name, event.stream):
                events.append(event)
            if len(events) == most:
                break
        if not events:
            self._passed[name] = position
        return events, position

    def _is_mine(self, name: str, stream: str) -> bool:
        partition = crc32(stream.encode()) % self._share.partitions
        return stream.startswith(self._share.streams) and partition == int(name)

    async def _commit_turn(self, name: str, checkpoint: Revision, taken: _Progress) -> int:
        """Count the attempt and take the turn; the commit's revision, 0 if it is taken."""
        free: list[Compare] = [checkpoint, Absent(self._turn(name))]
        while True:
            await self._hold_lease()
            mine = Put(self._turn(name), b"", self._lease)
            try:
                made = await settled_commit(
                    self._store, free, [Put(checkpoint.key, taken.encode()), mine]
                )
            except ConflictError:
                return 0
            except LeaseExpiredError:
                self._lease = ""
            else:
                return made.revision

    async def _park(self, checkpoint: Revision, progress: _Progress, event: RecordedEvent) -> None:
        share = self._share
        key = self._log.layout.parked(share.group, share.streams, event.position)
        what = {"stream": event.stream, "version": event.version, "attempts": progress.attempts}
        further = progress.behind(event.position)
        writes = [Put(checkpoint.key, further.encode()), Put(key, json.dumps(what).encode())]
        turn = Absent(checkpoint.key + "/turn")
        with suppress(ConflictError):  # another consumer parked it, or was given it
            await settled_commit(self._store, [checkpoint, turn], writes)

    async def _change(self, revision: int) -> None:
        """Return when the log or the group changed after `revision`."""
        prefixes = (self._log.layout.head, self._root)
        waits = [asyncio.create_task(next_change(self._store, p, revision)) for p in prefixes]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for wait in done:
            wait.result()

    # --- the lease of this consumer's turns ---

    async def _hold_lease(self) -> None:
        if not self._lease:
            self._lease = (await self._store.lease(self._share.ttl_s)).id
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(), name="log consumer's lease")

    async def _renew(self) -> None:
        while self._lease:
            await asyncio.sleep(self._share.ttl_s / 3)
            with suppress(UnavailableError):
                try:
                    await self._store.renew(self._lease)
                except LeaseExpiredError:
                    self._lease = ""

    async def _leave(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        if self._lease:
            with suppress(TransactionalError):  # it ends by itself
                await self._store.revoke(self._lease)


# --- what was parked -----------------------------------------------------------------------------


async def parked(log: LogReader, group: str, streams: str) -> tuple[Parked, ...]:
    """What the group gave up, in the order of positions."""
    found = await scan_all(log.store, log.layout.parked(group, streams))
    return tuple(
        Parked(int(key.rpartition("/")[2]), **json.loads(entry.value))
        for key, entry in found.items.items()
    )


async def replay(log: LogReader, group: str, streams: str, positions: Container[int] | None) -> int:
    """Have parked events delivered again; how many."""
    wanted = [
        one.position
        for one in await parked(log, group, streams)
        if positions is None or one.position in positions
    ]
    key = f"{log.layout.group(group, streams)}/{AGAIN}"
    count = 0
    for first in range(0, len(wanted), REPLAY_MAX):
        some = {log.layout.parked(group, streams, p): p for p in wanted[first : first + REPLAY_MAX]}

        async def decide(_: ConflictError | None, some: dict[str, int] = some) -> Decision[int]:
            seen = await log.store.get_many([key, *some])
            here = [position for name, position in some.items() if name in seen.items]
            entry = seen.items.get(key)
            progress = _Progress.decode(entry.value) if entry else _Progress(0)
            further = replace(progress, again=(*progress.again, *here))
            if not here:
                return Decision(0)
            compares = [Revision(name, seen.revision_of(name)) for name in (key, *some)]
            deletes = [Delete(name) for name in some if name in seen.items]
            return Decision(len(here), compares, [Put(key, further.encode()), *deletes])

        count += (await decided(log.store, decide))[0]
    return count
