"""What one commit will change in a queue: it grows request by request, and decides each.

A `Draft` reads keys of the store, each once, and keeps beside them what it will write.  Every
decision looks through the draft at the store, so a request is judged as if those before it in the
same commit were done.  Whatever a decision rests on is compared in the commit, by the revision that
was read; if one of them has moved nothing is written, and a new draft decides anew.

    request --> savepoint --> moves of jobs --> fits into the commit?  keep : back to the savepoint

Moves of a job, and the invariant that each of them keeps: *a job has exactly one place* (see
`job`), and the places of a lane are never more than its limit::

    enter    a job without a place gets one: waiting, ready, or queued behind a full lane
    leave    its lane's place is free, and the next of the lane is ready
    take     ready, or claimed by a worker who is gone -> claimed
    end      done, parked or cancelled; whoever waited for it will be told

A lane's places are with its jobs from the moment they are ready until they are over, so a claim
looks at ready jobs alone, and a full lane at the head of the queue costs it nothing.  A job that
comes in with a better order than a ready one of its full lane takes that one's place.
"""

from __future__ import annotations

import asyncio
import json
from bisect import insort
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from transactional.errors import InvalidRequestError
from transactional.queues.job import (
    ENDED,
    ClaimLostError,
    Content,
    DependencyCycleError,
    JobExistsError,
    JobState,
    JobStateError,
    QueueConfig,
    Record,
    UnknownJobError,
    as_error,
    decode_content,
    decode_record,
    order_of,
)
from transactional.store import get_all, scan_all
from transactional.values import (
    SCAN_KEYS_MAX,
    Delete,
    DeletePrefix,
    KeyValue,
    Put,
    Revision,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from transactional.queues.job import Json, QueueLayout
    from transactional.store import Store
    from transactional.values import Compare, Snapshot, Write

WINDOW_MAX: Final = 256
"""Concurrent claimants choose among at most so many ready jobs at the head."""
TURN_US: Final = 1_000_000
"""So long hold their shares of the head, and what they saw of it; then it is looked at anew."""
FOLLOWERS_AT_ONCE: Final = 25
"""Most followers that one commit tells of a job's end."""
DUE_AT_ONCE: Final = 25
"""Most jobs whose time has come that one commit makes ready."""
LANE_AT_ONCE: Final = 20
"""Most jobs that one commit makes ready when a lane's limit was raised."""
FORGOTTEN_AT_ONCE: Final = 20
"""Most ended jobs that one commit removes."""
SEARCH_MAX: Final = 1000
"""Most jobs that are looked at in the search for a circle."""
COMPARED_MAX: Final = 50
"""Most of them that may still change, and have to be compared."""
MARKER_S: Final = 7 * 86_400.0
"""How long at least it is known that a job ended; as long as op_ids are remembered."""


PAGE_JOBS: Final = 64
"""Fewest ready jobs that are read at once."""


Savepoint = tuple[int, int, "dict[str, Write]", int]
_ABSENT: Final = object()


def _size(value: object) -> int:
    return len(value) if isinstance(value, bytes) else 0


class CommitFull(Exception):  # noqa: N818 an answer to the queue, never to a caller
    """The request does not fit into this commit; it is judged again in the next."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job was found."""

    key: str
    state: JobState
    content: Content
    record: Record
    revision: int = 0
    """Of the key; 0: it is written by the draft's own commit."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that was taken: what its worker is told."""

    content: Content
    record: Record
    value: bytes
    """The record as it was written."""
    checkpointed: Json
    has_checkpoint: bool
    followed: KeyValue | None


@dataclass(frozen=True, slots=True)
class Looked:
    """What a claim found: jobs, or from which revision on and from when it is worth to look again.

    `again`: there was something to be done first, which this commit does.
    """

    jobs: tuple[Claimed, ...]
    more: bool
    again: bool
    revision: int
    next_us: int | None


class Draft:
    """One commit on its way.  Reads go to `store`; nothing is written by it."""

    def __init__(
        self,
        store: Store,
        layout: QueueLayout,
        *,
        config: tuple[QueueConfig, int],
        now_us: int,
        known: Iterable[KeyValue | str] = (),
    ) -> None:
        self._store = store
        self._layout = layout
        self._queue = layout.queue
        self._config, self._config_revision = config
        self._operations_max = store.capabilities.max_operations
        # For what the queue itself writes; the rest of a commit is for callers' own.
        self._bytes_max = store.capabilities.commit_bytes_max // 2
        self.now_us = now_us
        self.put_us = now_us
        """The authority's own time, which orders what is put; `now_us` may run a little ahead."""
        self._seen: dict[str, KeyValue | None] = {}
        for item in known:  # what callers remember; if it is old the commit will tell
            if isinstance(item, str):
                self._seen[item] = None
            else:
                self._seen[item.key] = item
        self._writes: dict[str, bytes | None] = {}
        self._bytes = 0
        """Of the values in `_writes`."""
        self._compares: dict[str, int] = {}
        self._undo: list[tuple[dict[str, Any], str, Any]] = []
        """What was in `_writes` and in `_compares` before, the last change at the end."""
        self._given: list[Compare] = []
        self._given_writes: dict[str, Write] = {}
        self._puts = 0
        self.head: Head | None = None
        """The ready jobs that it chooses among, once it looked."""
        self.told: list[str] = []
        """Jobs that ended, and for which others wait."""

    # --- what it rests on, what it writes -------------------------------------------------------

    def compares(self) -> list[Compare]:
        """All that the commit rests on."""
        return [*(Revision(key, at) for key, at in self._compares.items()), *self._given]

    def writes(self) -> list[Write]:
        """All that the commit writes."""
        own = [
            Put(key, value) if value is not None else Delete(key)
            for key, value in self._writes.items()
        ]
        return [*own, *self._given_writes.values()]

    def savepoint(self) -> Savepoint:
        """What `back_to` needs."""
        return len(self._undo), len(self._given), dict(self._given_writes), len(self.told)

    def back_to(self, savepoint: Savepoint) -> None:
        """Undo what was drafted since."""
        changes, given, self._given_writes, told = savepoint
        while len(self._undo) > changes:
            mapping, key, before = self._undo.pop()
            if mapping is self._writes:
                self._bytes += _size(before) - _size(self._writes.get(key))
            if before is _ABSENT:
                del mapping[key]
            else:
                mapping[key] = before
        del self._given[given:], self.told[told:]

    def check_room(self) -> None:
        """Raise CommitFull if this is too much for one commit."""
        if not self._fits(0, 0):
            raise CommitFull

    def _fits(self, compares: int, writes: int) -> bool:
        limit = self._operations_max
        return (
            len(self._compares) + len(self._given) + compares <= limit
            and len(self._writes) + len(self._given_writes) + writes <= limit
            and self._bytes <= self._bytes_max
        )

    def _was_too_much(self, before: Savepoint, *, first: bool) -> bool:
        """Undo the last of several moves if the commit cannot hold it; not even the first: full."""
        if self._fits(0, 0):
            return False
        if first:
            raise CommitFull
        self.back_to(before)
        return True

    def give(self, compares: Sequence[Compare], writes: Sequence[Write]) -> None:
        """Take along what a caller brings."""
        for write in writes:
            key = write.prefix if isinstance(write, DeletePrefix) else write.key
            over = isinstance(write, DeletePrefix) and self._layout.prefix.startswith(key)
            if over or key.startswith(self._layout.prefix):
                raise InvalidRequestError(f"{key!r} belongs to the queue itself")
            if self._given_writes and (
                isinstance(write, DeletePrefix) or key in self._given_writes
            ):
                raise CommitFull
            if any(isinstance(other, DeletePrefix) for other in self._given_writes.values()):
                raise CommitFull
            self._given_writes[key] = write
        self._given += compares

    async def load(self, keys: Iterable[str]) -> None:
        """Read keys that were not read before, together."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._seen]
        if wanted:
            found = await get_all(self._store, wanted)
            for key in wanted:
                self._seen[key] = found.get(key)

    def _value(self, key: str) -> bytes | None:
        """What the key holds after this commit, as drafted so far; it was loaded before."""
        if key in self._writes:
            return self._writes[key]
        item = self._seen[key]
        return item.value if item is not None else None

    def _rely(self, key: str) -> None:
        item = self._seen[key]
        self._rely_on(key, item.revision if item is not None else 0)

    def _rely_on(self, key: str, revision: int) -> None:
        if self._compares.get(key) != revision:
            self._undo.append((self._compares, key, self._compares.get(key, _ABSENT)))
            self._compares[key] = revision

    def _rely_on_config(self) -> None:
        self._rely_on(self._layout.config, self._config_revision)

    def _write(self, key: str, value: bytes | None) -> None:
        before = self._writes.get(key, _ABSENT)
        self._undo.append((self._writes, key, before))
        self._writes[key] = value
        self._bytes += _size(value) - _size(before)

    def _put(self, key: str, value: bytes) -> None:
        if self.head is not None and key.startswith(self._layout.all_ready):
            self.head.add(key)
        self._write(key, value)

    def _remove(self, key: str) -> None:
        """Remove a key that was loaded, or drafted."""
        drafted = self._writes.get(key)
        if self._seen.get(key) is not None or drafted is None:
            self._write(key, None)
        else:
            self._undo.append((self._writes, key, drafted))
            self._bytes -= len(drafted)
            del self._writes[key]

    async def page(self, prefix: str, after: str | None, limit: int) -> Snapshot:
        """A page of keys of the store; what this draft makes of them `is_free` tells."""
        return self._note(await self._store.scan(prefix, after=after, limit=limit))

    def _note(self, found: Snapshot) -> Snapshot:
        for key, item in found.items.items():
            self._seen.setdefault(key, item)
        return found

    def is_free(self, key: str) -> bool:
        """Whether the place that was found there can still be taken, as drafted so far."""
        if key not in self._writes:
            return self._seen.get(key) is not None
        return self._writes[key] is not None and key.startswith(self._layout.all_ready)

    # --- finding --------------------------------------------------------------------------------

    async def find(self, job: str) -> Place | None:
        """Where the job is; what is said of it is compared in the commit."""
        layout = self._layout
        key = layout.job(job)
        await self.load([key])
        value = self._value(key)
        if value is None:
            self._rely(key)
            return None
        content = decode_content(job, value)
        places = {
            layout.ready(content): JobState.READY,
            layout.queued(content): JobState.READY,
            layout.claimed(job): JobState.CLAIMED,
            layout.waiting(job): JobState.WAITING,
            layout.ended(job): JobState.DONE,
        }
        await self.load(places)
        found = self._first_of(places)
        if found is None:  # it moved between two readings: read all of them at once
            for place in places:
                self._seen.pop(place, None)
            await self.load(places)
            found = self._first_of(places)
        if found is None:
            raise InvalidRequestError(f"job {job!r} of queue {self._queue!r} has lost its place")
        key, value = found
        record = decode_record(value)
        self._rely_if_stored(key)
        state = JobState(record.state or places[key].value)
        at = 0 if key in self._writes else self.revision_of(key)
        return Place(key, state, content, record, at)

    def _first_of(self, keys: Iterable[str]) -> tuple[str, bytes] | None:
        return next(((key, v) for key in keys if (v := self._value(key)) is not None), None)

    async def content(self, job: str) -> Content:
        """What was asked for.

        Raises:
            UnknownJobError: there is no such job.
        """
        key = self._layout.job(job)
        await self.load([key])
        value = self._value(key)
        if value is None:
            raise UnknownJobError(self._queue, job)
        return decode_content(job, value)

    async def checkpointed(self, job: str) -> Json:
        """What a worker wrote down last; None: nothing."""
        key = self._layout.checkpoint(job)
        await self.load([key])
        value = self._value(key)
        return json.loads(value) if value is not None else None

    def revision_of(self, key: str) -> int:
        """The revision of a key that was read."""
        item = self._seen.get(key)
        return item.revision if item is not None else 0

    # --- putting --------------------------------------------------------------------------------

    async def put(self, asked: Content, *, expected: bool) -> Place:
        """Put a job, or find the same one."""
        layout, job = self._layout, asked.id
        await self.load(
            [layout.job(job), layout.ended(job), layout.followed(job)]
            + [key for other in asked.after for key in (layout.job(other), layout.ended(other))]
        )
        marker = self._value(layout.ended(job))
        if self._value(layout.job(job)) is not None:
            there = await self.find(job)
            assert there is not None, "it was seen"
            if differs := asked.differs(there.content):
                raise JobExistsError(self._queue, job, differs)
            return there
        if marker is not None:  # the job itself was removed in the meantime
            record = decode_record(marker)
            if record.content != asked.fingerprint():
                raise JobExistsError(self._queue, job, "content")
            known = replace(asked, order=order_of(asked.priority, record.put_us, 0))
            at = self.revision_of(layout.ended(job))
            return Place(layout.ended(job), JobState(record.state), known, record, at)
        self._rely(layout.job(job))
        self._rely(layout.ended(job))
        content = replace(asked, order=order_of(asked.priority, self.put_us, self._puts))
        self._puts += 1
        self._put(layout.job(job), content.encode())
        return await self._begin(content, Record(), expected=expected)

    async def _begin(self, content: Content, record: Record, *, expected: bool) -> Place:
        """Give a job without a place one, after a look at what it waits for."""
        layout, job = self._layout, content.id
        await self.load([layout.followed(job)])
        for other in content.after:
            await self.load([layout.ended(other), layout.job(other)])
            self._rely_if_stored(layout.ended(other))
            ended = self._value(layout.ended(other))
            if ended is None:
                if self._value(layout.job(other)) is None and not expected:
                    self._rely(layout.job(other))
                    raise UnknownJobError(self._queue, other)
                record.missing.append(other)
                continue
            state = JobState(decode_record(ended).state)
            if state is not JobState.DONE:
                record.error = f"{other!r}, which it waits for, is {state.value}"
                record.missing.clear()
                return await self._end_placeless(content, record, JobState.PARKED)
        if record.missing:
            self._rely_if_stored(layout.followed(job))
            if self._value(layout.followed(job)) is not None:
                await self._refuse_circle(content)
        for other in record.missing:
            self._put(layout.waits(other, job), b"")
            self._put(layout.followed(other), b"")
        return await self._enter(content, record)

    def _rely_if_stored(self, key: str) -> None:
        """Compare a key by what was read, unless it is this commit that makes it."""
        if key not in self._writes:
            self._rely(key)

    async def _refuse_circle(self, content: Content) -> None:
        """Follow what the job waits for; somebody waits for it, so it may come back."""
        layout = self._layout
        came_from: dict[str, str] = dict.fromkeys(content.after, content.id)
        ahead, compared = list(content.after), 0
        while ahead:
            batch, ahead = ahead, []
            keys = [(layout.waiting(job), layout.job(job), layout.ended(job)) for job in batch]
            await self.load([key for three in keys for key in three])
            for job, (waiting, known, ended) in zip(batch, keys, strict=True):
                if job == content.id:
                    circle = [job]
                    while (job := came_from[job]) != content.id:
                        circle.append(job)
                    raise DependencyCycleError(self._queue, [*reversed(circle[1:]), *circle[:1]])
                if self._value(known) is None or self._value(ended) is not None:
                    # It may be put, or requeued, and wait for others then.
                    self._rely_if_stored(known if self._value(known) is None else ended)
                    compared += 1
                value = self._value(waiting)
                for other in decode_record(value).missing if value is not None else ():
                    if other == content.id or other not in came_from:
                        came_from[other] = job
                        ahead.append(other)
            if len(came_from) > SEARCH_MAX or compared > COMPARED_MAX:
                raise InvalidRequestError(
                    f"job {content.id!r} is waited for, and what it would wait for itself is more"
                    f" than can be searched for a circle ({SEARCH_MAX} jobs, {COMPARED_MAX} of them"
                    " unknown); put what is waited for first"
                )

    # --- moves ----------------------------------------------------------------------------------

    async def _enter(self, content: Content, record: Record) -> Place:
        layout = self._layout
        until_us = max(record.until_us, content.not_before_us)
        if record.missing or until_us > self.now_us:
            record.until_us = until_us if until_us > self.now_us else 0
            if not record.missing:
                self._put(layout.later(until_us, content.id), b"")
            key = layout.waiting(content.id)
            self._put(key, record.encode())
            return Place(key, JobState.WAITING, content, record)
        record.until_us = 0
        key = await self._admit(content, record)
        return Place(key, JobState.READY, content, record)

    async def _admit(self, content: Content, record: Record) -> str:
        """Make a job ready, if its lane has a place for it."""
        layout = self._layout
        limit = self._config.limit_of(content.lane)
        self._rely_on_config()
        if limit is not None and content.lane is not None:
            places = await self._places(content.lane)
            if len(places) >= limit and not await self._displace(content, places):
                key = layout.queued(content)
                self._put(key, record.encode())
                self._keep_places(content.lane, places)  # so that whoever looks for the next waits
                return key
            places[content.id] = content.order
            self._keep_places(content.lane, places)
        key = layout.ready(content)
        self._put(key, record.encode())
        return key

    async def _places(self, lane: str) -> dict[str, str]:
        """Whose the lane's places are: order by id."""
        key = self._layout.lane(lane)
        await self.load([key])
        self._rely_if_stored(key)
        value = self._value(key)
        places: dict[str, str] = json.loads(value) if value is not None else {}
        return places

    def _keep_places(self, lane: str, places: dict[str, str]) -> None:
        self._put(self._layout.lane(lane), json.dumps(places, separators=(",", ":")).encode())

    async def _displace(self, content: Content, places: dict[str, str]) -> bool:
        """Take the place of the last job of the lane that is ready and behind this one."""
        layout = self._layout
        behind = sorted(
            ((order, job) for job, order in places.items() if order > content.order), reverse=True
        )
        await self.load([layout.job(job) for _, job in behind])
        for _, job in behind:
            value = self._value(layout.job(job))
            if value is None:
                continue
            other = decode_content(job, value)
            ready = layout.ready(other)
            await self.load([ready])
            record = self._value(ready)
            if record is not None:
                self._rely_if_stored(ready)
                self._remove(ready)
                self._put(layout.queued(other), record)
                del places[job]
                return True
        return False

    async def _leave(self, content: Content) -> None:
        """Give the job's place in its lane to the next one."""
        lane = content.lane
        if lane is None:
            return
        layout = self._layout
        limit = self._config.limit_of(lane)
        await self.load([layout.lane(lane)])
        if limit is None and self._value(layout.lane(lane)) is None:
            return
        self._rely_on_config()
        places = await self._places(lane)
        places.pop(content.id, None)
        left = self._operations_max - len(self._writes) - len(self._given_writes)
        room = min(LANE_AT_ONCE, max(1, left // 2 - 4))  # the others are for who leaves next
        free = room if limit is None else min(limit - len(places), room)
        if free > 0:
            for key, value in (await self._first_queued(lane, free))[:free]:
                job, order = layout.id_of(key), key.rpartition("/")[2].partition(",")[0]
                places[job] = order
                self._remove(key)
                ready = f"{layout.all_ready}{key.removeprefix(layout.all_queued_in(lane))}"
                self._put(ready, value)
        if places:
            self._keep_places(lane, places)
        else:
            self._remove(layout.lane(lane))

    async def _first_queued(self, lane: str, count: int) -> list[tuple[str, bytes]]:
        """The first of those that wait for a place, as drafted so far.

        Whoever enters or leaves there writes the lane's key in the same commit, which is compared.
        """
        prefix = self._layout.all_queued_in(lane)
        gone = sum(1 for key, v in self._writes.items() if v is None and key.startswith(prefix))
        page = await self.page(prefix, None, min(count + gone, SCAN_KEYS_MAX))
        found = {
            key: item.value
            for key, item in page.items.items()
            if self._writes.get(key, b"") is not None
        }
        found |= {
            key: value
            for key, value in self._writes.items()
            if value is not None and key.startswith(prefix)
        }
        return sorted(found.items())

    async def _end_placeless(self, content: Content, record: Record, state: JobState) -> Place:
        """Write down that a job, which has no other place any more, is over."""
        layout, job = self._layout, content.id
        record.worker = record.session = ""
        record.until_us = 0
        record.state, record.ended_us = state.value, self.now_us
        await self.load([layout.followed(job)])
        self._rely_if_stored(layout.followed(job))
        if self._value(layout.followed(job)) is not None:
            self._remove(layout.followed(job))
            self._put(layout.told(job), b"")
            self.told.append(job)
        self._put(layout.ended(job), record.encode())
        self._put(layout.kept(state, self.now_us, job), b"")
        return Place(layout.ended(job), state, content, record)

    async def _take_out(self, place: Place) -> None:
        """Take a job out of its place, which was found and is compared."""
        layout, job = self._layout, place.content.id
        self._remove(place.key)
        if place.state is JobState.WAITING:
            for other in place.record.missing:
                self._put_deleted(layout.waits(other, job))
            until_us = max(place.record.until_us, place.content.not_before_us)
            if until_us:
                self._put_deleted(layout.later(until_us, job))
        elif place.state in ENDED:
            self._put_deleted(layout.kept(place.state, place.record.ended_us, job))
            self._put_deleted(layout.told(job))
        elif place.key.startswith(layout.all_queued):
            assert place.content.lane is not None, "only lanes have queues"
            places = await self._places(place.content.lane)
            self._keep_places(place.content.lane, places)
        else:
            await self._leave(place.content)

    def _put_deleted(self, key: str) -> None:
        """Delete a key that was not read; no effect if it is not there."""
        self._write(key, None)

    # --- what a worker does ---------------------------------------------------------------------

    async def held(
        self, job: str, session: str, token: int, worker: str, known: Record | None = None
    ) -> Record:
        """The record of a job that the worker still has; the commit compares that he has.

        `known` is the record as the commit of that token wrote it, for those who remember it.

        Raises:
            ClaimLostError: he has not.
        """
        layout = self._layout
        await self.load([layout.claimed(job), layout.worker(session)])
        item = self._seen[layout.claimed(job)]
        alive = self._seen[layout.worker(session)] is not None
        written = layout.claimed(job) in self._writes
        if item is None or item.revision != token or not alive or written:
            raise ClaimLostError(self._queue, job, worker)
        self._rely(layout.claimed(job))
        self._rely(layout.worker(session))
        return known or decode_record(item.value)

    async def resumed(self, job: str, session: str, token: int) -> Looked:
        """A job that was claimed under a token, as the claim found it.

        Raises:
            ClaimLostError: the claim is over.  UnknownJobError: there is no such job.
        """
        content = await self.content(job)
        record = await self.held(job, session, token, "")
        key = self._layout.checkpoint(job)
        checkpointed = await self.checkpointed(job)
        has = self._seen[key] is not None
        claimed = Claimed(content, record, b"", checkpointed, has, None)
        return Looked((claimed,), more=False, again=False, revision=token, next_us=None)

    async def ended_before(self, job: str, token: int) -> bool:
        """Whether the worker with this token ended the job himself: he repeats himself."""
        key = self._layout.ended(job)
        await self.load([key])
        value = self._value(key)
        return value is not None and decode_record(value).token == token

    async def over(
        self,
        content: Content,
        record: Record,
        state: JobState,
        *,
        token: int,
        checkpoint: bool = False,
    ) -> Place:
        """End a job that a worker has; `checkpoint`: he wrote some, which are not needed now."""
        record.token = token
        if state is JobState.DONE:
            record.error = ""
            if checkpoint:
                self._put_deleted(self._layout.checkpoint(content.id))
        self._remove(self._layout.claimed(content.id))
        await self._leave(content)
        return await self._end_placeless(content, record, state)

    async def give_back(self, content: Content, record: Record, *, in_us: int = 0) -> Place:
        """Let others take a job that a worker has; park it if it was tried often enough."""
        self._remove(self._layout.claimed(content.id))
        await self._leave(content)
        self._rely_on_config()
        if record.attempts >= self._config.attempts_max:
            return await self._end_placeless(content, record, JobState.PARKED)
        record.until_us = self.now_us + in_us if in_us else 0
        return await self._enter(content, record)

    def checkpoint(self, job: str, value: bytes) -> None:
        """Write down how far a worker got; he still has the job."""
        self._put(self._layout.checkpoint(job), value)

    # --- claiming -------------------------------------------------------------------------------

    async def claim(self, count: int, worker: str, session: str, *, look: bool) -> Looked:
        """Take up to `count` jobs for a worker; `look_ahead` chose which.

        `look`: see to jobs of workers who are gone even if others are ready.

        Raises:
            ClaimLostError: the worker's own lease is over.
        """
        await self.load([self._layout.worker(session)])
        if self._seen[self._layout.worker(session)] is None:
            raise ClaimLostError(self._queue, "", worker)
        self._rely(self._layout.worker(session))
        head = await self._open_head()
        if head.due and await self._wake_due(head):
            return Looked((), more=True, again=True, revision=head.revision, next_us=None)
        ready = await head.first(self, count)
        if look or len(ready) < count:
            await self._find_orphans(head)
            ready = await head.first(self, count)
        if not ready and await self._tell_somebody():
            return Looked((), more=True, again=True, revision=head.revision, next_us=None)
        taken = await self._take(head, ready, worker, session)
        more = bool(taken) and head.more(self)
        return Looked(tuple(taken), more, bool(ready) and not taken, head.revision, head.next_us)

    async def look_ahead(self, count: int, share: Share, ahead: int, dice: random.Random) -> None:
        """Look at the head of the queue for `count` jobs, and read what their claims will need.

        Of a head that is shared so much is looked at that `ahead` jobs are likely to be in our
        share, which come first; only if they are fewer than `count` some of the others' follow.
        """
        ahead = max(count, ahead)
        window = min(WINDOW_MAX, 3 * ahead * share.of) if share.of > 1 else count
        head = await self._open_head(max(window, min(count, PAGE_JOBS)))
        head.turn = share.turn
        ready = await head.first(self, window)
        if share.of > 1 and len(ready) > count:
            mine = [entry for entry in ready if share.holds(entry[1])]
            if len(mine) < count:  # the later half of the others': whose they are begins in front
                others = [entry for entry in ready if entry not in mine]
                others = others[len(others) // 2 :]
                mine += dice.sample(others, min(len(others), count - len(mine)))
            head.prefer(mine)
            ready = mine
        await self._load_for_claims([key for _, key in ready[:ahead]])

    def look_at(self, kept: Kept) -> None:
        """Choose among the jobs that an earlier draft left over; it is compared like all else."""
        self._seen |= kept.seen
        self.head = Head(self._layout.all_ready, kept)

    def left_over(self) -> Kept | None:
        """What the next draft may choose among without looking; None: it should look."""
        head, layout = self.head, self._layout
        if head is None or head.due:
            return None
        left = []
        seen: dict[str, KeyValue | None] = {}
        for order, key in head.own(self):
            job = layout.id_of(key)
            if layout.job(job) not in self._seen:
                break  # as far as it was read ahead
            left.append((order, key))
            for each in (key, layout.job(job), layout.followed(job), layout.checkpoint(job)):
                if each in self._seen:
                    seen[each] = self._seen[each]
        return Kept(left, seen, head.turn, head.revision, head.next_us) if left else None

    def made_ready(self) -> bool:
        """Whether it made jobs ready, which may belong in front of those that were seen."""
        ready = self._layout.all_ready
        return any(
            value is not None and key.startswith(ready) for key, value in self._writes.items()
        )

    async def _load_for_claims(self, keys: Iterable[str]) -> None:
        layout = self._layout
        wanted: list[str] = []
        for key in keys:
            job = layout.id_of(key)
            wanted += (layout.job(job), layout.followed(job))
            if b"history" in (self._value(key) or b""):  # it was claimed before
                wanted.append(layout.checkpoint(job))
        await self.load(wanted)

    async def _open_head(self, count: int = PAGE_JOBS) -> Head:
        if self.head is None:
            layout = self._layout
            head = Head(layout.all_ready)
            later, page = await asyncio.gather(
                self.page(layout.all_later, None, DUE_AT_ONCE + 1),
                self.page(layout.all_ready, None, count),
            )
            head.revision = min(later.revision, page.revision)
            for key in later.items:
                if layout.due_of(key) <= self.now_us:
                    head.due.append(key)
                elif head.next_us is None:
                    head.next_us = layout.due_of(key)
            head.take_page(page)
            for key, value in self._writes.items():
                if value is not None and key.startswith(layout.all_ready):
                    head.add(key)
            self.head = head
        return self.head

    async def _wake_due(self, head: Head) -> bool:
        """Make jobs ready whose time has come; True if there are more than fit in here."""
        layout = self._layout
        due = [key for key in head.due[:DUE_AT_ONCE] if key not in self._writes]
        ids = [layout.id_of(key) for key in due]
        await self.load([key for job in ids for key in (layout.job(job), layout.waiting(job))])
        for key, job in zip(due, ids, strict=True):
            if not self._fits(4, 4):
                return True
            content, waiting = self._value(layout.job(job)), self._value(layout.waiting(job))
            before = self.savepoint()
            self._rely(key)
            self._remove(key)
            if content is None or waiting is None:
                continue  # of a job that has moved on: the key is all that is left
            self._rely_if_stored(layout.waiting(job))
            self._remove(layout.waiting(job))
            await self._enter(decode_content(job, content), decode_record(waiting))
            if self._was_too_much(before, first=key == due[0]):
                return True
        more = len(head.due) > DUE_AT_ONCE
        head.due.clear()
        return more

    async def _find_orphans(self, head: Head) -> None:
        """Find the jobs of workers who are gone; they are taken over as if they were ready."""
        if head.looked:
            return
        head.looked = True
        layout = self._layout
        claimed = await scan_all(self._store, layout.all_claimed)
        alive = await scan_all(self._store, layout.all_workers)
        lost: list[str] = []
        for key, item in claimed.items.items():
            session = layout.worker(decode_record(item.value).session)
            if session not in alive.items and key not in self._writes:
                lost.append(key)
                self._seen.setdefault(key, item)
                self._seen.setdefault(session, None)
        await self.load([layout.job(layout.id_of(key)) for key in lost])
        for key in lost:
            job = layout.id_of(key)
            value = self._value(layout.job(job))
            if value is not None:  # None: it was put between two readings
                head.adopt(decode_content(job, value).order, key)

    async def _take(
        self, head: Head, ready: Sequence[tuple[str, str]], worker: str, session: str
    ) -> list[Claimed]:
        layout = self._layout
        jobs = [(key, layout.id_of(key)) for _, key in ready]
        await self._load_for_claims([key for key, _ in jobs])
        taken: list[Claimed] = []
        for key, job in jobs:
            if not self._fits(5, 6):
                if not taken:
                    raise CommitFull
                break
            before = self.savepoint()
            value, content_value = self._value(key), self._value(layout.job(job))
            if value is None or content_value is None:
                head.skip(key)  # it was put, or moved, between two readings: the next draft sees it
                continue
            record, content = decode_record(value), decode_content(job, content_value)
            self._rely_if_stored(key)
            if record.session:
                record = await self._taken_over(key, content, record)
                if record.state:
                    continue
            else:
                self._remove(key)
            begun = record.begun(worker, session, self.now_us)
            written = begun.encode()
            self._put(layout.claimed(job), written)
            if self._was_too_much(before, first=not taken):
                break
            checkpoint = self._seen.get(layout.checkpoint(job))
            has = checkpoint is not None
            checkpointed = json.loads(checkpoint.value) if checkpoint is not None else None
            followed = self._seen.get(layout.followed(job))
            taken.append(Claimed(content, begun, written, checkpointed, has, followed))
        return taken

    async def _taken_over(self, key: str, content: Content, record: Record) -> Record:
        """The record of a job whose worker is gone; it is parked if it was tried often enough."""
        self._rely(self._layout.worker(record.session))  # still gone
        over = record.over("lost", f"{record.worker!r} let go of it without a word")
        self._rely_on_config()
        if over.attempts >= self._config.attempts_max:
            self._remove(key)
            await self._leave(content)
            await self._end_placeless(content, over, JobState.PARKED)
        return over

    # --- followers ------------------------------------------------------------------------------

    async def _tell_somebody(self) -> bool:
        """Tell followers of a job whose end they were not told of; False: there is none."""
        page = await self._store.scan(self._layout.all_told, limit=1)
        for key in page.items:
            if key in self._writes:
                continue
            await self.tell(self._layout.id_of(key))
            return True
        return False

    async def tell(self, job: str) -> bool:
        """Tell some followers that a job ended; True if there are more of them."""
        layout = self._layout
        told, ended = layout.told(job), layout.ended(job)
        await self.load([told, ended])
        value = self._value(ended)
        if self._value(told) is None:
            return False
        if value is None:  # requeued in the meantime, or long gone: there is nothing to be told
            self._rely_if_stored(told)
            self._remove(told)
            return False
        prefix = layout.waits(job)
        page = await self.page(prefix, None, FOLLOWERS_AT_ONCE)
        followers = [layout.id_of(key) for key in page.items]
        await self.load([k for f in followers for k in (layout.job(f), layout.waiting(f))])
        state = JobState(decode_record(value).state)
        self._rely_if_stored(told)
        for number, follower in enumerate(followers):
            before = self.savepoint()
            self._remove(layout.waits(job, follower))
            await self._told(follower, job, state)
            if self._was_too_much(before, first=not number):
                return True
        if not page.more:
            self._remove(told)
        return page.more

    async def _told(self, follower: str, job: str, state: JobState) -> None:
        """What a follower makes of the end of a job that it waits for."""
        layout = self._layout
        content_value = self._value(layout.job(follower))
        waiting = self._value(layout.waiting(follower))
        if content_value is None or waiting is None:
            return
        record = decode_record(waiting)
        if job not in record.missing:
            return
        content = decode_content(follower, content_value)
        self._rely_if_stored(layout.waiting(follower))
        self._remove(layout.waiting(follower))
        if state is JobState.DONE:
            record.missing.remove(job)
            await self._enter(content, record)
            return
        for other in record.missing:
            self._put_deleted(layout.waits(other, follower))
        record.missing.clear()
        record.error = f"{job!r}, which it waits for, is {state.value}"
        await self._end_placeless(content, record, JobState.PARKED)

    # --- what people do -------------------------------------------------------------------------

    async def cancel(self, job: str, reason: str) -> Place:
        """Take a job out of the queue, whoever has it."""
        place = await self._known(job)
        if place.state is JobState.CANCELLED:
            return place
        if place.state is JobState.DONE:
            raise JobStateError(self._queue, job, place.state, "cancelled")
        await self._take_out(place)
        record = place.record.over("cancelled", reason)
        record.error = as_error(reason)
        return await self._end_placeless(place.content, record, JobState.CANCELLED)

    async def requeue(self, job: str) -> Place:
        """Let a parked or cancelled job begin anew; its attempts count from one again."""
        place = await self._known(job)
        if place.state not in {JobState.PARKED, JobState.CANCELLED}:
            raise JobStateError(self._queue, job, place.state, "requeued")
        await self._take_out(place)
        await self._still_followed(job)
        begun = await self._begin(
            place.content, Record(history=place.record.history), expected=True
        )
        if begun.state is JobState.PARKED:
            raise JobStateError(self._queue, job, place.state, f"requeued: {begun.record.error}")
        return begun

    async def _still_followed(self, job: str) -> None:
        """Keep it known that somebody waits for a job whose followers were not told of its end."""
        page = await self._store.scan(self._layout.waits(job), limit=1)
        if page.items:
            self._put(self._layout.followed(job), b"")

    async def skip(self, job: str, result: Json) -> Place:
        """Say that a parked job is dealt with: those who wait for it go on."""
        place = await self._known(job)
        if place.state is not JobState.PARKED:
            raise JobStateError(self._queue, job, place.state, "skipped")
        await self._take_out(place)
        await self._still_followed(job)
        record = Record(
            place.record.attempts, place.record.error, place.record.history, result=result
        )
        return await self._end_placeless(place.content, record, JobState.DONE)

    async def _known(self, job: str) -> Place:
        place = await self.find(job)
        if place is None:
            raise UnknownJobError(self._queue, job)
        return place

    # --- what is removed in passing -------------------------------------------------------------

    async def forget(self) -> bool:
        """Remove some jobs that ended long ago; True if there are more of them."""
        layout, keep_us = self._layout, int(self._config.keep_ended_s * 1e6)
        more = False
        for state in (JobState.DONE, JobState.CANCELLED):
            prefix = layout.all_kept_as(state)
            page = await self.page(prefix, None, FORGOTTEN_AT_ONCE)
            old = [
                (key, layout.id_of(key))
                for key in page.items
                if int(key.removeprefix(prefix).partition(",")[0]) < self.now_us - keep_us
            ]
            await self.load(
                [k for _, j in old for k in (layout.job(j), layout.ended(j), layout.told(j))]
            )
            untold = [job for _, job in old if self._value(layout.told(job)) is not None]
            self.told += untold  # who waits for it has to hear of its end first
            for key, job in old:
                if job in untold:
                    continue
                if key in self._writes or not self._fits(5, 6):
                    return True
                self._forget_one(key, job)
            more = more or (len(old) == FORGOTTEN_AT_ONCE and not untold)
        return await self._forget_markers() or more

    def _forget_one(self, key: str, job: str) -> None:
        layout = self._layout
        self._rely_on_config()  # how long it is kept
        self._rely_if_stored(layout.ended(job))
        ended, content = self._value(layout.ended(job)), self._value(layout.job(job))
        self._remove(key)
        if ended is None or content is None or f"/{decode_record(ended).ended_us:016d}," not in key:
            return  # it was requeued in the meantime
        self._remove(layout.job(job))
        self._put_deleted(layout.checkpoint(job))
        if self._config.keep_ended_s >= MARKER_S:
            self._remove(layout.ended(job))
            return
        record = decode_record(ended)
        was = decode_content(job, content)
        gone = Record(state=record.state, ended_us=record.ended_us, token=record.token)
        gone.content, gone.put_us = was.fingerprint(), was.put_us
        self._put(layout.ended(job), gone.encode())
        self._put(f"{layout.all_kept}gone/{record.ended_us:016d},{key.rpartition(',')[2]}", b"")

    async def _forget_markers(self) -> bool:
        """Remove what is known of jobs that were removed before."""
        if self._config.keep_ended_s >= MARKER_S:
            return False
        layout = self._layout
        prefix = f"{layout.all_kept}gone/"
        page = await self.page(prefix, None, FORGOTTEN_AT_ONCE)
        before_us = self.now_us - int(MARKER_S * 1e6)
        old = [
            key for key in page.items if int(key.removeprefix(prefix).partition(",")[0]) < before_us
        ]
        ended = [layout.ended(layout.id_of(key)) for key in old]
        await self.load(ended)
        for key, marker in zip(old, ended, strict=True):
            if not self._fits(3, 2):
                return True
            self._rely_on_config()
            self._rely_if_stored(marker)
            value = self._value(marker)
            self._remove(key)
            if value is not None and decode_record(value).content:
                self._remove(marker)
        return len(old) == FORGOTTEN_AT_ONCE


@dataclass(frozen=True, slots=True)
class Share:
    """Which jobs at the head are ours: those that fall to the `number`th of so many claimants.

    They are dealt anew each turn, a second of business time: no job waits long for one who is busy.
    """

    turn: int
    number: int = 0
    of: int = 1

    def holds(self, key: str) -> bool:
        """Whether the job under that key is ours."""
        return crc32(f"{self.turn}:{key}".encode()) % self.of == self.number


@dataclass(frozen=True, slots=True)
class Kept:
    """Jobs of our share that were looked at and not taken, and what their claims need to know."""

    ready: list[tuple[str, str]]
    """`(order, key)`, in order."""
    seen: dict[str, KeyValue | None]
    turn: int
    revision: int
    next_us: int | None

    def serves(self, count: int, share: Share, now_us: int) -> bool:
        """Whether `count` jobs can be claimed of it: they are ours still, and no other is due."""
        due = self.next_us is not None and self.next_us <= now_us
        return self.turn == share.turn and len(self.ready) >= count and not due


class Head:
    """The ready jobs at the head of the queue: read page by page, and as drafted so far.

    It knows which there are; which of them can still be taken, the draft says.
    """

    def __init__(self, prefix: str, kept: Kept | None = None) -> None:
        self._prefix = prefix
        self._after: str | None = None
        self._bound: str | None = ""  # every ready job up to this order is known; None: all are
        self._keys: list[tuple[str, str]] = []  # `(order, key)`, in order
        self._passed: list[tuple[str, str]] = []  # not chosen, so they come after the chosen
        self._known: set[str] = set()
        self._skipped: set[str] = set()
        self._preferred = False
        self.due: list[str] = []
        self.looked = False
        self.turn = 0
        self.revision = 0
        self.next_us: int | None = None
        if kept is not None:
            self._keys = list(kept.ready)
            self._known = {key for _, key in kept.ready}
            self._bound = kept.ready[-1][0]
            self._preferred = True
            self.turn, self.revision, self.next_us = kept.turn, kept.revision, kept.next_us

    def more(self, draft: Draft) -> bool:
        """Whether there is another one."""
        if self._passed or self._bound is not None:
            return True
        return any(self._free(draft, key) for _, key in self._keys)

    async def first(self, draft: Draft, count: int) -> list[tuple[str, str]]:
        """The first `count` of them, fewer if there are not so many."""
        while True:
            bound = self._bound
            usable: list[tuple[str, str]] = []
            for entry in self._keys:
                if len(usable) == count or (bound is not None and entry[0] > bound):
                    break
                if self._free(draft, entry[1]):
                    usable.append(entry)
            if len(usable) == count:
                return usable
            if self._passed:
                self._keys, self._passed = sorted([*self._keys, *self._passed]), []
                self._preferred = False
                continue
            if bound is None:
                return usable
            page = await draft.page(self._prefix, self._after, max(count, PAGE_JOBS))
            self.take_page(page)

    def _free(self, draft: Draft, key: str) -> bool:
        return draft.is_free(key) and key not in self._skipped

    def own(self, draft: Draft) -> list[tuple[str, str]]:
        """What is left of our share of a head that is shared."""
        if not self._preferred:
            return []
        return [
            entry
            for entry in self._keys
            if entry[1].startswith(self._prefix) and self._free(draft, entry[1])
        ]

    def take_page(self, page: Snapshot) -> None:
        """The next page of ready jobs was read."""
        fresh = [key for key in page.items if key not in self._known]
        self._known.update(fresh)
        self._keys = sorted([*self._keys, *((self._order(key), key) for key in fresh)])
        self._after = max(page.items) if page.more else None
        self._bound = self._order(self._after) if self._after is not None else None
        self._preferred = False

    def prefer(self, chosen: Sequence[tuple[str, str]]) -> None:
        """Let these come first."""
        mine = set(chosen)
        self._passed += [entry for entry in self._keys if entry not in mine]
        self._keys = sorted(chosen)
        self._preferred = True

    def add(self, key: str) -> None:
        """A job has become ready in this draft."""
        self.adopt(self._order(key), key)

    def adopt(self, order: str, key: str) -> None:
        """A job of a worker who is gone can be taken, too."""
        if key not in self._known:
            self._known.add(key)
            insort(self._keys, (order, key))

    def skip(self, key: str) -> None:
        """It is not to be taken in this draft."""
        self._skipped.add(key)

    def _order(self, key: str) -> str:
        return key.removeprefix(self._prefix).partition(",")[0]
