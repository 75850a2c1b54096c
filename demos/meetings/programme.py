"""What the meetings demo schedules: talks, each with its room, its time and its persons.

The question answered here: which talks want which room when, and which rows could not be
understood? A malformed row never stops the rest: it becomes a `Malformed` with its line number and
a reason, and whoever runs the programme decides what that is worth. Only a file that cannot be read
at all, or that is no programme, raises `ProgrammeError`. The readers of the two forms are
`csv_input` and `icalendar_input`; `reading` chooses between them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PEOPLE_MAX = 50  # of one talk: their notifications are one commit
FIELD_CHARS_MAX = 2_000  # titles and names; what is longer is refused by line, not truncated


class ProgrammeError(Exception):
    """The file holds no programme that could be scheduled; nothing was booked.

    Attributes:
        hint: what the caller can do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Talk:
    """A room wanted for a half-open interval, and the persons who appear.

    `rival` is the talk that was made to want the same slot, if there is one: either of the two may
    be given another time in the room.
    """

    id: str
    room: str
    start: datetime
    end: datetime
    track: str
    title: str
    people: tuple[str, ...]
    rival: str = ""

    @property
    def key(self) -> str:
        """The id as one path segment: safe inside document names, store keys and stream names."""
        return quote(self.id, safe="")


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that was not scheduled, or read in another way than it is written: where, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Programme:
    """What a file held: its talks, the rows that were left out, and what was read how."""

    talks: tuple[Talk, ...]
    malformed: tuple[Malformed, ...]
    notes: tuple[Malformed, ...] = ()

    @property
    def rooms(self) -> tuple[str, ...]:
        """Every room that a talk wants, sorted."""
        return tuple(sorted({talk.room for talk in self.talks}))

    @property
    def tracks(self) -> tuple[str, ...]:
        """Every track, sorted."""
        return tuple(sorted({talk.track for talk in self.talks}))

    @property
    def appearances(self) -> int:
        """Pairs of talk and person: what notifications are counted against."""
        return sum(len(talk.people) for talk in self.talks)

    @property
    def pairs(self) -> tuple[tuple[Talk, Talk], ...]:
        """The talks that were made to collide, each pair once."""
        by_id = {talk.id: talk for talk in self.talks}
        rivals = ((talk, by_id[talk.rival]) for talk in self.talks if talk.rival)
        return tuple((one, two) for one, two in rivals if one.id < two.id)


def save(path: Path, programme: Programme) -> None:
    """Write the talks down for the actors of a run: they all work on what was read once."""
    rows = [
        [t.id, t.room, t.start.isoformat(), t.end.isoformat(), t.track, t.title, t.people, t.rival]
        for t in programme.talks
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


def load(path: Path) -> Programme:
    """The talks that `save` wrote."""
    return Programme(
        tuple(
            Talk(
                id=name,
                room=room,
                start=datetime.fromisoformat(start),
                end=datetime.fromisoformat(end),
                track=track,
                title=title,
                people=tuple(people),
                rival=rival,
            )
            for name, room, start, end, track, title, people, rival in json.loads(
                path.read_text(encoding="utf-8")
            )
        ),
        (),
    )


class MalformedRow(Exception):  # noqa: N818 - control flow inside the two readers, never seen outside
    """A row cannot be a talk; the reader turns it into a `Malformed`."""


def checked(talk: Talk) -> Talk:
    """The talk itself if it can be scheduled.

    Raises:
        MalformedRow: it lacks an id or a room, ends before it starts, has too many persons, or an
            oversized or unprintable text.
    """
    if not talk.id:
        raise MalformedRow("no event_id")
    if not talk.room:
        raise MalformedRow("no room")
    if talk.end <= talk.start:
        raise MalformedRow(
            f"ends at {talk.end.isoformat()}, not after its start {talk.start.isoformat()}"
        )
    if len(talk.people) > PEOPLE_MAX:
        raise MalformedRow(f"{len(talk.people)} persons; at most {PEOPLE_MAX}")
    for text in (talk.id, talk.room, talk.track, talk.title, *talk.people):
        if len(text) > FIELD_CHARS_MAX:
            raise MalformedRow(f"a field of {len(text)} characters; at most {FIELD_CHARS_MAX}")
        if any(ord(character) < 32 for character in text):
            raise MalformedRow(f"a control character in {text!r}")
    return talk


def unique(people: Iterable[str]) -> tuple[str, ...]:
    """Names without blanks and repetitions, in their order: a person attends a talk once."""
    return tuple(dict.fromkeys(person for person in people if person))
