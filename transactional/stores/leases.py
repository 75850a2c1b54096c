"""Which leases are alive: a table of deadlines on the authority's boot-time clock.

Pure; the engine tells it the time.  A lease is alive until its deadline is *reached*, and once it
was taken out it cannot come back: renewal looks it up here, after everything due was removed, so
a renewal that races its expiry loses (Gray & Cheriton, SOSP 1989).  After a restart of an authority
each lease gets its whole ttl again: a holder may be granted more time than it asked for, never
less.  Leases of an embedded store end with its process, which their holders were part of.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Final

from transactional import rules
from transactional.errors import TooManyRequestsError

LEASES_MAX: Final = 100_000
LEASES_PER_ROLE_MAX: Final = 10_000
"""Most leases of one role of an authority's clients: no role can use up those of the others."""


class Leases:
    """Deadlines by lease id; O(log n) per operation, the heap is cleaned lazily."""

    def __init__(self) -> None:
        self._deadline_s: dict[str, float] = {}
        self._ttl_s: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._per_role: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._ttl_s)

    def __contains__(self, lease: object) -> bool:
        return lease in self._ttl_s

    def admit(self, role: str) -> None:
        """Raise TooManyRequestsError if there is no room for another lease of the role."""
        if len(self._ttl_s) >= LEASES_MAX:
            raise TooManyRequestsError(f"{LEASES_MAX} leases are alive")
        if role and self._per_role[role] >= LEASES_PER_ROLE_MAX:
            raise TooManyRequestsError(f"{LEASES_PER_ROLE_MAX} leases of role {role!r} are alive")

    def start(self, lease: str, ttl_s: float, now_s: float) -> None:
        """Begin or renew a lease: it lives until ``now_s + ttl_s``."""
        if lease not in self._ttl_s:
            self._per_role[rules.owner_of(lease)] += 1
        self._ttl_s[lease] = ttl_s
        self._deadline_s[lease] = now_s + ttl_s
        heapq.heappush(self._heap, (now_s + ttl_s, lease))

    def ttl_s(self, lease: str) -> float | None:
        """Return the lease's time to live, None if it is not alive."""
        return self._ttl_s.get(lease)

    def end(self, lease: str) -> bool:
        """Take a lease out; False if it was not there."""
        self._deadline_s.pop(lease, None)
        if self._ttl_s.pop(lease, None) is None:
            return False
        role = rules.owner_of(lease)
        self._per_role[role] -= 1
        if not self._per_role[role]:
            del self._per_role[role]
        return True

    def due(self, now_s: float) -> list[str]:
        """Return the leases whose deadline is reached; the caller ends them."""
        found: list[str] = []
        while self._heap and self._heap[0][0] <= now_s:
            deadline_s, lease = heapq.heappop(self._heap)
            if self._deadline_s.get(lease) == deadline_s:  # else renewed or gone: a stale entry
                found.append(lease)
        return list(dict.fromkeys(found))

    def next_deadline_s(self) -> float | None:
        """Return the earliest deadline, None without leases."""
        while self._heap and self._deadline_s.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
