"""How much state may be handed out now: the bandwidth cap, as a token bucket.

Theory of operation. The bucket fills at the configured rate up to one second's worth and may go
into debt by one delta (a batch is never cut), which is then waited for. Only state is counted -
deltas and chunks; digests, probes and answers are small, and a cap that silences them would look
like a failure. Without a limit everything is allowed and nothing is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Allowance:
    """One per replica. `bytes_per_s` 0 is no limit."""

    bytes_per_s: float
    _bytes: float = 0.0
    _as_of_s: float = -math.inf

    def room(self, now_s: float) -> int:
        """Bytes that may go now; 0 when it is time to wait."""
        if not self.bytes_per_s:
            return 1 << 62
        elapsed_s = now_s - self._as_of_s
        if elapsed_s > 0:
            grown = self._bytes + min(elapsed_s, 1e9) * self.bytes_per_s
            self._bytes, self._as_of_s = min(self.bytes_per_s, grown), now_s
        return max(0, int(self._bytes))

    def spend(self, size: int) -> None:
        """So many bytes go; O(1)."""
        if self.bytes_per_s:
            self._bytes -= size

    def ready_s(self) -> float:
        """When there is room again, and a byte more: rounding must wake nobody early."""
        if not self.bytes_per_s or self._bytes >= 1:
            return self._as_of_s
        return self._as_of_s + (2 - self._bytes) / self.bytes_per_s
