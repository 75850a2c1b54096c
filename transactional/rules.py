"""The rules every engine shares: what a request may look like, and how it is decided.

Nothing here does I/O or asks the time.  An engine that decides by itself (memory, sqlite) gives
``failed_compares`` a ``View`` of its state; clients of a remote authority use the checks only, so
that a request that would be refused is not sent.

A minted op_id reads ``op:<epoch>:<revision>:<nonce>``.  The revision is the last one that its
maker had seen, so the commit it names, if it exists, has a higher one; once the store forgot
everything up to a revision, no younger op_id can be missing from its records.  All other op_ids
are the callers' own idempotency keys.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from transactional.errors import AnswerTooLargeError, EpochMismatchError, InvalidRequestError
from transactional.values import (
    BY_BYTES_MAX,
    COMMIT_BYTES_MAX,
    KEY_BYTES_MAX,
    LAST_CODE_POINT,
    OPERATIONS_MAX,
    READ_BYTES_MAX,
    SCAN_KEYS_MAX,
    VALUE_BYTES_MAX,
    Absent,
    Compare,
    Delete,
    DeletePrefix,
    Exists,
    KeyChange,
    KeyValue,
    LeaseAlive,
    Put,
    Revision,
    Unchanged,
    ValueIs,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from transactional.caller import Caller
    from transactional.values import CommitRequest

OP_ID_BYTES_MAX: Final = 256
LEASE_TTL_S_MAX: Final = 86_400.0
LEASE_TTL_S_MIN: Final = 0.05
SHORT_BYTES: Final = 64
"""A longer value stands in a fingerprint by its hash."""

_MINTED = re.compile(r"op:([0-9a-z]{1,32}):([0-9]{1,18}):([0-9a-f]{16,40})")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff" + LAST_CODE_POINT + "]")


# --- what a request may look like ----------------------------------------------------------------


def _check_text(text: str, what: str, bytes_max: int) -> int:
    if text.isascii() and text.isprintable() and len(text) <= bytes_max:
        return len(text)  # nearly every text, and a third of the time
    if _CONTROL.search(text):
        raise InvalidRequestError(f"{what} {text!r} holds a control character or a noncharacter")
    size = len(text) if text.isascii() else len(text.encode())
    if size > bytes_max:
        raise InvalidRequestError(f"{what} of {size} bytes is longer than {bytes_max}")
    return size


def check_key(key: object) -> int:
    """Raise InvalidRequestError unless ``key`` is a key; return its size in bytes."""
    if not isinstance(key, str) or not key:
        raise InvalidRequestError(f"a key is a text that is not empty, not {key!r}")
    return _check_text(key, "key", KEY_BYTES_MAX)


def check_prefix(prefix: str) -> int:
    """Raise InvalidRequestError unless ``prefix`` can start a key (empty: every key)."""
    if not isinstance(prefix, str):
        raise InvalidRequestError(f"a prefix is a text, not {prefix!r}")
    return _check_text(prefix, "prefix", KEY_BYTES_MAX)


def check_keys(keys: Sequence[str]) -> None:
    """Raise InvalidRequestError unless ``keys`` may be read in one get_many."""
    if isinstance(keys, str) or len(keys) > SCAN_KEYS_MAX:
        raise InvalidRequestError(f"get_many takes a list of at most {SCAN_KEYS_MAX} keys")
    for key in keys:
        check_key(key)


def check_scan(prefix: str, after: str | None, limit: int) -> None:
    """Raise InvalidRequestError unless these are a scan's arguments."""
    check_prefix(prefix)
    if after is not None:
        check_prefix(after)
    if type(limit) is not int or not 1 <= limit <= SCAN_KEYS_MAX:
        raise InvalidRequestError(f"limit is 1 to {SCAN_KEYS_MAX}, not {limit!r}")


def check_cursor(after: int | None, revision: int) -> None:
    """Raise InvalidRequestError unless a watch may start behind ``after``."""
    if after is not None and after < 0:
        raise InvalidRequestError(f"a revision is not negative: {after}")
    if after is not None and after > revision:
        raise InvalidRequestError(f"after={after} is above the store's revision {revision}")


def check_op_id(op_id: object) -> None:
    """Raise InvalidRequestError unless ``op_id`` can name an operation."""
    if not isinstance(op_id, str) or not op_id:
        raise InvalidRequestError(f"an op_id is a text that is not empty, not {op_id!r}")
    _check_text(op_id, "op_id", OP_ID_BYTES_MAX)
    if op_id.startswith("op:") and not _MINTED.fullmatch(op_id):
        raise InvalidRequestError(f"op_id {op_id!r} starts like a minted one but is not one")


def check_ttl(ttl_s: object) -> None:
    """Raise InvalidRequestError unless a lease may live this long."""
    number = isinstance(ttl_s, int | float) and not isinstance(ttl_s, bool)
    if not number or not LEASE_TTL_S_MIN <= ttl_s <= LEASE_TTL_S_MAX:  # type: ignore[operator]
        raise InvalidRequestError(
            f"ttl_s is {LEASE_TTL_S_MIN:g} to {LEASE_TTL_S_MAX:g} seconds, not {ttl_s!r}"
        )


def _check_value(value: bytes) -> int:
    if not isinstance(value, bytes):
        raise InvalidRequestError(f"a value is bytes, not {type(value).__name__}")
    if len(value) > VALUE_BYTES_MAX:
        raise InvalidRequestError(f"value of {len(value)} bytes is longer than {VALUE_BYTES_MAX}")
    return len(value)


def _check_compare(compare: Compare) -> int:
    match compare:
        case Revision(key, revision):
            if revision < 0:
                raise InvalidRequestError(f"a revision is not negative: {revision}")
            return check_key(key)
        case Exists(key) | Absent(key):
            return check_key(key)
        case ValueIs(key, value):
            return check_key(key) + _check_value(value)
        case Unchanged(prefix, since):
            if since < 0:
                raise InvalidRequestError(f"a revision is not negative: {since}")
            return check_prefix(prefix)
        case LeaseAlive(lease):
            return check_key(lease)
    raise InvalidRequestError(f"{compare!r} is not a compare")


def _check_write(write: Write) -> int:
    match write:
        case Put(key, value, lease):
            if lease is not None:
                check_key(lease)
            return check_key(key) + _check_value(value)
        case Delete(key):
            return check_key(key)
        case DeletePrefix(prefix):
            return check_prefix(prefix)
    raise InvalidRequestError(f"{write!r} is not a write")


def _check_disjoint(writes: Sequence[Write]) -> None:
    prefixes = [write.prefix for write in writes if isinstance(write, DeletePrefix)]
    seen: set[str] = set()
    for write in writes:
        if isinstance(write, DeletePrefix):
            others = [prefix for prefix in prefixes if prefix.startswith(write.prefix)]
            if len(others) > 1:
                raise InvalidRequestError(f"two writes touch the prefix {write.prefix!r}")
        elif write.key in seen or any(write.key.startswith(prefix) for prefix in prefixes):
            raise InvalidRequestError(f"two writes of one commit touch {write.key!r}")
        else:
            seen.add(write.key)


def check_commit(
    compares: Sequence[Compare],
    writes: Sequence[Write],
    otherwise: Sequence[Write],
    op_id: str | None,
    by: str | None = None,
) -> int:
    """Raise InvalidRequestError unless these may be sent as one commit; return its bytes."""
    size = 0
    if compares:
        _check_count(compares, "compares")
        for compare in compares:
            size += _check_compare(compare)
    for what, entries in (("writes", writes), ("otherwise", otherwise)):
        if not entries:
            continue
        _check_count(entries, what)
        for write in entries:
            size += _check_write(write)
        if len(entries) > 1:
            _check_disjoint(entries)
    if size > COMMIT_BYTES_MAX:
        raise InvalidRequestError(f"a commit of {size} bytes exceeds {COMMIT_BYTES_MAX}")
    if op_id is not None:
        check_op_id(op_id)
    if by is not None:
        check_by(by)
    return size


def check_by(by: object) -> None:
    """Raise InvalidRequestError unless ``by`` can name who writes."""
    if not isinstance(by, str) or not by:
        raise InvalidRequestError(f"who writes is a text that is not empty, not {by!r}")
    _check_text(by, "by", BY_BYTES_MAX)


def _check_count(entries: Sequence[Compare | Write], what: str) -> None:
    if len(entries) > OPERATIONS_MAX:
        raise InvalidRequestError(f"{len(entries)} {what} are more than {OPERATIONS_MAX}")


# --- whose is what -------------------------------------------------------------------------------


def operation_of(op_id: str, role: str) -> str:
    """Return the name under which a role's op_id is recorded: nobody else's can be equal to it."""
    return f"{role}\x1f{op_id}" if role else op_id  # an op_id has no control characters


def lease_of(role: str, token: str) -> str:
    """Return the id of a role's lease; it tells whose it is, over restarts and backups."""
    return f"{role}.{token}" if role else token


def owner_of(lease: str) -> str:
    """Return the role that a lease belongs to."""
    return lease.rpartition(".")[0]


# --- op_ids --------------------------------------------------------------------------------------


def minted_revision(op_id: str, epoch: str, present: int) -> int | None:
    """Return the revision inside a minted op_id that was checked, None for a caller's own.

    Raises:
        EpochMismatchError: it was minted in another life of the store.
        InvalidRequestError: its revision is above the ``present`` one: nobody minted it, and where
            its record would be looked for, and how long it is kept, could not be relied on.
    """
    if not op_id.startswith("op:"):
        return None
    _, theirs, number, _ = op_id.split(":")
    if theirs != epoch:
        raise EpochMismatchError(given=theirs, current=epoch)
    revision = int(number)
    if revision > present:
        raise InvalidRequestError(f"op_id {op_id!r} names a revision that is yet to come")
    return revision


def _forgets(write: Write) -> tuple[str, ...]:
    return ("forget",) if write.forget else ()


_FIELDS: Final[Mapping[type, Callable[[Any], tuple[str | bytes | int | None, ...]]]] = {
    Revision: lambda compare: ("revision", compare.key, compare.revision),
    Exists: lambda compare: ("exists", compare.key),
    Absent: lambda compare: ("absent", compare.key),
    ValueIs: lambda compare: ("value", compare.key, compare.value),
    Unchanged: lambda compare: ("unchanged", compare.prefix, compare.since),
    LeaseAlive: lambda compare: ("lease", compare.lease),
    Put: lambda write: ("put", write.key, write.value, write.lease, *_forgets(write)),
    Delete: lambda write: ("delete", write.key, *_forgets(write)),
    DeletePrefix: lambda write: ("delete_prefix", write.prefix, *_forgets(write)),
}


def _fields(entry: Compare | Write) -> tuple[object, ...]:
    """What an entry says; long values by their hash: their literal may be four times as long."""
    fields = _FIELDS[type(entry)](entry)
    return tuple([_hashed(f) if type(f) is bytes and len(f) > SHORT_BYTES else f for f in fields])


def _hashed(value: bytes) -> tuple[str, bytes]:
    return "hash", hashlib.blake2b(value, digest_size=32).digest()


def fingerprint(
    compares: Sequence[Compare], writes: Sequence[Write], otherwise: Sequence[Write]
) -> bytes:
    """Return 16 bytes that equal contents share and, but for 2**-64, no others.

    Stored for days, so it hashes the content's Python literal, which is the same in every version
    and escapes its own delimiters. O(bytes), milliseconds for the most that a commit may hold.
    """
    content = (
        list(map(_fields, compares)),
        list(map(_fields, writes)),
        list(map(_fields, otherwise)),
    )
    return hashlib.blake2b(repr(content).encode(), digest_size=16).digest()


# --- what is forgotten ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Keys, and prefixes of keys, whose earlier values are replaced wherever they are remembered.

    The values that stand in their place; under a prefix it is no bytes.
    """

    values: Mapping[str, bytes]
    prefixes: tuple[str, ...]

    def instead(self, key: str) -> bytes | None:
        """Return what stands for an earlier value of ``key``; None: it is not forgotten."""
        if key in self.values:
            return self.values[key]
        return b"" if key.startswith(self.prefixes) else None


# --- how much is read ----------------------------------------------------------------------------


def read_all(items: Iterable[KeyValue], caller: Caller) -> Iterator[KeyValue]:
    """Yield what is read for ``caller``, counted; AnswerTooLargeError beyond ``READ_BYTES_MAX``."""
    size = 0
    for item in items:
        size += (mine := len(item.key) + len(item.value))
        if size > READ_BYTES_MAX:
            raise AnswerTooLargeError(f"the keys hold more than {READ_BYTES_MAX} bytes")
        caller.read(mine)
        yield item


def page_of(items: Iterable[KeyValue], limit: int, caller: Caller) -> tuple[list[KeyValue], bool]:
    """Return the page that ``items`` begin with, and whether there is more.

    It ends before it is too large; only the first item alone may be more than is left to read.
    """
    page: list[KeyValue] = []
    left = caller.bytes_left
    left = READ_BYTES_MAX if left is None else min(left, READ_BYTES_MAX)
    for item in items:
        size = len(item.key) + len(item.value)
        if len(page) == limit or (page and size > left):
            return page, True
        caller.read(size)
        left -= size
        page.append(item)
    return page, False


# --- how it is decided ---------------------------------------------------------------------------


class View(Protocol):
    """What a decision may ask about the state; all answers belong to one point in time."""

    def find(self, key: str) -> KeyValue | None:
        """Return the key as it stands."""
        ...

    def keys_under(self, prefix: str) -> Sequence[str]:
        """Return the keys that start with ``prefix``, in order."""
        ...

    def changed(self, prefix: str, since: int) -> bool:
        """Say whether anything under ``prefix`` was, or may have been, changed after ``since``."""
        ...

    def lease_alive(self, lease: str) -> bool:
        """Say whether the lease is alive."""
        ...


def _holds(view: View, compare: Compare) -> bool:
    match compare:
        case Revision(key, revision):
            found = view.find(key)
            return (found.revision if found is not None else 0) == revision
        case Exists(key):
            return view.find(key) is not None
        case Absent(key):
            return view.find(key) is None
        case ValueIs(key, value):
            found = view.find(key)
            return found is not None and found.value == value
        case Unchanged(prefix, since):
            return not view.changed(prefix, since)
        case LeaseAlive(lease):
            return view.lease_alive(lease)


def failed_compares(view: View, compares: Sequence[Compare]) -> tuple[Compare, ...]:
    """Return the compares that do not hold; none means that the commit goes ahead."""
    return tuple([compare for compare in compares if not _holds(view, compare)])


def compared_keys(compares: Iterable[Compare]) -> tuple[str, ...]:
    """Return the keys whose current values a conflict over these compares reports."""
    named = (Revision, Exists, Absent, ValueIs)
    return tuple(dict.fromkeys(c.key for c in compares if isinstance(c, named)))


def named_keys(asked: CommitRequest) -> list[str]:
    """Return the single keys that a commit compares or writes, some of them twice."""
    writes = [write.key for write in asked.writes if isinstance(write, Put | Delete)]
    return [*compared_keys(asked.compares), *writes]


def current_of(
    view: View, compares: Iterable[Compare], caller: Caller
) -> dict[str, KeyValue | None]:
    """Return what a conflict tells; it counts as read.

    Raises:
        AnswerTooLargeError: it is too much to be told at once; as little was written.
    """
    current: dict[str, KeyValue | None] = {}
    for key in compared_keys(compares):
        found = current[key] = view.find(key)
        if found is not None:
            caller.read(len(key) + len(found.value))
    return current


def effects(
    view: View, writes: Sequence[Write], revision: int, by: str, time_us: int
) -> list[KeyChange]:
    """Return what the writes change, in key order; deletes of absent keys change nothing."""
    changes: list[KeyChange] = []
    for write in writes:
        match write:
            case Put(key, value, lease):
                old = view.find(key)
                created = old.created_revision if old is not None else revision
                new = KeyValue(key, value, revision, created, lease, by, time_us)
                changes.append(KeyChange(key, new))
            case Delete(key):
                if view.find(key) is not None:
                    changes.append(KeyChange(key, None))
            case DeletePrefix(prefix):
                changes.extend(KeyChange(key, None) for key in view.keys_under(prefix))
    if len(changes) > 1:
        changes.sort(key=lambda change: change.key)
    return changes


def forgotten(writes: Sequence[Write]) -> Forgotten | None:
    """Return which earlier values the writes take out of the history; None: none."""
    values: dict[str, bytes] = {}
    prefixes: list[str] = []
    for write in writes:
        match write:
            case Put(key, value, _, True):
                values[key] = value
            case Delete(key, True):
                values[key] = b""
            case DeletePrefix(prefix, True):
                prefixes.append(prefix)
    return Forgotten(values, tuple(prefixes)) if values or prefixes else None
