"""What the verbs of `python -m replication` say to a running agent, each one function.

And how an agent is asked, by whichever verb: `client_of`.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replication.cli.screen import json_line, note_readers, printable
from replication.credentials import keys_of, tls_contexts
from replication.errors import ConfigError, UnknownDocumentError

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from replication.transport import AdminClient

MEMBER = ("id", "address", "status", "journalled", "heard_s", "lag_events")


def tls_of(options: argparse.Namespace) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """The contexts of an agent that the options describe: of its server, and as a client."""
    server_tls, client_tls = tls_contexts(options.tls_cert, options.tls_key, options.tls_ca)
    if options.listen and client_tls is not None and server_tls is None:
        raise ConfigError("an agent that listens with TLS needs a certificate", hint="--tls-cert")
    return server_tls, client_tls


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
        raise UnknownDocumentError(f"nothing is known of {options.name!r}")
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
    if not answer["durable"] and options.output != "json":  # there it is a field
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
    from replication.transport import AdminClient  # noqa: PLC0415 - sockets for who asks

    return AdminClient(
        peer or options.peer, keys, options.timeout, tls, options.insecure, options.answered
    )


def secret_of(options: argparse.Namespace) -> list[str] | None:
    """The secrets of the file or the environment, one per line, the one to seal with first.

    There is no option that takes a secret: what a process was started with is for all eyes.

    Raises:
        ConfigError: the file is not text.
    """
    path: Path | None = options.secret_file
    given = os.environ.get("CONVOCA_SECRET", "")
    if path is None and not given:
        return None
    if path is not None:
        try:
            given = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} holds no text", hint="openssl rand -hex 32") from error
        if options.output != "json":  # stderr is an error then, or nothing
            note_readers(path)
    lines = given.splitlines()
    return [line.strip() for line in lines if line.strip()]


VERBS: dict[str, Callable[[argparse.Namespace], Awaitable[Any]]] = {
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
}
