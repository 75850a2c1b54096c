"""A request as JSON becomes one call of the store: what the authority does, without the HTTP.

The kinds are the store's methods.  Errors are the store's own; ``fault`` is for those that nobody
foresaw, which must not be told as "nothing was written" to somebody who writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from transactional import rules, wire
from transactional.errors import (
    InvalidRequestError,
    OutcomeUnknownError,
    TransactionalError,
    UnavailableError,
)

if TYPE_CHECKING:
    from transactional.store import Snapshot, Store
    from transactional.wire import Document

READS: Final = frozenset({"get", "get_many", "scan", "now"})
"""The kinds that change nothing."""


async def call(store: Store, kind: str, doc: Document) -> tuple[Any, int]:  # noqa: PLR0911 a table
    """Call the store once; return the answer as JSON and the revision that it shows, or 0."""
    match kind:
        case "get":
            return wire.dump_key_value(await store.get(wire.text(doc.get("key")))), 0
        case "get_many":
            keys = [wire.text(key) for key in wire.entries(doc.get("keys"))]
            return _snapshot(await store.get_many(keys))
        case "scan":
            limit = wire.whole(doc.get("limit", 1000))
            after = wire.text_or_none(doc.get("after"))
            prefix = wire.text(doc.get("prefix"))
            return _snapshot(await store.scan(prefix, after=after, limit=limit))
        case "commit":
            asked = wire.load_commit_request(doc)
            commit = await store.commit(
                asked.compares, asked.writes, asked.otherwise, op_id=asked.op_id
            )
            return wire.dump_commit(commit), commit.revision
        case "resolve":
            return wire.dump_outcome(await store.resolve(wire.text(doc.get("op_id")))), 0
        case "lease":
            return wire.dump_lease(await store.lease(wire.number(doc.get("ttl_s")))), 0
        case "renew":
            return wire.dump_lease(await store.renew(wire.text(doc.get("lease")))), 0
        case "revoke":
            await store.revoke(wire.text(doc.get("lease")))
            return None, 0
        case "now":
            return {"time_us": rules.microseconds(await store.now())}, 0
    raise InvalidRequestError(f"{kind!r} is not a kind of request")


def _snapshot(snapshot: Snapshot) -> tuple[Any, int]:
    return wire.dump_snapshot(snapshot), snapshot.revision


def fault(op_id: object, *, reads: bool) -> TransactionalError:
    """Return what to say after an error that nobody foresaw: of a write nothing is known."""
    if reads:
        return UnavailableError("the authority met a fault of its own; its log tells more")
    return OutcomeUnknownError(
        op_id if isinstance(op_id, str) else "", "the authority met a fault of its own"
    )
