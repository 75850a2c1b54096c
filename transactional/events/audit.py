"""Looking after the log: proving that nobody altered it, and erasing what must be forgotten.

`verify` walks the log once in the order of positions and recomputes every hash from what is stored.
An event whose recomputed hash is not the stored one was altered, and is named; the walk goes on
with the stored hash, so one altered event is one finding and not a thousand.  Whoever alters an
event *and* its hash breaks the chain at the next event or at the commit's hash; whoever rewrites
everything up to the head can only be caught by someone who noted an earlier
head: publish `head().hash` somewhere else from time to time.

`erase` removes the data of events and leaves the envelope, and with it the digest that the chain
needs.  Snapshots of the stream may hold the data and go in the same commit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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


async def erase(log: LogReader, stream: str, wanted: Callable[[int], bool]) -> int:
    """Erase the data of the stream's events whose version is `wanted`; how many had any.

    One commit per batch of events; what was erased before a failure stays erased.
    """
    erased = 0
    prefix = log.layout.stream(stream)
    async for entry in log.entries(prefix, log.layout.stream(stream, 0)):
        batch = decode_batch(json.loads(entry.value))
        count = sum(wanted(batch.version + n) and not r.digest for n, r in enumerate(batch.rows))
        if count:
            await _erase_batch(log, entry.key, batch, wanted)
            erased += count
    return erased


async def _erase_batch(
    log: LogReader, key: str, batch: Batch, wanted: Callable[[int], bool]
) -> None:
    layout = log.layout

    async def decide(_: ConflictError | None) -> Decision[None]:
        page = await log.store.scan(layout.at(), after=layout.at(batch.position - 1), limit=1)
        (together,) = page.items.values()
        alone = await log.store.get(key)
        assert alone is not None
        data = json.loads(together.value)
        data["batches"] = [
            json.loads(_without(decode_batch(each), wanted).text())
            if (each["stream"], each["version"]) == (batch.stream, batch.version)
            else each
            for each in data["batches"]
        ]
        bare = _without(decode_batch(json.loads(alone.value)), wanted)
        writes: list[Write] = [
            Put(together.key, _text(data)),
            Put(key, bare.text().encode()),
            DeletePrefix(layout.snapshot(batch.stream)),
        ]
        compares: list[Compare] = [
            Revision(together.key, together.revision),
            Revision(key, alone.revision),
        ]
        if batch.origin.op_id:  # its content hash could tell by trial what the data was
            op_key = layout.op(batch.origin.op_id)
            entry = await log.store.get(op_key)
            if entry is not None:
                writes.append(Put(op_key, without_content(entry.value, batch.stream)))
        return Decision(None, compares, writes)

    await decided(log.store, decide)


def _without(batch: Batch, wanted: Callable[[int], bool]) -> Batch:
    rows = tuple(
        replace(row, data="null", salt="", digest=row.digest or digest_of(row.salt, row.data))
        if wanted(batch.version + number)
        else row
        for number, row in enumerate(batch.rows)
    )
    return replace(batch, rows=rows)


def _text(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
