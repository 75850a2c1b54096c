"""How requests, results and errors look as JSON: the only room that knows the words on the wire.

Both ends use this table, the client to write and the authority to read, and the other way round.
Reading parses: behind it there are our frozen values and no ``Any``; whatever does not fit raises
InvalidRequestError.  Values are bytes; one that is UTF-8 travels as text in ``value``, any other as
base64 in ``value_b64``.  The paths begin with the version, ``/v1/``.

An error keeps its type, its data and so its meaning for the state; the HTTP status is a courtesy to
people with curl and to proxies.  ``applied`` in the body says what happened: false, or null when
nobody knows.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any, Final

from transactional import errors as e
from transactional.clock import microseconds, utc
from transactional.errors import InvalidRequestError
from transactional.values import (
    Absent,
    Applied,
    Capabilities,
    Commit,
    CommitRequest,
    Compacted,
    Compare,
    Delete,
    DeletePrefix,
    Exists,
    Fenced,
    KeyChange,
    KeyValue,
    Lease,
    LeaseAlive,
    Put,
    Revision,
    Snapshot,
    Unchanged,
    ValueIs,
    WatchEvent,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Document = dict[str, Any]

EPOCH_HEADER: Final = "Store-Epoch"
BATCH_MAX: Final = 512
"""Most requests in one batch."""
BODY_BYTES_MAX: Final = 16 << 20
"""Largest body of a request; holds the largest commit, base64 and all."""

ESCAPED_BYTES_MIN: Final = 512
"""So long a value travels in base64 if much of it are control characters."""
_ESCAPED: Final = bytes(range(32))

encode: Final[Callable[[Any], str]] = json.JSONEncoder(separators=(",", ":")).encode
"""Write JSON without blanks; ``json.dumps`` with options makes a new encoder for each call."""


# --- taking JSON apart ---------------------------------------------------------------------------


def _bad(what: str, found: object) -> InvalidRequestError:
    return InvalidRequestError(f"{what} expected, found {str(found)[:80]!r}")


def document(found: object) -> Document:
    """Return a JSON object as such."""
    if not isinstance(found, dict):
        raise _bad("an object", found)
    return found


def entries(found: object) -> list[Any]:
    """Return a JSON array as such; absent is empty."""
    if found is None:
        return []
    if not isinstance(found, list):
        raise _bad("an array", found)
    return found


def text(found: object) -> str:
    """Return a JSON string as such."""
    if not isinstance(found, str):
        raise _bad("a text", found)
    return found


def text_or_none(found: object) -> str | None:
    """Return a JSON string or null as such."""
    return None if found is None else text(found)


def yes_or_no(found: object) -> bool:
    """Return a JSON truth value as such; absent is false."""
    if found is not None and not isinstance(found, bool):
        raise _bad("true or false", found)
    return bool(found)


def whole(found: object) -> int:
    """Return a JSON integer of at most 63 bits as such."""
    if not isinstance(found, int) or isinstance(found, bool) or not -(1 << 63) <= found < 1 << 63:
        raise _bad("a whole number", found)
    return found


def number(found: object) -> float:
    """Return a JSON number as such."""
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise _bad("a number", found)
    try:
        return float(found)
    except OverflowError as error:
        raise _bad("a number", "one of hundreds of digits") from error


def _value(found: Document) -> bytes:
    if "value" in found:
        try:
            return text(found["value"]).encode()
        except UnicodeEncodeError as error:
            raise _bad("a text without lone surrogates", found["value"]) from error
    try:
        return base64.b64decode(text(found.get("value_b64")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("base64", found.get("value_b64")) from error


def _with_value(found: Document, value: bytes) -> Document:
    """Add the value: as text, unless it is none or would be far longer than in base64."""
    if len(value) >= ESCAPED_BYTES_MIN:
        escaped = len(value) - len(value.translate(None, _ESCAPED))
        if escaped * 16 > len(value):  # each is six bytes in a text
            found["value_b64"] = base64.b64encode(value).decode()
            return found
    try:
        found["value"] = value.decode()
    except UnicodeDecodeError:
        found["value_b64"] = base64.b64encode(value).decode()
    return found


# --- compares and writes -------------------------------------------------------------------------


def dump_compare(compare: Compare) -> Document:
    """Return a compare as JSON."""
    match compare:
        case Revision(key, revision):
            return {"type": "revision", "key": key, "revision": revision}
        case Exists(key):
            return {"type": "exists", "key": key}
        case Absent(key):
            return {"type": "absent", "key": key}
        case ValueIs(key, value):
            return _with_value({"type": "value", "key": key}, value)
        case Unchanged(prefix, since):
            return {"type": "unchanged", "prefix": prefix, "since": since}
        case LeaseAlive(lease):
            return {"type": "lease", "lease": lease}


def load_compare(found: object) -> Compare:
    """Return a compare from JSON."""
    doc = document(found)
    match doc.get("type"):
        case "revision":
            return Revision(text(doc.get("key")), whole(doc.get("revision")))
        case "exists":
            return Exists(text(doc.get("key")))
        case "absent":
            return Absent(text(doc.get("key")))
        case "value":
            return ValueIs(text(doc.get("key")), _value(doc))
        case "unchanged":
            return Unchanged(text(doc.get("prefix")), whole(doc.get("since")))
        case "lease":
            return LeaseAlive(text(doc.get("lease")))
    raise _bad("the type of a compare", doc.get("type"))


def dump_write(write: Write) -> Document:
    """Return a write as JSON."""
    doc: Document
    match write:
        case Put(key, value, lease):
            doc = _with_value({"type": "put", "key": key}, value)
            if lease is not None:
                doc["lease"] = lease
        case Delete(key):
            doc = {"type": "delete", "key": key}
        case DeletePrefix(prefix):
            doc = {"type": "delete_prefix", "prefix": prefix}
    if write.forget:
        doc["forget"] = True
    return doc


def load_write(found: object) -> Write:
    """Return a write from JSON."""
    doc = document(found)
    forget = yes_or_no(doc.get("forget"))
    match doc.get("type"):
        case "put":
            lease = text_or_none(doc.get("lease"))
            return Put(text(doc.get("key")), _value(doc), lease, forget)
        case "delete":
            return Delete(text(doc.get("key")), forget)
        case "delete_prefix":
            return DeletePrefix(text(doc.get("prefix")), forget)
    raise _bad("the type of a write", doc.get("type"))


def dump_commit_request(request: CommitRequest) -> Document:
    """Return the arguments of a commit as JSON."""
    doc: Document = {"writes": [dump_write(write) for write in request.writes]}
    if request.compares:
        doc["compares"] = [dump_compare(compare) for compare in request.compares]
    if request.otherwise:
        doc["otherwise"] = [dump_write(write) for write in request.otherwise]
    if request.op_id is not None:
        doc["op_id"] = request.op_id
    if request.by is not None:
        doc["by"] = request.by
    return doc


def load_commit_request(doc: Document) -> CommitRequest:
    """Return the arguments of a commit from JSON."""
    return CommitRequest(
        [load_compare(found) for found in entries(doc.get("compares"))],
        [load_write(found) for found in entries(doc.get("writes"))],
        [load_write(found) for found in entries(doc.get("otherwise"))],
        text_or_none(doc.get("op_id")),
        text_or_none(doc.get("by")),
    )


# --- results -------------------------------------------------------------------------------------


def dump_key_value(item: KeyValue | None) -> Document | None:
    """Return a key's state as JSON; absent is null."""
    if item is None:
        return None
    doc = _with_value({"key": item.key, "revision": item.revision}, item.value)
    doc["created_revision"] = item.created_revision
    if item.lease is not None:
        doc["lease"] = item.lease
    if item.by:
        doc["by"] = item.by
    if item.time_us:
        doc["time_us"] = item.time_us
    return doc


def load_key_value(found: object) -> KeyValue | None:
    """Return a key's state from JSON."""
    if found is None:
        return None
    doc = document(found)
    return KeyValue(
        text(doc.get("key")),
        _value(doc),
        whole(doc.get("revision")),
        whole(doc.get("created_revision")),
        text_or_none(doc.get("lease")),
        text(doc.get("by", "")),
        whole(doc.get("time_us", 0)),
    )


def dump_snapshot(snapshot: Snapshot) -> Document:
    """Return a snapshot as JSON."""
    items = [dump_key_value(item) for item in snapshot.items.values()]
    return {"revision": snapshot.revision, "items": items, "more": snapshot.more}


def load_snapshot(doc: Document) -> Snapshot:
    """Return a snapshot from JSON."""
    loaded = (load_key_value(found) for found in entries(doc.get("items")))
    items = {item.key: item for item in loaded if item is not None}
    return Snapshot(whole(doc.get("revision")), items, more=bool(doc.get("more")))


def dump_commit(commit: Commit) -> Document:
    """Return a commit as JSON; times are microseconds since 1970 (UTC)."""
    return {
        "revision": commit.revision,
        "succeeded": commit.succeeded,
        "time_us": microseconds(commit.time),
        "replayed": commit.replayed,
    }


def load_commit(doc: Document) -> Commit:
    """Return a commit from JSON."""
    return Commit(
        whole(doc.get("revision")),
        bool(doc.get("succeeded")),
        utc(whole(doc.get("time_us"))),
        replayed=bool(doc.get("replayed")),
    )


def dump_outcome(outcome: Applied | Fenced) -> Document:
    """Return what ``resolve`` found as JSON."""
    if isinstance(outcome, Fenced):
        return {"applied": False, "op_id": outcome.op_id}
    commit = dump_commit(outcome.commit)
    return {"applied": True, "commit": commit, "content": outcome.fingerprint.hex()}


def load_outcome(doc: Document) -> Applied | Fenced:
    """Return what ``resolve`` found from JSON."""
    if not doc.get("applied"):
        return Fenced(text(doc.get("op_id")))
    commit = load_commit(document(doc.get("commit")))
    return Applied(commit, bytes.fromhex(text(doc.get("content"))))


def dump_lease(lease: Lease) -> Document:
    """Return a lease as JSON."""
    return {"lease": lease.id, "ttl_s": lease.ttl_s}


def load_lease(doc: Document) -> Lease:
    """Return a lease from JSON."""
    return Lease(text(doc.get("lease")), number(doc.get("ttl_s")))


def dump_event(event: WatchEvent | Compacted) -> Document:
    """Return one item of a watch as JSON."""
    if isinstance(event, Compacted):
        return {"compacted": True, "after": event.asked_after, "revision": event.revision}
    changes = [
        {"key": change.key, "current": dump_key_value(change.current)} for change in event.changes
    ]
    time_us = microseconds(event.time)
    return {"revision": event.revision, "time_us": time_us, "by": event.by, "changes": changes}


def load_event(doc: Document) -> WatchEvent | Compacted:
    """Return one item of a watch from JSON."""
    if doc.get("compacted"):
        return Compacted(whole(doc.get("after")), whole(doc.get("revision")))
    changes = tuple(
        KeyChange(text(found.get("key")), load_key_value(found.get("current")))
        for found in map(document, entries(doc.get("changes")))
    )
    time = utc(whole(doc.get("time_us")))
    return WatchEvent(whole(doc.get("revision")), time, changes, text(doc.get("by", "")))


def dump_capabilities(found: Capabilities) -> Document:
    """Return an engine's promises as JSON."""
    return {
        "engine": found.engine,
        "durable": found.durable,
        "fault_tolerant": found.fault_tolerant,
        "watch": found.watch,
        "max_operations": found.max_operations,
        "value_bytes_max": found.value_bytes_max,
        "commit_bytes_max": found.commit_bytes_max,
        "forgets_in_place": found.forgets_in_place,
        "reads": list(found.reads),
    }


def load_capabilities(doc: Document) -> Capabilities:
    """Return the promises of an engine behind an authority, which makes it shared."""
    return Capabilities(
        f"http+{text(doc.get('engine'))}",
        durable=bool(doc.get("durable")),
        shared=True,
        fault_tolerant=bool(doc.get("fault_tolerant")),
        watch=bool(doc.get("watch")),
        max_operations=whole(doc.get("max_operations")),
        value_bytes_max=whole(doc.get("value_bytes_max")),
        commit_bytes_max=whole(doc.get("commit_bytes_max")),
        forgets_in_place=yes_or_no(doc.get("forgets_in_place")),
        reads=tuple([text(prefix) for prefix in entries(doc.get("reads"))]),
    )


# --- errors --------------------------------------------------------------------------------------

_STATUS: Final[Mapping[type[e.TransactionalError], int]] = {
    e.ConflictError: 409,
    e.StoreFullError: 507,
    e.TooManyRequestsError: 429,
    e.StoreLockedError: 423,
    e.UnavailableError: 503,
    e.UnauthorizedError: 401,
    e.ForbiddenError: 403,
    e.EpochMismatchError: 409,
    e.LeaseExpiredError: 410,
    e.OperationIdReusedError: 422,
    e.OpIdFencedError: 422,
    e.OpIdExpiredError: 410,
    e.NotFoundError: 404,
    e.CorruptStoreError: 500,
    e.RefusedError: 400,
    e.OutcomeUnknownError: 500,
}


def status_of(error: e.TransactionalError) -> int:
    """Return the HTTP status of an error: that of its nearest listed ancestor."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def dump_error(error: e.TransactionalError) -> Document:
    """Return an error as JSON; ``applied`` says what it did to the state (null: unknown)."""
    doc: Document = {
        "code": error.code,
        "message": str(error),
        "hint": error.hint,
        "applied": None if error.state == "unknown" else False,
        "details": error.details(),
    }
    if isinstance(error, e.ConflictError):
        doc["failed"] = [dump_compare(compare) for compare in error.failed]
        doc["current"] = {key: dump_key_value(item) for key, item in error.current.items()}
        doc["revision"] = error.revision
    return doc


def _load_conflict(doc: Document) -> e.ConflictError:
    failed = tuple(load_compare(found) for found in entries(doc.get("failed")))
    current = {key: load_key_value(found) for key, found in document(doc.get("current")).items()}
    return e.ConflictError(failed, current, whole(doc.get("revision")))


def _unavailable(kind: type[e.UnavailableError]) -> Callable[[Document], e.TransactionalError]:
    return lambda data: kind(text(data.get("reason")), retry_after_s=number(data["retry_after_s"]))


_LOADERS: Final[Mapping[str, Callable[[Document], e.TransactionalError]]] = {
    **{
        kind.code: _unavailable(kind)
        for kind in (
            e.UnavailableError,
            e.StoreFullError,
            e.StoreIOError,
            e.TooManyRequestsError,
            e.StoreClosedError,
            e.StoreLockedError,
        )
    },
    e.WrongRequestError.code: lambda data: e.WrongRequestError(text(data["reason"])),
    e.NotNowError.code: lambda data: e.NotNowError(text(data["reason"])),
    e.NotFoundError.code: lambda data: e.NotFoundError(text(data["reason"])),
    e.InvalidRequestError.code: lambda data: e.InvalidRequestError(text(data["reason"])),
    e.UnauthorizedError.code: lambda data: e.UnauthorizedError(text(data["reason"])),
    e.ForbiddenError.code: lambda data: e.ForbiddenError(text(data["reason"])),
    e.AccessDeniedError.code: lambda data: e.AccessDeniedError(text(data["reason"])),
    e.AnswerTooLargeError.code: lambda data: e.AnswerTooLargeError(text(data["reason"])),
    e.CorruptStoreError.code: lambda data: e.CorruptStoreError(text(data["reason"])),
    e.DamagedRowError.code: lambda data: e.DamagedRowError(text(data["key"]), text(data["reason"])),
    e.EpochMismatchError.code: lambda data: e.EpochMismatchError(
        given=text(data["given"]), current=text(data["current"])
    ),
    e.LeaseExpiredError.code: lambda data: e.LeaseExpiredError(text(data["lease"])),
    e.OperationIdReusedError.code: lambda data: e.OperationIdReusedError(text(data["op_id"])),
    e.OpIdFencedError.code: lambda data: e.OpIdFencedError(text(data["op_id"])),
    e.OpIdExpiredError.code: lambda data: e.OpIdExpiredError(text(data["op_id"])),
    e.OutcomeUnknownError.code: lambda data: e.OutcomeUnknownError(
        text(data["op_id"]), text(data["reason"])
    ),
}


def load_error(doc: Document) -> e.TransactionalError:
    """Return the error that ``dump_error`` wrote; one of an unknown code becomes RefusedError."""
    code = text(doc.get("code"))
    if code == e.ConflictError.code:
        return _load_conflict(doc)
    loader = _LOADERS.get(code)
    if loader is None:
        return e.RefusedError(text(doc.get("message")))
    return loader(document(doc.get("details")))
