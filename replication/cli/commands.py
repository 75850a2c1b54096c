"""What the verbs of `python -m replication` do, each one function."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replication.agent import Agent
from replication.cli import doctor as diagnosis
from replication.cli import logs
from replication.cli.screen import json_line, printable
from replication.errors import ConfigError
from replication.journal import HOW_TO_GO_ON, KeptOut, back_up
from replication.options import keys_of, tls_contexts
from replication.transport import AdminClient

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Awaitable, Callable
    from pathlib import Path

MEMBER = ("id", "address", "status", "journalled", "heard_s", "lag_events")
RENEW_S = 5.0
"""How often the files of the certificate are looked at."""
logger = logging.getLogger(logs.LOGGER)


async def run(options: argparse.Namespace) -> Any:
    """Carry out one command; what to print, or None."""
    return await VERBS[options.verb](options)


# ------------------------------------------------------------------------------ running an agent


def tls_of(options: argparse.Namespace) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """The contexts of an agent that the options describe: of its server, and as a client."""
    server_tls, client_tls = tls_contexts(options.tls_cert, options.tls_key, options.tls_ca)
    if options.listen and client_tls is not None and server_tls is None:
        raise ConfigError("an agent that listens with TLS needs a certificate", hint="--tls-cert")
    return server_tls, client_tls


async def _up(options: argparse.Namespace) -> None:
    """Run an agent; the first SIGTERM or SIGINT closes it, a second one stops at once."""
    logs.write_to_stderr(options.log_level, options.log_format)
    server_tls, client_tls = tls_of(options)
    agent = Agent(
        options.name,
        listen=options.listen,
        address=options.address,
        peers=options.peer,
        hubs=options.hub,
        server_tls=server_tls,
        client_tls=client_tls,
        journal=options.journal,
        secret=secret_of(options),
        cluster=options.cluster,
        namespace=options.namespace,
    )
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def on_signal() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # the next one has its default effect
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C interrupts the run
            loop.add_signal_handler(number, on_signal)
    async with agent:
        facts = {"id": agent.id, "address": agent.address}
        logger.info("started", extra={"facts": facts})
        print(json.dumps(facts), flush=True)  # noqa: T201 - whoever starts us reads the address
        contexts = [each for each in (server_tls, client_tls) if each is not None]
        renewing = asyncio.create_task(_renew(contexts, options.tls_cert, options.tls_key))
        await stop.wait()
        renewing.cancel()
        logger.info("stopping", extra={"facts": facts})
    logger.info("stopped", extra={"facts": facts})


async def _renew(
    contexts: list[ssl.SSLContext], certificate: Path | None, key: Path | None
) -> None:
    """Load the certificate again when its file, or its key's, changes; connections go on.

    It is tried apart first: what does not fit together leaves the one in use as it is.
    """
    files = [path for path in (certificate, key) if path is not None]
    if not contexts or certificate is None:
        return
    seen = _seen(files)
    while True:
        await asyncio.sleep(RENEW_S)
        if (now := _seen(files)) == seen:
            continue
        seen = now
        try:
            tls_contexts(certificate, key, None)
            for context in contexts:
                context.load_cert_chain(certificate, key)
        except (ConfigError, OSError) as error:
            logger.error("certificate-kept", extra={"facts": {"error": str(error)}})  # noqa: TRY400
        else:
            logger.warning("certificate-renewed", extra={"facts": {"file": str(certificate)}})


def _seen(files: list[Path]) -> list[object]:
    found: list[object] = []
    for path in files:
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return found


# ------------------------------------------------------------------------------ documents


async def _get(options: argparse.Namespace) -> Any:
    """The value of a document; {type: value} if several types share the name; all names."""
    if options.name is None:
        return json.loads(await client_of(options).get("/documents"))
    found = json.loads(await client_of(options).get("/documents", name=options.name))
    return next(iter(found.values())) if len(found) == 1 else found


_COLUMNS = ("type", "place", "value", "fate", "writer", "written", "durable here")


async def _explain(options: argparse.Namespace) -> Any:
    """Who wrote it, when, and what lost."""
    told = json.loads(await client_of(options).get("/explain", name=options.name))
    lines = told["lines"]
    if not lines:
        raise ConfigError(f"nothing is known of {options.name!r}", hint="`get` lists the names")
    return [
        {
            "type": line["type"],
            "place": line["place"] or "-",
            "value": f"({line['missing']})" if line["missing"] else json.dumps(line["value"]),
            "fate": line["fate"]
            + (f" to {line['by']}" if line["fate"] == "lost" else "")
            + (f" by {line['by']}" if line["fate"] == "replaced" and line["by"] else ""),
            "writer": f"{line['writer']}:{line['seq']}",
            "written": _moment(line["written_ms"]),
            "durable here": _moment(line["durable_here_ms"]),
        }
        for line in lines
    ] + [dict.fromkeys(_COLUMNS, "-") | {"value": f"({note})"} for note in told["notes"]]


def _moment(wall_ms: int | None) -> str:
    if wall_ms is None:
        return "-"
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds")


async def _watch(options: argparse.Namespace) -> None:
    """Print changes, and what is there now, until the agent stops, or we are interrupted."""
    async for change in client_of(options).changes(options.name):
        if options.output == "json":
            by = {"by": ", ".join(options.answered)} if options.answered else {}
            line = json_line(by | change)
        else:
            words = [change["name"], change["type"], json.dumps(change["value"]), change["cause"]]
            left_out = ["(cut)"] if change["cut"] else []
            lagged = ["(lagged)"] if change["lagged"] else []
            line = printable(" ".join([*words, *left_out, *lagged]))
        print(line, flush=True)  # noqa: T201 - the verb prints


async def _write(options: argparse.Namespace) -> Any:
    """An order to write; silent unless JSON is asked for."""
    value = options.value
    if options.verb == "inc":
        value = _whole(value)
    elif options.json:
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"{value!r} is no JSON", hint="a text needs its quotes") from error
    order = {"name": options.name, "value": value, "copies": options.copies}
    answer = await client_of(options).order(options.verb, timeout_s=options.timeout, **order)
    if not answer["durable"]:
        note = f"note: {printable(answer['writer'])} keeps no journal: this is in its memory only"
        print(note, file=sys.stderr)  # noqa: T201 - a command line prints
    return answer if options.output == "json" else None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a whole number", hint="inc NAME 3") from error


async def _about_peer(options: argparse.Namespace) -> None:
    """cut, heal, retire, skip."""
    await client_of(options).order(options.verb, peer=options.other)


# ------------------------------------------------------------------------------ status


async def _status(options: argparse.Namespace) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(await client_of(options).get("/status"))
    return status


async def _members(options: argparse.Namespace) -> Any:
    """Whom the agent knows, itself first."""
    status = await _status(options)
    asked = {"status": "asked", "heard_s": 0.0, "lag_events": 0}
    itself = {what: status[what] for what in ("id", "address", "journalled")} | asked
    return [{what: itself[what] for what in MEMBER}, *status["members"]]


async def _stats(options: argparse.Namespace) -> Any:
    status = await _status(options)
    sizes = {
        f"{what} bytes": size for what, size in (status["bytes"] | status["queued_bytes"]).items()
    }
    return status["state"] | sizes | {"loop lag s": status["loop_lag_s"]} | status["counts"]


async def _diff(options: argparse.Namespace) -> Any:
    one, other = [
        json.loads(await client_of(options, peer).get("/status"))
        for peer in (options.one, options.other)
    ]
    rows = [
        {"origin": o, one["id"]: one["vector"].get(o, 0), other["id"]: other["vector"].get(o, 0)}
        for o in sorted(set(one["vector"]) | set(other["vector"]))
        if one["vector"].get(o, 0) != other["vector"].get(o, 0)
    ]
    if not rows and not (one["digest"] and other["digest"]):
        return "equal vectors; a batch is open, ask again for the states"
    return rows or ("equal" if one["digest"] == other["digest"] else "equal vectors, not states!")


def client_of(options: argparse.Namespace, peer: str = "") -> AdminClient:
    """Who asks the agent at `peer`, or the one that the options name."""
    _, tls = tls_contexts(options.tls_cert, options.tls_key, options.tls_ca)
    keys = keys_of(secret_of(options))
    return AdminClient(
        peer or options.peer, keys, options.timeout, tls, options.insecure, options.answered
    )


def secret_of(options: argparse.Namespace) -> list[str] | None:
    """The secrets of the file or the environment, one per line, the one to seal with first.

    There is no option that takes a secret: what a process was started with is for all eyes.
    """
    path: Path | None = options.secret_file
    given = os.environ.get("CONVOCA_SECRET", "")
    if path is None and not given:
        return None
    lines = (path.read_text(encoding="utf-8") if path is not None else given).splitlines()
    return [line.strip() for line in lines if line.strip()]


# ------------------------------------------------------------------------------ files


async def _backup(options: argparse.Namespace) -> str:
    kept_out: list[KeptOut] = []
    moved = back_up(options.journal, options.target, kept_out)
    said = f"{options.target}: a copy without identity, that opens{_aside(moved)}"
    return said + _without(kept_out)


async def _restore(options: argparse.Namespace) -> str:
    kept_out: list[KeptOut] = []
    moved = back_up(options.backup, options.target, kept_out)
    said = f"{options.target}: restored, and opens; its agent takes a new incarnation"
    return said + _aside(moved) + _without(kept_out)


def _without(kept_out: list[KeptOut]) -> str:
    """What a journal lacks that claims to have it, and how to go on."""
    if not kept_out:
        return ""
    return f"; damaged: {'; '.join(map(str, kept_out[:10]))}; {HOW_TO_GO_ON}"


def _aside(moved: list[Path]) -> str:
    return "".join(f"; left of an older one, now {path}" for path in moved)


async def _doctor(options: argparse.Namespace) -> Any:
    """Findings about a journal that is not open, or about an agent and everybody it knows."""
    if options.journal is not None:
        return diagnosis.of_journal(options.journal)
    if not options.peer:
        raise ConfigError("nothing to look at", hint="doctor JOURNAL, or doctor --peer HOST:PORT")
    keys = keys_of(secret_of(options))
    _, tls = tls_contexts(options.tls_cert, options.tls_key, options.tls_ca)
    return await diagnosis.of_cluster(options.peer, keys, options.timeout, tls)


VERBS: dict[str, Callable[[argparse.Namespace], Awaitable[Any]]] = {
    "up": _up,
    "get": _get,
    "set": _write,
    "add": _write,
    "remove": _write,
    "inc": _write,
    "watch": _watch,
    "explain": _explain,
    "status": _status,
    "members": _members,
    "stats": _stats,
    "diff": _diff,
    "cut": _about_peer,
    "heal": _about_peer,
    "retire": _about_peer,
    "skip": _about_peer,
    "backup": _backup,
    "restore": _restore,
    "doctor": _doctor,
}
