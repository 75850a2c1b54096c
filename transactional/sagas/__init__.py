"""Sagas: work in several steps that is completed or compensated, whoever falls on the way.

A saga is data: a named, versioned list of steps (`saga`).  A run is one key in the store that holds
its whole history and is the fencing token (`run`).  What comes next is one pure function of the
history (`history`).  A driver performs it and records how it went, outcome and next intent in one
commit (`driver`); a worker starts runs, keeps itself known to be alive by a lease, and takes over
the runs of workers that are not (`worker`).  None of the arrows goes back up::

    worker -> driver -> run -> history -> saga
"""

from transactional.sagas.driver import SagaFencedError
from transactional.sagas.run import (
    SagaExistsError,
    SagaRun,
    SagaState,
    SagaStateError,
    UnknownSagaError,
)
from transactional.sagas.saga import (
    AwaitSignal,
    Child,
    Outcome,
    RetryLater,
    Saga,
    Sleep,
    Step,
    StepContext,
    StepKind,
    StepRefused,
)
from transactional.sagas.worker import Sagas

__all__ = [
    "AwaitSignal",
    "Child",
    "Outcome",
    "RetryLater",
    "Saga",
    "SagaExistsError",
    "SagaFencedError",
    "SagaRun",
    "SagaState",
    "SagaStateError",
    "Sagas",
    "Sleep",
    "Step",
    "StepContext",
    "StepKind",
    "StepRefused",
    "UnknownSagaError",
]
