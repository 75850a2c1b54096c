"""How a recipe commits: two outcomes instead of three, and an answer that may need no write.

`retry.propose` decides, commits, and decides anew when a rival came first.  Two things are added
here for recipes.  `decided` lets a decision be final without a commit (a booking that is confirmed
already needs no confirming).  `settled_commit` commits a *fixed* content, for a coordinator that
must hear of a conflict and not decide around it.  Both are `propose` underneath: there is one way
to settle a doubt, and what it says of the state after a lost answer is said once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from transactional.retry import DEFAULT_RETRY, Proposal, Retry, propose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from transactional.errors import ConflictError
    from transactional.store import Store
    from transactional.values import Commit, Compare, Write

T = TypeVar("T")

INSIST: Final = Retry(base_s=0.01, cap_s=1.0, attempts_max=12)
"""How a fixed commit is repeated: within about five seconds, then the trouble is handed on."""


@dataclass(frozen=True, slots=True)
class Decision(Generic[T]):
    """What was decided, on what, and what it takes to make it true; without writes it is final."""

    result: T
    compares: Sequence[Compare] = ()
    writes: Sequence[Write] = ()


class _Final(Exception):  # noqa: N818 a way out of the loop, not an error
    def __init__(self, result: Any) -> None:
        self.result = result


async def decided(
    store: Store,
    decide: Callable[[ConflictError | None], Awaitable[Decision[T]]],
    *,
    retry: Retry = DEFAULT_RETRY,
) -> tuple[T, int]:
    """Decide and commit until a decision stands; its result and revision (0: nothing to write).

    `decide` is given the conflict that its last decision met (None at first) and reads anew then.
    What it raises ends the loop.  Errors: see `propose`.
    """

    async def make(conflict: ConflictError | None) -> Proposal[tuple[T, int]]:
        decision = await decide(conflict)
        if not decision.writes:
            raise _Final(decision.result)
        return Proposal(
            decision.compares,
            decision.writes,
            lambda commit: (decision.result, commit.revision),
        )

    try:
        return await propose(store, make, retry=retry)
    except _Final as final:
        return final.result, 0


async def settled_commit(
    store: Store,
    compares: Sequence[Compare],
    writes: Sequence[Write],
    *,
    op_id: str | None = None,
    retry: Retry = INSIST,
) -> Commit:
    """Commit this content once; repeat it while the store is away or an answer was lost.

    Raises:
        ConflictError: a compare did not hold; nothing was written, nor will be.
        UnavailableError: the store stayed out of reach; nothing was written.
        OutcomeUnknownError: an answer was lost and the store stayed out of reach since.
    """

    async def make(conflict: ConflictError | None) -> Proposal[Commit]:
        if conflict is not None:
            raise conflict
        return Proposal(compares, writes, lambda commit: commit)

    return await propose(store, make, op_id=op_id, retry=retry)
