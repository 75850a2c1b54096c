"""What travels to and from a store: keys as they stand, compares, writes, commits, events.

All of it is frozen.  A compare knows how to say why it did not hold; how it is decided is in
``rules.py``, how it looks as JSON in ``wire.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY_BYTES_MAX: Final = 1024
"""Longest key in UTF-8; a longer one is refused before it is sent."""
VALUE_BYTES_MAX: Final = 1 << 20
"""Longest value; a longer one is refused before it is sent."""
OPERATIONS_MAX: Final = 128
"""Most entries in each list of one commit (etcd's limit, so that recipes run on every engine)."""
SCAN_KEYS_MAX: Final = 1000
"""Most keys in one page of a scan and in one get_many; ask for the next page with ``after=``."""
BY_BYTES_MAX: Final = 128
"""Longest name of who wrote something."""
COMMIT_BYTES_MAX: Final = 4 << 20
"""Most bytes of keys and values in one commit."""
READ_BYTES_MAX: Final = COMMIT_BYTES_MAX
"""Most bytes of keys and values in one page of a scan, which ends there, and in one get_many."""
LAST_CODE_POINT: Final = "\U0010ffff"
"""Above every key that starts with a prefix sorts ``prefix + LAST_CODE_POINT``; keys lack it."""


_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Expected(Enum):
    """What a caller may expect of a register or a stream other than a revision or a version."""

    ANY = "anything"
    STREAM_EXISTS = "some event"


ANY: Final = Expected.ANY
"""``expected=ANY``: set a register, or append to a stream, whatever is there."""


# --- what is read --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it stands: its bytes and the numbers of the commits that wrote and created it.

    ``by`` is who wrote it (``Store.commit``; empty: not known) and ``time_us`` when, in business
    time, microseconds since 1970 (0: not known).  The revision says all of that and more, so two
    are equal without them.
    """

    key: str
    value: bytes
    revision: int
    created_revision: int
    lease: str | None = None
    by: str = field(default="", compare=False)
    time_us: int = field(default=0, compare=False)

    @property
    def time(self) -> datetime | None:
        """When it was written (UTC); None: not known."""
        return _UNIX + timedelta(microseconds=self.time_us) if self.time_us else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Several keys at one revision, in key order; absent keys are not among the items.

    ``more`` says that a scan stopped at its limit; go on with ``after=`` the last key.  Two pages
    are two snapshots: compare ``Unchanged(prefix, first.revision)`` to treat them as one.
    """

    revision: int
    items: Mapping[str, KeyValue]
    more: bool = False

    def revision_of(self, key: str) -> int:
        """Return the revision of ``key``, 0 when it is absent."""
        found = self.items.get(key)
        return found.revision if found is not None else 0


# --- compares ------------------------------------------------------------------------------------


def _stands(current: Mapping[str, KeyValue | None], key: str) -> str:
    found = current.get(key)
    return f"at revision {found.revision}" if found is not None else "absent"


@dataclass(frozen=True, slots=True)
class Revision:
    """Holds if ``key`` was last written by commit number ``revision``; 0: if it is absent."""

    key: str
    revision: int

    def why_not(self, current: Mapping[str, KeyValue | None]) -> str:
        """Say in words why the compare did not hold."""
        expected = f"revision {self.revision}" if self.revision else "absent"
        return f"{self.key!r} is {_stands(current, self.key)}, expected {expected}"


@dataclass(frozen=True, slots=True)
class Exists:
    """Holds if ``key`` is present, whatever its revision."""

    key: str

    def why_not(self, current: Mapping[str, KeyValue | None]) -> str:
        """Say in words why the compare did not hold."""
        return f"{self.key!r} is {_stands(current, self.key)}, expected to exist"


@dataclass(frozen=True, slots=True)
class Absent:
    """Holds if ``key`` is absent; the same as ``Revision(key, 0)``."""

    key: str

    def why_not(self, current: Mapping[str, KeyValue | None]) -> str:
        """Say in words why the compare did not hold."""
        return f"{self.key!r} is {_stands(current, self.key)}, expected absent"


@dataclass(frozen=True, slots=True)
class ValueIs:
    """Holds if ``key`` is present with exactly these bytes (subject to ABA; prefer Revision)."""

    key: str
    value: bytes

    def why_not(self, current: Mapping[str, KeyValue | None]) -> str:
        """Say in words why the compare did not hold."""
        return f"{self.key!r} is {_stands(current, self.key)} and does not hold the expected value"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Holds if no key that starts with ``prefix`` was written or deleted after ``since``.

    ``since`` is the revision of the snapshot that was read.  A ``since`` below the compaction
    revision, or from the future, does not hold: nothing is known.  Cost: O(1) for a prefix that
    ends with a slash and is among the 100,000 that changed last; else O(changes after ``since``),
    and in a file it does not hold if these are more than 20,000.
    """

    prefix: str
    since: int

    def why_not(self, current: Mapping[str, KeyValue | None]) -> str:  # noqa: ARG002 one protocol
        """Say in words why the compare did not hold."""
        return f"something under {self.prefix!r} changed after revision {self.since}"


@dataclass(frozen=True, slots=True)
class LeaseAlive:
    """Holds if the lease is alive on the authority's clock at the moment of the commit."""

    lease: str

    def why_not(self, current: Mapping[str, KeyValue | None]) -> str:  # noqa: ARG002 one protocol
        """Say in words why the compare did not hold."""
        return f"lease {self.lease!r} is not alive"


Compare = Revision | Exists | Absent | ValueIs | Unchanged | LeaseAlive


# --- writes --------------------------------------------------------------------------------------


# With ``forget`` a write also takes the earlier values of its keys out of the store, for data that
# must be erased and not only replaced: a watch from before is told of the same commits at the same
# revisions, with the new value (a delete: with no bytes) in the place of the old ones, and what the
# engine keeps on disk is overwritten before the commit is answered.  It costs O(store) on disk.


@dataclass(frozen=True, slots=True)
class Put:
    """Set ``key``; with a ``lease`` the key goes when the lease does.  Without: it is detached."""

    key: str
    value: bytes
    lease: str | None = None
    forget: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove ``key``; no effect if it is absent, but for what ``forget`` makes forgotten."""

    key: str
    forget: bool = False


@dataclass(frozen=True, slots=True)
class DeletePrefix:
    """Remove every key that starts with ``prefix``; with ``forget`` also those of the past."""

    prefix: str
    forget: bool = False


Write = Put | Delete | DeletePrefix


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """The arguments of ``Store.commit``."""

    compares: Sequence[Compare]
    writes: Sequence[Write]
    otherwise: Sequence[Write] = ()
    op_id: str | None = None
    by: str | None = None


# --- what comes back -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Commit:
    """An applied commit: its revision, which branch ran, the authority's business time (UTC).

    ``succeeded`` is False when the compares failed and ``otherwise`` was written instead.
    ``replayed`` marks the remembered result of an earlier commit with the same op_id.  A commit
    without writes has the revision of the state that it was decided on.
    """

    revision: int
    succeeded: bool
    time: datetime
    replayed: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Applied:
    """``resolve()``: the operation was applied.  ``fingerprint`` tells which content it had."""

    commit: Commit
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Fenced:
    """``resolve()``: the operation was not applied, and now it never will be."""

    op_id: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A promise to delete the attached keys once it was not renewed for ``ttl_s`` seconds."""

    id: str
    ttl_s: float


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One key's new state after a commit; ``current`` is None when the commit deleted it."""

    key: str
    current: KeyValue | None


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """What one commit did to the watched prefix: all of it, once, in the order of the keys.

    ``by`` is who made it, as in ``KeyValue``; a deletion has no other place to tell it.
    """

    revision: int
    time: datetime
    changes: tuple[KeyChange, ...]
    by: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Compacted:
    """Events after ``asked_after`` up to ``revision`` are forgotten: scan again, then go on."""

    asked_after: int
    revision: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine promises beyond the protocol; recipes and tests ask instead of guessing."""

    engine: str
    durable: bool
    shared: bool
    fault_tolerant: bool
    watch: bool = True
    max_operations: int = OPERATIONS_MAX
    value_bytes_max: int = VALUE_BYTES_MAX
    commit_bytes_max: int = COMMIT_BYTES_MAX
    forgets_in_place: bool = True
    """Whether ``forget`` leaves the rest of the history; else a watch from before is told that
    all before the commit is compacted."""
    reads: tuple[str, ...] = ("",)
    """Prefixes of what this client may read; the empty one is every key."""
