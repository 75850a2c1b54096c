"""Do equal vectors stand for equal states here? The look that nobody else takes.

Theory of operation. Vectors say what was heard. That those who heard the same hold the same is true
of whole answers of honest peers; a piece of an answer whose donor was lost, an origin that told two
events under one number, a disk or a memory that flipped a bit break it, and no exchange of vectors
sees it. So a digest of the state (`Kernel.state_digest`) rides along where it costs nothing but its
bytes: in greetings, and in answers that say "equal". The hashes behind it are made when this
replica is idle, a few blocks at a time; while they are not, there is no digest, and nothing is
compared.

Digests that differ are taken up by whoever asked, for itself: it fetches the hashes of the blocks,
then the blocks that differ, and joins them. What the peer knows to be dead dies here; what is known
to be dead here dies there when the peer asks in turn. Each pair of digests is tried once per peer;
a try that a lost frame ended does not count, and waits longer every time. A peer with whom a try
changed nothing is left alone for a while, whatever the digests are by then: what is beyond mending
- two entries of one dot - ends as a report and never as a loop.

    nothing known   --digests differ-->  differs  --blocks joined, digests equal-->  nothing known
                                            |
                                            +--no news for either, one dot twice-->  stays reported
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from replication.protocol.messages import BlocksWanted, HashesGiven, HashesWanted
from replication.protocol.wire import vector_hash

if TYPE_CHECKING:
    from collections.abc import Collection

    from crdt import Dot, Kernel
    from replication.protocol.messages import Digest

BLOCKS_PER_TICK = 2
"""Blocks hashed in one go: 2 048 entries hold the loop for some milliseconds."""
TICK_S = 0.02
"""Between two goes."""
HASHES_PER_PAGE = 8192
"""Of blocks: a quarter of a megabyte, and within the wire's limit of items if each block is of
another origin."""
BLOCKS_WANTED_MAX = 128
"""In one set: to cut it holds the donor's loop. The same try goes on behind it, a round later."""
PAIRS_KEPT = 8
"""Pairs of digests per peer that were tried."""
AGAIN_AFTER_S = 60.0
"""So long a peer is left alone with whom a try mended nothing here."""
DOTS_NAMED_MAX = 8
PEERS_MAX = 1024
"""Remembered; beyond it the oldest is forgotten, and tried once more."""

Block = tuple[str, int]
START: Block = ("", -1)


@dataclass(frozen=True, slots=True)
class Difference:
    """What is known of a peer that heard the same and holds something else, for operators.

    `blocks` is how many differ (0 as long as nobody looked), `contradicted` names dots that stand
    for one entry here and for another there; there may be more of them than are named.
    """

    blocks: int = 0
    contradicted: tuple[str, ...] = ()


@dataclass(slots=True)
class _Known:
    """Of one peer."""

    difference: Difference | None = None
    tried: list[tuple[bytes, bytes]] = field(default_factory=list)
    not_before_s: float = -inf
    unfinished: int = 0
    """Tries since one came to an end."""
    blocks: list[Block] = field(default_factory=list)
    """What differs, by the pages that came so far."""
    after: Block = START
    """Behind which block the try goes on."""


@dataclass(slots=True)
class Comparison:
    """One per replica: makes hashes when idle, compares digests, and says what to ask for."""

    kernel: Kernel
    due_s: float = inf
    _known: dict[str, _Known] = field(default_factory=dict)

    # ------------------------------------------------------------------------------ hashing

    def news(self, idle_s: float) -> None:
        """The state changes: hashing waits until it was quiet up to then."""
        self.due_s = idle_s

    def tick(self, now_s: float) -> None:
        """Hash some blocks, if it is time. O(`BLOCKS_PER_TICK` blocks + origins).

        A batch that was rolled back leaves marks and no news: so when nothing is due it is looked.
        """
        if now_s >= self.due_s or self.due_s == inf:
            fresh = self.kernel.hash_blocks(BLOCKS_PER_TICK)
            self.due_s = inf if fresh else now_s + TICK_S

    def marked(self, digest: Digest) -> Digest:
        """The digest of the vector, with that of the state at its side, if there is one now."""
        state = self.kernel.state_digest
        return replace(digest, state=state) if state else digest

    # ------------------------------------------------------------------------------ comparing

    def differences(self) -> dict[str, Difference]:
        """Peer -> what is known, for those that differed when their digests were compared last."""
        known = self._known.items()
        return {peer: each.difference for peer, each in known if each.difference is not None}

    def compare(self, peer: str, mine: bytes, theirs: bytes) -> bool:
        """Digests of states at equal vectors came; whether this is the first time that they differ.

        O(1).
        """
        known = self._known.get(peer)
        if not mine or not theirs:
            return False
        if mine == theirs:
            if known is not None:
                known.difference = None
            return False
        if known is None:
            while len(self._known) >= PEERS_MAX:
                del self._known[next(iter(self._known))]
            known = self._known[peer] = _Known()
        first = known.difference is None
        known.difference = known.difference or Difference()
        return first

    def try_once(self, peer: str, mine: bytes, theirs: bytes, now_s: float) -> bool:
        """Whether to mend from a peer whose digest differs: once per pair. O(1)."""
        known = self._known.get(peer)
        if known is None or known.difference is None or not mine or not theirs:
            return False
        if (mine, theirs) in known.tried or now_s < known.not_before_s:
            return False
        if mine != self.kernel.state_digest:
            return False  # no longer so
        known.tried = [(mine, theirs), *known.tried][:PAIRS_KEPT]
        known.not_before_s = now_s + min(AGAIN_AFTER_S, 2.0**known.unfinished)
        known.unfinished = min(known.unfinished + 1, 16)
        known.blocks = []
        return True

    def failed(self, peer: str) -> None:
        """The try came to no end - a frame was lost, one of us went on: a later one is due."""
        known = self._known.get(peer)
        if known is not None and known.tried:
            del known.tried[0]

    def concluded(self, peer: str, now_s: float, *, mended: bool) -> None:
        """A set was joined: the try is over, unless it goes on behind it.

        If it changed something here, the next pair may be tried at once.
        """
        known = self._known.get(peer)
        if known is None:
            return
        known.unfinished = 0
        if known.after != START:
            self.failed(peer)  # not over: the pair may be tried on
            mended = True
        known.not_before_s = -inf if mended else now_s + AGAIN_AFTER_S

    def contradicted(self, peer: str, dots: Collection[Dot]) -> bool:
        """These dots are beyond mending; whether that is news."""
        known = self._known.setdefault(peer, _Known())
        before = known.difference or Difference()
        named = sorted({*before.contradicted, *map(str, dots)})[:DOTS_NAMED_MAX]
        known.difference = replace(before, contradicted=tuple(named))
        return known.difference != before

    def forget(self, members: Collection[str]) -> None:
        """Peers that are no longer members are of no interest. O(peers)."""
        for peer in self._known.keys() - members:
            del self._known[peer]

    # ------------------------------------------------------------------------------ the exchange

    def is_at(self, digest: bytes) -> bool:
        """Whether our vector has this hash, and hashes of its state are made. O(origins)."""
        return bool(self.kernel.state_digest) and vector_hash(self.kernel.vector) == digest

    def first_page(self, peer: str) -> HashesWanted:
        """What a try with a peer begins with: where the last one was too long, behind its end."""
        known = self._known.get(peer)
        after = START if known is None else known.after
        return HashesWanted(vector_hash(self.kernel.vector), after)

    def give(self, wanted: HashesWanted) -> HashesGiven:
        """A page of hashes; nothing if the vectors are no longer equal. O(blocks)."""
        if not self.is_at(wanted.hash):
            return HashesGiven()
        listed = [
            (*block, found)
            for block, found in self.kernel.block_hashes().items()
            if block > wanted.after
        ]
        more = len(listed) > HASHES_PER_PAGE
        return HashesGiven(wanted.hash, tuple(listed[:HASHES_PER_PAGE]), more)

    def next(
        self, peer: str, asked: HashesWanted, given: HashesGiven, now_s: float
    ) -> HashesWanted | BlocksWanted | None:
        """A page of hashes came: ask for the next one, or for what differs; None: no more to ask.

        O(blocks).
        """
        known = self._known.get(peer)
        if known is None or known.difference is None:
            return None
        if given.hash != asked.hash or not self.is_at(asked.hash):
            self.failed(peer)  # one of us went on
            return None
        theirs = {(origin, number): found for origin, number, found in given.blocks}
        last = max(theirs, default=asked.after)
        mine = {
            block: found
            for block, found in self.kernel.block_hashes().items()
            if block > asked.after and (block <= last or not given.more)
        }
        differ = sorted(b for b in mine.keys() | theirs.keys() if mine.get(b) != theirs.get(b))
        known.blocks += differ
        if given.more and last > asked.after and len(known.blocks) < BLOCKS_WANTED_MAX:
            return HashesWanted(asked.hash, last)
        cut = given.more or len(known.blocks) > BLOCKS_WANTED_MAX
        blocks, known.blocks = tuple(known.blocks[:BLOCKS_WANTED_MAX]), []
        known.after = blocks[-1] if cut and blocks else START
        if not blocks:
            self.concluded(peer, now_s, mended=False)
            return None
        known.difference = replace(known.difference, blocks=len(blocks))
        return BlocksWanted(asked.hash, blocks)
