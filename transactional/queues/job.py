"""A job as it lies in the store: what was asked for, where it stands, and what may be asked of it.

Layout, under `queue/NAME/`::

    config                    lanes, attempts_max, ...: what all who use the queue agree on
    job/ID                    what was asked for, as it was put; never rewritten
    index/ready/ORDER,ID      a worker may take it
    queued/LANE/ORDER,ID      as ready, but its lane is full
    waiting/ID                it waits for other jobs, or for a time
    claimed/ID                a worker has it; the key's revision is the fencing token
    ended/ID                  done, parked or cancelled
    checkpoint/ID             how far a worker got; survives him

    index/worker/W            worker W lives; the key hangs on W's lease
    index/later/TIME,ID       ID waits for TIME
    index/followed/ID/...     see `waits`
    index/ended/ID            its followers have not been told yet that it ended
    waits/P/F                 F waits for P
    followed/P                somebody waits for P
    lane/LANE                 whose the places of a lane are
    kept/STATE/TIME,ID        ended at TIME: for lists, and for what is removed in passing

A job's place says its state, and moving it is a delete and a put in one commit, compared with the
revision that was read: so of two who want to move it one does.  Nothing is written twice: the
content stays where it was put, and where a job may be found follows from its content.

ORDER is the priority, the business time of the put and a count within one commit, so that the first
key under `index/ready/` is the next job.  Neither ORDER nor TIME is a folder: an engine may leave a
mark in each folder that keys went from, and who looks for the first key would walk over them all.
What workers who wait must hear of lies under `index/`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from transactional.clock import as_utc, microseconds, utc
from transactional.errors import (
    InvalidRequestError,
    InvalidTimeError,
    NotFoundError,
    NotNowError,
    WrongRequestError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


ROOT: Final = "queue/"
ID_BYTES_MAX: Final = 200
"""Longest id of a job, name of a queue, a lane or a worker, in UTF-8 as it lies in a key."""
PAYLOAD_BYTES_MAX: Final = 256 << 10
"""Largest payload, result or checkpoint, as JSON; what is larger belongs into a store for files."""
ERROR_CHARACTERS_MAX: Final = 2000
"""A longer reason is cut."""
PRIORITY_MAX: Final = 1_000_000
"""Priorities are whole numbers from minus to plus this; the higher is first."""
AFTER_MAX: Final = 40
"""Most jobs that one waits for: they are compared and written to in the commit of the put."""
ATTEMPTS_KEPT_MAX: Final = 20
"""How many of its last attempts a job remembers."""

Json = Any


class JobState(Enum):
    """Where a job is."""

    WAITING = "waiting"
    """For other jobs, or for a time."""
    READY = "ready"
    """The next worker may take it, as soon as its lane has a place."""
    CLAIMED = "claimed"
    """A worker has it."""
    DONE = "done"
    PARKED = "parked"
    """It failed, or can not be begun; a person decides: `requeue`, `skip` or `cancel`."""
    CANCELLED = "cancelled"


ENDED: Final = frozenset({JobState.DONE, JobState.PARKED, JobState.CANCELLED})


# --- what can go wrong ---------------------------------------------------------------------------


class JobExistsError(WrongRequestError):
    """The id belongs to a job with another content, which stands; nothing was written."""

    code = "job_exists"
    hint = "use a new id for a new job; putting the same job again is harmless"

    def __init__(self, queue: str, job: str, differs: str) -> None:
        super().__init__(f"queue {queue!r} has another job {job!r}: its {differs} differs")
        self.queue = queue
        self.job = job
        self.differs = differs

    def details(self) -> dict[str, str | int | float]:
        """Return the queue, the job and what differs."""
        return {"queue": self.queue, "job": self.job, "differs": self.differs}


class UnknownJobError(NotFoundError):
    """There is no such job, or not any more; nothing was written."""

    code = "unknown_job"
    hint = "put it first; one that may be put later is waited for with expected=True"

    def __init__(self, queue: str, job: str) -> None:
        super().__init__(f"queue {queue!r} has no job {job!r}")
        self.queue = queue
        self.job = job

    def details(self) -> dict[str, str | int | float]:
        """Return the queue and the job."""
        return {"queue": self.queue, "job": self.job}


class DependencyCycleError(WrongRequestError):
    """The job would wait for itself, through those named; nothing was written."""

    code = "dependency_cycle"
    hint = "leave out one of the `after`; jobs that wait in a circle would never run"

    def __init__(self, queue: str, circle: Sequence[str]) -> None:
        way = " waits for ".join(repr(job) for job in circle)
        super().__init__(f"in queue {queue!r} {way}")
        self.queue = queue
        self.circle = tuple(circle)

    def details(self) -> dict[str, str | int | float]:
        """Return the queue and the jobs of the circle."""
        return {"queue": self.queue, "circle": ", ".join(self.circle)}


class ClaimLostError(NotNowError):
    """The job is not ours any more: nothing was written, nor were the writes that came along.

    The worker's lease ended before the act and another may have the job, or it was cancelled.
    """

    code = "claim_lost"
    hint = "stop working on it; what was checkpointed is with the next who claims it"

    def __init__(self, queue: str, job: str, worker: str) -> None:
        super().__init__(f"job {job!r} of queue {queue!r} is not with {worker!r} any more")
        self.queue = queue
        self.job = job
        self.worker = worker

    def details(self) -> dict[str, str | int | float]:
        """Return the queue, the job and who wanted to act."""
        return {"queue": self.queue, "job": self.job, "worker": self.worker}


class JobStateError(NotNowError):
    """The job is not in a state in which this can be done; nothing was written."""

    code = "job_state"
    hint = "look at it: python -m transactional queue show NAME ID"

    def __init__(self, queue: str, job: str, state: JobState, wanted: str) -> None:
        super().__init__(f"job {job!r} of queue {queue!r} is {state.value}, and cannot be {wanted}")
        self.queue = queue
        self.job = job
        self.job_state = state

    def details(self) -> dict[str, str | int | float]:
        """Return the queue, the job and the state that it is in."""
        return {"queue": self.queue, "job": self.job, "job_state": self.job_state.value}


# --- what people see -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time that a worker had the job: who, from when, and how it went."""

    number: int
    worker: str
    at: datetime
    """When it was claimed."""
    ended: str
    """`done`, `retry`, `failed`, `released`, `cancelled`, `lost` (the worker's lease ended),
    `dropped` (nobody had it any more in a process that lived on); empty: it runs."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as it stands at `revision`."""

    id: str
    payload: Json
    state: JobState
    priority: int
    lane: str | None
    after: tuple[str, ...]
    put_at: datetime
    not_before: datetime | None
    """Not before then; of a retry the later time."""
    missing: tuple[str, ...]
    """What it still waits for."""
    worker: str | None
    """Who has it."""
    attempts: int
    error: str
    """Why it is parked or cancelled, or how the last attempt failed."""
    result: Json
    ended_at: datetime | None
    checkpointed: Json
    history: tuple[Attempt, ...]
    """The last `ATTEMPTS_KEPT_MAX` attempts, the oldest first."""
    revision: int

    def to_json(self) -> dict[str, Json]:
        """All of it in JSON's types."""

        def told(moment: datetime | None) -> str | None:
            return moment.isoformat() if moment is not None else None

        return {
            "id": self.id,
            "state": self.state.value,
            "payload": self.payload,
            "priority": self.priority,
            "lane": self.lane,
            "after": list(self.after),
            "put_at": told(self.put_at),
            "not_before": told(self.not_before),
            "missing": list(self.missing),
            "worker": self.worker,
            "attempts": self.attempts,
            "error": self.error,
            "result": self.result,
            "ended_at": told(self.ended_at),
            "checkpointed": self.checkpointed,
            "history": [
                {
                    "number": attempt.number,
                    "worker": attempt.worker,
                    "at": told(attempt.at),
                    "ended": attempt.ended,
                    "error": attempt.error,
                }
                for attempt in self.history
            ],
            "revision": self.revision,
        }


# --- what lies in the store ----------------------------------------------------------------------

_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_parse = json.JSONDecoder().decode


def as_json(value: Json, what: str) -> Json:
    """The value as everyone will read it back: tuples are lists and keys are strings from now on.

    Raises:
        InvalidRequestError: it is not JSON, or has more than `PAYLOAD_BYTES_MAX` bytes.
    """
    if value is None:
        return None
    try:
        text = _dump(value)
        size = len(text) if text.isascii() else len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the {what} is not JSON: {error}") from error
    if size > PAYLOAD_BYTES_MAX:
        raise InvalidRequestError(f"the {what} has {size} bytes, {PAYLOAD_BYTES_MAX} are allowed")
    return json.loads(text)


def as_bytes(value: Json) -> bytes:
    """A value that `as_json` returned, as it lies in the store."""
    return _dump(value).encode()


def as_error(error: str) -> str:
    """A reason as it is kept: cut, and half characters (of file names that are no text) spelt."""
    return error[:ERROR_CHARACTERS_MAX].encode("utf-8", "backslashreplace").decode()


def check_error(error: object) -> None:
    """Raise InvalidRequestError unless this can tell why."""
    if not isinstance(error, str):
        raise InvalidRequestError(f"a reason is a text, not {type(error).__name__}")


def is_number(value: object) -> bool:
    """Whether it is a number, which True is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_name(name: object, what: str) -> str:
    """Return a name as it lies in a key.

    Raises:
        InvalidRequestError: it is no text, empty or too long.
    """
    if not isinstance(name, str) or not name:
        raise InvalidRequestError(f"{what} is a text that is not empty, not {name!r}")
    try:
        quoted = quote(name, safe="")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{what} {name!r} is not text: {error.reason}") from error
    if len(quoted) > ID_BYTES_MAX:
        raise InvalidRequestError(
            f"{what} {name[:40]!r}... has {len(quoted)} bytes in a key, {ID_BYTES_MAX} are allowed"
        )
    return quoted


@dataclass(frozen=True, slots=True)
class Content:
    """What was asked for; it never changes."""

    id: str
    payload: Json
    priority: int
    lane: str | None
    after: tuple[str, ...]
    not_before_us: int
    """0: at once."""
    order: str = ""
    """Given when it is put."""

    @property
    def put_us(self) -> int:
        """The business time of the put."""
        return int(self.order.split("-")[1])

    def encode(self) -> bytes:
        """The content as bytes."""
        return _dump(
            {
                "payload": self.payload,
                "priority": self.priority,
                "lane": self.lane,
                "after": self.after,
                "not_before": self.not_before_us,
                "order": self.order,
            }
        ).encode()

    def differs(self, other: Content) -> str:
        """What differs between two that should be the same; empty: nothing does."""
        for what in ("payload", "priority", "lane", "after", "not_before_us"):
            if getattr(self, what) != getattr(other, what):
                return what.removesuffix("_us")
        return ""

    def fingerprint(self) -> str:
        """What is kept of the content when the job is gone."""
        asked = [self.payload, self.priority, self.lane, self.after, self.not_before_us]
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def decode_content(job: str, value: bytes) -> Content:
    """The content that lies in the store."""
    doc = _parse(value.decode())
    return Content(
        job,
        doc["payload"],
        doc["priority"],
        doc["lane"],
        tuple(doc["after"]),
        doc["not_before"],
        doc["order"],
    )


def order_of(priority: int, put_us: int, number: int) -> str:
    """Where a job stands among the ready: the higher priority first, then who was put first."""
    return f"{PRIORITY_MAX - priority:07d}-{put_us:016d}-{number:03d}"


@dataclass(slots=True)
class Record:
    """Where a job stands, beside its place; the fields that its place has no use for are empty."""

    attempts: int = 0
    error: str = ""
    history: list[list[Json]] = field(default_factory=list)
    """`[number, worker, claimed at (us), how it ended, error]` of the last attempts."""
    worker: str = ""
    """Claimed: the worker's name."""
    session: str = ""
    """Claimed: the worker's key."""
    missing: list[str] = field(default_factory=list)
    """Waiting: for these."""
    until_us: int = 0
    """Waiting: till then."""
    state: str = ""
    """Ended: how."""
    result: Json = None
    ended_us: int = 0
    token: int = 0
    """Ended by a worker: the revision of his claim, by which a repeat is known."""
    content: str = ""
    put_us: int = 0
    """Ended, and the job itself is removed: the fingerprint of its content, and when it was put."""

    def encode(self) -> bytes:
        """The record as bytes; what is empty is left out."""
        doc = {name: value for name in _FIELDS if (value := getattr(self, name))}
        if self.result is not None:
            doc["result"] = self.result
        return _dump(doc).encode()

    def begun(self, worker: str, session: str, now_us: int) -> Record:
        """The record of the next attempt; it is counted before it runs."""
        number = self.attempts + 1
        history = [*self.history[1 - ATTEMPTS_KEPT_MAX :], [number, worker, now_us, "", ""]]
        return Record(number, self.error, history, worker, session)

    def over(self, how: str, error: str = "") -> Record:
        """The record when the present attempt is over."""
        history, error = self.history, as_error(error)
        if history and not history[-1][3]:
            history = [*history[:-1], [*history[-1][:3], how, error]]
        return Record(self.attempts, error or self.error, history)


_FIELDS: Final = (
    "attempts",
    "error",
    "history",
    "worker",
    "session",
    "missing",
    "until_us",
    "state",
    "ended_us",
    "token",
    "content",
    "put_us",
)


def decode_record(value: bytes) -> Record:
    """The record that lies in the store."""
    doc: Mapping[str, Any] = _parse(value.decode())
    return Record(**doc)


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """What all who use a queue agree on; it lies in the store."""

    lanes: Mapping[str, int] = field(default_factory=dict)
    """How many jobs of a lane run at once; `*` is for lanes that are not named."""
    attempts_max: int = 5
    keep_ended_s: float = 7 * 86_400.0

    def limit_of(self, lane: str | None) -> int | None:
        """How many jobs of the lane may run at once; None: any number."""
        if lane is None:
            return None
        return self.lanes.get(lane, self.lanes.get("*"))

    def encode(self) -> bytes:
        """The agreement as bytes; equal ones give equal bytes."""
        doc = {
            "lanes": dict(sorted(self.lanes.items())),
            "attempts_max": self.attempts_max,
            "keep_ended_s": self.keep_ended_s,
        }
        return _dump(doc).encode()


def decode_config(value: bytes) -> QueueConfig:
    """The agreement that lies in the store."""
    doc = json.loads(value)
    return QueueConfig(doc["lanes"], doc["attempts_max"], doc["keep_ended_s"])


def info_of(
    content: Content, state: JobState, record: Record, checkpointed: Json, revision: int
) -> JobInfo:
    """A job as people see it."""
    until_us = max(record.until_us, content.not_before_us)
    return JobInfo(
        id=content.id,
        payload=content.payload,
        state=state,
        priority=content.priority,
        lane=content.lane,
        after=content.after,
        put_at=utc(content.put_us),
        not_before=utc(until_us) if until_us else None,
        missing=tuple(record.missing),
        worker=record.worker or None,
        attempts=record.attempts,
        error=record.error,
        result=record.result,
        ended_at=utc(record.ended_us) if record.ended_us else None,
        checkpointed=checkpointed,
        history=tuple(
            Attempt(number, worker, utc(at_us), how, error)
            for number, worker, at_us, how, error in record.history
        ),
        revision=revision,
    )


def as_us(moment: datetime) -> int:
    """An aware datetime as microseconds since 1970.

    Raises:
        InvalidTimeError: it has no time zone.
    """
    if not isinstance(moment, datetime):
        raise InvalidTimeError(f"a time is an aware datetime, not {moment!r}")
    return microseconds(as_utc(moment))


@functools.lru_cache(maxsize=8192)
def _quoted(name: str) -> str:
    """A name as it lies in a key; each is asked for some ten times on its way."""
    return quote(name, safe="")


class QueueLayout:
    """Key names of one queue; ids, lanes and workers are quoted, so that they may hold anything."""

    def __init__(self, name: str) -> None:
        self.queue = name
        self.prefix = f"{ROOT}{check_name(name, 'the name of a queue')}/"
        self.config = f"{self.prefix}config"
        self.index = f"{self.prefix}index/"
        self.all_ready = f"{self.index}ready/"
        self.all_later = f"{self.index}later/"
        self.all_workers = f"{self.index}worker/"
        self.all_told = f"{self.index}ended/"
        self.all_claimed = f"{self.prefix}claimed/"
        self.all_waiting = f"{self.prefix}waiting/"
        self.all_queued = f"{self.prefix}queued/"
        self.all_jobs = f"{self.prefix}job/"
        self.all_kept = f"{self.prefix}kept/"

    def job(self, job: str) -> str:
        """Key of what was asked for."""
        return self.all_jobs + _quoted(job)

    def ready(self, content: Content) -> str:
        """Key of a job that may be taken."""
        return f"{self.all_ready}{content.order},{_quoted(content.id)}"

    def queued(self, content: Content) -> str:
        """Key of a job whose lane is full."""
        lane = _quoted(content.lane or "")
        return f"{self.all_queued}{lane}/{content.order},{_quoted(content.id)}"

    def all_queued_in(self, lane: str) -> str:
        """Prefix of the jobs that wait for a place in a lane."""
        return f"{self.all_queued}{_quoted(lane)}/"

    def waiting(self, job: str) -> str:
        """Key of a job that waits for others, or for a time."""
        return self.all_waiting + _quoted(job)

    def claimed(self, job: str) -> str:
        """Key of a job that a worker has."""
        return self.all_claimed + _quoted(job)

    def ended(self, job: str) -> str:
        """Key of a job that is over."""
        return f"{self.prefix}ended/{_quoted(job)}"

    def checkpoint(self, job: str) -> str:
        """Key of what a worker wrote down."""
        return f"{self.prefix}checkpoint/{_quoted(job)}"

    def worker(self, session: str) -> str:
        """Key that lives as long as a worker's lease."""
        return self.all_workers + session

    def later(self, until_us: int, job: str) -> str:
        """Key of the time that a job waits for."""
        return f"{self.all_later}{until_us:016d},{_quoted(job)}"

    def told(self, job: str) -> str:
        """Key that says that a job's followers are to be told of its end."""
        return self.all_told + _quoted(job)

    def waits(self, job: str, follower: str = "") -> str:
        """Key that says that `follower` waits for `job`; without him the prefix of all."""
        return f"{self.prefix}waits/{_quoted(job)}/{_quoted(follower)}"

    def followed(self, job: str) -> str:
        """Key that says that somebody waits for a job."""
        return f"{self.prefix}followed/{_quoted(job)}"

    def lane(self, lane: str) -> str:
        """Key of a lane's places."""
        return f"{self.prefix}lane/{_quoted(lane)}"

    def kept(self, state: JobState, ended_us: int, job: str) -> str:
        """Key of a job that ended, by the time of that."""
        return f"{self.all_kept}{state.value}/{ended_us:016d},{_quoted(job)}"

    def all_kept_as(self, state: JobState) -> str:
        """Prefix of the jobs that ended so."""
        return f"{self.all_kept}{state.value}/"

    @staticmethod
    def id_of(key: str) -> str:
        """The id of the job whose key it is: the last part, behind an order or a time."""
        return unquote(key.rpartition("/")[2].rpartition(",")[2])

    def due_of(self, key: str) -> int:
        """The time in a `later` key."""
        return int(key.removeprefix(self.all_later).partition(",")[0])

    def order_of(self, key: str) -> str:
        """The order in a `ready` key."""
        return key.removeprefix(self.all_ready).partition(",")[0]
