"""The verb `up`: an agent until SIGTERM or Ctrl-C, and its certificate renewed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from typing import TYPE_CHECKING

from replication.agent import Agent
from replication.cli import logs
from replication.cli.commands import secret_of, tls_of
from replication.credentials import tls_contexts
from replication.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    import ssl
    from pathlib import Path

RENEW_S = 5.0
"""How often the files of the certificate are looked at."""
logger = logging.getLogger(logs.LOGGER)


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


VERBS = {"up": _up}
