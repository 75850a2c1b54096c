"""Reading the log: streams, the total order, and which position a time means.

The lower half of `EventLog`, on which everything rests that reads events to make something of them:
states (`state`), subscriptions (`subscription`), verification (`audit`).

A commit lies under its last position (`layout`), so whoever wants what follows position `n` scans
from the key of `n` on and skips what is older in the first commit.  A batch lies under its first
version: what follows version `n` may begin inside of a batch whose key is before that of `n`, and
`batches` looks back for it unless the first key found shows that there is none.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import TYPE_CHECKING, Final

from transactional.clock import as_utc
from transactional.errors import InvalidTimeError
from transactional.events.event import recorded
from transactional.events.layout import END_EVERY, Head, LogLayout, StreamEnd
from transactional.retry import Decision, decided
from transactional.store import next_change
from transactional.values import Put, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from transactional.errors import ConflictError
    from transactional.events.event import Json, RecordedEvent
    from transactional.store import Store
    from transactional.values import KeyValue

PAGE_KEYS: Final = 256
"""How many commits or batches are read at once."""
LOOK_BACK: Final = 32
"""How many versions back a batch is looked for at first; then eight times as many, and so on."""
BYTES_AT_ONCE: Final = 256 << 10
"""How much is decoded before the event loop gets a turn; a few milliseconds' work."""


class LogReader:
    """Reads one log; the methods are those of `EventLog` by the same names."""

    def __init__(
        self,
        store: Store,
        layout: LogLayout,
        upcasters: Mapping[str, Sequence[Callable[[Json], Json]]],
    ) -> None:
        self.store = store
        self.layout = layout
        self._upcasters = upcasters

    async def head(self) -> Head:
        """The log's end."""
        entry = await self.store.get(self.layout.head)
        return Head.decode(entry.value) if entry else Head()

    async def read(
        self, stream: str, *, after: int = 0, upto: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """Events of the stream with versions above `after` and up to `upto`."""
        async for entry in self.batches(stream, after):
            for event in recorded(json.loads(entry.value), self._upcasters):
                if upto is not None and event.version > upto:
                    return
                if event.version > after:
                    yield event

    async def batches(self, stream: str, after: int) -> AsyncIterator[KeyValue]:
        """The stream's batches that reach behind version `after`, perhaps an earlier one too."""
        prefix = self.layout.stream(stream)
        looked = after <= 0
        async for entry in self.entries(prefix, self.layout.stream(stream, max(0, after - 1))):
            if not looked and int(entry.key.rpartition("/")[2]) > after + 1:
                async for earlier in self._batch_before(stream, after):
                    yield earlier
            looked = True
            yield entry
        if not looked:
            async for earlier in self._batch_before(stream, after):
                yield earlier

    async def _batch_before(self, stream: str, version: int) -> AsyncIterator[KeyValue]:
        """The last batch that begins at `version` or before it, if there is one."""
        prefix = self.layout.stream(stream)
        found, low, window = None, version, LOOK_BACK
        while found is None and low > 0:
            low = max(0, version - window)
            async for entry in self.entries(prefix, self.layout.stream(stream, low)):
                if int(entry.key.rpartition("/")[2]) > version:
                    break
                found = entry
            window *= 8
        if found is not None:
            yield found

    async def read_all(
        self, *, after: int = 0, upto: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """Events of all streams with positions above `after` and up to `upto`."""
        async for entry in self.entries(self.layout.at(), self.layout.at(after)):
            for batch in json.loads(entry.value)["batches"]:
                for event in recorded(batch, self._upcasters):
                    if upto is not None and event.position > upto:
                        return
                    if event.position > after:
                        yield event

    async def follow(self, *, after: int = 0) -> AsyncIterator[RecordedEvent]:
        """`read_all`, and then whatever is appended."""
        while True:
            seen = await self.store.get_many([self.layout.head])
            async for event in self.read_all(after=after):
                after = event.position
                yield event
            await next_change(self.store, self.layout.head, seen.revision)

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

    async def position_at(self, moment: datetime) -> int:
        """The last position at `moment`; closes the time up to it, if it is behind the last event.

        The head then carries `moment`, and the appender gives later events later times.
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


async def find_end(store: Store, layout: LogLayout, stream: str) -> StreamEnd:
    """Where the stream ends: from the last end that was written down, a few batches on."""
    entry = await store.get(layout.end(stream))
    end = StreamEnd.decode(entry.value) if entry else StreamEnd()
    while True:
        after = layout.stream(stream, end.version)
        page = await store.scan(layout.stream(stream), after=after, limit=2 * END_EVERY)
        if page.items:
            batch = json.loads(list(page.items.values())[-1].value)
            end = StreamEnd(batch["version"] + len(batch["events"]) - 1, batch["events"][-1][4])
        if not page.more:
            return end
