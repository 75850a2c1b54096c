"""How events get into the log: group commit, each append judged on its own.

Every append compares the revision of the log's head, so appends are one after the other.  Those of
one process that wait at the same time are taken together (`commit_queue`): their streams' ends are
looked up (or still known from the commit before), each append is judged against its expectations
and against those before it, and what is accepted goes into one commit.  If a rival moved the head,
all is read and judged anew.  So a lone append costs one commit, sixty waiting ones cost one commit
too, and a refused append spoils nobody else's::

    append(a) --+
    append(b) --+--> [a ok, b wrong version, c repeat, d ok] --> commit {head, a, d} --> answers
    append(c) --+
    append(d) --+

What is known of the streams' ends needs no compare of its own: ends only ever change together with
the head, and the head is compared.  After a conflict the commits behind the head that was known say
which streams moved, so what is known is brought up to date and not forgotten.

An append writes its stream once.  Where the stream ends is written down only every `END_EVERY`
versions, and found from there: a second key in every append would cost a third of the throughput.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from zlib import crc32

from transactional import commit_queue
from transactional.commit_queue import CommitQueue
from transactional.errors import (
    ConflictError,
    InvalidRequestError,
    OperationIdReusedError,
    TransactionalError,
)
from transactional.events.event import (
    NAME_CHARS_MAX,
    Origin,
    chained_commit,
    content_hash,
    encoded,
    new_batch,
)
from transactional.events.layout import END_EVERY, Head, LogLayout, StreamEnd
from transactional.events.reader import find_end
from transactional.retry import Decision, decided
from transactional.values import ANY, Absent, Expected, Put, Revision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from transactional.clock import BusinessClock
    from transactional.events.event import Batch, EncodedEvent, NewEvent
    from transactional.store import Store
    from transactional.values import Compare, Write

GROUP_BYTES_MAX: Final = 640 << 10
"""When a group is full, by bytes; by operations the store's capabilities say it."""
ENDS_KNOWN_MAX: Final = 10_000
"""How many streams' ends are remembered between commits."""
CATCH_UP_COMMITS: Final = 50
"""How many commits of rivals are read to catch up; behind more than that all is looked up anew."""
APPEND_BYTES_MAX: Final = 256 << 10
"""Largest append, as JSON; what is appended together lies in one value, in two copies."""
ENVELOPE_BYTES: Final = 400
"""What an event takes besides its data, generously."""
ERASED: Final = "erased"
"""Instead of the content's hash of an op_id whose events were erased: any repeat is accepted."""


# --- what an append asks for, and what it is answered ------------------------------------------


NO_STREAM: Final = 0
STREAM_EXISTS: Final = Expected.STREAM_EXISTS


class WrongVersionError(ConflictError):
    """The stream is not at the version that was expected or guarded: nothing was written."""

    code = "wrong_version"
    hint = "read the stream, decide again and append with its present version"

    def __init__(self, stream: str, expected: int | Expected, actual: int) -> None:
        super().__init__((), {}, 0)
        wanted = expected.value if isinstance(expected, Expected) else expected
        self.args = (
            f"stream {stream!r} is at version {actual}, expected {wanted} (nothing was written)",
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual

    def details(self) -> dict[str, str | int | float]:
        """Return the stream and its version."""
        return {"stream": self.stream, "actual": self.actual}


@dataclass(frozen=True, slots=True)
class Part:
    """Events for one stream, and the version that the stream must have."""

    stream: str
    events: tuple[EncodedEvent, ...]
    expected: int | Expected


@dataclass(frozen=True, slots=True)
class Appended:
    """An append that is in the log: its positions, and the last version of each stream.

    `repeated`: an earlier append with the same op_id did it.
    """

    first_position: int
    last_position: int
    versions: Mapping[str, int]
    repeated: bool = field(default=False, compare=False)


@dataclass(slots=True)
class Pending:
    """One append on its way: what it asks, what else must be in its commit, who waits for it."""

    parts: tuple[Part, ...]
    origin: Origin
    guards: Mapping[str, int]
    compares: Sequence[Compare]
    writes: Sequence[Write]
    answer: asyncio.Future[Appended]
    bytes: int

    @property
    def alone(self) -> bool:
        """Whether it brings compares or writes of its own, which nobody else shall depend on."""
        return bool(self.compares or self.writes)

    @property
    def operations(self) -> int:
        """How many writes it adds to a commit, hardly ever more."""
        return len(self.parts) + bool(self.origin.op_id) + len(self.writes)

    def content(self) -> str:
        """What a repeat must have in common with it."""
        return content_hash([(part.stream, part.events) for part in self.parts])


def op_record(pending: Pending, appended: Appended) -> bytes:
    """What the log remembers of an op_id: which content it had, and the answer."""
    return json.dumps(
        {
            "content": pending.content(),
            "first": appended.first_position,
            "last": appended.last_position,
            "versions": dict(appended.versions),
        }
    ).encode()


def meets(expected: int | Expected, actual: int) -> bool:
    """Whether a stream of version `actual` is as expected."""
    if expected is Expected.ANY:
        return True
    if expected is Expected.STREAM_EXISTS:
        return actual > 0
    return expected == actual


# --- appending -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """What one commit would append."""

    head: Head
    ends: dict[str, StreamEnd]
    accepted: list[tuple[Pending, Appended]] = field(default_factory=list)
    answered: list[tuple[Pending, Appended | TransactionalError]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)


class Appender:
    """The one door into a log, for the tasks of one process."""

    def __init__(self, store: Store, layout: LogLayout, clock: BusinessClock) -> None:
        self._store = store
        self._layout = layout
        self._clock = clock
        self._queue = CommitQueue[Pending](
            self._commit_together,
            what="event log appends",
            # head and position are every group's; an eighth stays for some streams' ends
            operations_max=store.capabilities.max_operations * 7 // 8 - 2,
            bytes_max=GROUP_BYTES_MAX,
        )
        self._head: tuple[Head, int] | None = None  # as of our last commit, with its revision
        self._ends: dict[str, StreamEnd] = {}  # as of the same commit

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
        """Check it, queue it and wait for its answer.  See `EventLog.append_many`."""
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
            batch = tuple([encoded(event) for event in new])
            parts.append(Part(stream, batch, expected.get(stream, ANY) if expected else ANY))
            size += sum([event.bytes + ENVELOPE_BYTES for event in batch])
        if size > APPEND_BYTES_MAX:
            raise InvalidRequestError(f"an append of {size} bytes, {APPEND_BYTES_MAX} are allowed")
        answer = asyncio.get_running_loop().create_future()
        origin = Origin(actor, op_id, causation, correlation)
        appended: Appended = await self._queue.put(
            Pending(tuple(parts), origin, guards or {}, compares, writes, answer, size)
        )
        return appended

    async def _commit_together(self, pendings: list[Pending]) -> None:
        try:
            group = await self._commit(pendings)
        except Exception:
            self._forget()
            raise
        for pending, outcome in (*group.accepted, *group.answered):
            if isinstance(outcome, Appended):
                commit_queue.answer(pending, outcome)
            else:
                commit_queue.refuse([pending], outcome)

    async def _commit(self, pendings: list[Pending]) -> _Group:
        """The judgement that stands, committed if it accepted anything."""

        async def decide(conflict: ConflictError | None) -> Decision[_Group]:
            if conflict is not None:
                await self._catch_up()
                if any(failed in pendings[0].compares for failed in conflict.failed):
                    raise conflict  # a compare that the caller brought along
            # An op_id that was used before shows as a conflict, or as a version that moved on.
            decision = await self._judge(pendings, with_ops=conflict is not None)
            if conflict is None and any(p.origin.op_id for p, _ in decision.result.answered):
                decision = await self._judge(pendings, with_ops=True)
            return decision

        group, revision = await decided(self._store, decide)
        if revision:
            self._head = group.head, revision
            self._ends = group.ends if len(group.ends) < ENDS_KNOWN_MAX else {}
        return group

    async def _judge(self, pendings: list[Pending], *, with_ops: bool) -> Decision[_Group]:
        head, revision, done = await self._look(pendings, with_ops=with_ops)
        await self._clock.refresh()
        at = max(self._clock.now(), head.at + timedelta.resolution)
        group = _Group(head, dict(self._ends))
        for pending in pendings:
            answer = self._answer(pending, group, done.get(pending.origin.op_id))
            if answer is None:
                self._enter(pending, group, at)
            else:
                group.answered.append((pending, answer))
        if not group.accepted:
            return Decision(group)
        return self._decision(group, revision, at)

    async def _look(
        self, pendings: list[Pending], *, with_ops: bool
    ) -> tuple[Head, int, dict[str, bytes]]:
        """Head and its revision; the streams' ends become known; op_ids that were used before.

        The head is read before the ends: an end that is too new makes the commit fail on the head,
        one that is too old would not.
        """
        if self._head is None:
            entry = await self._store.get(self._layout.head)
            self._head = (Head.decode(entry.value), entry.revision) if entry else (Head(), 0)
        head, revision = self._head
        streams = {part.stream for p in pendings for part in p.parts}
        streams.update(stream for p in pendings for stream in p.guards)
        unknown = [stream for stream in streams if stream not in self._ends]
        reads = [find_end(self._store, self._layout, stream) for stream in unknown]
        self._ends.update(zip(unknown, await asyncio.gather(*reads), strict=True))
        op_ids = [p.origin.op_id for p in pendings if p.origin.op_id] if with_ops else []
        used = (await self._store.get_many([self._layout.op(o) for o in op_ids])).items
        done = {o: used[k].value for o in op_ids if (k := self._layout.op(o)) in used}
        return head, revision, done

    async def _catch_up(self) -> None:
        """A rival moved the head: learn from the commits since which of our streams moved."""
        known, self._head = self._head, None
        if known is None:
            return
        entry = await self._store.get(self._layout.head)
        after = self._layout.at(known[0].position)
        page = await self._store.scan(self._layout.at(), after=after, limit=CATCH_UP_COMMITS)
        if entry is None or page.more:
            self._forget()
            return
        self._head = Head.decode(entry.value), entry.revision
        for commit in page.items.values():
            for batch in json.loads(commit.value)["batches"]:
                version = batch["version"] + len(batch["events"]) - 1
                if batch["stream"] in self._ends:
                    self._ends[batch["stream"]] = StreamEnd(version, batch["events"][-1][4])

    def _answer(
        self, pending: Pending, group: _Group, done: bytes | None
    ) -> Appended | TransactionalError | None:
        """The answer, if the append writes nothing: it is a repeat, or it is refused."""
        if done is not None:
            record = json.loads(done)
            if record["content"] not in (pending.content(), ERASED):
                return OperationIdReusedError(pending.origin.op_id)
            return Appended(record["first"], record["last"], record["versions"], repeated=True)
        if op_id := pending.origin.op_id:
            for twin, answer in group.accepted:
                if twin.origin.op_id == op_id:
                    same = twin.content() == pending.content()
                    return answer if same else OperationIdReusedError(op_id)
        for stream, version in pending.guards.items():
            if group.ends[stream].version != version:
                return WrongVersionError(stream, version, group.ends[stream].version)
        for part in pending.parts:
            actual = group.ends[part.stream].version
            if not meets(part.expected, actual):
                return WrongVersionError(part.stream, part.expected, actual)
        return None

    def _enter(self, pending: Pending, group: _Group, at: datetime) -> None:
        first = position = group.head.position + 1
        for part in pending.parts:
            end = group.ends[part.stream]
            batch = new_batch(
                part.stream,
                part.events,
                version=end.version + 1,
                position=position,
                at=at,
                origin=pending.origin,
                before=end.hash,
            )
            position += len(batch.rows)
            group.ends[part.stream] = StreamEnd(batch.last_version, batch.rows[-1].hash)
            group.batches.append(batch)
        group.head = Head(position - 1, at, group.head.hash)
        versions = {part.stream: group.ends[part.stream].version for part in pending.parts}
        group.accepted.append((pending, Appended(first, position - 1, versions)))

    def _decision(self, group: _Group, revision: int, at: datetime) -> Decision[_Group]:
        texts = [batch.text() for batch in group.batches]
        last = chained_commit(group.head.hash, group.batches)
        group.head = Head(group.head.position, at, last)
        together = f'{{"hash":"{last}","batches":[{",".join(texts)}]}}'
        writes: dict[str, Write] = {
            self._layout.head: Put(self._layout.head, group.head.encode()),
            (key := self._layout.at(group.head.position)): Put(key, together.encode()),
        }
        for batch, text in zip(group.batches, texts, strict=True):
            key = self._layout.stream(batch.stream, batch.last_version)
            writes[key] = Put(key, text.encode())
        room = self._store.capabilities.max_operations - len(writes)
        room -= sum(p.operations - len(p.parts) for p, _ in group.accepted)
        for batch in [batch for batch in group.batches if _end_is_due(batch)][:room]:
            key = self._layout.end(batch.stream)
            writes[key] = Put(key, StreamEnd(batch.last_version, batch.rows[-1].hash).encode())
        compares: list[Compare] = [Revision(self._layout.head, revision)]
        extra: list[Write] = []
        for pending, appended in group.accepted:
            compares += pending.compares
            extra += pending.writes
            if pending.origin.op_id:
                key = self._layout.op(pending.origin.op_id)
                compares.append(Absent(key))
                extra.append(Put(key, op_record(pending, appended)))
        return Decision(group, compares, [*writes.values(), *extra])

    def _forget(self) -> None:
        self._head = None
        self._ends = {}


def _end_is_due(batch: Batch) -> bool:
    """Whether the batch passes a mark of its stream; marks differ, or all would be due at once."""
    shift = crc32(batch.stream.encode())
    return (batch.last_version + shift) // END_EVERY > (batch.version - 1 + shift) // END_EVERY
