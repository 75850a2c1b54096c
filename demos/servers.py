"""The servers that a demo may run on: three members of etcd, or one PostgreSQL, started for it.

    python -m demos.servers etcd|postgresql FOLDER

An actor (see `stage`): it says `ready` with the store's URL, kills the leader of etcd when it is
told to, and ends all servers when its standard input ends. They listen on loopback.
etcd writes into FOLDER; PostgreSQL, which as root runs as another user, into one of its own that
goes with it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from demos.stage import commands, free_addresses, tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENGINES = ("etcd", "postgresql")
INSTALL = {
    "etcd": "apt-get install etcd-server",
    "postgresql": f"apt-get install postgresql && {sys.executable} -m pip install asyncpg",
}
READY_S_MAX = 60.0
ANSWER_S = 2.0
LOOK_AGAIN_S = 0.1
STOP_S_MAX = 3.0
VERSIONS = Path("/usr/lib/postgresql")  # where Debian keeps them, by version


def missing(engine: str) -> str:
    """What this machine lacks to run the engine's servers; nothing: it has all."""
    if engine == "etcd":
        return "" if shutil.which("etcd") else "etcd is not installed"
    if not _postgres():
        return "PostgreSQL is not installed"
    return "" if importlib.util.find_spec("asyncpg") else "asyncpg is not installed"


def _postgres() -> Path | None:
    """Where the programs of the newest PostgreSQL are."""
    debian = sorted(VERSIONS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("initdb")
    return debian[-1].parent if debian else Path(found).parent if found else None


class Etcd:
    """Three members, each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        places = free_addresses(6)
        self._clients, self._peers = places[:3], places[3:]
        self._members: list[subprocess.Popen[bytes]] = []

    def start(self) -> str:
        """Start them; return the store's URL when they have a leader."""
        initial = ",".join(f"m{n}=http://{peer}" for n, peer in enumerate(self._peers))
        for n, (client, peer) in enumerate(zip(self._clients, self._peers, strict=True)):
            command = [
                *("etcd", "--name", f"m{n}", "--data-dir", str(self._folder / f"m{n}")),
                *("--listen-client-urls", f"http://{client}"),
                *("--advertise-client-urls", f"http://{client}"),
                *("--listen-peer-urls", f"http://{peer}"),
                *("--initial-advertise-peer-urls", f"http://{peer}"),
                *("--initial-cluster", initial, "--log-level", "error"),
            ]
            self._members.append(_started(command, self._folder / f"m{n}.log"))
        deadline = monotonic() + READY_S_MAX
        while self._leader() is None:
            if monotonic() > deadline:
                raise TimeoutError("etcd found no leader")
            sleep(LOOK_AGAIN_S)
        return f"etcd://{','.join(self._clients)}/demo"

    def _leader(self) -> int | None:
        """The number of the member that leads, as itself says."""
        for n, client in enumerate(self._clients):
            line = HTTPConnection(client, timeout=ANSWER_S)
            try:
                line.request("POST", "/v3/maintenance/status", b"{}")
                said = json.load(line.getresponse())
            except (OSError, HTTPException):
                continue
            finally:
                line.close()
            if said.get("leader", "0") == said["header"]["member_id"]:
                return n
        return None

    def kill_leader(self) -> str:
        """SIGKILL to the leader; the other two go on. Returns its name."""
        leader = self._leader()
        if leader is None:
            return ""
        self._members[leader].kill()
        self._members[leader].wait()
        return f"m{leader}"

    def stop(self) -> None:
        """End them."""
        _ended(self._members, signal.SIGTERM)


class Postgres:
    """One server with a data folder of its own."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="convoca-postgresql-"))
        self._server: list[subprocess.Popen[bytes]] = []

    def start(self) -> str:
        """Make a cluster and start it; return the store's URL when it answers."""
        programs = _postgres()
        if programs is None:
            raise FileNotFoundError("initdb")
        owner = _postgres_owner()
        if owner:
            shutil.chown(self._folder, owner["user"], owner["group"])
        data, log = self._folder / "data", self._folder / "server.log"
        made = [
            str(programs / "initdb"),
            "-D",
            str(data),
            "-U",
            "demo",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        _started([*made, "--locale=C"], log, owner).wait()
        (address,) = free_addresses(1)
        port = address.rpartition(":")[2]
        options = [*("-p", port, "-h", "127.0.0.1", "-k", str(self._folder)), "-c", "fsync=on"]
        self._server.append(
            _started([str(programs / "postgres"), "-D", str(data), *options], log, owner)
        )
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port]
        deadline = monotonic() + READY_S_MAX
        while subprocess.run(ready, check=False).returncode:
            if monotonic() > deadline or self._server[0].poll() is not None:
                raise TimeoutError(f"PostgreSQL did not start: {log.read_text()[-300:]}")
            sleep(LOOK_AGAIN_S)
        return f"postgresql://demo@{address}/postgres"

    def stop(self) -> None:
        """End it, and remove what it wrote."""
        _ended(self._server, signal.SIGINT)
        shutil.rmtree(self._folder, ignore_errors=True)


def _postgres_owner() -> dict[str, Any]:
    """How to start what refuses root: as the user that the package made."""
    if os.getuid():
        return {}
    owner = pwd.getpwnam("postgres")
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _started(
    command: Sequence[str], log: Path, owner: Mapping[str, Any] | None = None
) -> subprocess.Popen[bytes]:
    with log.open("ab") as said:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/", **(owner or {})
        )


def _ended(processes: Sequence[subprocess.Popen[bytes]], how: signal.Signals) -> None:
    for process in processes:
        process.send_signal(how)
    for process in processes:
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _play(engine: str, folder: Path) -> None:
    servers = Etcd(folder) if engine == "etcd" else Postgres()
    try:
        tell("ready", url=await asyncio.to_thread(servers.start))
        async for command in commands():
            if command["do"] == "kill_leader" and isinstance(servers, Etcd):
                tell("kill_leader", name=await asyncio.to_thread(servers.kill_leader))
    finally:
        servers.stop()


def main(arguments: Sequence[str]) -> int:
    """Entry of the process; what goes wrong is one line for the director."""
    engine, folder = arguments
    try:
        asyncio.run(_play(engine, Path(folder)))
    except OSError as error:
        print(f"{engine}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
