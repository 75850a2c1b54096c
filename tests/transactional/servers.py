"""Servers that some engines need: started once for each test process, required where they must be.

A suite that needs a program asks ``require``.  Where the program is missing the suite is skipped,
with the command that brings it; where ``CONVOCA_REQUIRE`` names it (``etcd,postgres``), as a CI
does, that is a failure.  What was skipped is said once more at the end of the run.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from itertools import count
from pathlib import Path
from shutil import which

import pytest

from tests.ports import free_ports
from tests.scale import SOAK

INSTALL = {
    "etcd": "apt-get install etcd-server",
    "pgbouncer": "apt-get install pgbouncer",
    "postgres": "apt-get install postgresql && pip install 'convoca[postgres]'",
}
"""What brings the program of an engine on Debian."""
LIFE_S = (6 if SOAK else 2) * 3600
"""No server outlives this, whatever becomes of the process that started it. A run is shorter, on a
slow machine, too: all tests behind the end of a server that they share would fail."""
ROOM_BYTES = 2 << 30
"""Data lie in memory where so much is free: each member of etcd takes 64 MB for its log at once."""

GUARD = f'"$@" & read -t {LIFE_S} _; kill -9 $!; wait; rm -rf "$0"'
"""Runs a program until what started it ends, however it ends: the pipe is closed then, and nobody
else would take away its data, whose directory is the name under which this runs."""


def required(engine: str) -> bool:
    """Say whether ``CONVOCA_REQUIRE`` names the engine."""
    return engine in os.environ.get("CONVOCA_REQUIRE", "").split(",")


def require(engine: str, *programs: str) -> list[Path]:
    """Return where the programs are (names, or absolute paths); skip or fail without them."""
    found = [Path(path) for program in programs if (path := which(program))]
    if len(found) < len(programs):
        missing(engine, f"{', '.join(programs)}: not installed")
    return found


def missing(engine: str, what: str) -> None:
    """Skip the test for want of ``what``, or fail it where the engine is required."""
    reason = f"engine {engine}: {what}; it comes with: {INSTALL[engine]}"
    if required(engine):
        pytest.fail(f"{reason} (CONVOCA_REQUIRE names it)", pytrace=False)
    pytest.skip(reason)


# --- etcd ----------------------------------------------------------------------------------------


class EtcdMember:
    """One member in a process of its own, that can be killed, stopped and started again.

    ``peer_urls`` is how the others reach it: itself, or a relay that can be cut.
    """

    def __init__(self, directory: Path, name: str, client: int, peer: int) -> None:
        self.directory = directory / name
        self.log = directory / f"{name}.log"
        self.name = name
        self.client = client
        self.peer = peer
        self.options: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.client}"

    def start(self, cluster: str, *, advertise: int | None = None, token: str = "convoca") -> None:  # noqa: S107 a name
        (program,) = require("etcd", "etcd")
        here = f"http://127.0.0.1:{self.client}"
        command = [
            "bash", "-c", GUARD, str(self.directory), program, "--name", self.name,
            "--data-dir", str(self.directory), "--log-level", "error", "--logger", "zap",
            "--listen-client-urls", here, "--advertise-client-urls", here,
            "--listen-peer-urls", f"http://127.0.0.1:{self.peer}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{advertise or self.peer}",
            "--initial-cluster", cluster, "--initial-cluster-token", token,
            "--heartbeat-interval", "100", "--election-timeout", "1000", *self.options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def said(self) -> str:
        """Return its last words."""
        return self.log.read_text(errors="replace")[-300:] if self.log.exists() else ""

    @property
    def pid(self) -> int | None:
        """Of etcd itself and not of its guard; None if it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            child = next(iter(children.read_text().split()), None)
            # One that has ended stays the guard's child, a zombie, until the guard ends.
            runs = child is not None and " Z " not in Path(f"/proc/{child}/stat").read_text()
            return int(child) if child is not None and runs else None
        except OSError:  # it ended just now
            return None

    def signal(self, number: int) -> None:
        """Send it a signal; of SIGKILL the end is awaited."""
        assert self._process is not None
        if number == signal.SIGKILL:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
        elif (pid := self.pid) is not None:
            os.kill(pid, number)

    def gone(self) -> None:
        """Wait until it has ended by itself, and end its guard."""
        wait_until(lambda: self.pid is None, f"the end of {self.name}")
        self.signal(signal.SIGKILL)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)

    def ask(self, path: str, body: object = None) -> dict:
        url = f"http://{self.address}{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data)
        with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310 the same
            return json.loads(answer.read())

    def healthy(self) -> bool:
        try:
            return self.ask("/health").get("health") == "true"
        except (OSError, ValueError):
            return False

    def leads(self) -> bool:
        try:
            found = self.ask("/v3/maintenance/status", {})
        except (OSError, ValueError):
            return False
        return found.get("leader") == found["header"]["member_id"]


def memory() -> Path:
    """Return where files lie in memory, if there is room: fsync costs nothing there."""
    fast = Path("/dev/shm")  # noqa: S108 it is meant
    roomy = os.access(fast, os.W_OK) and shutil.disk_usage(fast).free >= ROOM_BYTES
    return fast if roomy else Path(tempfile.gettempdir())


def memory_directory() -> Path:
    """Return a fresh directory in memory."""
    found = Path(tempfile.mkdtemp(prefix="convoca-", dir=memory()))
    atexit.register(shutil.rmtree, found, ignore_errors=True)
    return found


def wait_until(holds, what: str, *, within_s: float = 60) -> None:
    """Wait for a server, blocking."""
    end_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what} did not come about within {within_s:g} s")
        time.sleep(0.05)


_etcd: list[EtcdMember] = []
_names = count()


def etcd_url() -> str:
    """Return the URL of a store of its own, on a member that this process keeps running."""
    require("etcd", "etcd")
    if not _etcd:
        client, peer = free_ports(2)
        member = EtcdMember(memory_directory(), "one", client, peer)
        member.start(f"one=http://127.0.0.1:{peer}")
        atexit.register(member.stop)
        wait_until(member.healthy, "etcd")
        _etcd.append(member)
    return f"etcd://{_etcd[0].address}/s{next(_names)}"
