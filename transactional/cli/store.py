"""The commands that look into a store by hand: keys, watches, locks, lost operations, its speed.

`get`, `put`, `cas`, `scan` and `watch` are the store's methods; `lock` runs a program under a lock;
`resolve` asks what became of an operation; `bench` measures compare-and-swap.
"""

from __future__ import annotations

import asyncio
import os
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Final

from transactional.cli import command as cli
from transactional.cli.program import run_program
from transactional.errors import (
    InvalidRequestError,
    NotFoundError,
)
from transactional.lock import Lock
from transactional.store import Advises, compare_and_swap, scan_all
from transactional.values import Compacted, DeletePrefix, Fenced, Put

if TYPE_CHECKING:
    import argparse

    from transactional.values import Commit, KeyChange


# --- reading and writing -------------------------------------------------------------------------


def _key_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("key", metavar="KEY", help="any text; / parts it")
    cli.add_store(sub)


async def _get(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        found = await store.get(options.key)
    if found is None:
        raise NotFoundError(f"{options.key!r} is absent")
    cli.show(options, [cli.row_of(found)])


def _put_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("key", metavar="KEY", help="any text; / parts it")
    sub.add_argument("value", metavar="VALUE", help="text; - reads standard input")
    sub.add_argument("--op-id", help="your idempotency key: a repeat changes nothing")
    cli.add_store(sub)


async def _put(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        write = Put(options.key, cli.value_argument(options.value))
        _show_commit(options, await store.commit([], [write], op_id=options.op_id))


def _cas_arguments(sub: argparse.ArgumentParser) -> None:
    _put_arguments(sub)
    sub.add_argument(
        "--expected",
        type=int,
        required=True,
        metavar="REVISION",
        help="that it has now; 0: it is absent",
    )


async def _cas(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        value = cli.value_argument(options.value)
        commit = await compare_and_swap(
            store, options.key, value, expected=options.expected, op_id=options.op_id
        )
        _show_commit(options, commit)


def _show_commit(options: argparse.Namespace, commit: Commit) -> None:
    row: dict[str, cli.Cell] = {
        "revision": commit.revision,
        "time": commit.time.isoformat(),
        "replayed": commit.replayed,
    }
    cli.show(options, [row])


def _prefix_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "prefix", nargs="?", default="", metavar="PREFIX", help="of the keys (default: every key)"
    )
    cli.add_store(sub)


async def _scan(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        snapshot = await scan_all(store, options.prefix)
    cli.show(options, [cli.row_of(item) for item in snapshot.items.values()])


def _watch_arguments(sub: argparse.ArgumentParser) -> None:
    _prefix_arguments(sub)
    sub.add_argument(
        "--after", type=int, metavar="REVISION", help="start behind it (default: now; 0: oldest)"
    )
    sub.add_argument("--count", type=int, metavar="N", help="end after N commits")


async def _watch(options: argparse.Namespace) -> None:
    if options.count is not None and options.count < 1:
        raise InvalidRequestError(f"--count is 1 or more, not {options.count}")
    async with cli.opened(options) as store:
        left = options.count
        async for event in store.watch(options.prefix, after=options.after):
            if isinstance(event, Compacted):
                print(f"compacted up to revision {event.revision}", file=sys.stderr)
                continue
            cli.show(options, [_change_row(event.revision, change) for change in event.changes])
            left = None if left is None else left - 1
            if left == 0:
                return


def _change_row(revision: int, change: KeyChange) -> dict[str, cli.Cell]:
    deleted: dict[str, cli.Cell] = {"key": change.key, "value": None}
    row = cli.row_of(change.current) if change.current is not None else deleted
    return {"commit": revision, "key": change.key, "value": row["value"]}


def _lock_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", metavar="NAME", help="of the lock")
    sub.add_argument("program", nargs="+", metavar="PROGRAM", help="what to run, after --")
    sub.add_argument(
        "--owner",
        default=f"pid-{os.getpid()}",
        help="who others are told holds it (default: this process)",
    )
    sub.add_argument(
        "--wait",
        type=cli.seconds,
        default=30.0,
        metavar="SECONDS",
        help="for the lock; 0: busy at once (default: %(default)g)",
    )
    sub.add_argument(
        "--ttl",
        type=cli.seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long it is ours after we are gone (default: %(default)g)",
    )
    cli.add_store(sub)


async def _lock(options: argparse.Namespace) -> int:
    """Run a program under the lock; CONVOCA_FENCE tells it the fencing token.

    Its exit status is ours; if a signal ended it, 128 and the signal's number, as in a shell.
    """
    async with cli.opened(options) as store:
        lock = Lock(store, options.name, owner=options.owner, ttl_s=options.ttl)
        async with lock.held(wait_s=options.wait) as grant:
            environment = os.environ | {"CONVOCA_FENCE": str(grant.token)}
            return await run_program(options.program, environment, lost=grant.lost)


# --- lost operations, speed ----------------------------------------------------------------------


def _resolve_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("op_id", metavar="OP_ID", help="of the operation whose outcome is unknown")
    cli.add_store(sub)


async def _resolve(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        outcome = await store.resolve(options.op_id)
    applied = None if isinstance(outcome, Fenced) else outcome.commit.revision
    row: dict[str, cli.Cell] = {
        "op_id": options.op_id,
        "outcome": "fenced: it was not applied and never will be" if applied is None else "applied",
        "revision": applied,
    }
    cli.show(options, [row])


async def _doctor(options: argparse.Namespace) -> int:
    """Show what the store promises and what its server should be changed in; 1 if anything is."""
    async with cli.opened(options) as store:
        promises = store.capabilities
        advice = store.advice() if isinstance(store, Advises) else []
        rows: list[dict[str, cli.Cell]] = [
            {"what": "engine", "found": promises.engine},
            {"what": "durable", "found": promises.durable},
            {"what": "fault tolerant", "found": promises.fault_tolerant},
            {"what": "operations in a commit", "found": promises.max_operations},
            {"what": "bytes in a commit", "found": promises.commit_bytes_max},
        ]
    cli.show(options, [*rows, *({"what": "advice", "found": line} for line in advice)])
    return 1 if advice else 0


def _bench_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--callers",
        type=int,
        default=64,
        metavar="N",
        help="at the same time (default: %(default)s)",
    )
    sub.add_argument(
        "--seconds",
        type=cli.seconds,
        default=2.0,
        metavar="SECONDS",
        help="how long (default: %(default)g)",
    )
    cli.add_store(sub)


async def _bench(options: argparse.Namespace) -> None:
    """Compare-and-swap on a key per caller, then remove the keys."""
    if not 1 <= options.callers <= 4096 or not 0 < options.seconds <= 3600:
        raise InvalidRequestError("--callers is 1 to 4096, --seconds at most 3600")
    async with cli.opened(options) as store:
        prefix = f"bench/{store.mint_op_id()}/"
        took_s: list[float] = []
        end_s = perf_counter() + options.seconds

        async def call(name: str) -> None:
            revision = 0
            while (start_s := perf_counter()) < end_s:
                commit = await compare_and_swap(store, prefix + name, b"x", expected=revision)
                revision = commit.revision
                took_s.append(perf_counter() - start_s)

        await asyncio.gather(*[call(str(number)) for number in range(options.callers)])
        await store.commit([], [DeletePrefix(prefix)])
    if not took_s:
        raise InvalidRequestError("--seconds is too short for a single commit")
    took_s.sort()
    row: dict[str, cli.Cell] = {
        "callers": options.callers,
        "cas_per_s": round(len(took_s) / options.seconds),
        "p50_ms": round(took_s[len(took_s) // 2] * 1e3, 2),
        "p99_ms": round(took_s[len(took_s) * 99 // 100] * 1e3, 2),
    }
    cli.show(options, [row])


COMMANDS: Final[dict[str, cli.Command]] = {
    "get": (_key_arguments, _get),
    "put": (_put_arguments, _put),
    "cas": (_cas_arguments, _cas),
    "scan": (_prefix_arguments, _scan),
    "watch": (_watch_arguments, _watch),
    "lock": (_lock_arguments, _lock),
    "resolve": (_resolve_arguments, _resolve),
    "doctor": (cli.add_store, _doctor),
    "bench": (_bench_arguments, _bench),
}
