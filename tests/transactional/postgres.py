"""A private PostgreSQL: a cluster for the whole test session, or one of a test's own.

The shared one is started by whichever process of the session needs it first, and used by all of
them, each with databases of its own.  A keeper process holds it: it ends the server when the
session's processes are gone, however they went, and after ``LIFE_S`` in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from tests.ports import free_ports
from tests.transactional.servers import LIFE_S, memory, missing, require

PATIENCE_S = 60.0
VERSIONS = Path("/usr/lib/postgresql")
"""Where Debian keeps them, by version."""


def _programs() -> Path:
    """Return the directory of the newest PostgreSQL; skip without one."""
    for directory in sorted(VERSIONS.glob("*/bin"), key=lambda d: int(d.parent.name), reverse=True):
        if (directory / "postgres").exists():
            break
    else:
        directory = require("postgres", "postgres")[0].parent
    try:
        import asyncpg  # noqa: F401
    except ModuleNotFoundError:
        missing("postgres", "asyncpg: not installed")
    return directory


def _as_owner() -> dict[str, object]:
    """Return how to start a process that PostgreSQL accepts: it refuses root."""
    if os.getuid():
        return {}
    import pwd

    owner = pwd.getpwnam("postgres")
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


class Cluster:
    """A server with a data directory of its own, on a port of loopback and on a Unix socket."""

    def __init__(self, directory: Path, *settings: str) -> None:
        self.programs = _programs()
        self.directory = directory
        self.settings = settings
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def make(self) -> None:
        """Make the data directory."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not os.getuid():
            import pwd

            owner = pwd.getpwnam("postgres")
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self.directory.chmod(0o755)
        self._run("initdb", "-D", str(self.data), "-U", "convoca", "-A", "trust", "-E", "UTF8",
                  "--locale=C.UTF-8", "-N", "-k")  # fmt: skip

    def _run(self, program: str, *given: str) -> None:
        done = subprocess.run(
            [str(self.programs / program), *given],
            capture_output=True, text=True, check=False, cwd="/", **_as_owner(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout

    def start(self) -> None:
        """Start the server and wait until it answers; the port stays over restarts."""
        self.port = self.port or free_ports(1)[0]
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "max_connections": "200",
            "shared_buffers": "32MB",
            "log_min_messages": "fatal",
            "autovacuum_naptime": "10s",
        } | dict(each.split("=", 1) for each in self.settings)
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(self.data), *given],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **_as_owner(),
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            ready = subprocess.run(
                [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)],
                check=False,
            )
            if ready.returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError((self.directory / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT is fast, SIGQUIT immediate, as if it had fallen."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def url(self, database: str = "postgres", **options: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        place = f"postgresql://convoca@127.0.0.1:{self.port}/{database}"
        return f"{place}?{query}" if query else place

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)


# --- the one that all share ----------------------------------------------------------------------


def _session() -> int:
    """Return the process that the whole session belongs to: xdist's, or this one."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


@cache
def shared() -> str:
    """Return the address (HOST:PORT) of the session's server, which is started if it is not."""
    _programs()
    place = Path(tempfile.gettempdir()) / f"convoca-postgres-{_session()}"
    with (place.with_suffix(".lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = place.with_suffix(".port")
        if not ready.exists():
            keeper = [sys.executable, "-m", "tests.transactional.postgres"]
            os.posix_spawn(
                sys.executable,
                [*keeper, str(_session()), str(ready)],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                setsid=True,
            )
            deadline = time.monotonic() + PATIENCE_S
            while not ready.exists():
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.05)
        return f"127.0.0.1:{ready.read_text()}"


def keep(session: int, ready: Path) -> None:
    """Hold a server for as long as the session lives."""
    cluster = Cluster(memory() / f"convoca-postgres-{session}-{secrets.token_hex(4)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        cluster.make()
        cluster.start()
        draft = ready.with_suffix(".draft")
        draft.write_text(str(cluster.port))
        draft.rename(ready)
        deadline = time.monotonic() + LIFE_S
        while time.monotonic() < deadline and Path(f"/proc/{session}").exists():
            time.sleep(0.2)
    finally:
        cluster.remove()
        for suffix in (".port", ".lock", ".draft"):
            ready.with_suffix(suffix).unlink(missing_ok=True)


async def new_database(address: str) -> str:
    """Make an empty database on a server; return its URL."""
    import asyncpg

    name = f"t_{secrets.token_hex(6)}"
    host, _, port = address.rpartition(":")
    connection = await asyncpg.connect(
        host=host, port=int(port), user="convoca", database="postgres", timeout=PATIENCE_S
    )
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
    finally:
        await connection.close()
    return f"postgresql://convoca@{address}/{name}"


async def new_schema() -> str:
    """Return the URL of an empty store on the session's server."""
    address = await asyncio.to_thread(shared)
    return f"postgresql://convoca@{address}/postgres?schema=t_{secrets.token_hex(6)}"


async def drop(url: str) -> None:
    """Remove what `new_schema` gave, so that a session of thousands of tests stays small."""
    import asyncpg

    schema = url.partition("schema=")[2]
    with contextlib.suppress(OSError, asyncpg.PostgresError):
        connection = await asyncpg.connect(url.partition("?")[0])
        await connection.execute("SET client_min_messages = error")
        await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
        await connection.close()


if __name__ == "__main__":
    keep(int(sys.argv[1]), Path(sys.argv[2]))
