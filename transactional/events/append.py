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

What is remembered of the log is one frozen value, `_Known`: the head, the revision that wrote it,
and streams' ends that are true as long as the head is of that revision.  It is replaced whole or
dropped whole, so a read that fails half-way leaves the old value, which is still true of its
revision, and never a new head beside old ends.  After a conflict the commits behind the known head
say which streams moved.

Memory proposes, and never has the last word.  An append is acknowledged by a commit that compares
the head *and* that nothing lies where its batches go: a batch's key is named after its first
version, so two batches that would follow the same event have the same key, whatever their lengths.
A refusal rests on a head that was read since the append was asked for.  A repeat is known by its
op_id's record before anything else is looked at.

An append writes its stream once.  Where the stream ends is written down only every `END_EVERY`
versions, and found from there: a second key in every append would cost a third of the throughput.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from zlib import crc32

from transactional import rules
from transactional.commit_queue import CommitQueue
from transactional.errors import (
    ConflictError,
    CorruptStoreError,
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
    json_bytes,
    new_batch,
    shape_hash,
)
from transactional.events.layout import END_EVERY, Head, LogLayout, StreamEnd
from transactional.events.reader import find_end
from transactional.retry import Decision, decided
from transactional.values import ANY, Absent, DeletePrefix, Expected, Put, Revision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from transactional.clock import BusinessClock
    from transactional.commit_queue import Group
    from transactional.events.event import Batch, EncodedEvent, Json, NewEvent
    from transactional.store import Store
    from transactional.values import Compare, Write

GROUP_BYTES_MAX: Final = 640 << 10
"""When a group is full, by bytes; by operations the store's capabilities say it."""
ENDS_KNOWN_MAX: Final = 10_000
"""How many streams' ends are remembered between commits."""
CATCH_UP_COMMITS: Final = 50
"""How many commits of rivals are read to catch up; behind more than that all is looked up anew."""
APPEND_BYTES_MAX: Final = 256 << 10
"""Most data in one append, in bytes of JSON; names and envelopes are not counted."""
APPEND_EVENTS_MAX: Final = 4096
"""Most events in one append, all its streams together."""
ROW_BYTES: Final = 128
"""What an event takes besides its type and its data: salt, hash and punctuation."""
ENVELOPE_BYTES: Final = 192
"""What a batch takes besides its events, its stream's name and its origin."""
COMMIT_VALUE_BYTES: Final = 1024
"""Kept free in the value of a commit, for the commit's own hash."""
ERASED: Final = "erased"
"""Instead of the hash of what was erased: the hash could tell by trial what that was."""


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
    guards: Mapping[str, int | Expected]
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

    def content(self) -> dict[str, Json]:
        """What a repeat must have in common with it: `parts` by stream, and `writes`.

        For each its shape, and the hash of all of it.  Expectations and compares are left out: they
        may be false by now *because* it was applied.
        """
        parts = {p.stream: [shape_hash(p.events), content_hash(p.events)] for p in self.parts}
        keys = [w.prefix if isinstance(w, DeletePrefix) else w.key for w in self.writes]
        shape = [[type(w).__name__, key] for w, key in zip(self.writes, keys, strict=True)]
        whole = rules.fingerprint((), self.writes, ()).hex()
        return {"parts": parts, "writes": [json.dumps(shape), whole]}


def op_record(pending: Pending, appended: Appended) -> bytes:
    """What the log remembers of an op_id: which content it had, and the answer."""
    return json.dumps(
        {
            **pending.content(),
            "first": appended.first_position,
            "last": appended.last_position,
            "versions": dict(appended.versions),
        }
    ).encode()


def is_repeat(record: Mapping[str, Json], pending: Pending) -> bool:
    """Whether the append is the one on record, as far as that is still known.

    Of what was erased only the shape is left (`without_content`).
    """
    content = pending.content()
    if record["parts"].keys() != content["parts"].keys():
        return False
    pairs = [(record["parts"][s], content["parts"][s]) for s in content["parts"]]
    pairs.append((record["writes"], content["writes"]))
    return all(old[0] == new[0] and old[1] in {new[1], ERASED} for old, new in pairs)


def without_content(record: bytes, stream: str) -> bytes:
    """An op_id's record that no longer tells, even by trial, what was appended to the stream."""
    data = json.loads(record)
    if stream in data["parts"]:
        data["parts"][stream][1] = data["writes"][1] = ERASED
    return json.dumps(data).encode()


def meets(expected: int | Expected, actual: int) -> bool:
    """Whether a stream of version `actual` is as expected."""
    if expected is Expected.ANY:
        return True
    if expected is Expected.STREAM_EXISTS:
        return actual > 0
    return expected == actual


# --- appending -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of the log.

    Invariant: as long as the log's head is of `revision`, each of `ends` is its stream's end.
    """

    head: Head
    revision: int
    ends: Mapping[str, StreamEnd]


@dataclass(slots=True)
class _Judged:
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
        self._known: _Known | None = None

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
        writes: Sequence[Write] = (),
    ) -> Appended:
        """Check it, queue it and wait for its answer.  See `EventLog.append_many`."""
        expected, guards = expected or {}, guards or {}
        if strangers := expected.keys() - events.keys():
            names = ", ".join(sorted(strangers))
            raise InvalidRequestError(f"nothing is appended to {names}: expect it as a guard")
        origin = Origin(actor, op_id, causation, correlation)
        self._check_names(origin, [*events, *guards], [*expected.values(), *guards.values()])
        parts = []
        for stream, new in events.items():
            batch = tuple([encoded(event) for event in new])
            parts.append(Part(stream, batch, expected.get(stream, ANY)))
        size = self._size(parts, origin)
        answer = asyncio.get_running_loop().create_future()
        appended: Appended = await self._queue.put(
            Pending(tuple(parts), origin, guards, compares, writes, answer, size)
        )
        return appended

    def _check_names(
        self, origin: Origin, streams: Sequence[str], versions: Sequence[int | Expected]
    ) -> None:
        """Refuse here what the store would refuse later, together with the whole group."""
        names = (origin.actor, origin.causation, origin.correlation, origin.op_id)
        if not all(streams) or max(map(len, (*names, *streams)), default=0) > NAME_CHARS_MAX:
            limit = f"names of streams, actors and op_ids: 1-{NAME_CHARS_MAX} characters"
            raise InvalidRequestError(limit)
        for stream in streams:
            rules.check_key(self._layout.stream(stream, 0))
        if origin.op_id:
            rules.check_key(self._layout.op(origin.op_id))
        for version in versions:
            if not isinstance(version, Expected) and (type(version) is not int or version < 0):
                raise InvalidRequestError(f"a version is a number from 0 on, not {version!r}")

    def _size(self, parts: Sequence[Part], origin: Origin) -> int:
        """How many bytes of a commit's value the parts take; refuse what is above the limits."""
        if not parts or not all(part.events for part in parts):
            raise InvalidRequestError("an append has at least one event for each stream")
        events = [event for part in parts for event in part.events]
        if len(events) > APPEND_EVENTS_MAX:
            reason = f"an append of {len(events)} events, {APPEND_EVENTS_MAX} are allowed"
            raise InvalidRequestError(reason)
        data = sum([event.bytes for event in events])
        if data > APPEND_BYTES_MAX:
            reason = f"an append of {data} bytes of JSON, {APPEND_BYTES_MAX} are allowed"
            raise InvalidRequestError(reason)
        by = sum(
            map(json_bytes, (origin.actor, origin.op_id, origin.causation, origin.correlation))
        )
        size = data + sum([json_bytes(part.stream) + by + ENVELOPE_BYTES for part in parts])
        size += sum([json_bytes(event.type) + ROW_BYTES for event in events])
        if size > (most := self._store.capabilities.value_bytes_max - COMMIT_VALUE_BYTES):
            reason = f"an append that takes {size} bytes with all its names, {most} are allowed"
            raise InvalidRequestError(reason)
        return size

    async def _commit_together(self, group: Group[Pending]) -> None:
        try:
            judged = await self._commit(group)
        except Exception:
            self._known = None
            raise
        for pending, outcome in (*judged.accepted, *judged.answered):
            if isinstance(outcome, Appended):
                group.answer(pending, outcome)
            else:
                group.refuse(pending, outcome)

    async def _commit(self, group: Group[Pending]) -> _Judged:
        """The judgement that stands, committed if it accepted anything."""
        overlap: ConflictError | None = None
        pendings = group.waiting

        async def decide(conflict: ConflictError | None) -> Decision[_Judged]:
            decision = await judge(conflict)
            group.propose([pending for pending, _ in decision.result.accepted])
            return decision

        async def judge(conflict: ConflictError | None) -> Decision[_Judged]:
            nonlocal overlap
            if conflict is None and self._known is not None:
                decision = await self._judge(pendings, self._known, {})
                if not decision.result.answered:
                    return decision
            # Nobody is refused by memory, and no conflict is resolved by it.
            if conflict is not None and (taken := self._overlapped(conflict)):
                if overlap not in {None, conflict}:  # met again by a judgement on fresh reads
                    where = f"the log's head lies before {taken!r}, which exists"
                    raise CorruptStoreError(f"{where}; `log verify` tells more") from conflict
                overlap, self._known = conflict, None
            known = await self._catch_up()
            done = await self._done(pendings)
            if conflict is not None and pendings[0].origin.op_id not in done:
                brought_along = pendings[0].compares  # else it shared a commit
                if any(failed in brought_along for failed in conflict.failed):
                    raise conflict
            return await self._judge(pendings, known, done)

        judged, revision = await decided(self._store, decide)
        if revision:
            ends = judged.ends if len(judged.ends) < ENDS_KNOWN_MAX else {}
            self._known = _Known(judged.head, revision, ends)
        return judged

    def _overlapped(self, conflict: ConflictError) -> str:
        """A key that was to be new and exists, although the head is where it was; "" if none."""
        if any(isinstance(c, Revision) and c.key == self._layout.head for c in conflict.failed):
            return ""
        ours = (self._layout.at(), self._layout.streams())
        found = [c.key for c in conflict.failed if isinstance(c, Absent) and c.key.startswith(ours)]
        return found[0] if found else ""

    async def _judge(
        self, pendings: list[Pending], known: _Known, done: Mapping[str, bytes]
    ) -> Decision[_Judged]:
        known = await self._with_ends(pendings, known)
        await self._clock.refresh()
        at = max(self._clock.now(), known.head.at + timedelta.resolution)
        judged = _Judged(known.head, dict(known.ends))
        for pending in pendings:
            answer = self._answer(pending, judged, done.get(pending.origin.op_id))
            if answer is None:
                self._enter(pending, judged, at)
            else:
                judged.answered.append((pending, answer))
        if not judged.accepted:
            return Decision(judged)
        return self._decision(judged, known.revision, at)

    async def _with_ends(self, pendings: list[Pending], known: _Known) -> _Known:
        """Let the ends of these streams be known too.

        They are read after the head was: one that is too new makes the commit fail on the head,
        one that is too old there is not.
        """
        streams = {part.stream for p in pendings for part in p.parts}
        streams.update(stream for p in pendings for stream in p.guards)
        unknown = [stream for stream in streams if stream not in known.ends]
        if unknown:
            reads = [find_end(self._store, self._layout, stream) for stream in unknown]
            found = dict(zip(unknown, await asyncio.gather(*reads), strict=True))
            known = self._known = replace(known, ends={**known.ends, **found})
        return known

    async def _done(self, pendings: list[Pending]) -> dict[str, bytes]:
        """What is on record of op_ids that were used before."""
        keys = {self._layout.op(p.origin.op_id): p.origin.op_id for p in pendings if p.origin.op_id}
        if not keys:
            return {}
        used = (await self._store.get_many(list(keys))).items
        return {keys[key]: entry.value for key, entry in used.items()}

    async def _catch_up(self) -> _Known:
        """Read the head; if it moved, learn from the commits since where our streams end now."""
        entry = await self._store.get(self._layout.head)
        head, revision = (Head.decode(entry.value), entry.revision) if entry else (Head(), 0)
        known = self._known
        if known is None or known.revision != revision:
            ends = {} if known is None else await self._ends_at(head, known)
            known = self._known = _Known(head, revision, ends)
        return known

    async def _ends_at(self, head: Head, known: _Known) -> dict[str, StreamEnd]:
        """The ends of the known streams at `head`; none if the commits do not lead there."""
        after = self._layout.at(known.head.position)
        page = await self._store.scan(self._layout.at(), after=after, limit=CATCH_UP_COMMITS)
        position, chain, ends = known.head.position, known.head.hash, dict(known.ends)
        for commit in page.items.values():
            if position == head.position:
                break  # appended since the head was read
            lasts = []
            for batch in json.loads(commit.value)["batches"]:
                stream, last = batch["stream"], batch["events"][-1][4]
                lasts.append((stream, batch["version"], batch["position"], last))
                position = batch["position"] + len(batch["events"]) - 1
                if stream in ends:
                    ends[stream] = StreamEnd(batch["version"] + len(batch["events"]) - 1, last)
            chain = chained_commit(chain, lasts)
        return ends if (position, chain) == (head.position, head.hash) else {}

    def _answer(
        self, pending: Pending, judged: _Judged, done: bytes | None
    ) -> Appended | TransactionalError | None:
        """The answer, if the append writes nothing: it is a repeat, or it is refused."""
        if done is not None:
            record = json.loads(done)
            if not is_repeat(record, pending):
                return OperationIdReusedError(pending.origin.op_id)
            return Appended(record["first"], record["last"], record["versions"], repeated=True)
        if op_id := pending.origin.op_id:
            for twin, answer in judged.accepted:
                if twin.origin.op_id == op_id:
                    if twin.content() != pending.content():
                        return OperationIdReusedError(op_id)
                    return replace(answer, repeated=True)
        wanted = [
            *pending.guards.items(),
            *((part.stream, part.expected) for part in pending.parts),
        ]
        for stream, expected in wanted:
            actual = judged.ends[stream].version
            if not meets(expected, actual):
                return WrongVersionError(stream, expected, actual)
        return None

    def _enter(self, pending: Pending, judged: _Judged, at: datetime) -> None:
        first = position = judged.head.position + 1
        for part in pending.parts:
            end = judged.ends[part.stream]
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
            judged.ends[part.stream] = StreamEnd(batch.last_version, batch.rows[-1].hash)
            judged.batches.append(batch)
        judged.head = Head(position - 1, at, judged.head.hash)
        versions = {part.stream: judged.ends[part.stream].version for part in pending.parts}
        judged.accepted.append((pending, Appended(first, position - 1, versions)))

    def _decision(self, judged: _Judged, revision: int, at: datetime) -> Decision[_Judged]:
        texts = [batch.text() for batch in judged.batches]
        last = chained_commit(
            judged.head.hash,
            [(b.stream, b.version, b.position, b.rows[-1].hash) for b in judged.batches],
        )
        judged.head = Head(judged.head.position, at, last)
        together = f'{{"hash":"{last}","batches":[{",".join(texts)}]}}'
        writes: dict[str, Write] = {
            self._layout.head: Put(self._layout.head, judged.head.encode()),
            (key := self._layout.at(judged.head.position)): Put(key, together.encode()),
        }
        for batch, text in zip(judged.batches, texts, strict=True):
            key = self._layout.stream(batch.stream, batch.version)
            writes[key] = Put(key, text.encode())
        new = [Absent(key) for key in writes if key != self._layout.head]
        room = self._store.capabilities.max_operations - len(writes)
        room -= sum(p.operations - len(p.parts) for p, _ in judged.accepted)
        for batch in [batch for batch in judged.batches if _end_is_due(batch)][:room]:
            key = self._layout.end(batch.stream)
            writes[key] = Put(key, StreamEnd(batch.last_version, batch.rows[-1].hash).encode())
        compares: list[Compare] = [Revision(self._layout.head, revision), *new]
        extra: list[Write] = []
        for pending, appended in judged.accepted:
            compares += pending.compares
            extra += pending.writes
            if pending.origin.op_id:
                key = self._layout.op(pending.origin.op_id)
                compares.append(Absent(key))
                extra.append(Put(key, op_record(pending, appended)))
        return Decision(judged, compares, [*writes.values(), *extra])


def _end_is_due(batch: Batch) -> bool:
    """Whether the batch passes a mark of its stream; marks differ, or all would be due at once."""
    shift = crc32(batch.stream.encode())
    return (batch.last_version + shift) // END_EVERY > (batch.version - 1 + shift) // END_EVERY
