"""What a person can get wrong: one line that helps, an exit status, and nothing half-written."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import pkgutil
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

import aiohttp
import pytest

import crdt
import replication
import transactional
from replication import Agent
from transactional.errors import ConflictError
from transactional.server import Authority, Listen
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
START, END = "2025-02-01T09:00:00+01:00", "2025-02-01T10:00:00+01:00"

MISTAKES = {
    "unknown URL scheme": ("transactional get a --store ftp://x", "names no store"),
    "unreachable store": ("transactional get a --store http://127.0.0.1:1", "no authority at"),
    "unreachable agent": ("replication get a --peer 127.0.0.1:1", "127.0.0.1:1"),
    "wrong token": ("transactional get a --store {store}", "token is missing or wrong"),
    "wrong secret": (
        "replication get a --peer {agent} --secret-file other",
        "does not prove our secret",
    ),
    "no secret": ("replication set a 1 --peer {agent}", "refuses us"),
    "busy port of an authority": (
        "transactional serve new.db --listen {busy}",
        "cannot listen on {busy}: Address already in use",
    ),
    "busy port of an agent": ("replication up ada --listen {busy}", "{busy}: the port is busy"),
    "unreadable journal": ("replication up ada --journal junk.db", "junk.db cannot be read"),
    "unreadable store": ("transactional get a --store sqlite:junk.db", "not a database"),
    "naive datetime": (
        f"transactional room book k 2025-02-01T09:00:00 {END} --holder me --store sqlite:new.db",
        "has no time zone",
    ),
    "reversed interval": (
        f"transactional room book k {END} {START} --holder me --store sqlite:new.db",
        "needs a positive length",
    ),
}


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """An authority with a token, an agent with a secret, a port that is taken, a file of noise."""
    (tmp_path / "junk.db").write_bytes(os.urandom(8192))
    (tmp_path / "other").write_text("some other secret")
    (tmp_path / "other").chmod(0o600)
    authority = Authority(MemoryStore(), Listen(port=0, token="a token for this test"))
    await authority.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with Agent("bob", secret="a shared secret") as agent:
            busy = f"127.0.0.1:{taken.getsockname()[1]}"
            yield {"store": authority.url, "agent": agent.address, "busy": busy}
    await authority.stop()


@pytest.mark.processes
async def test_a_mistake_at_the_command_line_is_one_line(
    tmp_path: Path, places: dict[str, str]
) -> None:
    """Each is told in one line with a hint, exit status not 0, no traceback, no file begun."""

    async def fails_well(mistake: str, command: str, told: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command.format_map(places).split()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        )
        output, errors = await asyncio.wait_for(process.communicate(), 60)
        (line,) = errors.decode().splitlines()
        assert told.format_map(places) in line, mistake
        assert line.startswith("error: "), mistake
        assert "(hint: " in line, mistake
        assert process.returncode not in {0, None}, mistake
        assert output == b"", mistake

    for mistake, (command, told) in MISTAKES.items():
        await fails_well(mistake, command, told)
    begun = {path.name for path in tmp_path.iterdir() if "lock" not in path.name}
    assert begun == {"junk.db", "other"}


async def test_a_document_of_an_unknown_type_is_refused() -> None:
    """A typed error with a hint; the agent goes on as if nothing had been asked."""
    async with Agent("ada") as agent:
        before = agent.digest()
        with pytest.raises(replication.ReplicationError) as refused:
            agent.document("x", dict)
        assert refused.value.hint
        assert agent.digest() == before


def test_every_error_of_the_packages_has_a_code_and_a_hint() -> None:
    """One tree per package; what a caller may catch says what to do."""
    for root in (
        crdt.CRDTError,
        replication.ReplicationError,
        transactional.TransactionalError,
    ):
        family = [root]
        for error in family:
            family += error.__subclasses__()
            ours = error.__module__.partition(".")[0] == root.__module__.partition(".")[0]
            if ours and error is not root:
                assert isinstance(error.code, str), error
                assert error.code, error
                assert isinstance(error.hint, str), error
                assert error.hint, error


# ------------------------------------------------------------------------------ hints


def errors_of(package: ModuleType, root: type[Exception]) -> list[type[Exception]]:
    """Every class of errors that a package raises on purpose."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = [root]
    for kind in found:
        found += [sub for sub in kind.__subclasses__() if sub not in found]
    return [kind for kind in found if kind.__module__.startswith(package.__name__)]


ARGUMENTS: dict[str, object] = {
    "failed": (),
    "current": {},
    "last": ConflictError((), {}, 1),
    "missing": frozenset({"ada"}),
    "types": ("ORSet", "PNCounter"),
    "set_id": b"id",
    "expected": 1,
    "actual": 2,
}


def made(kind: type[Exception]) -> Exception:
    """An error of this class, with arguments of the right shapes."""
    arguments = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL or parameter.default is not parameter.empty:
            continue
        shape = str(parameter.annotation)
        words = "word" if "str" in shape else MagicMock()
        plain = 1 if "int" in shape else 1.5 if "float" in shape else words
        arguments[name] = ARGUMENTS.get(name, plain)
    return kind(**arguments) if arguments else kind("what went wrong")


@pytest.mark.parametrize(
    ("package", "root"),
    [
        (crdt, crdt.CRDTError),
        (replication, replication.ReplicationError),
        (transactional, transactional.TransactionalError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_hint_reaches_the_traceback_of_every_error(package, root):
    """Who sees nothing but a traceback is told what to do, too."""
    kinds = errors_of(package, root)
    assert len(kinds) > 20
    for kind in kinds:
        error = made(kind)
        if error.hint:
            assert error.hint in "".join(traceback.format_exception(error)), kind
    assert sum(bool(kind.hint) for kind in kinds if isinstance(kind.hint, str)) > len(kinds) / 2


# ------------------------------------------------------------------------------ strangers


MARK = b"SECRETBYTES"
STRANGE = [
    b"\x16\x03\x01" + MARK + b"\r\n\r\n",  # TLS to a plain port
    b"GET /" + MARK + b" HTTP/9.9\r\n\r\n",
    b"POST /_replica HTTP/1.1\r\nHost: x\r\nContent-Length: 1" + MARK + b"\r\n\r\n",
    b"POST /_replica HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ" + MARK + b"\r\n",
    b"GET /status?" + MARK * 2000 + b" HTTP/1.1\r\n\r\n",
    b"GET /status HTTP/1.1\r\n" + MARK + b"\r\n\r\n",
]


@pytest.mark.parametrize("kind", ["agent", "authority"])
async def test_what_a_stranger_sends_is_in_no_log(kind, caplog):
    """Counterexample: aiohttp logged a traceback with the request's bytes, per request."""
    caplog.set_level("DEBUG")
    async with contextlib.AsyncExitStack() as stack:
        if kind == "agent":
            agent = await stack.enter_async_context(Agent("ada"))
            port = int(agent.address.rpartition(":")[2])
        else:
            authority = Authority(MemoryStore(), Listen(port=0))
            await authority.start()
            stack.push_async_callback(authority.stop)
            port = authority.port
        for data in STRANGE:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            await asyncio.wait_for(reader.read(12), 10)
            writer.close()
    assert MARK.decode() not in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_handler_that_fails_is_told_of_by_the_kind_of_its_error(monkeypatch, caplog):
    """An operator has to know of it; what the request held may be in the error's text."""

    def failing(*_: object) -> str:
        raise RuntimeError(MARK.decode())

    monkeypatch.setattr("replication.agent.admin.exposition", failing)
    async with (
        Agent("ada") as ada,
        aiohttp.ClientSession() as session,
        session.get(f"http://{ada.address}/metrics") as response,
    ):
        assert response.status == 500
    (line,) = [record for record in caplog.records if record.name == "replication.http"]
    assert (line.getMessage(), line.facts) == ("request-failed", {"error": "RuntimeError"})
    assert MARK.decode() not in caplog.text
