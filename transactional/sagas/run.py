"""One saga's run as it lies in the store: a single key that holds the history and is the token.

Layout::

    saga/open/ID             a run that is not over: {saga, version, id, input, started_at, ...}
    saga/done/ID             the same, once COMPLETED or COMPENSATED
    saga/swept               how far the present round has come that takes away old ones
    saga/worker/W            worker W lives; the key hangs on W's lease
    saga/owned/W/ID          worker W drives run ID
    saga/due/TIME,ID         nobody drives run ID, and from TIME on somebody should
    saga/signal/ID/NAME/KEY  a signal to run ID, in the order of the keys' creation; what a step has
                             taken stays, marked, until the run is over

Every step of a run rewrites its one key, compared with the revision that its coordinator last saw.
So whoever takes a run over (by writing its own name into it, once the owner's worker key is gone)
fences the former coordinator off with the same write: the revision is the fencing token.

A run that waits (for a signal, a child, a time) has no owner: it is *parked*, costs no worker
anything, and is found by the first one that sees it due.  `due` and `owned` are indices, written in
the same commit as the run, so that neither recovery nor waking reads the runs that only wait.  TIME
is in microseconds since 1970; 0 is now.  A key at 0 may be written beside the run by whoever has
news for it (a signal, a child that ended), without a look at who drives it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from transactional.clock import microseconds
from transactional.errors import NotNowError, WrongRequestError
from transactional.sagas.history import (
    FINAL,
    STOPPED,
    Progress,
    Record,
    RecordKind,
    without_old_attempts,
)
from transactional.values import Delete, DeletePrefix, Put

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transactional.sagas.saga import Json
    from transactional.values import KeyValue, Write


_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

ROOM_CHARS: Final = 32 << 10
"""A history that is longer when a person writes to it is rid of old attempts."""


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
        return f"{self.namespace}/open/{quote(run_id, safe='')}"

    def done(self, run_id: str = "") -> str:
        """Key of a run that is over; without an id the prefix of all."""
        return f"{self.namespace}/done/{quote(run_id, safe='')}"

    @property
    def swept(self) -> str:
        """Key of how far a round over runs that are over has come."""
        return f"{self.namespace}/swept"

    def worker(self, worker: str = "") -> str:
        """Key that lives as long as a worker; without a name the prefix of all."""
        return f"{self.namespace}/worker/{worker}"

    def owned(self, worker: str = "", run_id: str = "") -> str:
        """Key that says who drives a run; without names a prefix of such keys."""
        if not worker:
            return f"{self.namespace}/owned/"
        return f"{self.namespace}/owned/{worker}/{quote(run_id, safe='')}"

    def due(self, time: str = "", run_id: str = "") -> str:
        """Key that says from when on a run wants a driver; without names the prefix of all."""
        prefix = f"{self.namespace}/due/"
        return f"{prefix}{time},{quote(run_id, safe='')}" if time else prefix

    def due_of(self, key: str) -> tuple[str, str]:
        """The time and the run of such a key."""
        time, _, run_id = key.removeprefix(self.due()).partition(",")
        return time, unquote(run_id)

    def owned_of(self, key: str) -> tuple[str, str]:
        """The worker and the run of an `owned` key."""
        worker, _, run_id = key.removeprefix(self.owned()).partition("/")
        return worker, unquote(run_id)

    def signal(self, run_id: str, name: str = "", key: str = "") -> str:
        """Key of a signal; without `key` the prefix of a name's, without a name of the run's."""
        of_run = f"{self.namespace}/signal/{quote(run_id, safe='')}/"
        return f"{of_run}{quote(name, safe='')}/{quote(key, safe='')}" if name else of_run


NOW: str = "0" * 20
"""The time of a run that is due at once."""


def due_at(moment: datetime) -> str:
    """A time as it stands in keys; they sort as the times do."""
    return f"{max(0, microseconds(moment)):020d}"


@dataclass(frozen=True, slots=True)
class SagaRun:
    """A run as of `revision`, the commit that last wrote it.

    `owner` is the worker that drives it, "" nobody; then `due` is from when on somebody should, ""
    not before there is news.  `parent` is the run whose step it is, "" none, and `children` are the
    runs of its own steps.  Everything else follows from `history`, which `progress` is, folded.
    """

    id: str
    saga: str
    version: int
    input: Json
    started_at: datetime
    owner: str = ""
    history: tuple[Record, ...] = ()
    revision: int = 0
    due: str = ""
    parent: str = ""
    children: Mapping[str, str] = field(default_factory=dict)
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

    def extended(self, records: Sequence[Record], owner: str, *, due: str = "") -> SagaRun:
        """The run with more records, under an owner; still at the revision of the old state."""
        history, folded = self.history, self.progress
        if records:
            history, folded = (*history, *records), folded.after(records)
            if records[0].kind is RecordKind.LATER:
                history, folded = _without_repeats(history, len(records), folded)
        return replace(self, owner=owner, due=due, history=history, _folded=folded)

    def with_room(self) -> SagaRun:
        """The run after a person wrote to it: a long history without what counts no more."""
        if sum(len(record.text) for record in self.history) <= ROOM_CHARS:
            return self
        return replace(self, history=without_old_attempts(self.history), _folded=None)

    def at(self, revision: int) -> SagaRun:
        """The same run as of `revision`, the commit that wrote it."""
        return replace(self, revision=revision)

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
            **({"due": self.due} if self.due else {}),
            **({"parent": self.parent} if self.parent else {}),
            **({"children": dict(self.children)} if self.children else {}),
        }

    def encode(self) -> bytes:
        """`to_json` as bytes."""
        head = _dump({**self._head(), "owner": self.owner})
        history = ",".join([record.text for record in self.history])
        return f'{head[:-1]},"history":[{history}]}}'.encode()


def _without_repeats(
    history: tuple[Record, ...], added: int, folded: Progress
) -> tuple[tuple[Record, ...], Progress]:
    """Of calls that all said LATER, one after the other, keep the first intent and the last answer.

    So a step may ask to be called again for as long as it likes.
    """
    place = len(history) - added  # of the LATER that was added
    before = history[place - 2 : place]
    if [record.kind for record in before] != [RecordKind.LATER, RecordKind.INTENT]:
        return history, folded
    if {record.step for record in before} != {history[place].step}:
        return history, folded
    history = history[: place - 2] + history[place:]
    return history, Progress.of(history)


def writes_of(
    run: SagaRun, layout: SagaLayout, before: SagaRun | None = None, *, signals: bool = False
) -> list[Write]:
    """What makes the store hold this run and its indices instead of the run `before`."""
    value = run.encode()
    writes: list[Write] = []
    owner, due = (before.owner, before.due) if before is not None else ("", "")
    if owner and owner != run.owner:
        writes.append(Delete(layout.owned(owner, run.id)))
    if due and due != run.due:
        writes.append(Delete(layout.due(due, run.id)))
    if run.over:
        writes += [Delete(layout.open(run.id)), Put(layout.done(run.id), value)]
        if signals:
            writes.append(DeletePrefix(layout.signal(run.id)))
        if run.parent:
            writes.append(Put(layout.due(NOW, run.parent), b""))
        return writes
    writes.append(Put(layout.open(run.id), value))
    if run.parent and run.stopped:
        writes.append(Put(layout.due(NOW, run.parent), b""))
    if run.owner and run.owner != owner:
        writes.append(Put(layout.owned(run.owner, run.id), b""))
    if run.due and run.due != due:
        writes.append(Put(layout.due(run.due, run.id), b""))
    return writes


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
        due=data.get("due", ""),
        parent=data.get("parent", ""),
        children=data.get("children", {}),
        history=tuple(Record.from_json(record) for record in data["history"]),
        revision=entry.revision,
    )
