"""A BoundedCounter in an agent: its decrement is the one mutator that waits, for its own disk.

Theory of operation. All other writes may be forgotten by a crash before anybody hears of them. A
decrement is acted upon at once - a seat is sold - so an agent that forgets it would spend the same
right twice, and the bound would be broken in the world, if not in the state. Therefore it is made,
and acknowledged when it is durable here; no peer is waited for, and none has to be reachable.

An agent that did not stop cleanly starts under a new incarnation. If it can show descent from the
old one - its own journal, neither copied nor restored - what is left of the rights is its own from
the start on (`protocol.lives`). Else it has 0 rights, and those of the old one are `stranded` until
somebody decides, once, to `adopt` them (see `crdt.bounded_counter`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from crdt import ReadsAsNumber
from replication.errors import ClosedError, JournalFailedError, UnacknowledgedError
from replication.options import checked_timeout
from replication.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crdt import BoundedCounter
    from replication.agent.runtime import AgentRuntime


class Bounded(ReadsAsNumber):
    """The view of one bounded quantity; what it says of itself is said in `crdt`.

    It reads like the number, and `+=` increments; `-=` is refused, because a decrement is awaited.
    """

    __slots__ = ("_running", "_view")

    _instead = "`+=` increments, and to go down: `await quantity.decrement(amount)`"

    def __init__(self, view: BoundedCounter, running: Callable[[], AgentRuntime]) -> None:
        self._view = view
        self._running = running

    @property
    def value(self) -> int:
        """The quantity as seen from here; never below the bound. O(replicas)."""
        return self._view.value

    @property
    def minimum(self) -> int:
        """The bound."""
        return self._view.minimum

    def __iadd__(self, amount: int | ReadsAsNumber) -> Self:  # type: ignore[misc]  # not `+`
        self._view += amount
        return self

    def __repr__(self) -> str:
        return repr(self._view)

    def rights(self, replica: str | None = None) -> int:
        """How much a replica (an agent's `id`; default: this one) may decrement. O(replicas)."""
        return self._view.rights(replica)

    def increment(self, amount: int = 1) -> None:
        """Add `amount` >= 0; the rights are this agent's. Lazy: it never waits."""
        self._view.increment(amount)

    async def decrement(self, amount: int = 1, timeout_s: float | None = None) -> None:
        """Take `amount` >= 0 out of this agent's rights; returns when that is durable here.

        After a crash the rights are there again; in a copy, or after a backup was restored, there
        are none until `adopt`.

        Raises:
            InsufficientRightsError: `.local` says how much there is. Nothing was changed.
            NoJournalError: this agent has no disk to wait for. Nothing was changed.
            BatchOpenError: inside of a batch nothing can become durable. Nothing was changed.
            ForbiddenWriteError, JournalFailedError: no write is taken now. Nothing was changed.
            UnacknowledgedError: made, and not durable; see there.
            NotYetError: the time ran out; it stands, and `agent.durable()` goes on waiting.
        """
        runtime = self._running()
        replica = runtime.replica
        runtime.check_journalled()
        checked_timeout(timeout_s)
        runtime.check_wait()
        if not self._view.decrement(amount):
            return
        mine = replica.id
        token = Version({mine: replica.kernel.vector[mine]})
        try:
            await runtime.durable(token, timeout_s)
        except (JournalFailedError, ClosedError) as error:
            raise UnacknowledgedError(amount, str(error)) from error

    def transfer(self, amount: int, to: str) -> None:
        """Hand `amount` >= 1 of this agent's rights to another's `id`. Lazy.

        Raises:
            InsufficientRightsError: `.local` says how much there is. Nothing was changed.
        """
        self._view.transfer(amount, to)

    def stranded(self, members: Iterable[str]) -> dict[str, int]:
        """Rights held by replicas that are not among these ids. O(replicas squared)."""
        return self._view.stranded(members)

    def adopt(self, lost: str) -> None:
        """Take over the rights of a replica that is gone for good; to be decided once. Lazy.

        Gone with its journal: whoever is started from that again has its rights by itself.
        """
        self._view.adopt(lost)
