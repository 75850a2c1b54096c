"""The command `serve`: share one database file with other processes over HTTP.

The address is tried before a file is made, a signal stops it in good order, and its one line on
stdout tells a parent process that it listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import secrets
import signal
import ssl
import traceback
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from transactional.cli import command as cli
from transactional.cli.screen import printable
from transactional.errors import InvalidRequestError
from transactional.stores import Retention, connect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from transactional.server import Listen

LIMITS: Final = {
    "history_bytes_max": ("BYTES", "of values of the past, for watches that fell behind"),
    "history_commits_max": ("N", "commits whose values are remembered"),
    "index_retention_s": ("SECONDS", "it is known which keys a commit changed"),
    "minted_retention_s": ("SECONDS", "an op_id that the store minted is good for"),
    "op_id_retention_s": ("SECONDS", "op_ids of callers are remembered"),
}
"""Limit of `Retention` -> its unit, and what it limits."""
RENEW_S: Final = 5.0
"""How often the files of the certificate are looked at."""
_log = logging.getLogger(__name__)


def _serve_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "file",
        metavar="FILE",
        help="the database, made if absent; memory: for one that is forgotten; or the URL of an"
        " engine, postgresql://… or etcd://…",
    )
    sub.add_argument(
        "--listen", default="127.0.0.1:7700", metavar="HOST:PORT", help="(default: %(default)s)"
    )
    sub.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="bearer token that clients must show (or $CONVOCA_TOKEN); required off loopback",
    )
    sub.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="list of clients, each with its own token, role and prefixes (docs/http-api.md)",
    )
    sub.add_argument(
        "--accept-clock",
        action="store_true",
        help="the clock is right, though it is 30 days or more from the store's last time",
    )
    for limit in fields(Retention):
        flag = "--" + limit.name.replace("_", "-")
        kind = type(limit.default)
        unit, what = LIMITS[limit.name]
        text = f"{what} (default: {limit.default:,.0f})"
        sub.add_argument(flag, type=kind, metavar=unit, help=text)
    sub.add_argument(
        "--check-every-s",
        type=float,
        metavar="SECONDS",
        help="look at all rows of a file again after so long, between commits; 0: never (default: a"
        " day)",
    )
    sub.add_argument(
        "--tls-cert", type=Path, metavar="PEM", help="certificate chain; read again when it changes"
    )
    sub.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key, if not in there")
    cli.add_output(sub)


def _listen(options: argparse.Namespace) -> Listen:
    from transactional.server import ClientList, Listen  # noqa: PLC0415 clients need no server

    host, colon, port = options.listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise InvalidRequestError(f"--listen takes HOST:PORT, not {options.listen!r}")
    token = cli.token_of(options.token_file, options.output)
    clients = None
    if options.tokens is not None:
        if options.token_file is not None:
            raise InvalidRequestError("--token-file is one token for all; leave it or --tokens out")
        token, clients = None, ClientList(options.tokens)
    tls = None
    if options.tls_cert is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.tls_cert, options.tls_key)
    return Listen(host.strip("[]") or "127.0.0.1", int(port), token, tls, clients)


async def _find_free(listen: Listen) -> None:
    """Refuse an address that cannot be had before a database file is made for it."""
    try:
        serving = asyncio.get_running_loop().create_server(
            asyncio.Protocol, listen.host, listen.port, start_serving=False
        )
        (await serving).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InvalidRequestError(
            f"cannot listen on {listen.host}:{listen.port}: {reason}"
        ) from error


async def _serve(options: argparse.Namespace) -> None:
    from transactional.server import Authority  # noqa: PLC0415 clients need no server

    _log_to_stderr()
    listen = _listen(options)
    await _find_free(listen)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C interrupts the run
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    url = options.file if _is_url(options.file) else f"sqlite:{quote(options.file)}"
    names = [*(limit.name for limit in fields(Retention)), "check_every_s"]
    given = {name: getattr(options, name) for name in names}
    limits = urlencode({name: value for name, value in given.items() if value is not None})
    joint = "&" if "?" in url else "?"
    address = f"{url}{joint}{limits}" if limits else url
    store = await connect(address, accept_clock=options.accept_clock)
    authority = Authority(store, listen)
    renewing = asyncio.create_task(_renew(listen.tls, options.tls_cert, options.tls_key))
    try:
        await authority.start()
        _calm_collector()
        if options.output == "json":
            facts = {"url": authority.url, "store": cli.shown_url(url), "epoch": store.epoch}
            cli.emit(options, facts)
        else:
            line = f"listening on {authority.url} ({_shown(url)}, epoch {store.epoch})"
            print(line, flush=True)
        await stop.wait()
    finally:
        renewing.cancel()
        await authority.stop()


def _is_url(file: str) -> bool:
    return file == "memory:" or file.partition("://")[0] in {"postgresql", "postgres", "etcd"}


def _shown(url: str) -> str:
    """Return what may be said of where the store is: a server's URL may hold a password."""
    scheme, server, _ = url.partition("://")
    return scheme if server else printable(url)


async def _renew(tls: ssl.SSLContext | None, certificate: Path, key: Path | None) -> None:
    """Load the certificate again when its file, or its key's, changes; connections go on.

    It is tried apart first: what does not fit together leaves the one in use as it is.
    """
    if tls is None:
        return
    files = [path for path in (certificate, key) if path is not None]
    seen = _seen(files)
    while True:
        await asyncio.sleep(RENEW_S)
        if (now := _seen(files)) == seen:
            continue
        seen = now
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
            tls.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            _log.error("the certificate stays as it was: %s", error)
        else:
            _log.warning("the certificate was renewed")


def _seen(files: Sequence[Path]) -> list[object]:
    found: list[object] = []
    for path in files:
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return found


class _Line:
    """Formats a record as one line, traceback and all."""

    def format(self, record: logging.LogRecord) -> str:
        words = f"{record.levelname.lower()}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            words += "\n" + "".join(traceback.format_exception(*record.exc_info))
        return printable(words.rstrip())


def _log_to_stderr() -> None:
    """Have warnings and worse written to stderr, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())  # type: ignore[arg-type]  # it formats; that is all
    logger = logging.getLogger("transactional")
    logger.handlers = [handler]
    logger.propagate = False


def _calm_collector() -> None:
    """Have Python's collector look less often, in this process, which is the authority's alone.

    A request makes no reference cycles, yet hundreds in flight are walked through at every 700
    objects made: a tenth of the time under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _token_arguments(sub: argparse.ArgumentParser) -> None:
    cli.add_output(sub)


async def _token(options: argparse.Namespace) -> None:
    """Draw a token: the first is for the client's file, the second for the authority's list."""
    token = secrets.token_urlsafe(32)
    cli.show(options, [{"token": token, "sha256": hashlib.sha256(token.encode()).hexdigest()}])


COMMANDS: Final[dict[str, cli.Command]] = {
    "token": (_token_arguments, _token),
    "serve": (_serve_arguments, _serve),
}
