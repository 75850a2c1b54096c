"""What an append asks for and what it is answered: the values between a log and its appender."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from transactional.errors import ConflictError
from transactional.events.event import content_hash
from transactional.values import Expected

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from transactional.events.event import Origin, Told
    from transactional.values import Compare, Write

APPEND_BYTES_MAX: Final = 256 << 10
"""Largest append, as JSON; what is appended together lies in one value, in two copies."""


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
    events: tuple[Told, ...]
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
