"""Looking after the log: proving that nobody altered it, and erasing what must be forgotten.

`verify` walks the log once in the order of positions and recomputes every hash from what is stored.
An event whose recomputed hash is not the stored one was altered, and is named; the walk goes on
with the stored hash, so one altered event is one finding and not a thousand.  Whoever alters an
event *and* its hash breaks the chain at the next event or at the commit's hash; whoever rewrites
everything up to the head can only be caught by someone who noted an earlier
head: publish `head().hash` somewhere else from time to time.

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
from typing import TYPE_CHECKING, Final

from transactional.events.append import without_content
from transactional.events.event import (
    GENESIS,
    Batch,
    Row,
    chained,
    chained_commit,
    decode_batch,
    digest_of,
)
from transactional.events.layout import StreamEnd
from transactional.retry import Decision, decided
from transactional.values import DeletePrefix, Put, Revision

if TYPE_CHECKING:
    from collections.abc import Callable

    from transactional.errors import ConflictError
    from transactional.events.reader import LogReader
    from transactional.values import Compare, KeyValue, Write


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
    """One walk over the log.  Memory: one hash per stream."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._findings: list[Finding] = []
        self._ends: dict[str, StreamEnd] = {}
        self._hash = GENESIS
        self._position = 0

    async def run(self) -> tuple[Finding, ...]:
        """Walk the log; what is wrong with it, in order of positions."""
        layout = self._log.layout
        head = await self._log.head()
        async for entry in self._log.entries(layout.at(), layout.at(0)):
            if int(entry.key.rpartition("/")[2]) > head.position:
                break  # appended since
            await self._check_commit(entry)
        if (self._position, self._hash) != (head.position, head.hash):
            self._find("", 0, self._position, f"the log's end should be at {head.position}")
        return tuple(self._findings)

    async def _check_commit(self, entry: KeyValue) -> None:
        last = int(entry.key.rpartition("/")[2])
        batches, kept = _read(entry.value)
        if not batches:
            self._find("", 0, last, "the commit cannot be read")
            return
        keys = [self._log.layout.stream(b.stream, b.version) for b in batches]
        copies = (await self._log.store.get_many(keys)).items
        for key, batch in zip(keys, batches, strict=True):
            self._check_batch(batch)
            self._check_copy(batch, copies.get(key))
        lasts = [(b.stream, b.version, b.position, b.rows[-1].hash) for b in batches]
        self._hash = chained_commit(self._hash, lasts)
        if self._hash != kept:
            self._find("", 0, last, "the commit's hash does not fit its batches")
            self._hash = kept

    def _check_batch(self, batch: Batch) -> None:
        end = self._ends.get(batch.stream, StreamEnd())
        if batch.version != end.version + 1 or batch.position != self._position + 1:
            problem = f"follows version {end.version} and position {self._position}"
            self._find(batch.stream, batch.version, batch.position, problem)
        before = end.hash
        for number, row in enumerate(batch.rows):
            if _rehashed(batch, number, row, before) != row.hash:
                version, position = batch.version + number, batch.position + number
                self._find(batch.stream, version, position, "the event was altered")
            before = row.hash
        self._ends[batch.stream] = StreamEnd(batch.last_version, before)
        self._position = batch.position + len(batch.rows) - 1

    def _check_copy(self, batch: Batch, copy: KeyValue | None) -> None:
        found, _ = _read(b'{"batches":[%s]}' % copy.value) if copy is not None else ([], "")
        if found == [batch]:
            return
        rows = found[0].rows if found else ()
        for number, row in enumerate(batch.rows):
            if number >= len(rows) or rows[number] != row:
                version, position = batch.version + number, batch.position + number
                self._find(batch.stream, version, position, "the copy in the stream differs")
                return
        self._find(batch.stream, batch.version, batch.position, "the copy's envelope differs")

    def _find(self, stream: str, version: int, position: int, problem: str) -> None:
        self._findings.append(Finding(stream, version, position, problem))


def _read(value: bytes) -> tuple[list[Batch], str]:
    """The batches and the hash of a commit; none if somebody wrote something else there."""
    try:
        data = json.loads(value)
        return [decode_batch(batch) for batch in data["batches"]], data.get("hash", "")
    except (ValueError, KeyError, TypeError, IndexError):
        return [], ""


def _rehashed(batch: Batch, number: int, row: Row, before: str) -> str:
    place = (batch.stream, batch.version + number, batch.position + number, batch.at, batch.origin)
    return chained(before, place, row)


# --- erasing --------------------------------------------------------------------------------------

ERASE_BATCHES: Final = 40
"""Most batches whose data one commit erases: each may take three of its 128 writes."""
ERASE_BYTES: Final = 2 << 20
"""A commit that erases stops at so many bytes; half of what a commit may hold."""
ERASE_COMMITS: Final = 64
"""How many of these commits are under way at once: SQLite then rebuilds its file once for all."""


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
