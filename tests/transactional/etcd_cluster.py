"""Three members of etcd on loopback, and what can be done to them.

Each member tells the others to reach it through a relay of ours.  A relay knows who is calling, by
the process that owns the other end of the connection, so that a pair of members can be cut apart
while each still talks to the third; and it can be slow.  The relays run in a thread of their own:
a busy test must not be a slow network.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.ports import free_ports
from tests.transactional.servers import EtcdMember, memory_directory, wait_until
from transactional.listener import close_listener

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from typing import Self

SLOW_S = 0.03
"""What is added to each piece on its way to or from a slow member: loopback takes 0.0003 s."""

CUT_S = 2.0
"""How long a connection over a cut link is left without an answer."""


def inode_of(own: int, peer: int) -> int | None:
    """Return the inode of a connection on loopback by the ports of its two ends.

    Linux is asked for that one (sock_diag(7)): the list of all is long where tests open and close
    thousands, and while it is read the thread that carries heartbeats carries none.
    """
    here = socket.inet_aton("127.0.0.1") + bytes(12)
    ends = struct.pack(">HH", own, peer) + here + here + struct.pack("=III", 0, NO_ONE, NO_ONE)
    request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, NO_ONE) + ends
    head = struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, 1, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(head + request)
        answer = kernel.recv(8192)
    (kind,) = struct.unpack_from("=H", answer, 4)
    return struct.unpack_from("=I", answer, 84)[0] if kind == SOCK_DIAG_BY_FAMILY else None


NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NO_ONE = 4, 20, 0xFFFFFFFF


def owner_of(own: int, peer: int, pids: list[int]) -> int | None:
    """Return which of the processes has the end ``own`` of a connection."""
    wanted = f"socket:[{inode_of(own, peer)}]"
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) == wanted:
                        return pid
    return None


class Links:
    """The relays in front of the members' peer ports."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self._cluster = cluster
        self.cut: set[frozenset[int]] = set()
        self.slow: set[int] = set()
        self.ports: list[int] = []
        self._open: dict[asyncio.Task[None], frozenset[int]] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # it complains of links that were cut
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, number: int) -> None:
        async def all_() -> None:
            for member in range(number):

                async def serve(reader, writer, member=member) -> None:
                    await self._serve(member, reader, writer)

                server = await asyncio.start_server(serve, "127.0.0.1", 0)
                self._servers.append(server)
                self.ports.append(server.sockets[0].getsockname()[1])

        asyncio.run_coroutine_threadsafe(all_(), self._loop).result(10)

    async def _serve(self, to: int, reader, writer) -> None:
        task = asyncio.current_task()
        ends = [writer.get_extra_info(end)[1] for end in ("peername", "sockname")]
        source = self._cluster.number_of(owner_of(*ends, self._cluster.pids()))
        pair = frozenset((to, source))
        up = None
        try:
            if pair in self.cut or source is None:
                # Held for a while, as a lost packet would: who is refused dials again at once, and
                # to look who he is takes the thread that carries the heartbeats of the others.
                await asyncio.sleep(CUT_S)
                return
            self._open[task] = pair
            up_reader, up = await asyncio.open_connection(
                "127.0.0.1", self._cluster.members[to].peer
            )
            ways = [
                asyncio.create_task(self._copy(reader, up, pair)),
                asyncio.create_task(self._copy(up_reader, writer, pair)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the member is down, or the link was cut
        finally:
            self._open.pop(task, None)
            for end in (writer, up):
                if end is not None:
                    end.close()

    async def _copy(self, source, sink, pair: frozenset[int]) -> None:
        while data := await source.read(1 << 16):
            if self.slow & pair:
                await asyncio.sleep(SLOW_S)
            sink.write(data)
            await sink.drain()

    def part(self, *pairs: tuple[int, int]) -> None:
        """Cut members apart, connections that are open too."""

        def do() -> None:
            self.cut |= {frozenset(pair) for pair in pairs}
            for task, pair in list(self._open.items()):
                if pair in self.cut:
                    task.cancel()

        self._loop.call_soon_threadsafe(do)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self.cut.clear)

    def stop(self) -> None:
        async def all_() -> None:
            for server in self._servers:
                await close_listener(server)  # the tasks of connections are among the rest then
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            await asyncio.sleep(0.05)  # transports that were closed let go of their sockets

        asyncio.run_coroutine_threadsafe(all_(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class EtcdCluster:
    """Three members; blocking calls, for a thread or a fixture.

    Their data lie in ``directory``, or in memory where there is none.
    """

    def __init__(self, directory: Path | None = None, *, size: int = 3) -> None:
        self._root = directory or memory_directory()
        ports = free_ports(2 * size)
        self.members = [
            EtcdMember(self._root, f"m{n}", ports[2 * n], ports[2 * n + 1]) for n in range(size)
        ]
        self.links = Links(self)
        self.links.start(size)
        self._initial = ",".join(
            f"{member.name}=http://127.0.0.1:{port}"
            for member, port in zip(self.members, self.links.ports, strict=True)
        )
        self._stopped: set[int] = set()
        self._names = 0

    def start(self) -> None:
        for number in range(len(self.members)):
            self.raise_member(number)
        self._wait("a cluster of etcd")

    def _wait(self, what: str) -> None:
        try:
            wait_until(lambda: all(m.healthy() for m in self.members), what)
        except TimeoutError as error:
            for member in self.members:
                error.add_note(f"{member.name}, running: {member.pid}, said: {member.said()}")
            raise

    def raise_member(self, number: int) -> None:
        self.members[number].start(self._initial, advertise=self.links.ports[number])

    def url(self, *, only: list[int] | None = None) -> str:
        """Return the URL of a store of its own."""
        self._names += 1
        return self.again(f"s{self._names}", only=only)

    def again(self, name: str, *, only: list[int] | None = None) -> str:
        """Return the URL of a store by its name, through some members."""
        chosen = self.members if only is None else [self.members[n] for n in only]
        addresses = ",".join(member.address for member in chosen)
        return f"etcd://{addresses}/{name}?request_s=4"

    def pids(self) -> list[int]:
        return [pid for member in self.members if (pid := member.pid) is not None]

    def number_of(self, pid: int | None) -> int | None:
        return next((n for n, m in enumerate(self.members) if m.pid == pid), None)

    def leader(self) -> int:
        """Return the number of the member that leads, waiting for one."""
        found: list[int] = []

        def led() -> bool:
            found[:] = [n for n, m in enumerate(self.members) if m.leads()][:1]
            return bool(found)

        wait_until(led, "a leader")
        return found[0]

    # --- what is done to them; each returns what undoes it ---

    def kill(self, number: int) -> Callable[[], None]:
        self.members[number].signal(signal.SIGKILL)
        return lambda: self.raise_member(number)

    def pause(self, number: int) -> Callable[[], None]:
        self.members[number].signal(signal.SIGSTOP)
        return lambda: self.members[number].signal(signal.SIGCONT)

    def isolate(self, number: int) -> Callable[[], None]:
        others = [n for n in range(len(self.members)) if n != number]
        self.links.part(*[(number, other) for other in others])
        return self.links.heal

    def slow_down(self, number: int) -> Callable[[], None]:
        self.links.slow.add(number)
        return lambda: self.links.slow.discard(number)

    def fall(self, number: signal.Signals) -> None:
        """End all members at once: by SIGTERM in good order, by SIGKILL in none."""
        for pid in self.pids():
            os.kill(pid, number)
        for member in self.members:
            member.gone()

    def settle(self) -> None:
        """Wait until all members serve again."""
        self._wait("the cluster whole again")

    def stop(self) -> None:
        for member in self.members:
            with contextlib.suppress(OSError):
                member.signal(signal.SIGCONT)
            member.stop()
        self.links.stop()


class Trouble:
    """One deed after the other, each undone after a while, until ``stop``; in a thread."""

    def __init__(self, cluster: EtcdCluster, dice: random.Random, kinds: list[str]) -> None:
        self._cluster = cluster
        self._dice = dice
        self._kinds = kinds
        self._ended = threading.Event()
        self.deeds: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(self._dice.uniform(0.05, 0.4)):
            kind = self._dice.choice(self._kinds)
            on_leader = self._dice.random() < 0.8
            size = len(self._cluster.members)
            victim = self._cluster.leader() if on_leader else self._dice.randrange(size)
            self.deeds.append(f"{kind} {'leader' if on_leader else 'any'}")
            undo = getattr(self._cluster, kind)(victim)
            self._ended.wait(self._dice.uniform(0.3, 2.5))
            undo()
            if kind == "kill":
                wait_until(self._cluster.members[victim].healthy, "the member that fell")

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._cluster.settle)
