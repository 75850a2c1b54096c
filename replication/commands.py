"""What the verbs of `python -m replication` do; see there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import signal
from typing import TYPE_CHECKING, Any

from replication.agent import Agent
from replication.errors import ConfigError, JournalUnreadableError, NotYetError
from replication.journal.base import rebuild
from replication.journal.sqlite import SqliteJournal
from replication.options import keys_of, page_token
from replication.transport.http import fetch_page
from replication.version import Version

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


async def run(options: argparse.Namespace) -> Any:
    """Carry out one command; what to print, or None."""
    verb = options.verb
    if verb in FILE_VERBS:
        return FILE_VERBS[verb](options)
    if verb in PAGE_VERBS:
        return await PAGE_VERBS[verb](options)
    if verb == "up":
        return await _up(options)
    async with _visitor(options) as agent:
        return await _on_document(agent, options)


# ------------------------------------------------------------------------------ agents


async def _up(options: argparse.Namespace) -> None:
    """Run an agent; the first SIGTERM or SIGINT closes it, a second one stops at once."""
    agent = Agent(
        options.name,
        listen=options.listen,
        peers=options.peer,
        journal=options.journal,
        secret=_secret(options),
        cluster=options.cluster,
        namespace=options.namespace,
    )
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def on_signal() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # the next one has its default effect
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with agent:
        print(json.dumps({"id": agent.id, "address": agent.address}), flush=True)  # noqa: T201 - whoever starts us reads the address
        await stop.wait()


@contextlib.asynccontextmanager
async def _visitor(options: argparse.Namespace) -> AsyncIterator[Agent]:
    """A short-lived agent that has caught up with the peer."""
    page = await _status(options, options.peer)
    agent = Agent(
        f"visitor-{secrets.token_hex(4)}",
        listen="",
        peers=[options.peer],
        secret=_secret(options),
        cluster=options.cluster,
        namespace=options.namespace,
    )
    async with agent:
        await agent.seen(Version(page["vector"]), options.timeout)
        yield agent


async def _on_document(agent: Agent, options: argparse.Namespace) -> Any:
    name, verb = options.name, options.verb
    if verb == "watch":
        async for event in agent.watch(name):
            for document in event.documents:
                keys = sorted(map(repr, document.keys or ()))
                print(document.name, document.type.__name__, *keys, flush=True)  # noqa: T201 - the verb prints
        return None
    if verb == "get":
        found = {kind.__name__: _plain(agent.document(name, kind)) for kind in _kinds(agent, name)}
        if not found:
            raise ConfigError(f"there is no document {name!r}", hint="`watch` shows names as used")
        return next(iter(found.values())) if len(found) == 1 else found
    if verb == "explain":
        return [
            {"type": kind.__name__, "entries": agent.document(name, kind).debug()}
            for kind in _kinds(agent, name)
        ]
    _write(agent, verb, name, options.value)
    await agent.replicated(agent.version(), n=1, timeout_s=options.timeout)
    return None


def _write(agent: Agent, verb: str, name: str, value: str) -> None:
    match verb:
        case "set":
            agent.register(name).set(value)
        case "add":
            agent.orset(name).add(value)
        case "remove":
            agent.orset(name).remove(value)
        case "inc":
            agent.counter(name).increment(_amount(value))


def _kinds(agent: Agent, name: str) -> list[Any]:
    return [kind for found, kind in agent.kernel.documents() if found == name]


def _plain(view: Any) -> Any:
    value = view.value
    return sorted(value, key=repr) if isinstance(value, frozenset | set) else value


def _amount(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no whole number") from error


# ------------------------------------------------------------------------------ pages


async def _status(options: argparse.Namespace, peer: str) -> dict[str, Any]:
    secret = _secret(options)
    token = page_token(keys_of(secret))
    try:
        async with asyncio.timeout(options.timeout):
            page: dict[str, Any] = json.loads(await fetch_page(peer, "/status", token))
    except TimeoutError as error:
        raise NotYetError(f"{peer} did not answer", reached=0, wanted=1) from error
    return page


async def _members(options: argparse.Namespace) -> Any:
    return (await _status(options, options.peer))["members"]


async def _stats(options: argparse.Namespace) -> Any:
    page = await _status(options, options.peer)
    return page["state"] | page["counts"]


async def _diff(options: argparse.Namespace) -> Any:
    one, other = await _status(options, options.peer), await _status(options, options.other)
    origins = sorted(set(one["vector"]) | set(other["vector"]))
    rows = [
        {"origin": o, one["id"]: one["vector"].get(o, 0), other["id"]: other["vector"].get(o, 0)}
        for o in origins
        if one["vector"].get(o, 0) != other["vector"].get(o, 0)
    ]
    return rows or ("equal" if one["digest"] == other["digest"] else "equal vectors, not states!")


def _secret(options: argparse.Namespace) -> str | None:
    path: Path | None = options.secret_file
    return path.read_text(encoding="utf-8").strip() if path is not None else None


# ------------------------------------------------------------------------------ files


def _backup(journal: Path, target: Path) -> str:
    _must_exist(journal)
    opened = SqliteJournal(journal)
    opened.open()
    try:
        opened.backup_to(target)
    finally:
        opened.close()
    return f"{target}: a copy without identity; whoever starts on it takes a new incarnation"


def _restore(backup: Path, target: Path) -> str:
    _must_exist(backup)
    if target.exists():
        raise ConfigError(f"{target} exists", hint="move it away first; nothing was changed")
    shutil.copyfile(backup, target)
    return f"{target}: restored; the agent that starts on it takes a new incarnation"


def _doctor(journal: Path) -> dict[str, object]:
    """Read a journal back as a start would: what it holds, and whether it adds up."""
    _must_exist(journal)
    opened = SqliteJournal(journal)
    recovered = opened.open()
    opened.close()
    kernel = rebuild(recovered, recovered.replica or "nobody~0", None)
    return {
        "id": recovered.replica or "(never started)",
        "continuous": recovered.continuous,
        "boots": recovered.boots,
        "rows": len(recovered.rows),
        "snapshot bytes": len(recovered.snapshot),
        "lease": recovered.lease,
        "origins": len(recovered.vector),
        "entries": kernel.entries,
        "verdict": "adds up",
    }


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise JournalUnreadableError(f"{path} does not exist", hint="check the path")


FILE_VERBS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "backup": lambda options: _backup(options.journal, options.target),
    "restore": lambda options: _restore(options.backup, options.target),
    "doctor": lambda options: _doctor(options.journal),
}
PAGE_VERBS: dict[str, Callable[[argparse.Namespace], Awaitable[Any]]] = {
    "status": lambda options: _status(options, options.peer),
    "members": _members,
    "stats": _stats,
    "diff": _diff,
}
