"""The commands `log` and `saga`: look at logs and runs, and do by hand what people do.

`log` reads, appends, follows, erases, verifies and replays; `saga` lists runs and speaks to those
that wait for a person.  Each verb is one small coroutine; times are read as ISO 8601 with an
offset.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Final

from transactional.cli import command as cli
from transactional.errors import CorruptStoreError, InvalidRequestError, NotFoundError
from transactional.events import EventLog, NewEvent
from transactional.sagas import Saga, Sagas

if TYPE_CHECKING:
    import argparse

    from transactional.events import RecordedEvent
    from transactional.sagas import SagaRun

APPEND: Final = """order/42 paid '{"amount": 12}' --expected 3"""
ABANDON: Final = "order-42 --definition shop.sagas:ORDER"
"""Words of examples."""

# --- log ------------------------------------------------------------------------------------------


def _log_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--namespace", default="log", help="of the log (default: %(default)s)")
    verbs = sub.add_subparsers(required=True, metavar="VERB")
    read = cli.verb(verbs, "read", "print a stream, or all of them", _log_read, "order/42")
    read.add_argument(
        "stream", nargs="?", metavar="STREAM", help="default: every stream, in order of positions"
    )
    read.add_argument(
        "--after",
        type=int,
        default=0,
        metavar="N",
        help="only what comes behind it: a version in a stream, else a position (default: 0)",
    )
    read.add_argument(
        "--at", metavar="TIME", help="only what had happened then; ISO 8601 with an offset"
    )
    append = cli.verb(verbs, "append", "append one event", _log_append, APPEND)
    append.add_argument("stream", metavar="STREAM", help="made if absent")
    append.add_argument("type", metavar="TYPE", help="what happened, in a word")
    append.add_argument("data", metavar="DATA", help="JSON")
    append.add_argument(
        "--expected",
        type=int,
        metavar="VERSION",
        help="refuse if the stream is at another one; 0: it is new",
    )
    append.add_argument("--actor", default="", help="who did it")
    append.add_argument("--op-id", default="", help="a repeat changes nothing")
    follow = cli.verb(
        verbs, "follow", "print events as they are appended, until stopped", _follow, "--after 0"
    )
    follow.add_argument(
        "--after", type=int, metavar="POSITION", help="start behind it (default: now; 0: oldest)"
    )
    follow.add_argument("--count", type=int, metavar="N", help="stop after so many events")
    erase = cli.verb(
        verbs,
        "erase",
        "erase the data of events; the chain still holds",
        _log_erase,
        "order/42 --version 3",
    )
    erase.add_argument("stream", metavar="STREAM", help="whose events")
    erase.add_argument(
        "--version",
        type=int,
        action="append",
        metavar="N",
        help="only this one, and so on (default: all)",
    )
    parked = cli.verb(
        verbs, "parked", "list the events that a group gave up", _log_parked, "mailer"
    )
    replay = cli.verb(
        verbs, "replay", "deliver what a group gave up again", _log_replay, "mailer --position 17"
    )
    replay.add_argument(
        "--position",
        type=int,
        action="append",
        metavar="N",
        help="only this one, and so on (default: all)",
    )
    for verb in (parked, replay):
        verb.add_argument("group", metavar="GROUP", help="of subscribers")
        verb.add_argument("--streams", default="", metavar="PREFIX", help="as in the subscription")
    verify = cli.verb(verbs, "verify", "look for what was altered", _log_verify, "")
    verify.add_argument(
        "--noted", action="append", default=[], metavar="HEAD", help="a `head` that it told earlier"
    )


async def _log_read(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        log = EventLog(store, namespace=options.namespace)
        upto = await log.position_at(cli.moment(options.at)) if options.at else None
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
        new = NewEvent(options.type, cli.parsed(options.data))
        extra = {} if options.expected is None else {"expected": options.expected}
        made = await log.append(
            options.stream, [new], actor=options.actor, op_id=options.op_id, **extra
        )
    version = made.versions[options.stream]
    cli.show(
        options,
        [{"position": made.last_position, "version": version, "repeated": made.repeated}],
    )


async def _follow(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        log = EventLog(store, namespace=options.namespace)
        after = options.after if options.after is not None else (await log.head()).position
        count = 0
        async for event in log.follow(after=after):
            cli.show(options, [_event_row(event)])
            count += 1
            if count == options.count:
                return


async def _log_erase(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        log = EventLog(store, namespace=options.namespace)
        erased = await log.erase(options.stream, versions=options.version)
    cli.show(options, [{"stream": options.stream, "erased": erased}])


async def _log_parked(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        log = EventLog(store, namespace=options.namespace)
        events = await log.parked(options.group, streams=options.streams)
    rows: list[dict[str, cli.Cell]] = [
        {
            "position": event.position,
            "stream": event.stream,
            "version": event.version,
            "attempts": event.attempts,
        }
        for event in events
    ]
    cli.show(options, rows)


async def _log_replay(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        log = EventLog(store, namespace=options.namespace)
        count = await log.replay(options.group, streams=options.streams, positions=options.position)
    cli.show(options, [{"group": options.group, "replayed": count}])


async def _log_verify(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        log = EventLog(store, namespace=options.namespace)
        findings = await log.verify(noted=options.noted)
        head = await log.head()
    if findings:
        found = "; ".join(map(str, findings[:10]))
        raise CorruptStoreError(f"{len(findings)} events or commits were altered: {found}")
    cli.show(options, [{"events": head.position, "sound": True, "head": str(head)}])


# --- saga -----------------------------------------------------------------------------------------


def _saga_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--namespace", default="saga", help="of the sagas (default: %(default)s)")
    verbs = sub.add_subparsers(required=True, metavar="VERB")
    listing = cli.verb(verbs, "list", "runs that are not over", _saga_list, "")
    listing.add_argument("--finished", action="store_true", help="those that are over instead")
    show = cli.verb(verbs, "show", "one run with its history", _saga_show, "order-42")
    retry = cli.verb(
        verbs, "retry", "let a stopped run try again where it stopped", _saga_retry, "order-42"
    )
    skip = cli.verb(
        verbs, "skip", "say that the step of a stopped run is dealt with", _saga_skip, "order-42"
    )
    skip.add_argument(
        "--result", default="null", metavar="JSON", help="of the step (default: null)"
    )
    tell = cli.verb(
        verbs,
        "signal",
        "tell a run what one of its steps waits for",
        _saga_signal,
        "order-42 paid true",
    )
    abandon = cli.verb(
        verbs, "abandon", "turn a run back: compensate what it did", _saga_abandon, ABANDON
    )
    abandon.add_argument(
        "--definition", required=True, metavar="MODULE:NAME", help="where the saga is defined"
    )
    for verb in (show, retry, skip, tell, abandon):
        verb.add_argument("id", metavar="ID", help="of the run")
    tell.add_argument("name", metavar="NAME", help="of the signal, as the step waits for it")
    tell.add_argument(
        "value", nargs="?", default="null", metavar="VALUE", help="JSON (default: null)"
    )


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
        run = await sagas.skip(options.id, cli.parsed(options.result))
    cli.show(options, [_run_row(run)])


async def _saga_abandon(options: argparse.Namespace) -> None:
    saga = _definition(options.definition)
    async with cli.opened(options) as store:
        run = await Sagas(store, [saga], namespace=options.namespace).abandon(options.id)
    cli.show(options, [_run_row(run)])


def _definition(place: str) -> Saga:
    """The saga at `module:name`: only its definition says whether a run may still turn back."""
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidRequestError(f"there is no saga at {place!r}: {error}") from error
    if not isinstance(found, Saga):
        raise InvalidRequestError(f"{place!r} is a {type(found).__name__}, not a Saga")
    return found


async def _saga_signal(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        sagas = Sagas(store, [], namespace=options.namespace)
        told = await sagas.signal(options.id, options.name, cli.parsed(options.value))
    cli.show(options, [{"id": options.id, "signal": options.name, "told": told}])


COMMANDS: Final[dict[str, cli.Command]] = {
    "log": (_log_arguments, cli.run_verb),
    "saga": (_saga_arguments, cli.run_verb),
}
