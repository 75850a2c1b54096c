"""Where the event log lies in the store, and the two small records that say where it ends.

`S` is a stream's name, quoted; numbers are padded so that they sort::

    log/head                  position, time and hash of the log's end: the token of every append
    log/at/POSITION           everything that one commit appended, under its last position
    log/stream/S/VERSION      what one append wrote to the stream, under its first version
    log/end/S                 version and hash of an event near the stream's end: where to look
    log/op/OP_ID              what an append with a caller's op_id did
    log/swept                 how far the present round has come that takes away old ones
    log/group/G/S             how consumer group G shares out the streams that begin with S
    log/group/G/S/N           how far it has come with partition N; `again`: what it was to repeat
    log/group/G/S/N/turn      who handles the next events of the partition; goes with his lease
    log/parked/G/S/POSITION   an event that the group gave up
    log/state/S/R             reducer R's snapshot of the stream
    log/erased/S              written when events of the stream are erased: a snapshot compares it

An event lies twice, by position and by stream, so reading either way is one range scan; the copies
are written in one commit and `verify` compares them.

A commit's key is named after its *last* position, by which any position in it is found: it is the
first key behind `position - 1`.  A batch's key is named after its *first* version, because that is
what follows from the stream's end alone: whoever takes the same end for the last writes the same
key, and the commit compares that it is absent.  Under its last version two batches of different
lengths would lie side by side and overlap.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from transactional.errors import InvalidRequestError
from transactional.events.event import GENESIS

END_EVERY: Final = 16
"""A stream's end is written down about once in so many versions, if the commit has room."""

_HASH: Final = re.compile("[0-9a-f]{64}")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=8192)
def quoted(name: str) -> str:
    """The name as one segment of a key.

    Raises:
        InvalidRequestError: it has a lone surrogate, so it is no text.
    """
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{name!r} is not a text that can be stored") from error


@dataclass(frozen=True, slots=True)
class LogLayout:
    """Key names under one namespace."""

    namespace: str = "log"

    @property
    def head(self) -> str:
        """Key of the log's end."""
        return f"{self.namespace}/head"

    def at(self, position: int | None = None) -> str:
        """Key of the commit that ends at `position`; without one the prefix of all."""
        return f"{self.namespace}/at/" + (f"{position:016}" if position is not None else "")

    def stream(self, stream: str, version: int | None = None) -> str:
        """Key of the batch that begins at `version`; without one the prefix of the stream."""
        prefix = f"{self.namespace}/stream/{quoted(stream)}/"
        return prefix + (f"{version:012}" if version is not None else "")

    def streams(self) -> str:
        """Prefix of all streams."""
        return f"{self.namespace}/stream/"

    def end(self, stream: str) -> str:
        """Key of the last end of the stream that was written down."""
        return f"{self.namespace}/end/{quoted(stream)}"

    def ends(self) -> str:
        """Prefix of what was written down of streams' ends."""
        return f"{self.namespace}/end/"

    def op(self, op_id: str = "") -> str:
        """Key of what an op_id did; without one the prefix of all."""
        return f"{self.namespace}/op/{quoted(op_id)}"

    @property
    def swept(self) -> str:
        """Key of how far a round over old op_ids has come."""
        return f"{self.namespace}/swept"

    def ops(self) -> str:
        """Prefix of what all op_ids did."""
        return f"{self.namespace}/op/"

    def group(self, group: str, streams: str = "") -> str:
        """Key of how a consumer group shares out the streams whose names begin with `streams`."""
        return f"{self.namespace}/group/{quoted(group)}/{quoted(streams)}"

    def parked(self, group: str, streams: str = "", position: int | None = None) -> str:
        """Key of an event that the group gave up; without a position the prefix of all."""
        prefix = f"{self.namespace}/parked/{quoted(group)}/{quoted(streams)}/"
        return prefix + (f"{position:016}" if position is not None else "")

    def snapshot(self, stream: str, reducer: str = "") -> str:
        """Key of a reducer's snapshot; without one the prefix of the stream's snapshots."""
        return f"{self.namespace}/state/{quoted(stream)}/{quoted(reducer)}"

    def snapshots(self) -> str:
        """Prefix of all snapshots."""
        return f"{self.namespace}/state/"

    def snapshot_of(self, key: str) -> tuple[str, str]:
        """The stream and the reducer of a snapshot's key."""
        stream, _, reducer = key.removeprefix(self.snapshots()).partition("/")
        return unquote(stream), unquote(reducer)

    def erased(self, stream: str) -> str:
        """Key that each erasure of the stream's events writes."""
        return f"{self.namespace}/erased/{quoted(stream)}"


@dataclass(frozen=True, slots=True)
class Head:
    """The log's end: last position, the time up to which it is fixed, hash of the last commit.

    `str(head)` is what to note elsewhere and to give to `EventLog.verify` later.
    """

    position: int = 0
    at: datetime = EPOCH
    hash: str = GENESIS

    def __str__(self) -> str:
        return f"{self.position}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """The head that `str` gave; its time is not part of it.

        Raises:
            InvalidRequestError: the text is no head.
        """
        position, _, last = text.partition(":")
        if not (position.isascii() and position.isdigit() and _HASH.fullmatch(last)):
            raise InvalidRequestError(f"{text!r} is no head: a position, a colon, 64 digits")
        return cls(int(position), hash=last)

    def encode(self) -> bytes:
        """The head's bytes."""
        return json.dumps([self.position, self.at.isoformat(), self.hash]).encode()

    @classmethod
    def decode(cls, value: bytes) -> Head:
        """The head in a key's bytes."""
        position, at, last = json.loads(value)
        return cls(position, datetime.fromisoformat(at), last)


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """A stream's end: last version, hash of the last event; version 0 before the first."""

    version: int = 0
    hash: str = GENESIS

    def encode(self) -> bytes:
        """The end's bytes."""
        return f'[{self.version},"{self.hash}"]'.encode()

    @classmethod
    def decode(cls, value: bytes) -> StreamEnd:
        """The end in a key's bytes."""
        version, last = json.loads(value)
        return cls(version, last)
