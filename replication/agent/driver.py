"""Executes the effects of one replica: the only loop of an agent.

Theory of operation. Steps (frames, answers, failures) queue in an inbox; local writes pile up in
the machine. One task drains both, at its own pace, and executes what comes out in the order of the
fields of `Effects`: one journal transaction for all of it (group commit), then the frames, then the
subscribers. While a commit is under way the next steps gather, so a slow disk makes batches larger
and a slow peer stalls nobody.

If a transaction fails, nothing of it was sent and nothing will be until a retry succeeded: rows are
kept, their frames are dropped (the exchanges count as failed), and `failure` makes local writes
raise. Meanwhile peers that ask are answered from a second kernel, rebuilt from the journal: what is
durable here goes on spreading.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from replication.agent.vitals import Vitals
from replication.errors import JournalFailedError, JournalUnreadableError, PeerUnreachableError
from replication.journal.base import Entry, leased, rebuild
from replication.protocol.effects import NOTHING, Effects, Published, Row, Send

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crdt import Kernel
    from replication.config import Config
    from replication.journal.base import Journal
    from replication.protocol.link import PeerConnection
    from replication.protocol.messages import MemberClaim
    from replication.protocol.replica import Replica
    from replication.transport.base import Transport

logger = logging.getLogger("replication")

STEPS_PER_COMMIT = 32
HELD_LOOK_S = 0.05  # how often a loop that a batch holds looks whether it is over
SNAPSHOT_ABOVE_BYTES = 4 * 1024 * 1024
BOOK_EVERY_S = 5.0


class Driver:
    """Loop, disk thread and outgoing exchanges of one agent.

    Args:
        now_s: monotonic seconds.
        publish: called after commit, for every change, in order, with the vector committed.
        lease: own sequence numbers reserved so far.
        wall_ms: what arrivals are noted with.
    """

    def __init__(
        self,
        replica: Replica,
        journal: Journal,
        transport: Transport,
        *,
        config: Config,
        now_s: Callable[[], float],
        publish: Callable[[Published, dict[str, int]], None],
        lease: int,
        wall_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.failure: JournalFailedError | None = None
        self.vitals = Vitals(now_s, wall_ms)
        self.disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._replica = replica
        self._journal = journal
        self._transport = transport
        self._config = config
        self._now_s = now_s
        self._publish = publish
        self._lease = lease
        self._leased_to = replica.id
        self._log_bytes = 0
        self._snapshot_bytes = 0
        self._book = replica.members.address_book()
        self._book_s = now_s()
        self._inbox: deque[Callable[[float], Effects]] = deque()
        self._wake = asyncio.Event()
        self._answers: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._exchange = 0
        self._deliveries: set[asyncio.Task[None]] = set()
        self._unsaved: list[Row] = []
        self._vector: Mapping[str, int] = replica.durable
        self._unpublished: list[Published] = []
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._stopping = False
        self._retry_s = 0.0
        self._not_before_s = 0.0  # after a step that raised, time stands still for a moment
        replica.on_write = self._wake.set

    # ------------------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Until `stop`: wait, drain, execute."""
        self.vitals.heartbeat.start()
        while not self._stopping:
            await self._pause()
            if self._replica.kernel.in_batch:  # half of one must not be seen by anybody
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HELD_LOOK_S):  # a rolled back batch wakes nobody
                        await self._wake.wait()
                self._wake.clear()
                continue
            effects = self._drain()
            await self._execute(effects)
            self._satisfy()

    async def _pause(self) -> None:
        """Sleep until there is a step, a local write, or something due."""
        due_s = self._replica.wake_s if self.failure is None else self._retry_s
        due_s = max(due_s, self._not_before_s)
        wait_s = due_s - self._now_s()
        if self._inbox or wait_s <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _drain(self) -> Effects:
        self._wake.clear()
        now_s = self._now_s()
        steps = [self._inbox.popleft() for _ in range(min(len(self._inbox), STEPS_PER_COMMIT))]
        if self.failure is None:
            due = now_s >= max(self._replica.wake_s, self._not_before_s)
            steps.append(self._replica.tick if due else self._replica.flush)
        return sum((self._taken(step, now_s) for step in steps), NOTHING)

    def _taken(self, step: Callable[[float], Effects], now_s: float) -> Effects:
        """The effects of a step; a fault in one must not end the loop, and with it the agent."""
        try:
            return step(now_s)
        except Exception:
            logger.exception("step-raised")  # its exchange will run out of time
            self._replica.counts["step:raised"] += 1
            self._not_before_s = now_s + self._config.journal_retry_s
            return NOTHING

    async def _execute(self, effects: Effects) -> None:
        """Persist, then send, then publish."""
        for notice in effects.notices:
            logger.warning(notice.code, extra={"facts": dict(notice.data)})
        self._unsaved += effects.persist
        self._vector = effects.vector or self._vector
        self._unpublished += effects.publish
        try:
            if self.failure is None or self._now_s() >= self._retry_s:
                await self._persist()
                self._recover()
        except JournalFailedError as error:
            self._retry_s = self._now_s() + self._config.journal_retry_s
            if self.failure is None:
                for send in effects.send:
                    self._drop(send)
                await self._degrade(error)
                return
        for send in effects.send:
            self._send(send)
        if self.failure is None:
            changes, self._unpublished = self._unpublished, []
            reached = dict(self._vector) if changes else {}
            for change in changes:
                self._publish(change, reached)

    async def _degrade(self, error: JournalFailedError) -> None:
        """Go read-only; from now on peers are told of what the journal holds, and nothing more."""
        self.failure = error
        logger.error("read-only", extra={"facts": {"why": str(error)}})
        durable: Kernel | None = None
        try:
            recovered = await asyncio.get_running_loop().run_in_executor(
                self.disk, self._journal.read
            )
            durable = rebuild(recovered, self._replica.id, None)
        except JournalUnreadableError as unreadable:
            facts = {"why": str(unreadable)}
            logger.error("journal-unreadable", extra={"facts": facts})  # noqa: TRY400 - an operator wants the line, not our stack
        self._replica.degrade(durable)

    def _recover(self) -> None:
        if self.failure is not None:
            logger.warning("writable-again")
            self.failure = None
            self._replica.recover()

    async def _persist(self) -> None:
        """One transaction for everything unsaved, with the vector it leads to."""
        book = self._news_of_book()
        renewed = self._replica.id != self._leased_to
        if not (self._unsaved or book is not None or renewed or self.failure):
            return
        kernel, vector = self._replica.kernel, self._vector
        if kernel.replica != self._leased_to:
            self._leased_to, self._lease = kernel.replica, 0
        own = vector.get(kernel.replica, 0)
        lease = leased(own, self._lease, self._config.seq_lease)
        self._log_bytes += sum(len(row.data) for row in self._unsaved)
        snapshot = b""
        if self._log_bytes > max(SNAPSHOT_ABOVE_BYTES, 2 * self._snapshot_bytes):
            snapshot = kernel.to_bytes()
        rows, self._unsaved = self._unsaved, []
        entry = Entry(rows, vector, kernel.replica, lease, snapshot, book)
        try:
            await asyncio.get_running_loop().run_in_executor(self.disk, self._journal.append, entry)
        except JournalFailedError:
            self._unsaved = rows + self._unsaved
            raise
        self._lease = lease
        if snapshot:
            self._log_bytes, self._snapshot_bytes = 0, len(snapshot)
        self.vitals.committed(kernel.replica, self._replica.durable, vector)
        self._replica.persisted(vector)

    def _news_of_book(self) -> tuple[MemberClaim, ...] | None:
        now_s = self._now_s()
        if now_s - self._book_s < BOOK_EVERY_S and not self._stopping:
            return None
        self._book_s = now_s
        book = self._replica.members.address_book()
        if book == self._book:
            return None
        self._book = book
        return book

    # ------------------------------------------------------------------------------ exchanges

    async def serve(self, frame: bytes, caller: PeerConnection) -> tuple[int, bytes]:
        """A peer's request: (status, answer), once everything the answer shows is durable."""
        if len(self._inbox) >= self._config.inbox_steps_max or self._stopping:
            return 503, b""
        self._exchange += 1
        exchange = self._exchange
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._answers[exchange] = answer
        self.vitals.queued["inbound"] += len(frame)
        self.call(lambda now_s: self._replica.receive(frame, now_s, exchange, caller))
        try:
            return await answer
        finally:
            self.vitals.queued["inbound"] -= len(frame)
            self._answers.pop(exchange, None)

    def call(self, step: Callable[[float], Effects]) -> None:
        """Queue a step of the machine."""
        self._inbox.append(step)
        self._wake.set()

    def _send(self, send: Send) -> None:
        if not send.address:
            waiting = self._answers.get(send.exchange)
            if waiting is not None and not waiting.done():
                waiting.set_result((send.status, send.frame))
            return
        task = asyncio.get_running_loop().create_task(self._deliver(send))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    def _drop(self, send: Send) -> None:
        """A frame that may not leave: its events are not durable.

        That its exchange failed is a step like any other: its effects hold local writes that were
        made during the commit, and they go through the one door that persists them.
        """
        exchange = send.exchange
        if send.address:
            self.call(lambda now_s: self._replica.failed(exchange, now_s))
        else:
            waiting = self._answers.get(send.exchange)
            if waiting is not None and not waiting.done():
                waiting.set_result((503, b""))

    async def _deliver(self, send: Send) -> None:
        exchange = send.exchange
        self.vitals.queued["outbound"] += len(send.frame)
        try:
            answer = await self._transport.exchange(send.address, send.frame)
        except Exception as error:  # noqa: BLE001 - whatever it was, the exchange is over
            level = logging.DEBUG if isinstance(error, PeerUnreachableError) else logging.WARNING
            facts = {"peer": send.address, "why": str(error)}
            logger.log(level, "no-answer", extra={"facts": facts})
            self.call(lambda now_s: self._replica.failed(exchange, now_s))
        else:
            self.call(lambda now_s: self._replica.answered(exchange, answer, now_s))
        finally:
            self.vitals.queued["outbound"] -= len(send.frame)

    # ------------------------------------------------------------------------------ waiting

    async def until(self, reached: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `reached()`, asked after every commit; False if the time ran out.

        Raises:
            JournalFailedError: while waiting, the journal failed.
        """
        if reached():
            return True
        if self.failure is not None:
            raise self.refusal()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((reached, waiter))
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters = [pair for pair in self._waiters if pair[1] is not waiter]
        return True

    def refusal(self) -> JournalFailedError:
        """A fresh error that says why this agent is read-only."""
        return JournalFailedError(str(self.failure))

    def _satisfy(self) -> None:
        replica = self._replica
        members, holders = replica.members, replica.acknowledgements.holders
        self.vitals.spread(lambda v: holders(v) == len(members.current()))
        for reached, waiter in self._waiters:
            if waiter.done():
                continue
            if reached():
                waiter.set_result(None)
            elif self.failure is not None:
                waiter.set_exception(self.refusal())

    async def settle(self, timeout_s: float) -> None:
        """Wait until every exchange of ours is over, at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._deliveries or self._inbox:
                    if self._deliveries:
                        await asyncio.wait(self._deliveries)
                    await asyncio.sleep(0)
        except TimeoutError:
            return

    def stop(self) -> None:
        """End the loop after its current turn; what is unsaved is saved by that turn."""
        self._stopping = True
        self.vitals.heartbeat.stop()
        self._wake.set()

    async def release(self) -> None:
        """Cut exchanges and end the disk thread."""
        for task in list(self._deliveries):
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result((503, b""))
        await asyncio.get_running_loop().run_in_executor(self.disk, self._journal.close)
        self.disk.shutdown(wait=False)
