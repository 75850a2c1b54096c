"""The state of a stream: its events folded, now or at any moment of the past.

A moment may be a version of the stream, a `Position` in the log, or a time; a time is resolved to a
position first, and that answer never changes (`log`), so neither does the state.

Snapshots only save reading.  One is kept per stream and reducer, and it counts only if all of it is
beyond doubt: written by the reducer's present schema, unharmed (it carries a digest of itself), not
ahead of the moment asked for, and grown from this very stream (it names the hash of the event at
which it was taken, which is read again).  In any other case it is ignored and the stream is folded
from its beginning; a wrong snapshot costs time and nothing else.

A fold that began before events were erased must not bring their data back: the snapshot is written
only if nothing of the stream was erased since the fold began.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from transactional.errors import TransactionalError
from transactional.tokens import fresh_token
from transactional.values import Put, Revision

if TYPE_CHECKING:
    from collections.abc import Callable

    from transactional.events.event import Json, RecordedEvent
    from transactional.events.reader import LogReader
    from transactional.values import KeyValue

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the log, where a bare number would be a version of a stream."""

    number: int


@dataclass(frozen=True, slots=True)
class Reducer(Generic[S]):
    """How a state is folded: `apply(state, event)` from `initial()` on, on states left unchanged.

    `encode` and `decode` turn the state into JSON and back, for snapshots; left out they say that
    the state is JSON.  Raise `schema` whenever the state's meaning changes: older snapshots are
    dropped.  `snapshot_every` is after how many folded events one is taken; None: never.
    """

    name: str
    initial: Callable[[], S]
    apply: Callable[[S, RecordedEvent], S]
    schema: int = 1
    snapshot_every: int | None = None
    encode: Callable[[S], Json] = lambda state: state
    decode: Callable[[Json], S] = lambda data: data


@dataclass(frozen=True, slots=True)
class StateAt(Generic[S]):
    """A state, and the stream's version that it stands for (0: before the first event)."""

    state: S
    version: int
    from_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Up to where a fold goes, inclusive; None: no bound."""

    version: int | None = None
    position: int | None = None

    def reach(self, version: int, position: int) -> bool:
        """Whether they lie at or before the bounds."""
        return (self.version is None or version <= self.version) and (
            self.position is None or position <= self.position
        )


@dataclass(frozen=True, slots=True)
class _Start(Generic[S]):
    """Where a fold begins, and the hash that the event of that version must have."""

    state: S
    version: int = 0
    hash: str = ""


async def fold(
    log: LogReader, stream: str, reducer: Reducer[S], at: int | Position | datetime | None
) -> StateAt[S]:
    """See `EventLog.state`."""
    if isinstance(at, datetime):
        upto = _Bounds(position=await log.position_at(at))
    elif isinstance(at, Position):
        upto = _Bounds(position=at.number)
    else:
        upto = _Bounds(version=at)
    start: _Start[S] | None = None
    unerased = Revision(log.layout.erased(stream), 0)
    if reducer.snapshot_every is not None:
        key = log.layout.snapshot(stream, reducer.name)
        seen = await log.store.get_many([key, unerased.key])
        unerased = Revision(unerased.key, seen.revision_of(unerased.key))
        start = _usable(seen.items[key], reducer, upto) if key in seen.items else None
    if start is not None:
        known = await _fold_from(log, stream, reducer, start, upto, unerased=unerased)
        if known is not None:
            return known
    fresh = await _fold_from(
        log, stream, reducer, _Start(reducer.initial()), upto, unerased=unerased
    )
    assert fresh is not None
    return fresh


async def _fold_from(
    log: LogReader,
    stream: str,
    reducer: Reducer[S],
    start: _Start[S],
    upto: _Bounds,
    *,
    unerased: Revision,
) -> StateAt[S] | None:
    """Fold what follows `start`; None if the stream disagrees with it."""
    state, apply = start.state, reducer.apply
    last: RecordedEvent | None = None
    folded = 0
    agrees = start.version == 0
    async for event in log.read(stream, after=max(0, start.version - 1), upto=upto.version):
        if upto.position is not None and event.position > upto.position:
            break
        last = event
        if event.version > start.version:
            state = apply(state, event)
            folded += 1
        elif event.hash != start.hash:
            return None
        else:
            agrees = True
    if not agrees:
        return None
    if last is not None and reducer.snapshot_every is not None and folded >= reducer.snapshot_every:
        await _keep(log, stream, reducer, state, last, unerased=unerased)
    return StateAt(state, last.version if last else 0, from_snapshot=start.version > 0)


async def _keep(
    log: LogReader,
    stream: str,
    reducer: Reducer[S],
    state: S,
    last: RecordedEvent,
    *,
    unerased: Revision,
) -> None:
    body = {
        "salt": fresh_token(),  # or the store's own record of this commit could tell by trial
        "schema": reducer.schema,
        "version": last.version,
        "position": last.position,
        "hash": last.hash,
        "state": reducer.encode(state),
    }
    text = json.dumps({"digest": _digest(body), **body})
    with suppress(TransactionalError):  # it only saves time; the next reader tries again
        put = Put(log.layout.snapshot(stream, reducer.name), text.encode())
        await log.store.commit([unerased], [put])


def read_snapshot(entry: KeyValue) -> dict[str, Any] | None:
    """What a snapshot says; None if it is not whole."""
    try:
        body: dict[str, Any] = json.loads(entry.value)
        good = body.pop("digest") == _digest(body)
        numbers = [body["version"], body["position"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return body if good and all(type(number) is int for number in numbers) else None


def _usable(entry: KeyValue, reducer: Reducer[S], upto: _Bounds) -> _Start[S] | None:
    body = read_snapshot(entry)
    if body is None:
        return None
    try:
        if body["schema"] != reducer.schema:
            return None
        if not upto.reach(body["version"], body["position"]):
            return None
        return _Start(reducer.decode(body["state"]), body["version"], body["hash"])
    except Exception:  # noqa: BLE001 whatever is wrong with a snapshot, it is not needed
        return None


def _digest(body: dict[str, Any]) -> str:
    return blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()
