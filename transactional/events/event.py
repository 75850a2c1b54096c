"""Events: what happened, in an envelope that cannot be altered unnoticed.

An event goes in as `NewEvent(type, data)` and is read back as `RecordedEvent`, which adds where it
stands (stream, version, position), when (`at`), by whom and because of what (actor, op_id,
causation, correlation), and a hash.

The hash chain (Haber & Stornetta, J. Cryptology 1991; Crosby & Wallach, USENIX Security 2009)::

    digest(e) = H(salt || data)                      the salt is random, one per event
    hash(e)   = H(hash(previous event of the stream) || everything else about e || digest(e))

Since only the digest of the data is in the chain, the data can be erased (a person's right to be
forgotten) while the chain still holds: the digest is kept, data and salt go, and without the salt
nobody can find out by trying what the data was.

Events that one append writes to one stream travel and lie together, as a `Batch`: one JSON object
with the envelope once and the events as rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from transactional.errors import InvalidRequestError
from transactional.tokens import fresh_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GENESIS: Final = "0" * 64
"""What the first event of a stream names as the hash before it."""

NAME_CHARS_MAX: Final = 200
"""Longest name of a stream, a type, an actor, an op_id."""

Json = Any

_dump = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False
).encode


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What happened: a type, its data as JSON, and the schema in which the data is written."""

    type: str
    data: Json = None
    schema: int = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made events and because of what; each "" if nobody said.

    `causation` names the event or command that led to these, `correlation` the whole conversation
    they belong to.
    """

    actor: str = ""
    op_id: str = ""
    causation: str = ""
    correlation: str = ""


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as it was recorded.

    `version` counts from 1 in its stream, `position` from 1 in the log, both without gaps.  `at` is
    the log's time, in which positions are ordered.  `data` is None if `erased`.
    """

    stream: str
    version: int
    position: int
    type: str
    data: Json
    schema: int
    at: datetime
    origin: Origin
    hash: str
    erased: bool = False

    @property
    def id(self) -> str:
        """A name to quote as the causation of other events."""
        return f"{self.stream}@{self.version}"


@dataclass(frozen=True, slots=True)
class EncodedEvent:
    """A new event, checked, its data as JSON text of so many bytes."""

    type: str
    schema: int
    data: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One event of a batch: `data` as JSON text; an erased one has a digest instead and no salt."""

    type: str
    schema: int
    data: str
    salt: str
    hash: str
    digest: str = ""

    def text(self) -> str:
        """The row as JSON text."""
        end = f',"{self.digest}"]' if self.digest else "]"
        return f'[{_name(self.type)},{self.schema},{self.data},"{self.salt}","{self.hash}"{end}'


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one append to one stream: versions from `version`, positions from `position` on."""

    stream: str
    version: int
    position: int
    at: datetime
    origin: Origin
    rows: tuple[Row, ...]

    @property
    def last_version(self) -> int:
        """The version of its last event."""
        return self.version + len(self.rows) - 1

    def text(self) -> str:
        """The batch as JSON text; equal batches give equal text.

        Written by hand, because data is at hand as text and is neither parsed nor dumped again.
        """
        origin = _origin_text(self.origin)
        rows = ",".join([row.text() for row in self.rows])
        return (
            f'{{"stream":{_name(self.stream)},"version":{self.version},"position":{self.position},'
            f'"at":"{self.at.isoformat()}","origin":{origin},"events":[{rows}]}}'
        )


def new_batch(
    stream: str,
    events: Sequence[EncodedEvent],
    *,
    version: int,
    position: int,
    at: datetime,
    origin: Origin,
    before: str,
) -> Batch:
    """Give events their place; chain them to the hash of the one `before`, or to GENESIS."""
    rows = []
    name, time, by = _name(stream), at.isoformat(), _origin_text(origin)
    for number, event in enumerate(events):
        salt = fresh_token()
        place = f'{name},{version + number},{position + number},"{time}",{by}'
        what = f'{_name(event.type)},{event.schema},"{digest_of(salt, event.data)}"'
        before = _link(before, place, what)
        rows.append(Row(event.type, event.schema, event.data, salt, before))
    return Batch(stream, version, position, at, origin, tuple(rows))


def decode_batch(data: Mapping[str, Json]) -> Batch:
    """The batch that `text` gave, parsed."""
    return Batch(
        stream=data["stream"],
        version=data["version"],
        position=data["position"],
        at=datetime.fromisoformat(data["at"]),
        origin=Origin(*data["origin"]),
        rows=tuple(Row(row[0], row[1], _dump(row[2]), *row[3:]) for row in data["events"]),
    )


def recorded(
    data: Mapping[str, Json], upcasters: Mapping[str, Sequence[Callable[[Json], Json]]]
) -> Iterator[RecordedEvent]:
    """The events of a batch in JSON's types, their data brought to the newest schema."""
    stream, version, position = data["stream"], data["version"], data["position"]
    at, origin = datetime.fromisoformat(data["at"]), Origin(*data["origin"])
    for number, row in enumerate(data["events"]):
        erased = len(row) > 5
        kind, schema, content = row[0], row[1], None if erased else row[2]
        if kind in upcasters and not erased:
            for upcast in upcasters[kind][schema - 1 :]:
                content = upcast(content)
                schema += 1
        yield RecordedEvent(
            stream,
            version + number,
            position + number,
            kind,
            content,
            schema,
            at,
            origin,
            row[4],
            erased,
        )


# --- hashes ---------------------------------------------------------------------------------------


def digest_of(salt: str, data: str) -> str:
    """What stands for the data (as JSON text) in the chain."""
    return blake2b(data.encode(), digest_size=32, key=salt.encode()).hexdigest()


def chained(before: str, place: tuple[str, int, int, datetime, Origin], row: Row) -> str:
    """The hash of an event, given the hash of the one before it in its stream."""
    stream, version, position, at, origin = place
    digest = row.digest or digest_of(row.salt, row.data)
    return _link(
        before,
        f'{_name(stream)},{version},{position},"{at.isoformat()}",{_origin_text(origin)}',
        f'{_name(row.type)},{row.schema},"{digest}"',
    )


def _link(before: str, place: str, what: str) -> str:
    return blake2b(f'["{before}",{place},{what}]'.encode(), digest_size=32).hexdigest()


def encoded(event: NewEvent) -> EncodedEvent:
    """The event with its data as the text that is stored and hashed.

    Raises:
        InvalidRequestError: the data is not JSON, or a name is too long.
    """
    if not 0 < len(event.type) <= NAME_CHARS_MAX or event.schema < 1:
        raise InvalidRequestError(f"an event's type has 1 to {NAME_CHARS_MAX} characters")
    json_bytes(event.type)
    try:
        text = _dump(event.data)
        if not _reads_back(event.data):
            # Parsed and dumped once more, for what is hashed now must be what is read and hashed
            # later: keys that are not strings become strings, and may then coincide.
            text = _dump(json.loads(text))
        return EncodedEvent(event.type, event.schema, text, len(text.encode()))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the data of an event is not JSON: {error}") from error


_LEAVES: Final = frozenset({str, int, float, bool, type(None)})


def _reads_back(data: Json) -> bool:
    """Whether the data is a flat record that JSON gives back as it is: most events are."""
    if type(data) is not dict:
        return type(data) in _LEAVES
    return all(type(key) is str and type(value) in _LEAVES for key, value in data.items())


def chained_commit(before: str, lasts: Sequence[tuple[str, int, int, str]]) -> str:
    """The hash of a commit, given that of the commit before it.

    `lasts` has for each of its batches: stream, first version, first position, last event's hash.
    """
    text = json.dumps([before, *lasts])
    return blake2b(text.encode(), digest_size=32).hexdigest()


def content_hash(events: Sequence[EncodedEvent] | Sequence[Row]) -> str:
    """What a repeat must have in common with an append to a stream: types, schemas, data."""
    text = _dump([[event.type, event.schema, event.data] for event in events])
    return blake2b(text.encode(), digest_size=16).hexdigest()


def shape_hash(events: Sequence[EncodedEvent] | Sequence[Row]) -> str:
    """What is left of `content_hash` when the data must be forgotten: types and schemas."""
    text = _dump([[event.type, event.schema] for event in events])
    return blake2b(text.encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=8192)
def json_bytes(name: str) -> int:
    """How many bytes a name takes as JSON.

    Raises:
        InvalidRequestError: it is no text that can be stored, for it has a lone surrogate.
    """
    try:
        return len(_name(name).encode())
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{name!r} is not a text that can be stored") from error


@lru_cache(maxsize=8192)
def _name(name: str) -> str:
    """A name as JSON text; names repeat."""
    return _dump(name)


@lru_cache(maxsize=1024)
def _origin_text(origin: Origin) -> str:
    return _dump([origin.actor, origin.op_id, origin.causation, origin.correlation])
