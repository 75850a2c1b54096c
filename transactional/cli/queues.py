"""The command `queue`: put, claim and end jobs, look at them, and deal with those that failed.

`claim` prints a job as JSON and leaves it to whoever names its `claim` to `done`, `fail`, `retry`,
`release` or `checkpoint`, as long as its lease lasts.  With a program it works: the job is on the
program's standard input, `$CONVOCA_JOB` and `$CONVOCA_CLAIM` name it, the lease is renewed, and the
exit status decides: 0 is done, 100 is failed and for a person to look at, anything else is tried
again.  So a shell script is a worker.  If the claim is lost or we are told to end, the program is
ended first (`program`), and in the latter case the job goes back untried.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Final

from transactional.cli import command as cli
from transactional.cli.program import run_program
from transactional.cli.screen import printable
from transactional.errors import (
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from transactional.queues import (
    RETRY_IN_S_MAX,
    ClaimLostError,
    Job,
    JobInfo,
    JobState,
    UnknownJobError,
    WorkQueue,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from transactional.queues import Depth
    from transactional.store import Store

FAILED: Final = 100
"""The exit status of a program that says: no attempt can help."""
AGAIN_S: Final = 1.0
"""How often the end of a job is told to a store that is out of reach, as long as it is ours."""
PUT: Final = """tickets T-1 '{"title": "refund"}'"""
"""Words of an example."""
ROWS_AT_ONCE: Final = 1000
"""So many jobs are printed as they are read, in forms that need no common width."""


def _queue_arguments(sub: argparse.ArgumentParser) -> None:
    verbs = sub.add_subparsers(required=True, metavar="VERB")
    put = cli.verb(verbs, "put", "put a job; the same one again changes nothing", _put, PUT)
    claim = cli.verb(
        verbs,
        "claim",
        "claim jobs, and perhaps run a program for each",
        _claim,
        "tickets -- ./work.sh",
    )
    done = cli.verb(verbs, "done", "end a job that was claimed", _done, "tickets T-1 --claim CLAIM")
    fail = cli.verb(
        verbs,
        "fail",
        "park a job that was claimed: a person must look at it",
        _fail,
        'tickets T-1 "no such order" --claim CLAIM',
    )
    retry = cli.verb(
        verbs,
        "retry",
        "let a job that was claimed be tried again",
        _retry,
        'tickets T-1 "mail is down" --in 60 --claim CLAIM',
    )
    release = cli.verb(
        verbs, "release", "give a job back untried", _release, "tickets T-1 --claim CLAIM"
    )
    note = cli.verb(
        verbs,
        "checkpoint",
        "write down how far a job has got",
        _checkpoint,
        """tickets T-1 '{"page": 3}' --claim CLAIM""",
    )
    listing = cli.verb(
        verbs,
        "list",
        "the jobs in one state, or how many are in each (exact to 10,000)",
        _list,
        "tickets parked",
    )
    show = cli.verb(verbs, "show", "one job with its history", _show, "tickets T-1")
    requeue = cli.verb(
        verbs, "requeue", "let a parked or cancelled job begin anew", _requeue, "tickets T-1"
    )
    skip = cli.verb(verbs, "skip", "say that a parked job is dealt with", _skip, "tickets T-1")
    cancel = cli.verb(verbs, "cancel", "take a job out of the queue", _cancel, "tickets T-1")
    rules = cli.verb(
        verbs,
        "rules",
        "show or change what all who use the queue agree on",
        _rules,
        "tickets --lane acme=1 --attempts 5",
    )
    for verb in (
        *(put, claim, done, fail, retry, release, note),
        *(listing, show, requeue, skip, cancel, rules),
    ):
        verb.add_argument("name", metavar="NAME", help="of the queue")
    for verb in (put, done, fail, retry, release, note, show, requeue, skip, cancel):
        verb.add_argument("id", metavar="ID", help="of the job")
    put.add_argument(
        "payload", nargs="?", default="null", metavar="PAYLOAD", help="JSON (default: null)"
    )
    put.add_argument(
        "--priority", type=int, default=0, metavar="N", help="the higher is first (default: 0)"
    )
    put.add_argument("--after", action="append", default=[], metavar="ID", help="wait for this job")
    put.add_argument("--expected", action="store_true", help="what --after names may be put later")
    put.add_argument(
        "--not-before", metavar="TIME", help="when it is ready; ISO 8601 with an offset"
    )
    put.add_argument("--lane", help="of which only so many run at once as `rules` says")
    claim.usage = f"{claim.prog} NAME [OPTIONS] [-- PROGRAM ...]"
    claim.set_defaults(program=[])  # filled from what follows a `--`
    claim.add_argument(
        "--worker",
        default=f"pid-{os.getpid()}",
        help="who others are told has it (default: this process)",
    )
    claim.add_argument(
        "--lease",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long it is ours, unless renewed (default: %(default)g)",
    )
    claim.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="for a job (default: %(default)g)",
    )
    claim.add_argument(
        "--count",
        type=int,
        default=1,
        metavar="N",
        help="end after N jobs; 0: go on for ever (default: %(default)s)",
    )
    claim.add_argument(
        "--retry-in",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="until a job whose program failed is tried again (default: %(default)g)",
    )
    for verb in (done, fail, retry, release, note):
        verb.add_argument(
            "--claim",
            default=os.environ.get("CONVOCA_CLAIM"),
            metavar="CLAIM",
            help="as `claim` printed it (default: $CONVOCA_CLAIM)",
        )
    for verb in (done, skip):
        verb.add_argument(
            "--result", default="null", metavar="JSON", help="what came of it (default: null)"
        )
    for verb in (fail, retry):
        verb.add_argument("error", metavar="ERROR", help="why")
    retry.add_argument(
        "--in",
        dest="in_s",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="until then (default: %(default)g)",
    )
    note.add_argument("value", metavar="VALUE", help="JSON; the next who claims it finds it")
    listing.add_argument(
        "state",
        nargs="?",
        metavar="STATE",
        choices=[state.value for state in JobState],
        help=", ".join(state.value for state in JobState),
    )
    cancel.add_argument("--reason", default="", metavar="TEXT", help="why: others are told")
    rules.add_argument("--lane", action="append", metavar="LANE=N", help="at most N at once; *=N")
    rules.add_argument("--attempts", type=int, metavar="N", help="parked after so many")
    rules.add_argument("--keep", type=float, metavar="SECONDS", help="how long ended ones are kept")


# --- putting and working -------------------------------------------------------------------------


async def _put(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        info = await WorkQueue(store, options.name).put(
            options.id,
            cli.parsed(options.payload),
            priority=options.priority,
            after=options.after,
            not_before=cli.moment(options.not_before) if options.not_before else None,
            lane=options.lane,
            expected=options.expected,
        )
    cli.show(options, [_row(info)])


async def _claim(options: argparse.Namespace) -> int:
    _check_claim(options)
    async with cli.opened(options) as store:
        queue = WorkQueue(store, options.name)
        if not options.program:
            _refuse_embedded(store)
        try:
            return await _claims(queue, options)
        finally:
            if options.program:
                await queue.close()


def _check_claim(options: argparse.Namespace) -> None:
    """Refuse before a job is touched what would fail when it is worked on."""
    if options.count < 0:
        raise InvalidRequestError(f"--count is 1 or more, or 0 for ever, not {options.count}")
    if not 0 <= options.retry_in <= RETRY_IN_S_MAX:  # NaN included
        raise InvalidRequestError(
            f"--retry-in is 0 to {RETRY_IN_S_MAX:g} seconds, not {options.retry_in}"
        )
    if options.program and shutil.which(options.program[0]) is None:
        raise InvalidRequestError(f"there is no program {options.program[0]!r} that can be run")


def _refuse_embedded(store: Store) -> None:
    """Refuse a claim that would be over before anybody read of it."""
    if not store.capabilities.shared:
        raise InvalidRequestError(
            "a claim on a file ends with the process that has the file: serve it"
            " (`convoca serve FILE`), or give a program to run, after --"
        )


async def _claims(queue: WorkQueue, options: argparse.Namespace) -> int:
    left = options.count
    status = 0
    while True:
        jobs = await queue.claim(options.worker, lease_s=options.lease, wait_s=options.wait)
        if not jobs:
            error = NotFoundError(f"nothing is ready in queue {options.name!r}")
            error.hint = "`queue list NAME` says what is there; --wait SECONDS waits for a job"
            raise error
        if options.program:
            status = await _run(jobs[0], options)
        else:
            cli.emit(options, {**_told(jobs[0]), "claim": jobs[0].detach()})
        left -= 1
        if left == 0:
            return status


def _told(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "payload": job.payload,
        "attempt": job.attempt,
        "priority": job.priority,
        "lane": job.lane,
        "checkpointed": job.checkpointed,
    }


async def _run(job: Job, options: argparse.Namespace) -> int:
    """Run the program for the job; return its exit status."""
    environment = os.environ | {
        "CONVOCA_JOB": job.id,
        "CONVOCA_QUEUE": options.name,
        "CONVOCA_CLAIM": job.token,
        "CONVOCA_STORE": options.store,
    }
    told = json.dumps(_told(job), ensure_ascii=False).encode() + b"\n"
    async with job:
        with tempfile.TemporaryFile() as stdin:  # a pipe would wait for a program that reads none
            stdin.write(told)
            stdin.seek(0)
            try:
                status = await run_program(options.program, environment, lost=job.lost, stdin=stdin)
            except ValueError as error:
                await job.fail(f"it cannot be told to a program: {error}")
                return FAILED
            except OSError:
                await job.release()  # it was not tried
                raise
        if job.lost.is_set():
            raise ClaimLostError(options.name, job.id, job.worker)
        if status == 0:
            await _insist(job, job.done)
        elif status == FAILED:
            why = f"{options.program[0]!r} said that no attempt can help"
            await _insist(job, lambda: job.fail(why))
        else:
            await _insist(job, lambda: job.retry(f"exit status {status}", in_s=options.retry_in))
    return status


async def _insist(job: Job, act: Callable[[], Awaitable[None]]) -> None:
    """End the job, whoever is away meanwhile, as long as it is ours: the work is done by now."""
    while True:
        try:
            return await act()
        except (UnavailableError, OutcomeUnknownError) as error:
            if job.lost.is_set():
                raise
            sys.stderr.write(printable(f"{job.id}: {error}; it is tried again") + "\n")
            await asyncio.sleep(AGAIN_S)


async def _resumed(queue: WorkQueue, options: argparse.Namespace) -> Job:
    if not options.claim:
        raise InvalidRequestError("say which claim: --claim CLAIM, as `claim` printed it")
    return await queue.resume(options.id, options.claim)


async def _done(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        queue = WorkQueue(store, options.name)
        job = await _resumed(queue, options)
        await job.done(cli.parsed(options.result))
        await _show_one(queue, options)


async def _fail(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        queue = WorkQueue(store, options.name)
        job = await _resumed(queue, options)
        await job.fail(options.error)
        await _show_one(queue, options)


async def _retry(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        queue = WorkQueue(store, options.name)
        job = await _resumed(queue, options)
        await job.retry(options.error, in_s=options.in_s)
        await _show_one(queue, options)


async def _release(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        queue = WorkQueue(store, options.name)
        job = await _resumed(queue, options)
        await job.release()
        await _show_one(queue, options)


async def _checkpoint(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        queue = WorkQueue(store, options.name)
        job = await _resumed(queue, options)
        await job.checkpoint(cli.parsed(options.value))
        await _show_one(queue, options)


# --- looking and intervening ---------------------------------------------------------------------


async def _show_one(queue: WorkQueue, options: argparse.Namespace) -> None:
    info = await queue.get(options.id)
    if info is None:
        raise UnknownJobError(options.name, options.id)
    cli.show(options, [_row(info)])


async def _list(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        queue = WorkQueue(store, options.name)
        if options.state is None:
            depths = await queue.depths()
            rows: list[dict[str, cli.Cell]] = [
                {"state": state.value, **_depth(depth, options.output)}
                for state, depth in depths.items()
            ]
        else:
            rows = []
            async for info in queue.jobs(options.state):
                rows.append(_row(info))
                if len(rows) == ROWS_AT_ONCE and options.output != "table":
                    cli.show(options, rows)
                    rows = []
    cli.show(options, rows)


def _depth(depth: Depth, output: str) -> dict[str, cli.Cell]:
    """How many there are: for a program a number, and whether there are more than that."""
    if output == "json":
        return {"jobs": depth.count, "more": depth.more}
    return {"jobs": str(depth)}


async def _show(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        info = await WorkQueue(store, options.name).get(options.id)
    if info is None:
        raise UnknownJobError(options.name, options.id)
    if options.output == "json":
        cli.emit(options, info.to_json())
        return
    cli.show(options, [_row(info)])
    attempts: list[dict[str, cli.Cell]] = [
        {
            "attempt": attempt.number,
            "worker": attempt.worker,
            "at": attempt.at.isoformat(timespec="seconds"),
            "ended": attempt.ended or "(runs)",
            "error": attempt.error,
        }
        for attempt in info.history
    ]
    cli.show(options, attempts)


def _row(info: JobInfo) -> dict[str, cli.Cell]:
    def told(value: object) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False)

    return {
        "id": info.id,
        "state": info.state.value,
        "priority": info.priority,
        "lane": info.lane,
        "attempts": info.attempts,
        "worker": info.worker,
        "waits_for": ", ".join(info.missing) or None,
        "not_before": info.not_before.isoformat() if info.not_before else None,
        "payload": told(info.payload),
        "checkpointed": told(info.checkpointed),
        "result": told(info.result),
        "error": info.error or None,
    }


async def _requeue(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        info = await WorkQueue(store, options.name).requeue(options.id)
    cli.show(options, [_row(info)])


async def _skip(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        queue = WorkQueue(store, options.name)
        info = await queue.skip(options.id, cli.parsed(options.result))
    cli.show(options, [_row(info)])


async def _cancel(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        info = await WorkQueue(store, options.name).cancel(options.id, options.reason)
    cli.show(options, [_row(info)])


async def _rules(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        queue = WorkQueue(store, options.name)
        if options.lane or options.attempts is not None or options.keep is not None:
            lanes = dict((await queue.config()).lanes)
            for text in options.lane or ():
                lane, _, limit = text.rpartition("=")
                if not lane or not limit.isdecimal():
                    raise InvalidRequestError(f"{text!r} is not like acme=1")
                lanes[lane] = int(limit)
            queue = WorkQueue(
                store,
                options.name,
                lanes=lanes if options.lane else None,
                attempts_max=options.attempts,
                keep_ended_s=options.keep,
            )
        config = await queue.config()
    rows: list[dict[str, cli.Cell]] = [
        {"rule": f"lane {lane}", "value": limit} for lane, limit in sorted(config.lanes.items())
    ]
    rows.append({"rule": "attempts", "value": config.attempts_max})
    rows.append({"rule": "keep", "value": config.keep_ended_s})
    cli.show(options, rows)


COMMANDS: Final[dict[str, cli.Command]] = {
    "queue": (_queue_arguments, cli.run_verb),
}
