"""Every error of replication, each with what it did to the state.

Theory of operation. An error is part of the API: callers branch on its class, operators on its
`code`, people read its text and `hint`. Three families answer the question "what happened?":

* `FrameError`: a frame was refused. Nothing was merged; `status` is the HTTP status of the answer.
* `JournalError`: the disk of *this* replica said no. Nothing was acknowledged.
* everything else: a call was refused before it changed anything, or - `NotYetError` alone - a wait
  ran out while the write itself stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from crdt import ConvocaError
from crdt.errors import STATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class ReplicationError(ConvocaError):
    """Root of the tree. `code` is stable across releases; `hint` says what to do next."""

    code: ClassVar[str] = "replication"
    hint: str = "see docs/operations.md"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint
        self.add_note(f"hint: {self.hint}")  # so a traceback says it, too


# ------------------------------------------------------------------------------------ frames


class FrameError(ReplicationError):
    """A frame was refused; nothing was merged and no membership was learned from it."""

    code: ClassVar[str] = "frame"
    status: ClassVar[int] = 400


class MalformedFrameError(FrameError):
    """The bytes are not a frame of ours: truncated, flipped, forged lengths, wrong shapes."""

    code: ClassVar[str] = "malformed"
    hint = "the sender is not a replica, or the bytes were damaged on the way"


class DamagedFrameError(MalformedFrameError):
    """A frame that is not protected by a secret was damaged on its way; gossip sends it again."""

    code: ClassVar[str] = "damaged"
    hint = "if it goes on: the network damages frames, or the sender has a secret and we have none"


class AuthenticationError(FrameError):
    """The frame is not authenticated by a secret that this cluster knows."""

    code: ClassVar[str] = "unauthenticated"
    status: ClassVar[int] = 401
    hint = "give every agent of the cluster the same secret"


class ReplayedFrameError(AuthenticationError):
    """The frame was seen before, or is older than the replay window of its boot id."""

    code: ClassVar[str] = "replayed"
    hint = "a frame is accepted once; somebody repeats recorded traffic, or a proxy retries POSTs"


class StaleFrameError(FrameError):
    """The frame was made for another agent or boot, or too long ago; nothing of it was taken.

    The refusal carries a challenge: who is honest names it, and says the same once more.
    """

    code: ClassVar[str] = "stale"
    status: ClassVar[int] = 401
    hint = "usual at a first contact and after a restart; many mean that somebody repeats frames"


class ForbiddenError(FrameError):
    """Its sender may not say this; the whole range is refused, and the vector stays before it."""

    code: ClassVar[str] = "forbidden"
    status: ClassVar[int] = 403
    hint = "compare the rules with what that agent writes; see docs/security.md"


class RulesDifferError(FrameError):
    """The sender checks other rules than this agent: they do not exchange state."""

    code: ClassVar[str] = "rules_differ"
    status: ClassVar[int] = 403
    hint = "give every agent of the cluster the same rules"


class IdentityConflictError(FrameError):
    """Somebody else writes under this replica's id; the replica takes a new incarnation."""

    code: ClassVar[str] = "identity_conflict"
    status: ClassVar[int] = 409
    hint = "a journal was cloned or restored; nothing is lost, but find out who copied it"


class HistoryConflictError(FrameError):
    """A peer holds events of ours that this replica does not; it takes a new incarnation."""

    code: ClassVar[str] = "history_conflict"
    status: ClassVar[int] = 409
    hint = "the receiver's disk was rolled back; nothing is lost, it goes on under another id"


class OwnFrameError(FrameError):
    """The frame is our own: this replica was given as a peer to itself."""

    code: ClassVar[str] = "myself"
    status: ClassVar[int] = 421
    hint = "harmless: the address is not asked again; take it out of `peers`"


class FrameTooLargeError(FrameError):
    """The frame, or what it would decompress to, is over the limit."""

    code: ClassVar[str] = "too_large"
    status: ClassVar[int] = 413
    hint = "compare body_bytes_max of both agents"


class WrongClusterError(FrameError):
    """The frame belongs to another cluster or namespace."""

    code: ClassVar[str] = "wrong_cluster"
    status: ClassVar[int] = 421
    hint = "two clusters share an address; compare `cluster` and `namespace`"


class UnsupportedVersionError(FrameError):
    """The frame speaks a wire version that this build does not."""

    code: ClassVar[str] = "version"
    status: ClassVar[int] = 426

    def __init__(self, version: int, lowest: int, highest: int) -> None:
        super().__init__(
            f"wire version {version} is not spoken here; supported: {lowest} to {highest}",
            hint="upgrade the older agent",
        )
        self.version = version
        self.supported = (lowest, highest)


class FaultError(FrameError):
    """The receiver failed in a way that nobody foresaw; its state is what it was before."""

    code: ClassVar[str] = "fault"
    status: ClassVar[int] = 500
    hint = "report it, with the log line `fault` of the receiver"


class BusyError(FrameError):
    """Too many exchanges are under way, or the peer is blocked; try again later."""

    code: ClassVar[str] = "busy"
    status: ClassVar[int] = 503
    hint = "the peer retries by itself"


def frame_errors() -> Iterator[type[FrameError]]:
    """Every kind of refusal that this package makes."""
    kinds = [FrameError]
    while kinds:
        kind = kinds.pop()
        if kind.__module__.startswith("replication."):
            yield kind
        kinds += kind.__subclasses__()


# ------------------------------------------------------------------------------------ journals


class JournalError(ReplicationError):
    """The journal of this replica could not be used."""

    code: ClassVar[str] = "journal"


class JournalHeldError(JournalError):
    """Another process holds this journal; nothing was opened or changed."""

    code: ClassVar[str] = "journal_held"
    hint = "one journal belongs to one process: stop the other one, or give this agent its own file"


class JournalUnreadableError(JournalError):
    """The file is not a journal, is damaged, or is of another version; it was left as it is."""

    code: ClassVar[str] = "journal_unreadable"
    hint = "restore a backup, or move the file away: the agent then starts empty and is refilled"


class JournalFailedError(JournalError):
    """Persisting failed. The agent is read-only: this write changed nothing.

    Earlier writes that were not yet durable stay visible here, are retried, and are never sent.
    """

    code: ClassVar[str] = "journal_failed"
    hint = "look at the disk (full? failing?); the agent recovers by itself when a retry succeeds"


class VectorAheadError(JournalFailedError):
    """A vector claimed events that no row holds. Nothing of the transaction was written.

    It would have kept the agent from ever starting again; the agent saves its whole state instead.
    """

    code: ClassVar[str] = "vector_ahead"
    hint = "report it: the state is sound, but what led to it is a fault of this package"


class NoJournalError(JournalError):
    """This agent keeps no journal, so nothing of it is ever durable. Nothing was changed.

    What it wrote is seen here and spreads; once its process ends, it is where it has spread to.
    """

    code: ClassVar[str] = "no_journal"
    hint = (
        "give it one: `journal='ada.db'` in Agent(...) or join(...), `up --journal ada.db`. What "
        "was written can be waited for on the disks of others (`replicated`), or until one shows "
        "it (`seen` there)"
    )


class UnacknowledgedError(JournalFailedError):
    """A decrement was made and could not be persisted: do not act as if it had happened.

    It stays visible here, is never sent before it is durable, and is retried: when the agent is
    writable again, it counts. Should the agent die before, it never happened. Either way the bound
    holds. `agent.durable()` returns once it counts; to repeat it before that may count it twice.
    """

    code: ClassVar[str] = "unacknowledged"
    state = "stands"
    hint = "look at the disk; once the agent is writable again, the decrement counts"

    def __init__(self, amount: int, why: str) -> None:
        super().__init__(f"a decrement of {amount} is not durable, and is retried: {why}")
        self.amount = amount


# ------------------------------------------------------------------------------------ agents


class ConfigError(ReplicationError, ValueError):
    """An option is refused; nothing was started."""

    code: ClassVar[str] = "config"


class SecretRequiredError(ConfigError):
    """An address beyond loopback was given without a cluster secret; nothing was started."""

    code: ClassVar[str] = "secret_required"
    hint = "pass secret=... (the same on every agent), or listen on 127.0.0.1"


class ListenError(ReplicationError):
    """The address cannot be listened on; nothing was started."""

    code: ClassVar[str] = "listen"
    hint = "another process holds the port, or the address is not of this machine"


class UnknownDocumentTypeError(ReplicationError, TypeError):
    """A document was asked for with a type that has no wire tag; nothing was created."""

    code: ClassVar[str] = "unknown_type"
    hint = "use one of the types in `crdt`, e.g. agent.document('x', ORSet)"


class UncopyableAgentError(ReplicationError, TypeError):
    """copy, deepcopy or pickle of an agent: two of them would write under one identity."""

    code: ClassVar[str] = "uncopyable"
    hint = "start another one, under a name and with a journal of its own; it learns all by gossip"


class DocumentNameError(ReplicationError, ValueError):
    """A document has to have a name, which is text; nothing was created."""

    code: ClassVar[str] = "document_name"
    hint = "for example agent.counter('stock/widget')"


class UnknownPeerError(ReplicationError, LookupError):
    """No member of that name, id or address is known."""

    code: ClassVar[str] = "unknown_peer"
    hint = "agent.members() lists who is known"


class MemberAliveError(ReplicationError):
    """Whoever is known by that name, id or address lives; nothing changed."""

    code: ClassVar[str] = "member_alive"
    hint = "stop it; an agent that stops says goodbye, and one that does not answer is seen dead"

    def __init__(self, replica: str) -> None:
        super().__init__(f"{replica} lives, and would only say so")


class ClosedError(ReplicationError):
    """The agent is closed, or was never started; nothing changed."""

    code: ClassVar[str] = "closed"
    hint = "use it inside `async with Agent(...)` (a member: `async with join(...)`)"


class AwaitedBatchError(ReplicationError, TypeError):
    """A batch was given a function whose work goes on after it returned; it was rolled back."""

    code: ClassVar[str] = "awaited_batch"
    hint = "await first, in the caller; then give agent.batch a plain function that only writes"

    def __init__(self, action: object) -> None:
        super().__init__(
            f"{action!r} is not a plain function: what it awaits or yields would be outside of "
            "the batch; nothing of it was kept"
        )


class AlreadyStartedError(ReplicationError, RuntimeError):
    """The agent runs already, or is just starting: it goes on, and nothing changed."""

    code: ClassVar[str] = "already_started"
    hint = "`async with Agent(...) as agent:` starts it; do not call `start` as well"


class LoopEndedError(ClosedError):
    """What saves and sends this agent's writes was ended from outside. It takes no more writes.

    Earlier writes are durable as far as the disk took them; `close` tries once more. Nothing else
    changed.
    """

    code: ClassVar[str] = "loop_ended"
    hint = "cancel only tasks of your own, never all of the loop; close this agent, start another"


class WrongLoopError(ReplicationError, RuntimeError):
    """The agent lives in another event loop; nothing changed."""

    code: ClassVar[str] = "wrong_loop"
    hint = "start an agent in the loop that uses it, and close it there; or use BlockingAgent"


class WrongThreadError(WrongLoopError):
    """The agent lives in the event loop of another thread; nothing changed."""

    code: ClassVar[str] = "wrong_thread"
    hint = (
        "an Agent lives in one event loop; from threads use its synchronous twin: "
        "`with BlockingAgent(...) as agent:`"
    )


class ReentrantCallError(ReplicationError, RuntimeError):
    """The twin was called out of its own thread, and would wait for itself; nothing changed."""

    code: ClassVar[str] = "reentrant_call"
    hint = "a function given to `batch` or `call` uses the agent that lives there: `twin.inner`"


class ForkedError(ReplicationError, RuntimeError):
    """The agent runs in the process that this one was forked from; nothing changed."""

    code: ClassVar[str] = "forked"
    hint = "make an agent after the fork, with a name and a journal of its own"


class BatchExpiredError(ReplicationError, TimeoutError):
    """A `with` block of the twin held up its agent for too long: rolled back, nothing changed."""

    code: ClassVar[str] = "batch_expired"
    hint = "do what takes long before the block, and only write inside"

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"a batch was open for {limit_s:g} s, and was rolled back")
        self.limit_s = limit_s


class ForbiddenWriteError(ReplicationError, PermissionError):
    """The rules do not let this agent write that document; nothing changed."""

    code: ClassVar[str] = "forbidden_write"
    hint = "the rules name who may: see AccessPolicy.writers"


class NotYetError(ReplicationError, TimeoutError):
    """The wait ran out. **Not a rollback**: the write stands and goes on spreading.

    `reached` of `wanted` agents had it by then; `in_memory` more have it, and keep no journal.
    `missing` says how many events of which origin this agent still lacks, where that was awaited.
    """

    code: ClassVar[str] = "not_yet"
    state = "stands"
    hint = "wait again with the same token; do not repeat the write"

    def __init__(
        self,
        message: str,
        *,
        reached: int,
        wanted: int,
        in_memory: int = 0,
        missing: Mapping[str, int] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.reached = reached
        self.wanted = wanted
        self.in_memory = in_memory
        self.missing = dict(missing or {})


class NoAnswerError(ReplicationError, TimeoutError):
    """An agent did not answer an operator in time: whether it did what it was told is not known."""

    code: ClassVar[str] = "no_answer"
    state = "unknown"
    hint = "look at it (`status`, `get`) before you repeat an order"


class OrderRefusedError(ReplicationError):
    """An agent refused what an operator asked of it; nothing changed, unless its code says else.

    The code and state are those of the error that the agent met, if it told one
    (`unknown_peer`, `forbidden_write`, ...).
    """

    code: ClassVar[str] = "order_refused"

    def __init__(
        self, message: str, *, hint: str | None = None, code: str = "", state: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        if code:
            vars(self)["code"] = code
        if state in STATES:
            self.state = state


class UnknownDocumentError(ReplicationError, LookupError):
    """An agent that was asked for a document knows of none of that name."""

    code: ClassVar[str] = "unknown_document"
    hint = "`get` without a name lists them; what others wrote may be on its way"


class UnhealthyError(ReplicationError):
    """`doctor` found something; the text says what."""

    code: ClassVar[str] = "unhealthy"


class PeerUnreachableError(ReplicationError):
    """No answer from the peer: refused, timed out, cut or blocked."""

    out_of_reach: ClassVar[bool] = True
    code: ClassVar[str] = "unreachable"
    hint = "gossip retries by itself; agent.members() shows who is suspected"
