"""One saga's run as it lies in the store: a single key that holds the history and is the token.

Layout::

    saga/open/ID            a run that is not over: {saga, version, id, input, started_at, ...}
    saga/done/ID            the same, once COMPLETED or COMPENSATED
    saga/worker/W           worker W lives; the key hangs on W's lease
    saga/signal/ID/NAME     a signal to run ID that was not consumed yet

Every step of a run rewrites its one key, compared with the revision that its coordinator last saw.
So whoever takes a run over (by writing its own name into it, once the owner's worker key is gone)
fences the former coordinator off with the same write: the revision is the fencing token.  Open runs
lie together, so recovery is one scan, however many thousand runs were ever finished.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from transactional.errors import NotNowError, WrongRequestError
from transactional.sagas.history import FINAL, STOPPED, Progress, Record, RecordKind
from transactional.values import Delete, DeletePrefix, Put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transactional.sagas.saga import Json
    from transactional.values import KeyValue, Write


_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class SagaState(Enum):
    """Where a run is, for people."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    STUCK = "stuck"
    DEAD_LETTER = "dead_letter"


class SagaExistsError(WrongRequestError):
    """Another saga, or the same with another input, has this id; nothing was written."""

    code = "saga_exists"
    hint = "use a new id for a new run; starting the same run again is harmless"


class UnknownSagaError(WrongRequestError):
    """No definition of that name and version, or no run of that id, is known; nothing was done."""

    code = "unknown_saga"
    hint = "give the worker the definition, old versions too while runs of them are unfinished"


class SagaStateError(NotNowError):
    """The run is not in a state in which this can be done; nothing was written."""

    code = "saga_state"
    hint = "look at the run: python -m transactional saga show ID"


@dataclass(frozen=True, slots=True)
class SagaLayout:
    """Key names under one namespace."""

    namespace: str = "saga"

    def open(self, run_id: str = "") -> str:
        """Key of a run that is not over; without an id the prefix of all."""
        return f"{self.namespace}/open/{run_id}"

    def done(self, run_id: str = "") -> str:
        """Key of a run that is over; without an id the prefix of all."""
        return f"{self.namespace}/done/{run_id}"

    def worker(self, worker: str = "") -> str:
        """Key that lives as long as a worker; without a name the prefix of all."""
        return f"{self.namespace}/worker/{worker}"

    def signal(self, run_id: str, name: str = "") -> str:
        """Key of a signal; without a name the prefix of the run's signals."""
        return f"{self.namespace}/signal/{run_id}/{name}"


@dataclass(frozen=True, slots=True)
class SagaRun:
    """A run as of `revision`, the commit that last wrote it.

    `owner` is the worker that drives it, "" nobody.  Everything else follows from `history`, which
    `progress` is, folded.
    """

    id: str
    saga: str
    version: int
    input: Json
    started_at: datetime
    owner: str = ""
    history: tuple[Record, ...] = ()
    revision: int = 0
    _folded: Progress | None = field(default=None, repr=False, compare=False)

    @property
    def progress(self) -> Progress:
        """The history folded; its later states share the work."""
        folded = self._folded
        if folded is None:
            folded = Progress.of(self.history)
            object.__setattr__(self, "_folded", folded)
        return folded

    @property
    def state(self) -> SagaState:
        """Where the run is."""
        last = self.progress.last
        if last is not None and last in FINAL | STOPPED:
            return SagaState(last.value)
        return SagaState.COMPENSATING if self.progress.turned else SagaState.RUNNING

    @property
    def over(self) -> bool:
        """Whether it is completed or compensated."""
        return self.progress.last in FINAL

    @property
    def stopped(self) -> bool:
        """Whether it waits for a person."""
        return self.progress.last in STOPPED

    @property
    def results(self) -> dict[str, Json]:
        """What the steps returned, by the step's name."""
        return dict(self.progress.results)

    @property
    def error(self) -> str:
        """The last thing that went wrong, "" if nothing did."""
        return self.progress.error

    @property
    def compensated_steps(self) -> tuple[str, ...]:
        """Steps whose compensation returned, in the order in which they were undone."""
        return tuple(r.step for r in self.history if r.kind is RecordKind.UNDONE)

    def extended(self, records: Sequence[Record], owner: str) -> SagaRun:
        """The run with more records, under an owner; still at the revision of the old state."""
        return SagaRun(
            self.id,
            self.saga,
            self.version,
            self.input,
            self.started_at,
            owner,
            (*self.history, *records) if records else self.history,
            self.revision,
            self.progress.after(records) if records else self.progress,
        )

    def at(self, revision: int) -> SagaRun:
        """The same run as of `revision`, the commit that wrote it."""
        return SagaRun(
            self.id,
            self.saga,
            self.version,
            self.input,
            self.started_at,
            self.owner,
            self.history,
            revision,
            self._folded,
        )

    def to_json(self) -> dict[str, Any]:
        """The run in JSON's types."""
        history = [record.to_json() for record in self.history]
        return {**self._head(), "owner": self.owner, "history": history}

    def _head(self) -> dict[str, Any]:
        return {
            "saga": self.saga,
            "version": self.version,
            "id": self.id,
            "input": self.input,
            "started_at": self.started_at.isoformat(),
        }

    def encode(self) -> bytes:
        """`to_json` as bytes."""
        head = _dump({**self._head(), "owner": self.owner})
        history = ",".join([record.text for record in self.history])
        return f'{head[:-1]},"history":[{history}]}}'.encode()


def writes_of(run: SagaRun, layout: SagaLayout, *, signals: bool) -> list[Write]:
    """What makes the store hold this run: its key, or the move among those that are over."""
    value = run.encode()
    if not run.over:
        return [Put(layout.open(run.id), value)]
    moved: list[Write] = [Delete(layout.open(run.id)), Put(layout.done(run.id), value)]
    return [*moved, DeletePrefix(layout.signal(run.id))] if signals else moved


def read_run(entry: KeyValue) -> SagaRun:
    """The run in a key."""
    data = json.loads(entry.value)
    return SagaRun(
        id=data["id"],
        saga=data["saga"],
        version=data["version"],
        input=data["input"],
        started_at=datetime.fromisoformat(data["started_at"]),
        owner=data["owner"],
        history=tuple(Record.from_json(record) for record in data["history"]),
        revision=entry.revision,
    )
