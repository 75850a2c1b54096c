"""Looking after the log: proving that nobody altered it, and erasing what must be forgotten.

`verify` walks the log twice and recomputes every hash from what is stored.  First in the order of
positions, where each commit must follow the one before it up to the head, each event must give the
hash that is stored with it, and each batch must lie in its stream as it lies here.  Then stream by
stream, where nothing may lie that the first walk did not meet, for that is what `read` and `state`
show; and each end that was written down must be an end.  Last comes what is kept beside the events:
a snapshot must be whole and taken at an event of its stream, an op_id's record must tell what that
append did.  A snapshot that was forged with its digest is told from a true one by folding the
stream again, which is done for the reducers that are given.  An event whose recomputed hash is not
the stored one was altered, and is named; the walk goes on with the stored hash, so one altered
event is one finding and not a thousand.

Whoever can write to the store can also rewrite all of it consistently, or cut the log off and let
it grow again.  Nothing inside of the store tells; a head that was noted elsewhere does: the log
must still pass through it (`verify(noted=)`).

`erase` removes the data of events and leaves the envelope, and with it the digest that the chain
needs.  The same commit takes along all else in the store that tells the data: both copies of the
batch, the stream's snapshots, the content of the op_id's record, and the earlier values of all of
these keys in the history (`Put(forget=True)`).  It also writes `log/erased/S`, which a snapshot
compares: whoever read the data before cannot write it back after.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from transactional.events.append import ERASED, without_content
from transactional.events.event import (
    GENESIS,
    Batch,
    Origin,
    Row,
    chained,
    chained_commit,
    content_hash,
    decode_batch,
    digest_of,
    shape_hash,
)
from transactional.events.layout import Head, StreamEnd
from transactional.events.state import fold, read_snapshot
from transactional.retry import Decision, decided
from transactional.values import DeletePrefix, Put, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from transactional.errors import ConflictError
    from transactional.events.reader import LogReader
    from transactional.events.state import Reducer
    from transactional.values import Compare, KeyValue, Write


CHASES_MAX: Final = 16
"""How often `verify` goes on with what was appended while it walked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the log that is not as it was written: where, and what is wrong.

    `version` 0 speaks of the stream as a whole, `stream` "" of the log.
    """

    stream: str
    version: int
    position: int
    problem: str

    def __str__(self) -> str:
        where = f"{self.stream}@{self.version}" if self.stream else "log"
        return f"{where} (position {self.position}): {self.problem}"


class Verification:
    """One look at the whole log.  Memory: one hash per stream.

    `noted` are heads of the past, as `Head` or as text, each "POSITION:HASH" or a bare hash.
    """

    def __init__(
        self,
        log: LogReader,
        noted: Iterable[Head | str] = (),
        reducers: Iterable[Reducer[Any]] = (),
    ) -> None:
        self._log = log
        self._reducers = {reducer.name: reducer for reducer in reducers}
        self._noted: dict[int, str] = {}
        self._noted_hashes: set[str] = set()
        for note in noted:
            if isinstance(note, str) and ":" not in note:
                self._noted_hashes.add(note)
            else:
                head = Head.parse(note) if isinstance(note, str) else note
                self._noted[head.position] = head.hash
        self._findings: list[Finding] = []
        self._ends: dict[str, StreamEnd] = {}
        self._hash = GENESIS
        self._position = 0

    async def run(self) -> tuple[Finding, ...]:
        """What is wrong with the log: in the order of positions, then stream by stream."""
        self._meet_notes()
        await self._walk_positions()
        self._check_notes()
        await self._walk_streams()
        await self._check_ends()
        await self._check_snapshots()
        await self._check_operations()
        return tuple(self._findings)

    # --- in the order of positions ---

    async def _walk_positions(self) -> None:
        layout = self._log.layout
        reached = layout.at(0)
        for _ in range(CHASES_MAX):  # a log that grows meanwhile is followed, not for ever
            before = reached
            async for entry in self._log.entries(layout.at(), reached):
                reached = entry.key
                await self._check_commit(entry)
            head = await self._log.head()
            if head.position <= self._position or before == reached:
                break
        else:
            return
        if head.position < self._position:
            self._find("", 0, head.position + 1, "a commit lies behind the log's end")
        elif (self._position, self._hash) != (head.position, head.hash):
            self._find("", 0, self._position, f"the log's end should be at {head.position}")

    async def _check_commit(self, entry: KeyValue) -> None:
        last = _number(entry.key)
        batches, kept = _read(entry.value)
        if not batches:
            self._find("", 0, last, "the commit cannot be read")
            return
        keys = [self._log.layout.stream(b.stream, b.version) for b in batches]
        copies = (await self._log.store.get_many(keys)).items
        for key, batch in zip(keys, batches, strict=True):
            self._check_batch(batch)
            self._check_copy(batch, copies.get(key))
        if self._position != last:
            self._find("", 0, last, f"the commit ends at position {self._position}")
        lasts = [(b.stream, b.version, b.position, b.rows[-1].hash) for b in batches]
        self._hash = chained_commit(self._hash, lasts)
        if self._hash != kept:
            self._find("", 0, last, "the commit's hash does not fit its batches")
            self._hash = kept
        self._meet_notes()

    def _check_batch(self, batch: Batch) -> None:
        end = self._ends.get(batch.stream, StreamEnd())
        if batch.version != end.version + 1 or batch.position != self._position + 1:
            problem = f"follows version {end.version} and position {self._position}"
            self._find(batch.stream, batch.version, batch.position, problem)
        before = end.hash
        for number, row in enumerate(batch.rows):
            half_erased = row.digest and (row.data, row.salt) != ("null", "")
            if half_erased or _rehashed(batch, number, row, before) != row.hash:
                version, position = batch.version + number, batch.position + number
                self._find(batch.stream, version, position, "the event was altered")
            before = row.hash
        self._ends[batch.stream] = StreamEnd(batch.last_version, before)
        self._position = batch.position + len(batch.rows) - 1

    def _check_copy(self, batch: Batch, copy: KeyValue | None) -> None:
        if copy is None:
            problem = "the copy in the stream is missing"
            self._find(batch.stream, batch.version, batch.position, problem)
            return
        found = _read_one(copy.value)
        if found == batch:
            return
        rows = found.rows if found else ()
        for number, row in enumerate(batch.rows):
            if number >= len(rows) or rows[number] != row:
                version, position = batch.version + number, batch.position + number
                self._find(batch.stream, version, position, "the copy in the stream differs")
                return
        self._find(batch.stream, batch.version, batch.position, "the copy's envelope differs")

    # --- what was noted ---

    def _meet_notes(self) -> None:
        """The log has come to a head that it once had: is one noted here, and is it this one?"""
        self._noted_hashes.discard(self._hash)
        noted = self._noted.pop(self._position, self._hash)
        if noted != self._hash:
            problem = "the log is not the one whose head was noted here"
            self._find("", 0, self._position, problem)

    def _check_notes(self) -> None:
        for position in self._noted:
            problem = f"a head was noted at {position}, where the log has none"
            self._find("", 0, position, problem)
        for noted in sorted(self._noted_hashes):
            self._find("", 0, 0, f"the log never had the noted hash {noted}")

    # --- stream by stream ---

    async def _walk_streams(self) -> None:
        layout = self._log.layout
        stream, version = "", 0
        async for entry in self._log.entries(layout.streams(), layout.streams()):
            batch = _read_one(entry.value)
            if batch is None or entry.key != layout.stream(batch.stream, batch.version):
                self._find("", 0, 0, f"{entry.key!r} is no batch of its stream")
                continue
            if batch.stream != stream:
                stream, version = batch.stream, 0
            end = self._ends.get(stream, StreamEnd())
            if batch.version == version + 1 and batch.last_version <= end.version:
                version = batch.last_version
            elif batch.position <= self._position or not await self._is_in_order(batch):
                problem = "lies in the stream, and not in the order of the log"
                self._find(stream, batch.version, batch.position, problem)

    async def _is_in_order(self, batch: Batch) -> bool:
        """Whether it was appended since the other walk came to its end."""
        layout = self._log.layout
        after = layout.at(batch.position - 1)
        page = await self._log.store.scan(layout.at(), after=after, limit=1)
        return any(batch in _read(entry.value)[0] for entry in page.items.values())

    async def _check_ends(self) -> None:
        layout = self._log.layout
        async for entry in self._log.entries(layout.ends(), layout.ends()):
            stream = unquote(entry.key.removeprefix(layout.ends()))
            try:
                end = StreamEnd.decode(entry.value)
            except (ValueError, TypeError):
                end = StreamEnd()
            async for at in self._log.batches(stream, max(0, end.version - 1)):
                batch = _read_one(at.value)
                if batch is not None and batch.last_version >= end.version:
                    break
            else:
                batch = None
            if batch is None or (batch.last_version, batch.rows[-1].hash) != (
                end.version,
                end.hash,
            ):
                problem = "is written down as the stream's end, and is none"
                self._find(stream, end.version, 0, problem)

    # --- what is kept beside the events ---

    async def _check_snapshots(self) -> None:
        layout = self._log.layout
        async for entry in self._log.entries(layout.snapshots(), layout.snapshots()):
            stream, name = layout.snapshot_of(entry.key)
            snapshot = read_snapshot(entry)
            if snapshot is None:
                self._find(stream, 0, 0, f"the snapshot {name!r} was altered")
                continue
            version, position = snapshot["version"], snapshot["position"]
            event = None
            async for found in self._log.read(stream, after=version - 1, upto=version):
                event = found
            if event is None or (event.position, event.hash) != (position, snapshot["hash"]):
                problem = f"the snapshot {name!r} was not taken at this event"
                self._find(stream, version, position, problem)
                continue
            reducer = self._reducers.get(name)
            if reducer is None or reducer.schema != snapshot["schema"]:
                continue
            plain = replace(reducer, snapshot_every=None)
            state = reducer.encode((await fold(self._log, stream, plain, version)).state)
            if json.loads(json.dumps(state)) != snapshot["state"]:
                problem = f"the snapshot {name!r} is not what its events give"
                self._find(stream, version, position, problem)

    async def _check_operations(self) -> None:
        layout = self._log.layout
        async for entry in self._log.entries(layout.ops(), layout.ops()):
            op_id = unquote(entry.key.removeprefix(layout.ops()))
            try:
                data = json.loads(entry.value)
                first, last = data["first"], data["last"]
                told = (first, last, data["versions"], data["parts"])
                page = await self._log.store.scan(layout.at(), after=layout.at(first - 1), limit=1)
                good = all(_is_done(told, op_id, _read(e.value)[0]) for e in page.items.values())
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                good, first = False, 0
            if not good or not page.items:
                self._find("", 0, first, f"the record of op_id {op_id!r} is not what it did")

    def _find(self, stream: str, version: int, position: int, problem: str) -> None:
        self._findings.append(Finding(stream, version, position, problem))


def _is_done(
    told: tuple[int, int, Mapping[str, int], Mapping[str, Sequence[str]]],
    op_id: str,
    batches: Sequence[Batch],
) -> bool:
    """Whether a commit's batches hold what an op_id's record tells."""
    first, last, versions, parts = told
    mine = [
        batch
        for batch in batches
        if batch.origin.op_id == op_id and first <= batch.position <= last
    ]
    ends = {batch.stream: batch.last_version for batch in mine}
    count = sum(len(batch.rows) for batch in mine)
    if ends != versions or ends.keys() != parts.keys() or count != last - first + 1:
        return False
    for batch in mine:
        shape, content = parts[batch.stream]
        erased = content == ERASED or any(row.digest for row in batch.rows)
        if shape != shape_hash(batch.rows):
            return False
        if not erased and content != content_hash(batch.rows):
            return False
    return True


def _number(key: str) -> int:
    """The number that a key is named after, -1 if somebody named it otherwise."""
    name = key.rpartition("/")[2]
    return int(name) if name.isascii() and name.isdigit() else -1


def _read_one(value: bytes) -> Batch | None:
    """The batch in a stream's key; None if somebody wrote something else there."""
    batches, _ = _read(b'{"batches":[%s]}' % value)
    return batches[0] if len(batches) == 1 else None


def _read(value: bytes) -> tuple[list[Batch], str]:
    """The batches and the hash of a commit; none if somebody wrote something else there."""
    try:
        data = json.loads(value)
        batches = [decode_batch(batch) for batch in data["batches"]]
        return (batches if all(map(_well_formed, batches)) else []), data.get("hash", "")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return [], ""


def _well_formed(batch: Batch) -> bool:
    """Whether its parts are of the types that they should be; JSON admits others."""
    texts = [batch.stream, *(text for row in batch.rows for text in (row.type, row.salt, row.hash))]
    origin = (getattr(batch.origin, name) for name in Origin.__slots__)
    texts += [*origin, *(row.digest for row in batch.rows)]
    numbers = [batch.version, batch.position, *(row.schema for row in batch.rows)]
    return (
        bool(batch.rows)
        and all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
    )


def _rehashed(batch: Batch, number: int, row: Row, before: str) -> str:
    place = (batch.stream, batch.version + number, batch.position + number, batch.at, batch.origin)
    return chained(before, place, row)


# --- erasing --------------------------------------------------------------------------------------

ERASE_BATCHES: Final = 40
"""Most batches whose data one commit erases: each may take three of its 128 writes."""
ERASE_BYTES: Final = 2 << 20
"""A commit that erases stops at so many bytes; half of what a commit may hold."""
ERASE_COMMITS: Final = 64
"""How many of these commits are under way at once: SQLite then scrubs its file once for all."""


@dataclass(frozen=True, slots=True)
class _Victim:
    """A batch with data that is to be erased."""

    key: str
    position: int
    op_id: str


async def erase(log: LogReader, stream: str, wanted: Callable[[int], bool]) -> int:
    """Erase the data of the stream's events whose version is `wanted`; how many had any.

    Several commits if there are many events; what was erased before a failure stays erased.
    """
    erased, victims = 0, []
    async for entry in log.entries(log.layout.stream(stream), log.layout.stream(stream, 0)):
        batch = decode_batch(json.loads(entry.value))
        if _having_data(batch, wanted):
            victims.append(_Victim(entry.key, batch.position, batch.origin.op_id))
        if len(victims) == ERASE_BATCHES * ERASE_COMMITS:
            erased += await _erase_all(log, stream, victims, wanted)
            victims = []
    return erased + await _erase_all(log, stream, victims, wanted)


def _having_data(batch: Batch, wanted: Callable[[int], bool]) -> int:
    return sum(wanted(batch.version + n) and not row.digest for n, row in enumerate(batch.rows))


async def _erase_all(
    log: LogReader, stream: str, victims: list[_Victim], wanted: Callable[[int], bool]
) -> int:
    async def one_after_the_other(some: list[_Victim]) -> int:
        erased = 0
        while some:
            count, done = await _erase_some(log, stream, some, wanted)
            erased, some = erased + count, some[done:]
        return erased

    starts = range(0, len(victims), ERASE_BATCHES)
    chunks = [one_after_the_other(victims[n : n + ERASE_BATCHES]) for n in starts]
    return sum(await asyncio.gather(*chunks))


async def _erase_some(
    log: LogReader, stream: str, victims: list[_Victim], wanted: Callable[[int], bool]
) -> tuple[int, int]:
    """Erase in one commit; how many events had data, and with how many batches it dealt."""
    store, layout = log.store, log.layout
    ops = [layout.op(v.op_id) for v in victims if v.op_id]

    async def commit_at(position: int) -> KeyValue | None:
        page = await store.scan(layout.at(), after=layout.at(position - 1), limit=1)
        return next(iter(page.items.values()), None)

    async def decide(_: ConflictError | None) -> Decision[tuple[int, int]]:
        alone = (await store.get_many([*(v.key for v in victims), *ops])).items
        together = await asyncio.gather(*(commit_at(victim.position) for victim in victims))
        bare: dict[str, KeyValue] = {}
        compares: dict[str, Compare] = {}
        erased = done = size = 0

        def put(entry: KeyValue, value: bytes) -> None:
            nonlocal size
            size += len(value)
            bare[entry.key] = replace(entry, value=value)
            compares[entry.key] = Revision(entry.key, entry.revision)

        for victim, commit in zip(victims, together, strict=True):
            if done and size + len(commit.value if commit else b"") > ERASE_BYTES:
                break
            done += 1
            batch = decode_batch(json.loads(alone[victim.key].value))
            erased += _having_data(batch, wanted)
            put(alone[victim.key], _without(batch, wanted).text().encode())
            if commit is not None:  # it may hold several of these batches
                present = bare.get(commit.key, commit)
                put(present, _without_batch(present.value, batch, wanted))
            if (op := alone.get(layout.op(victim.op_id))) is not None:
                put(op, without_content(op.value, stream))
        writes: list[Write] = [Put(e.key, e.value, forget=True) for e in bare.values()]
        writes.append(DeletePrefix(layout.snapshot(stream), forget=True))
        writes.append(Put(layout.erased(stream), b""))
        return Decision((erased, done), list(compares.values()), writes)

    result, _ = await decided(store, decide)
    return result


def _without_batch(commit: bytes, batch: Batch, wanted: Callable[[int], bool]) -> bytes:
    data = json.loads(commit)
    data["batches"] = [
        json.loads(_without(decode_batch(each), wanted).text())
        if (each["stream"], each["version"]) == (batch.stream, batch.version)
        else each
        for each in data["batches"]
    ]
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _without(batch: Batch, wanted: Callable[[int], bool]) -> Batch:
    rows = tuple(
        replace(row, data="null", salt="", digest=row.digest or digest_of(row.salt, row.data))
        if wanted(batch.version + number)
        else row
        for number, row in enumerate(batch.rows)
    )
    return replace(batch, rows=rows)
