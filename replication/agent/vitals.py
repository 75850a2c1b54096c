"""How an agent is doing, as far as it cannot be read from its state: delays, queues, arrivals.

Theory of operation. The runtime reports what happened (a commit, a frame that waits, one that is
gone); whoever scrapes reads. Everything is bounded, costs O(1) per commit and origin, and is
forgotten with the process. Times are monotonic seconds, except for arrivals, which people read.

* *Convergence* of a commit of own writes: from its being durable here until every current member
  said that it has them on its disk, as known here. Nobody may be waiting for that, so it is asked
  for (`look_s`): soon after a first write, and every `LOOK_EVERY_S` while there are such writes; by
  so much a measured time may be too long.
* *Loop lag*: a timer that should ring every quarter of a second rings late by what held the loop.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from crdt import VersionVector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONVERGING_MAX = 4096
ARRIVALS_MAX = 256
BEAT_S = 0.25
LOOK_BACK_S = 30.0
LOOK_AFTER_S = 0.25
LOOK_EVERY_S = 5.0
BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(slots=True)
class Histogram:
    """Counts of durations: `counts[i]` of at most `BUCKETS_S[i]`, the last of all others."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total_s: float = 0.0

    def add(self, duration_s: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS_S, duration_s)] += 1
        self.total_s += duration_s


@dataclass(slots=True)
class Heartbeat:
    """Measures by how much the event loop is late; one wake-up per `BEAT_S`."""

    now_s: Callable[[], float]
    worst_s: float = 0.0
    """Since the start."""
    _recent: deque[tuple[float, float]] = field(default_factory=deque)
    """(when, how late), descending in lateness: its head is the worst of the look-back."""
    _timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to beat in the running loop."""
        due_s = self.now_s() + BEAT_S
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat, due_s)

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self, due_s: float) -> None:
        self.late(self.now_s() - due_s)
        self.start()

    def late(self, late_s: float) -> None:
        """Note a lateness."""
        late_s = max(0.0, late_s)
        self.worst_s = max(self.worst_s, late_s)
        while self._recent and self._recent[-1][1] <= late_s:
            self._recent.pop()
        self._recent.append((self.now_s(), late_s))

    @property
    def recent_s(self) -> float:
        """The worst lateness of the last `LOOK_BACK_S`."""
        since_s = self.now_s() - LOOK_BACK_S
        while self._recent and self._recent[0][0] < since_s:
            self._recent.popleft()
        return self._recent[0][1] if self._recent else 0.0


@dataclass(slots=True)
class Vitals:
    """The instruments of one agent."""

    now_s: Callable[[], float]
    wall_ms: Callable[[], int]
    convergence: Histogram = field(default_factory=Histogram)
    heartbeat: Heartbeat = field(init=False)
    queued: dict[str, int] = field(default_factory=lambda: {"outbound": 0, "inbound": 0})
    """Bytes of frames that wait: for a peer's answer, for this agent's answer."""
    look_s: float = inf
    """When it is time to ask who lacks own writes."""
    _looked_s: float = -inf
    _converging: deque[tuple[str, int, float]] = field(default_factory=deque)
    _arrivals: dict[str, deque[tuple[int, int]]] = field(default_factory=dict)
    _seen: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.heartbeat = Heartbeat(self.now_s)

    def committed(self, own: str, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """A transaction took the durable vector from `before` to `after`; O(what changed)."""
        wall_ms = self.wall_ms()
        for origin, seq in VersionVector(after).changed(before).items():
            known = self._arrivals.setdefault(origin, deque(maxlen=ARRIVALS_MAX))
            known.append((seq, wall_ms))
        if after.get(own, 0) > before.get(own, 0):
            now_s = self.now_s()
            self._converging.append((own, after[own], now_s))
            if self.look_s == inf:
                self.look_s = max(now_s + LOOK_AFTER_S, self._looked_s + LOOK_EVERY_S)
            if len(self._converging) > CONVERGING_MAX:
                self._converging.popleft()  # not counted: nobody will learn when it converged

    def spread(self, reached: Callable[[Mapping[str, int]], bool]) -> None:
        """Count the commits that everyone has by now; stops at the first that is not `reached`."""
        while self._converging:
            own, seq, since_s = self._converging[0]
            if not reached({own: seq}):
                return
            self._converging.popleft()
            self.convergence.add(self.now_s() - since_s)
        self.look_s = inf

    def looked(self) -> dict[str, int]:
        """It was time: the own writes to ask for."""
        self._looked_s = self.now_s()
        self.look_s = self._looked_s + LOOK_EVERY_S
        return {own: seq for own, seq, _ in self._converging}

    @property
    def converging_s(self) -> float:
        """How long the oldest commit of own writes is durable here but not everywhere."""
        return self.now_s() - self._converging[0][2] if self._converging else 0.0

    def lag_s(self, own: str, known: int) -> float:
        """Since when a peer that stands at `known` of our own events lacks one, or 0."""
        for origin, seq, since_s in self._converging:
            if origin == own and seq > known:
                return self.now_s() - since_s
        return 0.0

    def arrived_ms(self, origin: str, seq: int) -> int | None:
        """When an event became durable here, wall milliseconds; None if it is too long ago."""
        known = list(self._arrivals.get(origin, ()))
        index = bisect_left(known, (seq, 0))
        if index == len(known) or (index == 0 and len(known) == ARRIVALS_MAX):
            return None
        return known[index][1]
