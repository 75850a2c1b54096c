"""What a saga is made of: steps that are data, and what a step may say about itself.

A saga (Garcia-Molina & Salem, SIGMOD 1987) is a sequence of local transactions `T1 ... Tn`, each
with a compensation `Ci`; a run amounts either to `T1 ... Tn` or to `T1 ... Tj Cj ... C1`.  The
steps are an explicit, versioned list, not replayed code, so a run can be resumed by reading where
it is, and a definition can change while old runs finish on the version that they began with.

Kinds of step (Richardson, Microservices Patterns, 4.3.2), in this order::

    COMPENSATABLE*   can be undone                   failure -> undo everything before it
    PIVOT?           decides                         a definite no -> undo everything before it
    RETRIABLE*       comes after the decision        failure -> retried; exhausted -> stuck, visible

What an action says by the way it ends:

=====================  ===========================================================================
returns JSON           done; the value is the step's result
raises StepRefused     it had no effect and will have none: not retried, not undone itself
raises RetryLater      it had no effect yet: called again at that time, 10,000 times at most
raises ConflictError   a compare was lost: called again, however often; this is not a failure
raises RefusedError    a definite no, perhaps after some effect: not retried, undone itself too
raises anything else   perhaps it had its effect: retried, and when given up undone itself too
=====================  ===========================================================================

A pivot that cannot be undone and may have had its effect (it raised, was cut off, or fell with its
worker) is never taken for one that had none: its `probe` is asked how it went, and without an
answer the run is stuck until a person says so.  A RefusedError of the pivot is a definite no only
if no attempt before it is in doubt; StepRefused always is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from transactional.clock import as_utc
from transactional.errors import InvalidRequestError, NotNowError, TransactionalError
from transactional.retry import Retry

if TYPE_CHECKING:
    from datetime import datetime

    from transactional.values import Revision

STEPS_MAX: Final = 32
"""Most steps of a saga; with the limit on results a run stays within one value of the store."""
NAME_BYTES_MAX: Final = 128
"""Longest name of a step in UTF-8: it stands in each of its records."""

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
    """Raised by an action that had no effect yet: call it again at `at` (aware) or in `after_s`.

    Raises:
        InvalidTimeError: `at` has no time zone; raised where it is written.
        InvalidRequestError: `after_s` is not a number of seconds.
    """

    def __init__(
        self, reason: str = "", *, at: datetime | None = None, after_s: float = 0.0
    ) -> None:
        super().__init__(reason)
        if not 0 <= after_s < float("inf"):
            raise InvalidRequestError(f"after_s is a number of seconds, not {after_s!r}")
        self.at = as_utc(at) if at is not None else None
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe found out: whether the action had its effect, and with which result."""

    happened: bool
    result: Json = None


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
Probe = Callable[[StepContext], Awaitable[Outcome | None] | Outcome | None]


@dataclass(frozen=True, slots=True)
class Sleep:
    """An action: nothing happens for `seconds` after the step's intent, across restarts too."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AwaitSignal:
    """An action: wait for `Sagas.signal(id, name, value)`; the value is the step's result.

    Signals of one name queue in the order in which they came, those that come before the saga waits
    too, and each is taken by one step.  After `timeout_s` without one the step is refused.
    """

    name: str
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Child:
    """An action: run another saga to its end, as `<saga id>.<step>`; its results are the result.

    If somebody else's run has that id, `~1` and so on is added.  A child that was compensated
    refuses the step; one that is stuck keeps the parent waiting.  A parent that turns back turns
    its child back, and goes on when that is over.
    """

    saga: str
    input: Callable[[StepContext], Json] = lambda step: step.input


Action = Callback | Sleep | AwaitSignal | Child


@dataclass(frozen=True, slots=True)
class Step:
    """One local transaction and how to undo it.

    `compensation=None` says that there is nothing to undo.  `timeout_s` bounds one attempt of the
    action, of the compensation and of the probe; waiting actions are bounded by the saga's deadline
    only.  `crashes_max` is how many attempts may be lost with their worker before the step is taken
    for poison and the saga dead-lettered.  `probe` tells of a pivot without compensation, after an
    attempt whose outcome is not known, whether it had its effect: it returns an `Outcome`, or None
    if that cannot be told yet (it is asked again as `undo_retry` says).
    """

    name: str
    action: Action
    compensation: Callback | None = None
    kind: StepKind = StepKind.COMPENSATABLE
    retry: Retry = STEP_RETRY
    undo_retry: Retry = UNDO_RETRY
    timeout_s: float | None = 60.0
    crashes_max: int = 3
    probe: Probe | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, StepKind):
            raise InvalidRequestError(f"kind of {self.name!r} is a StepKind, not {self.kind!r}")

    @property
    def decides(self) -> bool:
        """Whether it is a pivot that cannot be undone: if it happened, there is only forward."""
        return self.kind is StepKind.PIVOT and self.compensation is None

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
    steps: Sequence[Step]
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
        elif any(s.probe and not s.decides for s in self.steps):
            problem = "has a probe at a step that is not a pivot without compensation"
        elif not all(step.name and "/" not in step.name for step in self.steps):
            problem = "has a step without a name, or with '/' in it"
        elif any(len(step.name.encode(errors="replace")) > NAME_BYTES_MAX for step in self.steps):
            problem = f"has a step whose name is longer than {NAME_BYTES_MAX} bytes"
        if problem:
            raise InvalidRequestError(f"saga {self.name!r} version {self.version} {problem}")

    @property
    def takes_signals(self) -> bool:
        """Whether one of its steps waits for a signal."""
        return any(isinstance(step.action, AwaitSignal) for step in self.steps)

    def step(self, name: str) -> Step:
        """The step of that name."""
        return self._by_name[name]
