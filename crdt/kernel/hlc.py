"""A hybrid logical clock: timestamps that respect causality and stay close to the wall clock.

One int per timestamp: 48 bits of milliseconds, 16 bits of counter; adding one to a full counter
carries into the milliseconds, so nothing special happens at 65 536 events in a millisecond
(Kulkarni et al. 2014). The clock is told the time; it never asks. Without a time source the
physical part stays 0 and the clock is a Lamport clock: causal order is exact, concurrent ties fall
to (stamp, replica, seq). Do not mix clocked and clockless replicas of one document: a clockless
stamp is always smaller, so every concurrent write of the clockless side would lose.

A stamp from a peer whose clock runs far ahead (more than `skew_ms_max`) is *stored* like any other
- clamping or dropping it would make replicas differ - but it does not drag this clock along; it is
counted and reported. Whoever has seen such a write still wins over it, because a write supersedes
what it observed whatever the stamps say.

No replica reaches the end of its stamps. Those in the upper half, of times after the year 6429, are
stored and ordered like any other, but no clock follows them, and no wall clock that shows such a
time (nanoseconds taken for milliseconds) is believed: 2**63 stamps are left for what follows.

A restart must not go back: `reserve` hands out a ceiling to persist before stamps up to it are
used, and a clock started at its ceiling is ahead of everything it ever issued.
"""

from __future__ import annotations

from crdt.errors import ClockError
from crdt.kernel.limits import STAMP_MAX

COUNTER_BITS = 16
FOLLOWED_MAX = STAMP_MAX >> 1  # stamps beyond are stored, and drag no clock along
NOW_MS_MAX = FOLLOWED_MAX >> COUNTER_BITS  # in the year 6429
CLOCK_SKEW_MS_MAX = 60_000


def pack(ms: int, counter: int = 0) -> int:
    """The stamp of a millisecond and a counter."""
    return (ms << COUNTER_BITS) + counter


def milliseconds(stamp: int) -> int:
    """The physical part of a stamp."""
    return stamp >> COUNTER_BITS


def check_now(now_ms: object) -> int:
    """What a wall clock says, if it can be a time in milliseconds; else ClockError. O(1)."""
    if type(now_ms) is not int:
        raise ClockError(f"a clock gives milliseconds as an int, not {now_ms!r:.80}")
    if not 0 <= now_ms <= NOW_MS_MAX:
        raise ClockError(
            f"a clock that shows {'a negative time' if now_ms < 0 else 'no time before 6429'}: "
            "are these milliseconds since 1970?"
        )
    return now_ms


class HLC:
    """Strictly monotone stamps. `start` is the ceiling persisted by an earlier life, or 0."""

    __slots__ = ("ceiling", "last", "skew_ms_max", "skewed", "skewed_most_ms")

    def __init__(self, start: int = 0, *, skew_ms_max: int = CLOCK_SKEW_MS_MAX) -> None:
        if type(start) is not int or not 0 <= start <= STAMP_MAX:
            raise ClockError("a clock starts at a stamp that it issued")
        self.last = start
        self.ceiling = start
        self.skew_ms_max = skew_ms_max
        self.skewed = 0  # stamps that were too far ahead
        self.skewed_most_ms = 0  # by how much, at worst

    def tick(self, now_ms: int = 0) -> int:
        """A stamp for a local event, greater than any issued or observed before.

        Raises:
            ClockError: `now_ms` is no time in milliseconds, or started at the very last stamp.
        """
        if type(now_ms) is not int or not 0 <= now_ms <= NOW_MS_MAX:
            check_now(now_ms)
        stamp = now_ms << COUNTER_BITS
        if stamp <= self.last:
            stamp = self.last + 1
            if stamp > STAMP_MAX:
                raise ClockError("the last stamp there is has been used")
        self.last = stamp
        return stamp

    def observe(self, stamp: int, now_ms: int | None = None) -> bool:
        """Learn a peer's stamp; False if it is too far ahead to follow (None: no wall clock)."""
        if stamp > FOLLOWED_MAX:
            self.skewed += 1
            ms = now_ms if now_ms is not None else milliseconds(self.last)
            self.skewed_most_ms = max(self.skewed_most_ms, milliseconds(stamp) - ms)
            return False
        if now_ms is not None:
            ahead = (stamp >> COUNTER_BITS) - now_ms
            if ahead > self.skew_ms_max:
                self.skewed += 1
                self.skewed_most_ms = max(self.skewed_most_ms, ahead)
                return False
        self.last = max(self.last, stamp)
        return True

    def reserve(self, lead_ms: int = 1_000) -> int | None:
        """A new ceiling to persist when less than half of `lead_ms` is left, else None.

        Start the next life with `HLC(ceiling)`. O(1); about one write of the ceiling per half
        lead of wall time.
        """
        if self.ceiling - self.last >= pack(lead_ms) // 2:
            return None
        self.ceiling = min(self.last + pack(lead_ms), STAMP_MAX)
        return self.ceiling

    def __repr__(self) -> str:
        counter = self.last & ((1 << COUNTER_BITS) - 1)
        return f"HLC({milliseconds(self.last)} ms + {counter})"
