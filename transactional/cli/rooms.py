"""The command `room`: agendas, free time, and every step in a booking's life, by hand.

Each verb is one small coroutine; times are read as ISO 8601 with an offset, those of a rule without
one, on the clocks of its zone.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from transactional.calendars import Recurrence, occurrences, read_calendar
from transactional.cli import command as cli
from transactional.cli.screen import printable
from transactional.errors import InvalidRequestError, InvalidTimeError, NotFoundError
from transactional.reservations import (
    Booking,
    BookingConflict,
    BookingEndedError,
    Interval,
    Reservations,
    Resource,
    Wanted,
)

if TYPE_CHECKING:
    import argparse

SLOT: Final = "2030-03-01T09:00Z 2030-03-01T10:00Z"
RULE: Final = "2030-03-04T09:00 2030-03-04T10:00 --rule 'FREQ=WEEKLY;COUNT=10' --zone Europe/Berlin"
ID: Final = "0c8f6a1e"
"""Words of examples."""
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of a calendar file, which is read whole."""


def _room_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--namespace", default="reservation", help="of the bookings (default: %(default)s)"
    )
    verbs = sub.add_subparsers(required=True, metavar="VERB")
    define = cli.verb(
        verbs,
        "define",
        "set capacity and buffers of a resource",
        _room_define,
        "turing --capacity 2 --before 10",
    )
    define.add_argument(
        "--capacity",
        type=int,
        default=1,
        metavar="N",
        help="how many may have it at once (default: %(default)s)",
    )
    for side in ("before", "after"):
        text = f"minutes kept free {side} each booking (default: %(default)s)"
        define.add_argument(f"--{side}", type=cli.minutes, default=0, metavar="MINUTES", help=text)
    agenda = cli.verb(verbs, "agenda", "bookings and holds of a resource", _room_agenda, "turing")
    agenda.add_argument("--ended", action="store_true", help="what expired or was given back")
    book = cli.verb(verbs, "book", "book a time at once", _room_book, f"turing {SLOT} --holder ann")
    hold = cli.verb(
        verbs,
        "hold",
        "keep a time until it is confirmed",
        _room_book,
        f"turing {SLOT} --holder ann --hold 600",
    )
    repeat = cli.verb(
        verbs,
        "repeat",
        "book each occurrence of a rule",
        _room_repeat,
        f"turing {RULE} --holder ann",
    )
    bring = cli.verb(
        verbs,
        "import",
        "book the meetings of a calendar file",
        _room_import,
        "team.ics --holder ann",
    )
    free = cli.verb(
        verbs, "free", "the next stretches that are free", _room_free, f"turing {SLOT} --minutes 30"
    )
    extend = cli.verb(
        verbs, "extend", "let a hold last longer", _room_extend, f"turing {ID} --hold 600"
    )
    confirm = cli.verb(
        verbs,
        "confirm",
        "make holds bookings: all that are named, or none",
        _room_confirm,
        f"turing {ID}",
    )
    move = cli.verb(
        verbs, "move", "give a booking another time or resource", _room_move, f"turing {ID} {SLOT}"
    )
    release = cli.verb(verbs, "release", "give a hold back", _room_cancel, f"turing {ID}")
    cancel = cli.verb(verbs, "cancel", "give a booking or hold back", _room_cancel, f"turing {ID}")
    show = cli.verb(verbs, "show", "a booking by its id, wherever it is now", _room_show, ID)
    show.add_argument("id", metavar="ID", help="of the booking")
    for verb in (define, agenda, book, hold, repeat, free, extend, confirm, move, release, cancel):
        verb.add_argument("resource", metavar="RESOURCE", help="any name: a room, a machine")
    for verb in (extend, move, release, cancel):
        verb.add_argument("id", metavar="ID", help="of the booking or hold")
    confirm.add_argument("ids", nargs="+", metavar="ID", help="of a hold")
    for verb in (book, hold, repeat, free, move):
        local = ", on the clocks of the zone" if verb is repeat else " with an offset"
        verb.add_argument("start", metavar="START", help=f"ISO 8601{local}")
        verb.add_argument("end", metavar="END", help="the same; not booked itself")
    bring.add_argument("file", type=Path, metavar="FILE", help="iCalendar (docs/calendars.md)")
    bring.add_argument("--resource", help="books this one (default: what LOCATION says)")
    bring.add_argument("--zone", help="for times that name no zone, or an unknown one")
    bring.add_argument("--from", dest="since", metavar="TIME", help="only what ends after it")
    bring.add_argument(
        "--until", metavar="TIME", help="only what begins before it (default: a year after --from)"
    )
    for verb in (book, hold, repeat, bring):
        verb.add_argument("--holder", required=True, help="who has it: others are told")
        if verb is not bring:
            verb.add_argument("--note", default="", help="text that is shown with it")
        verb.add_argument("--key", metavar="KEY", help="a repeat with it books nothing twice")
    book.add_argument(
        "--hold", type=cli.seconds, metavar="SECONDS", help="hold it instead, so long"
    )
    for verb in (hold, extend):
        verb.add_argument(
            "--hold", type=cli.seconds, metavar="SECONDS", required=True, help="how long, from now"
        )
    repeat.add_argument(
        "--rule", required=True, metavar="RRULE", help="such as FREQ=WEEKLY;BYDAY=MO;COUNT=10"
    )
    repeat.add_argument("--zone", required=True, help="IANA name, such as Europe/Berlin")
    repeat.add_argument(
        "--hold", type=cli.seconds, metavar="SECONDS", help="hold them instead, so long"
    )
    repeat.add_argument("--each", action="store_true", help="book what is free, not all or none")
    free.add_argument(
        "--minutes",
        type=cli.minutes,
        default=30,
        metavar="MINUTES",
        help="how long a stretch is at least (default: %(default)s)",
    )
    release.set_defaults(release=True)
    cancel.set_defaults(release=False)
    move.add_argument("--to", metavar="RESOURCE", help="the other resource (default: the same one)")


async def _room_define(options: argparse.Namespace) -> None:
    before, after = timedelta(minutes=options.before), timedelta(minutes=options.after)
    rules = Resource(options.capacity, before, after)
    async with cli.opened(options) as store:
        await Reservations(store, namespace=options.namespace).define(options.resource, rules)
    row = {"resource": options.resource, "capacity": rules.capacity}
    cli.show(options, [{**row, "before": str(before), "after": str(after)}])


async def _room_agenda(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        read = rooms.ended if options.ended else rooms.agenda
        bookings = await read(options.resource)
    cli.show(options, [_booking_row(booking) for booking in bookings])


async def _room_book(options: argparse.Namespace) -> None:
    wanted = Interval(cli.moment(options.start), cli.moment(options.end))
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        who = {"holder": options.holder, "note": options.note, "idempotency_key": options.key}
        made = (
            await rooms.book(options.resource, wanted, **who)
            if options.hold is None
            else await rooms.hold(options.resource, wanted, ttl_s=options.hold, **who)
        )
    cli.show(options, [_booking_row(made)])


async def _room_repeat(options: argparse.Namespace) -> None:
    first, last = cli.wall_clock(options.start), cli.wall_clock(options.end)
    rule = Recurrence.parse(options.rule, start=first, duration=last - first)
    if options.hold is not None and options.each:
        raise InvalidTimeError("a series is held as a whole: leave out --each")
    if rule.count is None and rule.until is None:
        raise InvalidTimeError("the rule has no end: give it a COUNT or an UNTIL")
    wanted = [
        Wanted(options.resource, when, options.note) for when in occurrences(rule, options.zone)
    ]
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        who = {"holder": options.holder, "idempotency_key": options.key}
        made = (
            await rooms.book_many(wanted, atomic=not options.each, **who)
            if options.hold is None
            else await rooms.hold_many(wanted, ttl_s=options.hold, **who)
        )
    rows = [_booking_row(one) if isinstance(one, Booking) else _refusal_row(one) for one in made]
    cli.show(options, rows)


async def _room_import(options: argparse.Namespace) -> None:
    """Book what is free, each meeting on its own; what is left out is told on stderr."""
    if options.file.stat().st_size > FILE_BYTES_MAX:
        raise InvalidRequestError(f"{options.file} is larger than {FILE_BYTES_MAX} bytes")
    within = None
    if options.since is not None:
        since = cli.moment(options.since)
        within = Interval(since, cli.moment(options.until) if options.until else _year_after(since))
    elif options.until is not None:
        within = Interval(datetime.min.replace(tzinfo=UTC), cli.moment(options.until))
    read = read_calendar(options.file.read_bytes(), zone=options.zone, within=within)
    wanted = []
    for kind, remarks in (("not booked", read.left_out), ("note", read.notes)):
        for remark in remarks:
            _tell(options.file, remark.line, f"{kind}: {remark.text}")
    for meeting in read.meetings:
        room = options.resource or meeting.location
        if room:
            wanted.append(Wanted(room, meeting.interval, meeting.title))
        else:
            _tell(options.file, meeting.line, "not booked: it has no LOCATION; give --resource")
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        made = await rooms.book_many(
            wanted, holder=options.holder, atomic=False, idempotency_key=options.key
        )
    rows = [
        {
            "resource": part.resource,
            **(_booking_row(one) if isinstance(one, Booking) else _refusal_row(one)),
        }
        for part, one in zip(wanted, made, strict=True)
    ]
    cli.show(options, rows)


def _year_after(moment: datetime) -> datetime:
    try:
        return moment + timedelta(days=366)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _tell(file: Path, line: int, text: str) -> None:
    print(f"{printable(file)}:{line}: {printable(text)}", file=sys.stderr)


async def _room_free(options: argparse.Namespace) -> None:
    within = Interval(cli.moment(options.start), cli.moment(options.end))
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        length = timedelta(minutes=options.minutes)
        slots = await rooms.free(options.resource, within, length, count=10)
    cli.show(options, [{"start": s.start.isoformat(), "end": s.end.isoformat()} for s in slots])


async def _found(rooms: Reservations, resource: str, booking_id: str) -> Booking:
    """The booking that an id names; one that is over too, for it says so itself."""
    booking = await rooms.get(booking_id)
    if booking is None or booking.resource != resource:
        elsewhere = "" if booking is None else f"; it is one of {booking.resource!r}"
        raise NotFoundError(f"{resource!r} has no booking {booking_id!r}{elsewhere}")
    return booking


async def _room_show(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        booking = await Reservations(store, namespace=options.namespace).get(options.id)
    if booking is None:
        raise NotFoundError(f"there is no booking {options.id!r}")
    cli.show(options, [{"resource": booking.resource, **_booking_row(booking)}])


async def _room_extend(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        hold = await _found(rooms, options.resource, options.id)
        held = await rooms.extend(hold, ttl_s=options.hold)
    cli.show(options, [_booking_row(held)])


async def _room_confirm(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        holds = [await _found(rooms, options.resource, one) for one in options.ids]
        made = await rooms.confirm_many(holds)
    cli.show(options, [_booking_row(booking) for booking in made])


async def _room_move(options: argparse.Namespace) -> None:
    wanted = Interval(cli.moment(options.start), cli.moment(options.end))
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        booking = await _found(rooms, options.resource, options.id)
        moved = await rooms.move(booking, wanted, resource=options.to)
    cli.show(options, [{"resource": moved.resource, **_booking_row(moved)}])


async def _room_cancel(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        booking = await _found(rooms, options.resource, options.id)
        done = await (rooms.release if options.release else rooms.cancel)(booking)
        if not done:
            what = "hold" if options.release else "booking"
            raise NotFoundError(f"{options.resource!r} has no live {what} {options.id!r}")
    cli.show(options, [{"id": options.id, "cancelled": True}])


def _booking_row(booking: Booking) -> dict[str, cli.Cell]:
    return {
        "id": booking.id,
        "start": booking.interval.start.isoformat(),
        "end": booking.interval.end.isoformat(),
        "state": booking.state.value,
        "holder": booking.holder,
        "expires": booking.expires_at.isoformat() if booking.expires_at else None,
        "taken_by": booking.taken_by,
        "note": booking.note,
    }


def _refusal_row(refusal: BookingConflict | BookingEndedError) -> dict[str, cli.Cell]:
    if not isinstance(refusal, BookingConflict):
        return {**_booking_row(refusal.booking), "note": str(refusal)}
    return {
        "id": None,
        "start": refusal.wanted.start.isoformat(),
        "end": refusal.wanted.end.isoformat(),
        "state": "refused",
        "holder": refusal.holder,
        "expires": refusal.expires_at.isoformat() if refusal.expires_at else None,
        "taken_by": None,
        "note": f"taken by booking {refusal.booking_id}",
    }


COMMANDS: Final[dict[str, cli.Command]] = {
    "room": (_room_arguments, cli.run_verb),
}
