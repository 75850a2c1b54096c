"""What can go wrong, sorted by what it did to the state.

A caller of a store has one question about a failed write: *did it happen?*  So the tree is sorted
by the answer and by nothing else:

===========================  ==========================================================
``ConflictError``            No.  The store decided against it; read again and decide anew.
``UnavailableError``         No.  Nothing was decided; the same request may succeed later.
``RefusedError``             No.  Definitely, and for one of two reasons, which are its leaves:
  ``WrongRequestError``        the request itself is wrong; repeating it will not help.
  ``NotNowError``              the request is sound, what it met says no; later it may succeed.
``OutcomeUnknownError``      Perhaps.  Ask ``store.resolve(op_id)`` before anything else.
===========================  ==========================================================

Every error is a ``crdt.ConvocaError``: it carries a stable ``code`` (the same word on the wire and
on the command line), a
``hint`` for the person who reads it, and its data as attributes; ``details()`` gives the data as
JSON, which is how an error crosses the HTTP boundary unharmed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from crdt import ConvocaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transactional.values import Compare, KeyValue


class TransactionalError(ConvocaError):
    """Root of the tree."""

    code: ClassVar[str] = "error"
    hint: str = "see docs/errors.md"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.add_note(f"hint: {self.hint}")  # so a traceback says it, too

    def details(self) -> dict[str, str | int | float]:
        """Return the error's data in JSON's types; enough to raise it again elsewhere."""
        return {}


# --- the store decided against the write ---------------------------------------------------------


class ConflictError(TransactionalError):
    """A compare did not hold: nothing was written, and a later repeat may be decided otherwise.

    ``failed`` holds the compares that did not hold, ``current`` the present value of every key
    that a compare named (None: absent), ``revision`` the store's revision at the decision.
    """

    code = "conflict"
    hint = "read the current values, decide again and commit again; update() does it for you"

    def __init__(
        self,
        failed: tuple[Compare, ...],
        current: Mapping[str, KeyValue | None],
        revision: int,
    ) -> None:
        reasons = "; ".join(compare.why_not(current) for compare in failed)
        super().__init__(f"{reasons} (nothing was written)")
        self.failed = failed
        self.current = current
        self.revision = revision


class RetriesExhaustedError(ConflictError):
    """Every attempt that the retry policy allowed met a conflict; nothing was written."""

    code = "retries_exhausted"
    hint = "the key is contended: spread the writers over keys, or allow more attempts or time"

    def __init__(self, attempts: int, last: ConflictError) -> None:
        super().__init__(last.failed, last.current, last.revision)
        self.attempts = attempts
        self.args = (f"gave up after {attempts} attempts: {last}",)


# --- nothing was decided -------------------------------------------------------------------------


class UnavailableError(TransactionalError):
    """The store could not decide: nothing was written, the same request may be sent again."""

    code = "unavailable"
    out_of_reach = True
    hint = "try again in a moment; nothing was written"

    def __init__(self, reason: str, *, retry_after_s: float = 0.1) -> None:
        super().__init__(f"{reason} (nothing was written)")
        self.reason = reason
        self.retry_after_s = retry_after_s

    def details(self) -> dict[str, str | int | float]:
        """Return the reason and the pause after which another attempt is sensible."""
        return {"reason": self.reason, "retry_after_s": self.retry_after_s}


class StoreFullError(UnavailableError):
    """No space left: nothing was written, reads go on, it heals when space returns."""

    code = "store_full"
    hint = "free disk space or raise the limit; the store recovers by itself"


class StoreIOError(UnavailableError):
    """The disk reported an error: the commit was rolled back, nothing was written."""

    code = "store_io"
    hint = "look at the disk and the kernel log, then run `convoca store verify FILE`"


class TooManyRequestsError(UnavailableError):
    """A queue of the store is at its limit: the request was not accepted."""

    code = "too_many_requests"
    hint = "slow down; the store works through its queue"


class StoreClosedError(UnavailableError):
    """The store is closed or stopping: the request was not accepted."""

    code = "closed"
    hint = "open the store again"


class StoreLockedError(UnavailableError):
    """Another authority holds this database: it was not opened."""

    code = "store_locked"
    hint = "one process owns the file; share it: `convoca serve FILE`"


# --- a definite no -------------------------------------------------------------------------------


class RefusedError(TransactionalError):
    """A definite no: nothing was written.  Its two leaves say whether it may become a yes."""

    code = "refused"
    hint = "change the request; repeated as it is, it will be refused again"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} (nothing was written)")
        self.reason = reason

    def details(self) -> dict[str, str | int | float]:
        """Return the reason."""
        return {"reason": self.reason}


class WrongRequestError(RefusedError):
    """The request is wrong in itself: nothing was written, repeating it will not help."""

    code = "wrong_request"
    hint = "correct the request"


class NotNowError(RefusedError):
    """The request is sound and what it met says no: nothing was written, later it may succeed."""

    code = "not_now"
    hint = "look at what stands in the way, then ask again"


class InvalidRequestError(WrongRequestError):
    """A key, value, limit or combination of writes is outside the store's rules."""

    code = "invalid_request"
    hint = "correct what the message names"


class InvalidTimeError(WrongRequestError, ValueError):
    """A time that names no instant or no stretch: naive, empty, unknown zone; nothing was sent."""

    code = "invalid_time"
    hint = "a time has an offset (2030-03-01T09:00Z, an aware datetime), an end is after its start"


class ReentrantCallError(WrongRequestError, RuntimeError):
    """A blocking store was called out of its own thread, and would wait for itself."""

    code = "reentrant_call"
    hint = "a function that runs there (of `update`, a reducer) computes and calls nothing"


class ForkedError(WrongRequestError, RuntimeError):
    """The store was opened in the process that this one was forked from."""

    code = "forked"
    hint = "open a store after the fork, one in each process"


class NotFoundError(NotNowError):
    """The key (or path) that was asked for is absent."""

    code = "not_found"
    hint = "look at the name; verbs that list (`list`, `scan`, `agenda`) show what is there"


class UnknownSchemeError(WrongRequestError):
    """``open()`` was given a URL that names no engine; nothing was opened."""

    code = "unknown_scheme"
    hint = (
        "use memory: | sqlite:PATH | http(s)://HOST:PORT | etcd://HOST:PORT,HOST:PORT/NAME"
        " | postgresql://USER@HOST:PORT/DATABASE"
    )


class UnauthorizedError(WrongRequestError):
    """The authority did not accept the bearer token."""

    code = "unauthorized"
    hint = "set CONVOCA_TOKEN (or --token-file) to a token that the authority accepts"


class ForbiddenError(WrongRequestError):
    """The client is known, and its role may not do this; the message tells nothing of the state."""

    code = "forbidden"
    hint = "ask the operator of the authority for the prefix, or use a token of another role"


class AccessDeniedError(WrongRequestError):
    """The server of an engine does not let us in, or not do what is needed: nothing was written."""

    code = "access_denied"
    hint = (
        "check user, password and privileges; docs/scaling.md and docs/etcd.md list what each"
        " server must grant"
    )


class AnswerTooLargeError(WrongRequestError):
    """What was asked for is too much for one answer; nothing was written."""

    code = "answer_too_large"
    hint = "ask for less at once: fewer keys, a smaller limit, fewer requests in a batch"


class UnsafeFilesystemError(WrongRequestError):
    """The database lies on a file system whose locks and syncs cannot be trusted."""

    code = "unsafe_filesystem"
    hint = "put the file on a local disk and share it with `python -m transactional serve`"


class WeakServerError(WrongRequestError):
    """The server's settings keep less than a store promises: it was not opened.

    ``settings`` names them as the option ``weak=`` of the URL takes them.
    """

    code = "weak_server"
    hint = "set the server right, or name each setting in the URL: ?weak=NAME,NAME"

    def __init__(self, settings: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.settings = settings

    def details(self) -> dict[str, str | int | float]:
        """Return the settings and the reason."""
        return {"settings": ",".join(self.settings), "reason": self.reason}


class ClockJumpedError(WrongRequestError):
    """The wall clock is more than 30 days from the store's time: the file was left as it was."""

    code = "clock_jumped"
    hint = (
        "set the clock of this machine; if it is right, open the store once with `--accept-clock`"
        " (`serve`), or accept_clock=True"
    )

    def __init__(self, *, clock: str, store: str) -> None:
        super().__init__(f"the clock says {clock}, and the store last wrote at {store}")
        self.clock = clock
        self.store = store

    def details(self) -> dict[str, str | int | float]:
        """Return both times."""
        return {"clock": self.clock, "store": self.store}


class CorruptStoreError(WrongRequestError):
    """The file is not a sound database of ours; it was not changed."""

    code = "corrupt"
    hint = "restore a backup; `python -m transactional verify FILE` says what is wrong"


class NewerFormatError(CorruptStoreError):
    """A later version of this library wrote the store: it was not read, and not changed."""

    code = "newer_format"
    hint = "use the version that wrote it, or a later one: `pip install -U convoca`"

    def __init__(self, what: str, found: int, known: int) -> None:
        super().__init__(f"{what} has format {found}; this program knows {known}")
        self.found = found
        self.known = known

    def details(self) -> dict[str, str | int | float]:
        """Return both formats."""
        return {"found": self.found, "known": self.known}


class DamagedRowError(CorruptStoreError):
    """The disk changed what lies under ``key``: it was not read, and nothing was written."""

    code = "damaged_row"
    hint = "restore a backup; `python -m transactional verify FILE` names all that is damaged"

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key

    def details(self) -> dict[str, str | int | float]:
        """Return the key and the reason."""
        return {"key": self.key, "reason": self.reason}


class EpochMismatchError(WrongRequestError):
    """A token, cursor or op_id belongs to another life of the store (a backup was restored)."""

    code = "epoch_mismatch"
    hint = "forget cached revisions, reopen the store and read again"

    def __init__(self, *, given: str, current: str) -> None:
        super().__init__(f"epoch {given!r} is not this store's epoch {current!r}")
        self.given = given
        self.current = current

    def details(self) -> dict[str, str | int | float]:
        """Return both epochs."""
        return {"given": self.given, "current": self.current}


class LeaseExpiredError(NotNowError):
    """The lease is not alive (any more): it cannot be renewed or attached, its keys are gone."""

    code = "lease_expired"
    hint = "what the lease protected may belong to somebody else; start again with a new lease"

    def __init__(self, lease: str) -> None:
        super().__init__(f"lease {lease!r} is not alive")
        self.lease = lease

    def details(self) -> dict[str, str | int | float]:
        """Return the lease's id."""
        return {"lease": self.lease}


class _OpIdError(WrongRequestError):
    """Something is wrong with an op_id; the children say what."""

    _reason: ClassVar[str] = "op_id {op_id!r} was refused"

    def __init__(self, op_id: str) -> None:
        super().__init__(self._reason.format(op_id=op_id))
        self.op_id = op_id

    def details(self) -> dict[str, str | int | float]:
        """Return the op_id."""
        return {"op_id": self.op_id}


class OperationIdReusedError(_OpIdError):
    """The op_id already names another operation, which stands; this one wrote nothing."""

    code = "op_id_reused"
    hint = "use a new op_id for a new operation"
    _reason = "op_id {op_id!r} was used for an operation with another content"


class OpIdFencedError(_OpIdError):
    """``resolve()`` ruled that this op_id shall never be applied; this commit wrote nothing."""

    code = "op_id_fenced"
    hint = "the operation was given up by whoever resolved it; start a new one"
    _reason = "op_id {op_id!r} was fenced off by resolve()"


class OpIdExpiredError(_OpIdError):
    """The op_id is older than the store's memory: this attempt wrote nothing, an earlier one may.

    Minted op_ids carry the revision at which they were made; below the floor of the operations'
    records that of the first attempt is gone, so that a repeat looks like a new operation.
    """

    code = "op_id_expired"
    state = "unknown"
    hint = "read the keys to see whether the operation was applied"
    _reason = "op_id {op_id!r} is older than what the store remembers of operations"

    def __init__(self, op_id: str) -> None:
        super().__init__(op_id)
        self.args = (f"{self.reason} (this attempt wrote nothing; an earlier one may have)",)


# --- nobody knows --------------------------------------------------------------------------------


class OutcomeUnknownError(TransactionalError):
    """The answer was lost after the request was sent: the write may have happened, or happen yet.

    ``store.resolve(op_id)`` says that it was applied, or makes sure that it never will be.
    Repeating the same commit with the same ``op_id`` is safe as well.
    """

    code = "outcome_unknown"
    state = "unknown"
    hint = "call store.resolve(op_id), or repeat the same commit with the same op_id"

    def __init__(self, op_id: str, reason: str) -> None:
        super().__init__(f"{reason}: whether operation {op_id!r} was applied is not known")
        self.op_id = op_id
        self.reason = reason

    def details(self) -> dict[str, str | int | float]:
        """Return the op_id and the reason."""
        return {"op_id": self.op_id, "reason": self.reason}
