"""Did it happen in *some* order?  Checkers for histories of concurrent operations.

A history is what clients saw: events as JSON lines, in the form that Jepsen's tools read::

    {"index": 7, "process": 2, "type": "invoke", "f": "cas", "key": "a", "value": [5, "x"], ...}
    {"index": 9, "process": 2, "type": "ok",     "f": "cas", "key": "a", "revision": 8, ...}

``ok`` was answered; ``fail`` is a definite error; ``info`` is an outcome nobody knows, after which
the process id retires.  An operation takes effect at one point between its two events; one of
unknown outcome at any point after its invocation, or never.

``linearizable`` is Wing & Gong's search (1993) with Lowe's memoisation (2017): take any operation
that could be next, apply it to the model, go on; a (set of operations, state) that was seen once is
not searched again.  Keys are independent, so each is checked alone.  ``list_append_anomaly`` is the
idea of Elle (Kingsbury & Alvaro, VLDB 2020): every append is unique, so reads reveal the order of
versions, and a cycle of who-saw-whom is a proof that no serial order exists.

``log_anomaly`` needs no search either: the positions of an event log *are* the order.  The last
read of all gives it; every append must lie in it whole, once and where its answer said, and every
other answer is true of some lengths of the log.  What is left is whether each operation can be
given one of its lengths so that real time is kept, and for that the least one each time is enough.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from pathlib import Path

FOREVER = 1 << 60


@dataclass
class Recorder:
    """Writes down what happens, in the order in which it is seen to happen."""

    events: list[dict[str, Any]] = field(default_factory=list)
    processes: int = 0
    answered: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared by whoever takes the store away: clients that failed wait until it is back."""

    def __post_init__(self) -> None:
        self.up.set()

    def process(self) -> int:
        """Return a new process id."""
        self.processes += 1
        return self.processes

    def add(self, process: int, kind: str, f: str, key: str, **fields: Any) -> None:
        """Append one event."""
        head = {"index": len(self.events), "process": process, "type": kind, "f": f, "key": key}
        self.events.append(head | fields)
        self.answered += kind == "ok"

    async def back(self) -> None:
        """Wait for a store that was taken away."""
        await self.up.wait()

    def save(self, path: Path) -> None:
        """Write the history as JSON lines."""
        path.write_text("".join(json.dumps(event) + "\n" for event in self.events))


@dataclass(frozen=True)
class Operation:
    """An invocation with its answer; ``end`` is FOREVER if the outcome is unknown."""

    f: str
    key: str
    value: Any
    kind: str
    result: Any
    revision: int | None
    start: int
    end: int


def operations(events: Iterable[dict[str, Any]]) -> list[Operation]:
    """Pair invocations with their answers; one without an answer is of unknown outcome."""
    open_: dict[int, dict[str, Any]] = {}
    done: list[Operation] = []

    def close(call: dict[str, Any], answer: dict[str, Any] | None) -> None:
        kind = answer["type"] if answer is not None else "info"
        answer = answer or {}
        end = FOREVER if kind == "info" else answer["index"]
        done.append(
            Operation(
                call["f"],
                call["key"],
                call.get("value"),
                kind,
                answer.get("result"),
                answer.get("revision"),
                call["index"],
                end,
            )
        )

    for event in events:
        if event["type"] == "invoke":
            assert event["process"] not in open_, "a process does one thing at a time"
            open_[event["process"]] = event
        else:
            close(open_.pop(event["process"]), event)
    for call in open_.values():
        close(call, None)
    return sorted(done, key=lambda operation: operation.start)


class Model(Protocol):
    """A sequential object: what an operation does to a state, or None if it cannot be."""

    def initial(self) -> Hashable: ...

    def step(self, state: Any, operation: Operation) -> Hashable | None: ...


def linearizable(history: list[Operation], model: Model) -> bool:
    """Say whether some order that respects real time explains every answer."""
    required = sum(1 << n for n, op in enumerate(history) if op.kind != "info")
    stack: list[tuple[int, Hashable]] = [(0, model.initial())]
    seen = set(stack)
    while stack:
        done, state = stack.pop()
        if done & required == required:
            return True
        earliest_end = FOREVER
        for number, operation in enumerate(history):
            if operation.start > earliest_end:
                break  # it began after another one, still to be placed, had ended
            if done >> number & 1:
                continue
            earliest_end = min(earliest_end, operation.end)
            after = model.step(state, operation)
            if after is None:
                continue
            following = (done | 1 << number, after)
            if following not in seen:
                seen.add(following)
                stack.append(following)
    return False


def by_key(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Split a history into one per key."""
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        keys.setdefault(operation.key, []).append(operation)
    return keys


class RegisterModel:
    """One key.  State: (value, revision or None if unknown, a revision it is above)."""

    def initial(self) -> tuple[str | None, int | None, int]:
        return (None, 0, 0)

    def step(  # noqa: PLR0911 a table
        self, state: tuple[str | None, int | None, int], operation: Operation
    ) -> tuple[str | None, int | None, int] | None:
        _, revision, floor = state
        if operation.kind == "fail" and operation.result != "conflict":
            return state  # definitely without effect, and without an answer
        match operation.f:
            case "read":
                return self._read(state, operation.result)
            case "cas":
                expected = operation.value[0]
                same = revision == expected if revision is not None else expected > floor
                if operation.kind == "fail":
                    return state if revision is None or not same else None
                if not same:
                    return None
                floor = max(floor, expected)
        new = None if operation.f == "delete" else operation.value
        if operation.f == "cas":
            new = operation.value[1]
        if operation.revision is None:
            return (new, 0 if new is None else None, max(floor, revision or 0))
        if operation.revision <= max(floor, revision or 0):
            return None  # revisions never go back, not even over a delete
        return (new, 0 if new is None else operation.revision, operation.revision)

    @staticmethod
    def _read(
        state: tuple[str | None, int | None, int], result: tuple[str, int] | None
    ) -> tuple[str | None, int | None, int] | None:
        value, revision, floor = state
        if result is None or result[0] is None:
            return state if value is None else None
        if value != result[0]:
            return None
        if revision is None:
            return (value, result[1], floor) if result[1] > floor else None
        return state if revision == result[1] else None


class LockModel:
    """A lock with a fence.  State: (token of the holder or None, highest token so far).

    ``expires``: a lease may end at any time, so an acquisition is always possible and a guarded
    write may always be refused; what must never be is a guarded write accepted after a later grant.
    """

    def __init__(self, *, expires: bool) -> None:
        self._expires = expires

    def initial(self) -> tuple[int | None, int]:
        return (None, 0)

    def step(
        self, state: tuple[int | None, int], operation: Operation
    ) -> tuple[int | None, int] | None:
        holder, highest = state
        match operation.f, operation.kind:
            case "acquire", "ok":
                free = holder is None or self._expires
                later = operation.revision is not None and operation.revision > highest
                return (operation.revision, operation.revision) if free and later else None
            case "acquire", _:
                return state
            case "release", _:
                return (None, highest) if operation.value == holder else state
            case "guarded", "ok":
                return state if operation.value == holder else None
            case "guarded", "fail":
                return state if self._expires or operation.value != holder else None
        return state


class ReservationModel:
    """One room.  State: who has it from when to when, and whether that is confirmed.

    Holders are unique: one for each attempt.  Times are hours; holds do not lapse within a history.
    """

    def initial(self) -> frozenset[tuple[str, int, int, bool]]:
        return frozenset()

    def step(  # noqa: PLR0911 a table
        self, state: frozenset[tuple[str, int, int, bool]], operation: Operation
    ) -> frozenset[tuple[str, int, int, bool]] | None:
        result, ok, failed = operation.result, operation.kind == "ok", operation.kind == "fail"
        if failed and result not in {"booking_conflict", "booking_ended", "hold_expired"}:
            return state
        if operation.f == "agenda":
            return None if ok and {tuple(each) for each in result} != state else state
        holder, first, last = operation.value
        mine = next((each for each in state if each[0] == holder), None)
        others = state - {mine}
        taken = any(first < end and start < last for _, start, end, _ in others)
        if failed and result != "booking_conflict":
            return state if mine is None and result == "booking_ended" else None
        if failed:
            return state if taken else None
        match operation.f:
            case "cancel":
                return None if ok and result != (mine is not None) else others
            case "book" | "hold":
                made = (holder, first, last, operation.f == "book")
                return None if taken or mine else state | {made}
            case "confirm" if mine:
                return others | {(*mine[:3], True)}
            case "move" if mine and not taken:
                return others | {(holder, first, last, mine[3])}
        return None if ok else state


class QueueModel:
    """A work queue.  State: the jobs that are not over, and under which token each is claimed.

    A lease may end at any time, so a job that is claimed can be claimed again, under another token;
    what must never be is an end that is accepted from somebody who has lost the job, a job that is
    given out after its end, and a claim that finds nothing while something is ready.  Which of the
    ready jobs a claim takes is not said: concurrent claimants share those at the head.
    """

    def initial(self) -> tuple[frozenset[tuple[str, int]], int]:
        return frozenset(), 0

    def step(  # noqa: PLR0911 a table
        self, state: tuple[frozenset[tuple[str, int]], int], operation: Operation
    ) -> tuple[frozenset[tuple[str, int]], int] | None:
        jobs, unknown = state
        tokens = dict(jobs)
        match operation.f, operation.kind:
            case ("put", "ok" | "info"):
                return jobs | {(operation.value, 0)}, unknown
            case ("claim", "info"):
                return jobs, unknown + 1  # it may have one of those that seem to be ready
            case ("claim", "ok") if not operation.result:
                ready = sum(token == 0 for token in tokens.values())
                return state if ready <= unknown else None
            case ("claim", "ok"):
                ((job, token),) = operation.result
                if job not in tokens or token <= tokens[job]:
                    return None
                return jobs - {(job, tokens[job])} | {(job, token)}, unknown
            case ("left", "ok"):
                return state if operation.result == sorted(tokens) else None
            case ("done" | "retry" | "release", "ok" | "info"):
                job, token = operation.value
                if tokens.get(job) != token:
                    return None if operation.kind == "ok" else state
                left = jobs - {(job, token)}
                return (left if operation.f == "done" else left | {(job, 0)}), unknown
        return state


# --- list append ---------------------------------------------------------------------------------


def list_append_anomaly(history: list[Operation]) -> str | None:
    """Return what is wrong with a history of transactions, None if it is strictly serializable.

    ``value`` of a transaction is a list of ``["append", key, element]`` and ``["r", key, None]``,
    ``result`` the same with what the reads saw.
    """
    committed = [operation for operation in history if operation.kind == "ok"]
    maybe = [operation for operation in history if operation.kind == "info"]
    failed = {
        (key, element)
        for operation in history
        if operation.kind == "fail"
        for what, key, element in operation.value
        if what == "append"
    }
    writer: dict[tuple[str, Any], int] = {}
    everyone = committed + maybe
    for number, operation in enumerate(everyone):
        for what, key, element in operation.value:
            if what == "append":
                writer[key, element] = number
    order, wrong = _version_order(committed, failed)
    if wrong is not None:
        return wrong
    for number, operation in enumerate(committed):
        for what, key, element in operation.value:
            if what == "append" and element not in order.get(key, []) and order.get(key):
                last_read = max(
                    (o.start for o in committed for w, k, _ in o.value if w == "r" and k == key),
                    default=-1,
                )
                if operation.end < last_read:
                    return f"lost append: {element} to {key} was acknowledged ({number})"
    return _cycle(_edges(everyone, len(committed), order, writer))


def _version_order(
    committed: list[Operation], failed: set[tuple[str, Any]]
) -> tuple[dict[str, list[Any]], str | None]:
    order: dict[str, list[Any]] = {}
    reads = [
        (key, seen)
        for operation in committed
        for what, key, seen in operation.result
        if what == "r"
    ]
    for key, seen in reads:
        if len(set(seen)) != len(seen):
            return order, f"duplicate element in {key}: {seen}"
        if len(seen) > len(order.get(key, [])):
            order[key] = list(seen)
    for key, seen in reads:
        if order.get(key, [])[: len(seen)] != list(seen):
            return order, f"incompatible reads of {key}: {seen} and {order[key]}"
        if any((key, element) in failed for element in seen):
            return order, f"aborted read of {key}: {seen}"
    return order, None


def _edges(
    everyone: list[Operation],
    committed: int,
    order: dict[str, list[Any]],
    writer: dict[tuple[str, Any], int],
) -> dict[int, set[int]]:
    """Return who must come before whom: ww, wr, rw and real time."""
    edges: dict[int, set[int]] = {number: set() for number in range(len(everyone))}

    def before(first: int | None, then: int | None) -> None:
        if first is not None and then is not None and first != then:
            edges[first].add(then)

    for key, elements in order.items():
        for one, other in pairwise(elements):
            before(writer.get((key, one)), writer.get((key, other)))  # ww
    for number in range(committed):
        for what, key, seen in everyone[number].result:
            if what != "r":
                continue
            elements = order.get(key, [])
            if seen:
                before(writer.get((key, seen[-1])), number)  # wr
            if len(seen) < len(elements):
                before(number, writer.get((key, elements[len(seen)])))  # rw
    for number, operation in enumerate(everyone):
        for later, other in enumerate(everyone):
            if operation.end < other.start:
                before(number, later)  # real time
    return edges


def _cycle(edges: dict[int, set[int]]) -> str | None:
    """Return a cycle in words, None if there is none (iterative depth-first search)."""
    colour = dict.fromkeys(edges, 0)
    for root, followers in edges.items():
        if colour[root]:
            continue
        path, stack = [root], [iter(followers)]
        colour[root] = 1
        while stack:
            follower = next(stack[-1], None)
            if follower is None:
                colour[path.pop()] = 2
                stack.pop()
            elif colour[follower] == 1:
                return f"cycle of transactions: {[*path[path.index(follower) :], follower]}"
            elif colour[follower] == 0:
                colour[follower] = 1
                path.append(follower)
                stack.append(iter(edges[follower]))
    return None


# --- event log -----------------------------------------------------------------------------------

LogEvent = tuple[int, str, int, str]
"""Position, stream, version, data (unique in the history)."""


class _AnomalyError(Exception):
    """What is wrong with a history of a log."""


class _Log:
    """The log as the last read of all tells it, and where appends end in it."""

    def __init__(self, events: list[LogEvent], history: list[Operation]) -> None:
        self.events = events
        self.length = len(events)
        self.position = {data: position for position, _, _, data in events}
        self.streams: dict[str, list[int]] = {}
        for number, (position, stream, version, _) in enumerate(events, start=1):
            places = self.streams.setdefault(stream, [])
            places.append(position)
            if position != number or version != len(places):
                raise _AnomalyError(
                    f"position {position} follows {number - 1}, or {stream}@{version}"
                )
        if len(self.position) != self.length:
            raise _AnomalyError("an event lies twice in the log")
        last_of = [self.span(op) for op in history if op.f == "append"]
        ends = {span[1] for span in last_of if span is not None}
        self.ends = sorted({0, *ends})
        if self.length and self.ends[-1] != self.length:
            raise _AnomalyError("nobody appended the last event")

    def span(self, append: Operation) -> tuple[int, int] | None:
        """First and last position of an append that is in the log, whole; None if it is not."""
        data = [each for part in append.value["parts"].values() for each in part]
        found = [self.position[each] for each in data if each in self.position]
        if not found:
            return None
        if found != list(range(found[0], found[0] + len(data))):
            raise _AnomalyError(f"an append lies in pieces: {data} at {found}")
        return found[0], found[-1]

    def at_version(self, stream: str, version: int) -> tuple[int, int]:
        """The least and the greatest length of the log in which the stream has this version."""
        places = self.streams.get(stream, [])
        if version > len(places):
            raise _AnomalyError(f"{stream} never had version {version}")
        least = places[version - 1] if version else 0
        most = places[version] - 1 if version < len(places) else FOREVER
        return least, most


def log_anomaly(history: list[Operation]) -> str | None:
    """Return what is wrong with a history of an event log, None if it is linearizable.

    ``append`` has a value of ``parts`` (data by stream) and ``expected`` (versions by stream), and
    a result of ``first``, ``last``, ``versions``, or of ``refused`` (a stream and its version).
    ``read`` has a value of (stream, after) and a result of (version, data); ``read_all`` a value of
    ``after`` and a result of whole events; ``tail`` the same, and may stop anywhere.  The history
    ends with a ``read_all`` from the beginning when all is quiet.
    """
    whole = max(
        (op for op in history if op.f == "read_all" and op.value == 0 and op.kind == "ok"),
        key=lambda op: op.start,
    )
    try:
        log = _Log([tuple(event) for event in whole.result], history)
        return _real_time(log, [(op, *_lengths(op, log)) for op in history if _counts(op, log)])
    except _AnomalyError as anomaly:
        return str(anomaly)


def _counts(op: Operation, log: _Log) -> bool:
    """Whether the operation says anything, or did anything."""
    if op.f == "append" and op.kind != "ok":
        there = log.span(op)
        if there and op.kind == "fail":
            raise _AnomalyError(f"an append that failed for certain is at {there}")
        return there is not None
    return op.kind == "ok"


def _lengths(op: Operation, log: _Log) -> tuple[int, int, int]:
    """Up to which length the log may have grown before it; the least and the most it may have."""
    if op.f == "append":
        if op.kind == "ok" and "refused" in op.result:
            if there := log.span(op):
                raise _AnomalyError(f"an append that was refused is at {there}")
            stream, actual = op.result["refused"]
            if op.value["expected"].get(stream, actual) == actual:
                raise _AnomalyError(f"refused at the version that it expected: {stream}@{actual}")
            least, most = log.at_version(stream, actual)
            return most, least, most
        return _appended(op, log)
    if op.f == "read":
        stream, after = op.value
        expected = [log.events[place - 1] for place in log.streams.get(stream, [])][after:]
        seen = [(version, data) for version, data in op.result]
        if seen != [(version, data) for _, _, version, data in expected[: len(seen)]]:
            raise _AnomalyError(f"a read of {stream} behind {after} saw {seen}")
        if seen or after <= len(log.streams.get(stream, [])):
            least, most = log.at_version(stream, after + len(seen))
            return most, least if seen else 0, most
        return FOREVER, 0, FOREVER
    seen_all = [tuple(event) for event in op.result]
    if seen_all != log.events[op.value : op.value + len(seen_all)]:
        raise _AnomalyError(f"a {op.f} behind {op.value} saw {seen_all[:3]}...")
    reached = op.value + len(seen_all)
    if op.f == "tail":
        return FOREVER, reached if seen_all else 0, FOREVER
    return reached, reached if seen_all else 0, reached


def _appended(op: Operation, log: _Log) -> tuple[int, int, int]:
    there = log.span(op)
    if there is None:
        raise _AnomalyError(f"an acknowledged append is lost: {op.value}")
    first, last = there
    if op.kind == "ok" and (op.result["first"], op.result["last"]) != there:
        raise _AnomalyError(f"an append is at {there}, and was said to be at {op.result}")
    for stream, data in op.value["parts"].items():
        before = log.streams[stream].index(log.position[data[0]])
        if op.kind == "ok" and op.result["versions"][stream] != before + len(data):
            raise _AnomalyError(
                f"{stream} came to {before + len(data)}, and was said to: {op.result}"
            )
        if op.value["expected"].get(stream, before) != before:
            raise _AnomalyError(
                f"{stream} was at {before}, and another version was expected: {op.value}"
            )
    return first - 1, last, last


def _real_time(log: _Log, operations: list[tuple[Operation, int, int, int]]) -> str | None:
    """Give each operation the least length that it can have; None if that keeps real time."""
    given: list[tuple[int, int]] = []  # end of an operation, the length it was given
    for op, before, least, most in sorted(operations, key=lambda each: each[0].start):
        reached = max((length for end, length in given if end < op.start), default=0)
        if reached > before:
            return f"{op.f} {op.value} did not see what was there before it began ({reached})"
        wanted = max(reached, least)
        index = bisect_left(log.ends, wanted)
        length = log.ends[index] if index < len(log.ends) else wanted
        if length > most:
            return f"{op.f} {op.value} saw a part of an append"
        given.append((op.end, length))
    return None
