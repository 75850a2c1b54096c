"""Subscriptions: each event handled once per group, because effect and checkpoint are one commit.

A group's checkpoint is one key: the position up to which its events are dealt with.  Consumers that
ask for other `streams` have another checkpoint: what one passes over, another may want.  A delivery
is a few events behind it; `delivery.commit(writes, appends)` makes the handler's effects and the
new checkpoint in *one* commit that compares the old one.  So an effect in the store (a write,
further events) happens exactly once per group, whatever crashes and however many consumers share a
group; what is not committed is delivered again.  Effects outside of the store are made at least
once: give them the event's id as their idempotency key.

    async for delivery in log.subscribe("mailer"):
        mails = {f"outbox/{e.data['to']}": [NewEvent("Mail", e.data)] for e in delivery.events}
        await delivery.commit(events=mails)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from transactional.errors import ConflictError
from transactional.retry import settled_commit
from transactional.store import next_change
from transactional.values import Put, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from transactional.events.append import Appender
    from transactional.events.event import NewEvent, RecordedEvent
    from transactional.events.reader import LogReader
    from transactional.store import Store
    from transactional.values import Compare, Write

DELIVERY_EVENTS_MAX: Final = 100
"""How many events one delivery holds unless the subscriber says otherwise."""


@dataclass(slots=True)
class Delivery:
    """Events that the group has not dealt with; `commit` says that it has."""

    events: tuple[RecordedEvent, ...]
    position: int
    _store: Store = field(repr=False)
    _appender: Appender = field(repr=False)
    _checkpoint: Revision = field(repr=False)
    _committed: bool = field(default=False, repr=False)

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
        False, and nothing written, if another consumer of the group was faster.

        Raises:
            ConflictError: one of `compares` does not hold; nothing was written.
        """
        key = self._checkpoint.key
        writes = [Put(key, str(self.position).encode()), *writes]
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
            raise
        self._committed = True
        return True


async def deliveries(
    log: LogReader,
    appender: Appender,
    group: str,
    *,
    after: int,
    streams: str,
    events_max: int,
) -> AsyncIterator[Delivery]:
    """What the group has not dealt with, for ever; see `EventLog.subscribe`."""
    key = log.layout.group(group, streams)
    passed = 0  # positions up to here are dealt with, or are not of our streams
    while True:
        seen = await log.store.get_many([key, log.layout.head])
        position = int(seen.items[key].value) if key in seen.items else after
        checkpoint = Revision(key, seen.revision_of(key))
        events: list[RecordedEvent] = []
        last = position = max(position, passed)
        async for event in log.read_all(after=position):
            last = event.position
            if event.stream.startswith(streams):
                events.append(event)
            if len(events) == events_max:
                break
        if events:
            yield Delivery(tuple(events), last, log.store, appender, checkpoint)
        else:
            passed = last
            await next_change(log.store, log.layout.head, seen.revision)
