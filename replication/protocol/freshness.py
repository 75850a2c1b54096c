"""That a frame is for us, for this boot of ours, and was made a short while ago.

Theory of operation. A seal proves who made a frame; whoever recorded one can send it again: to its
receiver, to that one's next boot, to somebody else. So each frame names a *challenge* of its
receiver, eight bytes that nobody could know before the receiver gave them out. They change every
`CHALLENGE_S`, the last ones hold for as long again, and a boot begins with ones of its own. What
names no challenge that holds is refused before anything is remembered of it. There is no wall clock
in this, and nothing is kept for those who ask.

Where does a sender learn the challenge? Every frame carries its sender's, so whoever exchanged
frames with somebody lately knows it, and hands it on with his claims about members. Where none is
known a bare probe knocks instead of the request, which may be large; where it is one of before, the
request itself is refused. The refusal carries the challenge, and the request goes once more:

    A --Probe, to nobody--------------------> B       B answers nothing else, and remembers nothing
    A <--Refused(stale), B's challenge------- B       it names A's challenge: it is no old one
    A --Sync, to B's challenge--------------> B
    A <--Synced, to A's challenge------------ B       each knows the other's, until both are silent
                                                      for longer than challenges hold

An answer names the challenge that its question carried, and the number of that question, so an
answer that was recorded answers nothing else. Within the time that a challenge holds numbers keep
each frame to one use (`wire`), and of two boots of one id the later one counts (`identity`).

Time comes from whoever lives it: `rotate` is called with each step.
"""

from __future__ import annotations

import hashlib

CHALLENGE_BYTES = 8
CHALLENGE_S = 300.0
"""So long a challenge is given out, and holds for once more: in a cluster of hundreds two agents
exchange some frame more often than that, and spend no round trip on it."""
NOBODY = b""
"""The challenge of somebody of whom none is known."""


class Freshness:
    """The challenges of one boot.

    Args:
        seed: random bytes that no other boot has; challenges follow from it.
        period_s: how long each is given out; an answer must not take longer.
    """

    __slots__ = ("_before", "_period_s", "_seed", "_turn", "current")

    def __init__(self, seed: bytes, period_s: float = CHALLENGE_S) -> None:
        self._seed = seed
        self._period_s = period_s
        self._turn = 0
        self.current = self._before = self._made()

    def _made(self) -> bytes:
        turn = self._turn.to_bytes(8, "big", signed=True)
        return hashlib.blake2b(turn, key=self._seed, digest_size=CHALLENGE_BYTES).digest()

    def rotate(self, now_s: float) -> None:
        """Time has passed. O(1)."""
        turn = int(now_s // self._period_s)
        if turn == self._turn:
            return
        next_one, self._turn = turn == self._turn + 1, turn
        before, self.current = self.current, self._made()
        self._before = before if next_one else self.current

    def holds(self, named: bytes) -> bool:
        """Whether a frame that names it is for this boot, and no older than two periods."""
        return named in (self.current, self._before)
