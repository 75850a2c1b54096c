"""Who stands where in the queue for a lock: pure decisions over the entries that are in the store.

An entry is a key ``lock/<name>/<id>``; its created revision is its place.  All entries of one
acquisition, one per name, are made in one commit and share that revision, so any two acquisitions
stand in the same order in every queue they meet in.  The oldest acquisition of all is first in each
of its queues: several names at once cannot deadlock (Havender 1968, with revisions for the order).

Names acquired one *after* the other can.  An entry therefore tells which ids its maker already
held when it started to wait, and ``find_cycle`` follows: I wait for an entry ahead of me, whoever
holds it waits, too, for an entry ahead of him, and so on until it is one of those I hold.  Queues
ahead of an entry only shrink, so a cycle is complete when its last member enters, and he finds it
if he starts from each of his entries: he may be blocked in one queue now and for ever in another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from transactional.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transactional.values import KeyValue

ROOT: Final = "lock/"


@dataclass(frozen=True, slots=True)
class Entry:
    """One acquisition's place in the queue for one name."""

    name: str
    id: str
    owner: str
    shared: bool
    holding: tuple[str, ...]
    """Ids that the maker of this entry held when he started to wait."""
    place: int
    """Created revision: the lower one was first."""


def queue_of(name: str) -> str:
    """Return the prefix of the queue for ``name``, which may contain any character of a key."""
    if not name:
        raise InvalidRequestError("a lock's name is not empty")
    return f"{ROOT}{quote(name, safe='')}/"


def key_of(name: str, entry_id: str) -> str:
    """Return the key of an entry."""
    return queue_of(name) + entry_id


def encode(owner: str, *, shared: bool, holding: Sequence[str]) -> bytes:
    """Return an entry's value."""
    doc = {"owner": owner, "shared": shared, "holding": list(holding)}
    return json.dumps(doc, separators=(",", ":")).encode()


def decode(item: KeyValue) -> Entry:
    """Return the entry that a key holds.

    Raises:
        InvalidRequestError: somebody else wrote under ``lock/``.
    """
    try:
        name, entry_id = item.key.removeprefix(ROOT).rsplit("/", 1)
        doc: dict[str, Any] = json.loads(item.value)
        return Entry(
            unquote(name),
            entry_id,
            str(doc["owner"]),
            bool(doc["shared"]),
            tuple(str(held) for held in doc["holding"]),
            item.created_revision,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(f"{item.key!r} is not an entry of a lock") from error


def blockers(queue: Iterable[Entry], place: int, *, shared: bool) -> list[Entry]:
    """Return the entries that somebody at ``place`` must wait for, the nearest last.

    Exclusive waits for all ahead; shared for the exclusive ones ahead.
    """
    ahead = [entry for entry in queue if entry.place < place and not (shared and entry.shared)]
    return sorted(ahead, key=lambda entry: entry.place)


def find_cycle(entries: Sequence[Entry], mine: Entry) -> tuple[Entry, ...]:
    """Return the waiting entries of a deadlock that ``mine`` completes, empty if there is none.

    Younger entries are left out of account: whoever made the youngest is the one to be told.
    """
    queues: dict[str, list[Entry]] = {}
    waiting_with: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.place > mine.place:
            continue
        queues.setdefault(entry.name, []).append(entry)
        for held in entry.holding:
            waiting_with.setdefault(held, []).append(entry)
    path: list[Entry] = []
    branches: list[Iterator[Entry]] = [iter((mine,) if mine.holding else ())]
    visited: set[tuple[str, str]] = set()
    while branches:  # depth first; no recursion, a chain may be long
        try:
            entry = next(branches[-1])
        except StopIteration:
            branches.pop()
            if path:
                path.pop()
            continue
        if (entry.name, entry.id) in visited:
            continue
        visited.add((entry.name, entry.id))
        path.append(entry)
        ahead = blockers(queues.get(entry.name, ()), entry.place, shared=entry.shared)
        if any(blocker.id in mine.holding for blocker in ahead):
            return tuple(path)
        branches.append(iter([e for blocker in ahead for e in waiting_with.get(blocker.id, ())]))
    return ()
