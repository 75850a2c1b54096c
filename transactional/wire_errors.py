"""How errors cross the wire: status for the eye, code and data for the program.

An error keeps its type, its data and so its meaning for the state; the HTTP status is a courtesy to
people with curl and to proxies.  ``applied`` in the body says what happened: false, or null when
nobody knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from transactional import errors as e
from transactional.wire import (
    Document,
    document,
    dump_compare,
    dump_key_value,
    entries,
    load_compare,
    load_key_value,
    number,
    text,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_STATUS: Final[Mapping[type[e.TransactionalError], int]] = {
    e.ConflictError: 409,
    e.StoreFullError: 507,
    e.TooManyRequestsError: 429,
    e.StoreLockedError: 423,
    e.UnavailableError: 503,
    e.UnauthorizedError: 401,
    e.EpochMismatchError: 409,
    e.LeaseExpiredError: 410,
    e.OperationIdReusedError: 422,
    e.OpIdFencedError: 422,
    e.OpIdExpiredError: 410,
    e.NotFoundError: 404,
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
        "applied": None if isinstance(error, e.OutcomeUnknownError) else False,
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
    e.NotFoundError.code: lambda data: e.NotFoundError(text(data["reason"])),
    e.InvalidRequestError.code: lambda data: e.InvalidRequestError(text(data["reason"])),
    e.UnauthorizedError.code: lambda data: e.UnauthorizedError(text(data["reason"])),
    e.CorruptStoreError.code: lambda data: e.CorruptStoreError(text(data["reason"])),
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
