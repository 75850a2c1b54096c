"""The sans-IO half of replication: messages, wire, membership and the replica machine.

Theory of operation. Nothing in here sleeps, rolls dice, opens a socket or logs: time and dice are
arguments, bytes come in and `Effects` go out. That is what makes a seed a bug report (see
`replication.testing`). A shell makes one `Replica` and does three things with it: it hands in what
happened (`receive`, `answered`, `failed`, `tick`, `flush`, `line`), executes the effects in the
order of their fields, and calls `tick` at `wake_s`.

Who knows what, from the top down; a room looks into those below it only:

    replica            one step at a time: which part hears of what happened
    gossip             who is given which events: answering vectors, taking deltas in, pushing
    waits              who waits for what, and whom to ask whether it is there
    digest             how much of a version vector a message has to carry
    intake             what may enter the state; quarantine and skips
    peers              what each peer is known to have, and what to push to it next
    gossip_scheduler   when to gossip, and with whom
    failure_detector   whom to probe, and when silence becomes suspicion
    membership         who is in the cluster: claims, verdicts, refutations
    comparison         do equal vectors stand for equal states: digests, and what is asked for then
    bootstrap          chunk sets: joining, and catching up from below a floor
    exchanges          requests that wait for their answer
    identity           whether we, or a peer, may go on under an id
    wire               messages as bytes and back; the numbered table of kinds
    effects            what a step asks the world to do
    messages           what is said, with the conversations drawn
    policy             who may write and bring what
    freshness          whether a frame is for us, and was made a short while ago
    keyring            who can prove what
    token_bucket       the bandwidth cap
    link               a kept connection as one stream of pieces

Others import from here, and from nowhere behind it.
"""

from replication.protocol.comparison import Difference
from replication.protocol.effects import (
    CHUNK,
    DELTA,
    NOTHING,
    OWN,
    Effects,
    Notice,
    Published,
    Row,
    Send,
)
from replication.protocol.keyring import Keyring
from replication.protocol.link import (
    ANONYMOUS,
    HEAD_BYTES,
    PIECE_BYTES,
    Came,
    Link,
    PeerConnection,
)
from replication.protocol.lives import ends, record_end
from replication.protocol.membership import Dice, Member
from replication.protocol.messages import MemberClaim, Status
from replication.protocol.peers import Reached
from replication.protocol.policy import SKIPPED, AccessPolicy, agent_of, is_reserved
from replication.protocol.replica import Replica
from replication.protocol.waits import Wait
from replication.protocol.wire import BOOT_BYTES, Wire

__all__ = [
    "ANONYMOUS",
    "BOOT_BYTES",
    "CHUNK",
    "DELTA",
    "HEAD_BYTES",
    "NOTHING",
    "OWN",
    "PIECE_BYTES",
    "SKIPPED",
    "AccessPolicy",
    "Came",
    "Dice",
    "Difference",
    "Effects",
    "Keyring",
    "Link",
    "Member",
    "MemberClaim",
    "Notice",
    "PeerConnection",
    "Published",
    "Reached",
    "Replica",
    "Row",
    "Send",
    "Status",
    "Wait",
    "Wire",
    "agent_of",
    "ends",
    "is_reserved",
    "record_end",
]
