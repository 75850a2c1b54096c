"""What tests of agents share: waiting for a condition, the command line, certificates."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from replication.cli import main

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

OPENSSL = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits for a condition of the outside, which has no event to wait for."""

    async def until(condition, limit_s: float = 60) -> None:
        async with asyncio.timeout(limit_s):
            while not condition():  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.005)

    return until


@pytest.fixture
def say(capsys) -> Callable[..., Awaitable[tuple[int, str, str]]]:
    """A command in a thread of this process: quick, and as real but for the process."""

    async def say(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, arguments)
        shown = capsys.readouterr()
        return code, shown.out.strip(), shown.err.strip()

    return say


@pytest.fixture
def tls_contexts(tmp_path: Path) -> Callable[[str], tuple[ssl.SSLContext, ssl.SSLContext]]:
    """Server's and client's, of a fresh certificate that names its holder and trusts itself."""

    def made(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        key, certificate = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run(
            [*OPENSSL, "-keyout", str(key), "-out", str(certificate), *subject],
            check=True,
            capture_output=True,
        )
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
        server.load_cert_chain(certificate, key)
        server.verify_mode = ssl.CERT_REQUIRED
        client = ssl.create_default_context(cafile=str(certificate))
        client.load_cert_chain(certificate, key)
        return server, client

    return made
