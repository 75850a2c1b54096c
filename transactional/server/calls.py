"""A request as JSON becomes one call of the store: what the authority does, without the HTTP.

The kinds are the store's methods.  Errors are the store's own; ``fault`` is for those that nobody
foresaw, which must not be told as "nothing was written" to somebody who writes.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from transactional import wire
from transactional.clock import microseconds
from transactional.errors import (
    InvalidRequestError,
    OutcomeUnknownError,
    TransactionalError,
    UnavailableError,
)
from transactional.store import Compactable, TakesCommitsTogether
from transactional.values import Commit, CommitRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from transactional.store import Store
    from transactional.values import Snapshot
    from transactional.wire import Document

READS: Final = frozenset({"get", "get_many", "scan", "now"})
"""The kinds that change nothing."""
COMPACT_S: Final = 2.0
"""How long one request to remove what is old may take; the client asks again."""
_log = logging.getLogger(__name__)


async def call(store: Store, kind: str, doc: Document) -> tuple[Any, int]:  # noqa: C901, PLR0911 a table
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
                asked.compares, asked.writes, asked.otherwise, op_id=asked.op_id, by=asked.by
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
        case "compact":
            return await _compact(store), 0
        case "now":
            return {"time_us": microseconds(await store.now())}, 0
    raise InvalidRequestError(f"{kind!r} is not a kind of request")


async def reply_all(store: Store, requests: Sequence[object]) -> tuple[list[Document], int]:
    """Answer the requests of a batch as if each had come alone; also the revision they show.

    They run at once.  Commits, which are the mass, go to the engine in one hand-over if it takes
    them so.
    """
    replies: list[Document] = [{}] * len(requests)
    shown = 0

    def put(place: int, reply: Document, revision: int) -> None:
        nonlocal shown
        replies[place] = reply
        shown = max(shown, revision)

    commits: dict[int, Document] = {}
    work: list[Awaitable[None]] = []
    for place, found in enumerate(requests):
        if isinstance(found, dict) and found.get("do") == "commit":
            commits[place] = found
        else:
            work.append(_reply(store, found, partial(put, place)))
    if commits and isinstance(store, TakesCommitsTogether):
        work.append(_reply_to_commits(store, commits, put))
    else:
        work += [_reply(store, doc, partial(put, place)) for place, doc in commits.items()]
    await (work[0] if len(work) == 1 else asyncio.gather(*work))
    return replies, shown


async def _reply(store: Store, found: object, put: Callable[[Document, int], None]) -> None:
    """Answer one request of a batch; its error is its answer."""
    doc: Document = {}
    try:
        doc = wire.document(found)
        answer, revision = await call(store, wire.text(doc.get("do")), doc)
    except Exception as error:  # noqa: BLE001 its neighbours may be applied and must be told so
        put(_refusal(error, doc), 0)
    else:
        put({"ok": answer}, revision)


async def _reply_to_commits(
    store: TakesCommitsTogether,
    docs: Mapping[int, Document],
    put: Callable[[int, Document, int], None],
) -> None:
    """Answer the commits of a batch, each by its place."""
    asked: dict[int, CommitRequest] = {}
    for place, doc in docs.items():
        try:
            asked[place] = wire.load_commit_request(doc)
        except InvalidRequestError as error:
            put(place, _refusal(error, doc), 0)
    outcomes: Sequence[Commit | BaseException]
    try:
        outcomes = await store.commit_all(list(asked.values()))
    except Exception as error:  # noqa: BLE001 as above
        outcomes = [error] * len(asked)
    for place, outcome in zip(asked, outcomes, strict=True):
        if isinstance(outcome, Commit):
            put(place, {"ok": wire.dump_commit(outcome)}, outcome.revision)
        else:
            put(place, _refusal(outcome, docs[place]), 0)


async def _compact(store: Store) -> Document:
    """Have the engine remove what it keeps no longer, for a while; an engine may keep nothing."""
    if not isinstance(store, Compactable):
        return {"removed": 0, "more": False}
    loop, rows, more = asyncio.get_running_loop(), 0, True
    end_s = loop.time() + COMPACT_S
    while more and loop.time() < end_s:
        removed, more = await store.compact_piece()
        rows += removed
    return {"removed": rows, "more": more}


def _refusal(error: BaseException, doc: Document) -> Document:
    if not isinstance(error, TransactionalError):
        _log.error("a fault in a request of a batch", exc_info=error)
        error = fault(doc.get("op_id"), reads=doc.get("do") in READS)
    return {"error": wire.dump_error(error)}


def _snapshot(snapshot: Snapshot) -> tuple[Any, int]:
    return wire.dump_snapshot(snapshot), snapshot.revision


def fault(op_id: object, *, reads: bool) -> TransactionalError:
    """Return what to say after an error that nobody foresaw: of a write nothing is known."""
    if reads:
        return UnavailableError("the authority met a fault of its own; its log tells more")
    return OutcomeUnknownError(
        op_id if isinstance(op_id, str) else "", "the authority met a fault of its own"
    )
