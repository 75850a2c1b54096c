"""The commands of the recipes: look at logs, sagas and rooms, and do by hand what people do.

`log` reads, appends and verifies; `saga` lists runs and speaks to those that wait for a person;
`room` shows agendas and makes, confirms and cancels bookings.  Each verb is one small coroutine;
times are read as ISO 8601 with an offset.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from transactional import cli
from transactional.errors import CorruptStoreError, InvalidRequestError, NotFoundError
from transactional.event import NewEvent
from transactional.event_log import EventLog
from transactional.interval import Interval, InvalidTimeError
from transactional.reservation import Reservations
from transactional.saga import Sagas

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from transactional.booking import Booking
    from transactional.event import RecordedEvent
    from transactional.saga_run import SagaRun

    Verb = Callable[[argparse.Namespace], Awaitable[None]]


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, run: Verb
) -> argparse.ArgumentParser:
    """Add a verb that every store option fits."""
    sub = verbs.add_parser(name, help=text, description=text)
    sub.set_defaults(verb=run)
    cli.add_store(sub)
    return sub


async def _run_verb(options: argparse.Namespace) -> None:
    await options.verb(options)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidTimeError(f"{text!r} is not a time like 2025-02-01T09:00:00+01:00") from error


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(f"{text!r} is not JSON: {error}") from error


# --- log ------------------------------------------------------------------------------------------


def _log_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--namespace", default="log", help="of the log (default: %(default)s)")
    verbs = sub.add_subparsers(required=True, metavar="VERB")
    read = _verb(verbs, "read", "print a stream, or all of them", _log_read)
    read.add_argument("stream", nargs="?", help="default: every stream, in order of positions")
    read.add_argument("--after", type=int, default=0, metavar="N", help="version or position")
    read.add_argument("--at", metavar="TIME", help="only what had happened then")
    append = _verb(verbs, "append", "append one event", _log_append)
    append.add_argument("stream")
    append.add_argument("type")
    append.add_argument("data", help="JSON")
    append.add_argument("--expected", type=int, metavar="VERSION", help="0: the stream is new")
    append.add_argument("--actor", default="")
    append.add_argument("--op-id", default="", help="a repeat changes nothing")
    _verb(verbs, "verify", "recompute the hash chain", _log_verify)


async def _log_read(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        log = EventLog(store, namespace=options.namespace)
        upto = await log.position_at(_time(options.at)) if options.at else None
        events = (
            log.read(options.stream, after=options.after)
            if options.stream
            else log.read_all(after=options.after)
        )
        rows = []
        async for event in events:
            if upto is not None and event.position > upto:
                break
            rows.append(_event_row(event))
    cli.show(options, rows)


def _event_row(event: RecordedEvent) -> dict[str, cli.Cell]:
    return {
        "position": event.position,
        "stream": event.stream,
        "version": event.version,
        "at": event.at.isoformat(),
        "actor": event.origin.actor,
        "type": event.type,
        "data": "(erased)" if event.erased else json.dumps(event.data, ensure_ascii=False),
    }


async def _log_append(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        log = EventLog(store, namespace=options.namespace)
        new = NewEvent(options.type, _json(options.data))
        extra = {} if options.expected is None else {"expected": options.expected}
        made = await log.append(
            options.stream, [new], actor=options.actor, op_id=options.op_id, **extra
        )
    version = made.versions[options.stream]
    cli.show(
        options,
        [{"position": made.last_position, "version": version, "repeated": made.repeated}],
    )


async def _log_verify(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        log = EventLog(store, namespace=options.namespace)
        findings = await log.verify()
        head = await log.head()
    if findings:
        found = "; ".join(map(str, findings[:10]))
        raise CorruptStoreError(f"{len(findings)} events or commits were altered: {found}")
    cli.show(options, [{"events": head.position, "sound": True, "hash": head.hash}])


# --- saga -----------------------------------------------------------------------------------------


def _saga_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--namespace", default="saga", help="of the sagas (default: %(default)s)")
    verbs = sub.add_subparsers(required=True, metavar="VERB")
    listing = _verb(verbs, "list", "runs that are not over", _saga_list)
    listing.add_argument("--finished", action="store_true", help="those that are over instead")
    show = _verb(verbs, "show", "one run with its history", _saga_show)
    retry = _verb(verbs, "retry", "let a stopped run try again where it stopped", _saga_retry)
    skip = _verb(verbs, "skip", "say that the step where a run stopped is dealt with", _saga_skip)
    skip.add_argument("--result", default="null", help="of the step, JSON")
    tell = _verb(verbs, "signal", "tell a run what one of its steps waits for", _saga_signal)
    for verb in (show, retry, skip, tell):
        verb.add_argument("id")
    tell.add_argument("name")
    tell.add_argument("value", nargs="?", default="null", help="JSON")


async def _saga_list(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        sagas = Sagas(store, [], namespace=options.namespace)
        runs = sagas.finished() if options.finished else sagas.unfinished()
        rows = [_run_row(run) async for run in runs]
    cli.show(options, rows)


async def _saga_show(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        run = await Sagas(store, [], namespace=options.namespace).get(options.id)
    if run is None:
        raise NotFoundError(f"there is no saga {options.id!r}")
    if options.output != "json":
        cli.show(options, [_run_row(run)])
    rows: list[dict[str, cli.Cell]] = [
        {
            "at": record.at.isoformat(),
            "what": record.kind.value,
            "step": record.step,
            "attempt": record.attempt or None,
            "value": None if record.value is None else json.dumps(record.value),
            "error": record.error,
        }
        for record in run.history
    ]
    cli.show(options, rows)


def _run_row(run: SagaRun) -> dict[str, cli.Cell]:
    last = next((r.step for r in reversed(run.history) if r.step), "")
    return {
        "id": run.id,
        "saga": run.saga,
        "version": run.version,
        "state": run.state.value,
        "step": last,
        "owner": run.owner,
        "started": run.started_at.isoformat(timespec="seconds"),
        "error": run.error,
    }


async def _saga_retry(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        run = await Sagas(store, [], namespace=options.namespace).retry(options.id)
    cli.show(options, [_run_row(run)])


async def _saga_skip(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        sagas = Sagas(store, [], namespace=options.namespace)
        run = await sagas.skip(options.id, _json(options.result))
    cli.show(options, [_run_row(run)])


async def _saga_signal(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        sagas = Sagas(store, [], namespace=options.namespace)
        told = await sagas.signal(options.id, options.name, _json(options.value))
    cli.show(options, [{"id": options.id, "signal": options.name, "told": told}])


# --- room -----------------------------------------------------------------------------------------


def _room_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--namespace", default="reservation", help="(default: %(default)s)")
    verbs = sub.add_subparsers(required=True, metavar="VERB")
    agenda = _verb(verbs, "agenda", "bookings and holds of a resource", _room_agenda)
    agenda.add_argument("--ended", action="store_true", help="what expired or was given back")
    book = _verb(verbs, "book", "book a time at once", _room_book)
    free = _verb(verbs, "free", "the next stretches that are free", _room_free)
    cancel = _verb(verbs, "cancel", "give a booking or hold back", _room_cancel)
    for verb in (agenda, book, free, cancel):
        verb.add_argument("resource")
    for verb in (book, free):
        verb.add_argument("start", metavar="START", help="ISO 8601 with an offset")
        verb.add_argument("end", metavar="END")
    book.add_argument("--holder", required=True)
    book.add_argument("--note", default="")
    book.add_argument("--hold", type=float, metavar="SECONDS", help="hold it instead, so long")
    free.add_argument("--minutes", type=float, default=30.0, help="(default: %(default)s)")
    cancel.add_argument("id")


async def _room_agenda(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        read = rooms.ended if options.ended else rooms.agenda
        bookings = await read(options.resource)
    cli.show(options, [_booking_row(booking) for booking in bookings])


async def _room_book(options: argparse.Namespace) -> None:
    wanted = Interval(_time(options.start), _time(options.end))
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        who = {"holder": options.holder, "note": options.note}
        made = (
            await rooms.book(options.resource, wanted, **who)
            if options.hold is None
            else await rooms.hold(options.resource, wanted, ttl_s=options.hold, **who)
        )
    cli.show(options, [_booking_row(made)])


async def _room_free(options: argparse.Namespace) -> None:
    within = Interval(_time(options.start), _time(options.end))
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        length = timedelta(minutes=options.minutes)
        slots = await rooms.free(options.resource, within, length, count=10)
    cli.show(options, [{"start": s.start.isoformat(), "end": s.end.isoformat()} for s in slots])


async def _room_cancel(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        rooms = Reservations(store, namespace=options.namespace)
        live = {booking.id: booking for booking in await rooms.agenda(options.resource)}
        if options.id not in live or not await rooms.cancel(live[options.id]):
            raise NotFoundError(f"{options.resource!r} has no live booking {options.id!r}")
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


COMMANDS = [
    cli.Command("log", "read, append to and verify an event log", _log_arguments, _run_verb),
    cli.Command("saga", "look at sagas and speak to them", _saga_arguments, _run_verb),
    cli.Command("room", "agendas, free time, bookings", _room_arguments, _run_verb),
]
