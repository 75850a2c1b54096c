"""The calendar files of a run: one of everything, one of each room, one of each person.

    rooms.ics                every booking
    agendas/rooms/*.ics      what takes place in a room
    agendas/people/*.ics     where a person has to be
    agendas/index.tsv        which file is whose: kind, file, name, number of bookings

All open in a calendar program (RFC 5545). A file is written whole or not at all (written beside,
then renamed). The index says what an earlier run left, and that alone is taken away.
"""

from __future__ import annotations

import re
from collections import defaultdict
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from demos.meetings.verdict import Booked

NAME_CHARS_MAX = 60  # of a file's name, before what tells it from others


def write_calendar(path: Path, bookings: Sequence[Booked], stamp: datetime) -> None:
    """One VEVENT per booking, in time order; `stamp` becomes their DTSTAMP.

    Raises:
        OSError: the file cannot be written; an earlier one stays as it was.
    """
    from icalendar import Calendar, Event  # noqa: PLC0415 - the extra `calendar` is optional

    calendar = Calendar()
    calendar.add("prodid", "-//convoca//meetings demo//EN")
    calendar.add("version", "2.0")
    for booked in sorted(bookings, key=lambda item: (item.start, item.room)):
        event = Event()
        event.add("uid", f"{booked.talk.key}.{booked.booking}@convoca.invalid")
        event.add("dtstamp", stamp)
        event.add("dtstart", booked.start)
        event.add("dtend", booked.end)
        event.add("location", booked.room)
        event.add("summary", booked.talk.title)
        event.add("categories", [booked.talk.track])
        event.add("status", "CONFIRMED")
        for person in booked.talk.people:
            event.add("attendee", person if ":" in person else f"urn:person:{person}")
        calendar.add_component(event)
    write_whole(path, calendar.to_ical())


def write_agendas(folder: Path, bookings: Sequence[Booked], stamp: datetime) -> int:
    """A file for each room and each person that has a booking; returns how many.

    Raises:
        OSError: a file cannot be written.
    """
    of_rooms: dict[str, list[Booked]] = defaultdict(list)
    of_people: dict[str, list[Booked]] = defaultdict(list)
    for booked in bookings:
        of_rooms[booked.room].append(booked)
        for person in booked.talk.people:
            of_people[person].append(booked)
    index = folder / "index.tsv"
    earlier = _listed(index)
    rows = []
    for kind, agendas in (("rooms", of_rooms), ("people", of_people)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        names = file_names(agendas)
        for name, items in sorted(agendas.items()):
            write_calendar(folder / kind / names[name], items, stamp)
            rows.append((kind, names[name], name, str(len(items))))
    write_whole(index, "".join("\t".join(row) + "\n" for row in rows).encode())
    for kind, file in earlier - {(kind, file) for kind, file, *_ in rows}:
        (folder / kind / file).unlink(missing_ok=True)
    return len(rows)


def file_names(names: Mapping[str, object]) -> dict[str, str]:
    """A file's name for each, which no disk refuses and no other one has, whatever its case."""
    found = {}
    taken: set[str] = set()
    for name in sorted(names):
        plain = re.sub(r"[^\w@.-]+", "_", name)[:NAME_CHARS_MAX].lstrip(".") or "_"
        if plain != name or plain.casefold() in taken:
            plain += "-" + blake2b(name.encode(), digest_size=6).hexdigest()
        taken.add(plain.casefold())
        found[name] = f"{plain}.ics"
    return found


def _listed(index: Path) -> set[tuple[str, str]]:
    """(kind, file) of what an earlier run has written here."""
    try:
        rows = [line.split("\t") for line in index.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return set()
    return {
        (row[0], row[1])
        for row in rows
        if len(row) == 4 and row[0] in {"rooms", "people"} and re.fullmatch(r"[\w@.-]+", row[1])
    }


def write_whole(path: Path, data: bytes) -> None:
    """Write the file beside its place and rename it there.

    Raises:
        OSError: it cannot be written; an earlier one stays as it was.
    """
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(data)
    beside.replace(path)
