"""How much state may be handed out now: the bandwidth cap, as a token bucket.

Theory of operation. The bucket fills at the configured rate up to one second's worth, and every
sealed frame that carries state takes out its whole size. Such a frame leaves only while a tenth of
a second's worth is there, is cut to what is there, and may overdraw by what cannot be cut (one
batch, one chunk, the frame around it), which is then waited for. So for any agent and any T

    bytes of frames with state, in any T seconds  <=  rate * (T + 1) + one frame

Digests, probes and acknowledgements are neither counted nor held up: they are small, and a cap that
silences them would look like a failure. Without a limit everything is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST_S = 0.1
"""So much has to be there before a frame leaves: not a frame for every few bytes."""


@dataclass(slots=True)
class TokenBucket:
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
        return math.ceil(self._bytes) if self._bytes >= LEAST_S * self.bytes_per_s else 0

    def spend(self, size: int) -> None:
        """So many bytes go; O(1)."""
        if self.bytes_per_s:
            self._bytes -= size

    def ready_s(self) -> float:
        """When there is room again, and a byte more: rounding must wake nobody early."""
        lacking = LEAST_S * self.bytes_per_s - self._bytes
        if not self.bytes_per_s or lacking <= 0:
            return self._as_of_s
        return self._as_of_s + (lacking + 1) / self.bytes_per_s
