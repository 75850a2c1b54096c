"""What a saga is made of: steps that are data, and what a step may say about itself.

A saga (Garcia-Molina & Salem, SIGMOD 1987) is a sequence of local transactions `T1 ... Tn`, each
with a compensation `Ci`; a run amounts either to `T1 ... Tn` or to `T1 ... Tj Cj ... C1`.  The
steps are an explicit, versioned list, not replayed code, so a run can be resumed by reading where
it is, and a definition can change while old runs finish on the version that they began with.

Kinds of step (Richardson, Microservices Patterns, 4.3.2), in this order::

    COMPENSATABLE*   can be undone                   failure -> undo everything before it
    PIVOT?           decides                         failure -> undo everything before it
    RETRIABLE*       comes after the decision        failure -> retried; exhausted -> stuck, visible

What an action says by the way it ends:

=====================  ===========================================================================
returns JSON           done; the value is the step's result
raises StepRefused     it had no effect and will have none: not retried, not undone itself
raises RetryLater      it had no effect yet: called again at that time, however often
raises ConflictError   a store's compare was lost: called again at once; this is not a failure
raises RefusedError    a definite no, perhaps after some effect: not retried, undone itself too
raises anything else   perhaps it had its effect: retried, and when given up undone itself too
=====================  ===========================================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from transactional.errors import InvalidRequestError, NotNowError, TransactionalError
from transactional.retry import Retry

if TYPE_CHECKING:
    from datetime import datetime

    from transactional.values import Revision

STEPS_MAX: Final = 32
"""Most steps of a saga; with the limit on results a run stays within one value of the store."""

Json = Any
"""None, bool, int, float, str, and lists and string-keyed dicts of these."""

STEP_RETRY: Final = Retry(base_s=0.1, cap_s=30.0, attempts_max=4, deadline_s=3600.0)
"""How an attempt that failed is repeated if the step says nothing else."""

UNDO_RETRY: Final = Retry(base_s=0.1, cap_s=30.0, attempts_max=10, deadline_s=86_400.0)
"""How a compensation that failed is repeated before the saga is stuck and wants a person."""


class StepRefused(NotNowError):  # noqa: N818 said by an action, it is an answer
    """Raised by an action: it had no effect and will have none, so it need not be undone."""

    code = "step_refused"
    hint = "the saga compensates the steps before this one"

    def __init__(self, reason: str) -> None:
        TransactionalError.__init__(self, reason)
        self.reason = reason


class RetryLater(Exception):  # noqa: N818 said by an action, it is an answer
    """Raised by an action that had no effect yet: call it again at `at` (aware) or in `after_s`."""

    def __init__(
        self, reason: str = "", *, at: datetime | None = None, after_s: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.at = at
        self.after_s = after_s


class StepKind(Enum):
    """What a step's failure means; see the module's text."""

    COMPENSATABLE = "compensatable"
    PIVOT = "pivot"
    RETRIABLE = "retriable"


@dataclass(frozen=True, slots=True)
class StepContext:
    """What an action or a compensation is told.

    `idempotency_key` is the same on every attempt of this step of this saga, whoever runs it: hand
    it to whatever has the effect.  `result` is the step's own result, for a compensation; None if
    it is not known, because the attempt was lost, so a compensation must bear that there is nothing
    to undo.  `fence` is a compare for commits of the step's own: it fails once another worker has
    taken the saga over.
    """

    saga_id: str
    step: str
    attempt: int
    input: Json
    results: Mapping[str, Json]
    result: Json
    idempotency_key: str
    deadline: datetime | None
    fence: Revision


Callback = Callable[[StepContext], Awaitable[Json] | Json]


@dataclass(frozen=True, slots=True)
class Sleep:
    """An action: nothing happens for `seconds` after the step's intent, across restarts too."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AwaitSignal:
    """An action: wait for `Sagas.signal(id, name, value)`; the value is the step's result.

    A signal that comes before the saga waits is kept for it.  After `timeout_s` without one the
    step is refused.
    """

    name: str
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Child:
    """An action: run another saga to its end, as `<saga id>.<step>`; its results are the result.

    A child that was compensated refuses the step.  A child that is stuck keeps the parent waiting.
    """

    saga: str
    input: Callable[[StepContext], Json] = lambda step: step.input


Action = Callback | Sleep | AwaitSignal | Child


@dataclass(frozen=True, slots=True)
class Step:
    """One local transaction and how to undo it.

    `compensation=None` says that there is nothing to undo.  `timeout_s` bounds one attempt of the
    action and one of the compensation; waiting actions are bounded by the saga's deadline only.
    `crashes_max` is how many attempts may be lost with their worker before the step is taken for
    poison and the saga dead-lettered.
    """

    name: str
    action: Action
    compensation: Callback | None = None
    kind: StepKind = StepKind.COMPENSATABLE
    retry: Retry = STEP_RETRY
    undo_retry: Retry = UNDO_RETRY
    timeout_s: float | None = 60.0
    crashes_max: int = 3

    @property
    def waits(self) -> bool:
        """Whether it only waits, so that a worker's end in the meantime says nothing about it."""
        return isinstance(self.action, Sleep | AwaitSignal | Child)


@dataclass(frozen=True, slots=True)
class Saga:
    """A named, versioned list of steps; `deadline_s` from the start is for all up to the pivot.

    Raises:
        InvalidRequestError: the steps are not in the order of their kinds, or a limit is broken.
    """

    name: str
    steps: tuple[Step, ...]
    version: int = 1
    deadline_s: float | None = None
    _by_name: dict[str, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "_by_name", {step.name: step for step in self.steps})
        order = list(StepKind)
        kinds = [order.index(step.kind) for step in self.steps]
        problem = None
        if not 1 <= len(self.steps) <= STEPS_MAX:
            problem = f"has {len(self.steps)} steps, 1 to {STEPS_MAX} are allowed"
        elif len(self._by_name) != len(self.steps):
            problem = "has two steps of one name"
        elif kinds != sorted(kinds) or kinds.count(order.index(StepKind.PIVOT)) > 1:
            problem = "needs its steps in the order compensatable, one pivot, retriable"
        elif any(s.compensation and s.kind is StepKind.RETRIABLE for s in self.steps):
            problem = "has a retriable step with a compensation, which would never run"
        elif not all(step.name and "/" not in step.name for step in self.steps):
            problem = "has a step without a name, or with '/' in it"
        if problem:
            raise InvalidRequestError(f"saga {self.name!r} version {self.version} {problem}")

    def step(self, name: str) -> Step:
        """The step of that name."""
        return self._by_name[name]
