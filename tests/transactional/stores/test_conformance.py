"""The public suite for engines: ours pass it, and what is wrong with a toy is caught by it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.transactional.engines import ENGINES, MemoryEngine, parameters
from transactional.stores.memory import MemoryStore
from transactional.testing import CASES, conformance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("engine", parameters(ENGINES))
@pytest.mark.parametrize("case", CASES)
async def test_our_engines_pass_the_public_suite(engine: str, case: str, tmp_path: Path) -> None:
    """Each case on each engine."""
    made = ENGINES[engine](tmp_path)
    await CASES[case](made)
    await made.stop()


# What a user writes.
test_memory_as_a_user_would = conformance(
    MemoryEngine, without=["a_page_ends_before_it_is_too_large"]
)


def test_a_case_that_is_left_out_is_one() -> None:
    """A name that is misspelt would leave out nothing."""
    with pytest.raises(ValueError, match="no such cases: typo"):
        conformance(MemoryEngine, without=["typo"])


# --- a toy with faults ---------------------------------------------------------------------------


class StaleGet(MemoryStore):
    """Answers a get from before the last write of the key."""

    def __init__(self) -> None:
        super().__init__()
        self.older: dict[str, t.KeyValue | None] = {}

    async def get(self, key, **options):
        now = await super().get(key, **options)
        before = self.older.get(key, now)
        self.older[key] = now
        return before


class NoPhantoms(MemoryStore):
    """Does not look at ranges."""

    def changed(self, prefix, since):
        return False


class PutsAreChanges(MemoryStore):
    """Sees in a range what was put, and not what was deleted: etcd's own compare."""

    def changed(self, prefix, since):
        return any(self._keys[key].revision > since for key in self.keys_under(prefix))


class ForgetsOperations(MemoryStore):
    """Records no op_id."""

    def _record(self, op_id, caller, record):
        return


class AnyContent(MemoryStore):
    """Takes an op_id for whatever it comes with."""

    def _recorded(self, op_id, caller, content):
        return super()._recorded(op_id, caller, None)


class NeverFences(MemoryStore):
    """Says fenced, and lets the commit through when it comes."""

    async def resolve(self, op_id, **options):
        outcome = await super().resolve(op_id, **options)
        if isinstance(outcome, t.Fenced):
            del self._operations[op_id]
        return outcome


class RevisionOfKeys(MemoryStore):
    """Counts a key's revisions anew when it is created again."""

    def _write(self, writes, *, succeeded, by):
        made = super()._write(writes, succeeded=succeeded, by=by)
        for write in writes:
            found = self._keys.get(getattr(write, "key", ""))
            if found is not None and found.created_revision == made.revision:
                self._keys[found.key] = t.KeyValue(found.key, found.value, 1, 1)
        return made


class LeasesForEver(MemoryStore):
    """Ends no lease by itself."""

    def _turn(self):
        self._leases._heap.clear()
        super()._turn()


class LateKeys(MemoryStore):
    """Ends a lease, and leaves its keys."""

    def _end(self, lease_id):
        self._leases.end(lease_id)


class SilentDeletes(MemoryStore):
    """Tells no watch of a delete."""

    async def watch(self, prefix, *, after=None):
        async for event in super().watch(prefix, after=after):
            kept = tuple(change for change in event.changes if change.current is not None)
            if kept:
                yield t.WatchEvent(event.revision, event.time, kept, event.by)


class TwiceTold(MemoryStore):
    """Tells a watch that resumes of the last event once more."""

    async def watch(self, prefix, *, after=None):
        async for event in super().watch(prefix, after=after and after - 1):
            yield event


class KeepsSecrets(MemoryStore):
    """Replaces what should be forgotten, and remembers it for watches."""

    async def commit(self, compares, writes, otherwise=(), **options):
        plain = [t.Put(w.key, w.value, w.lease) if isinstance(w, t.Put) else w for w in writes]
        return await super().commit(compares, plain, otherwise, **options)


class HalfConflict(MemoryStore):
    """Tells of a conflict, having made the first write."""

    async def commit(self, compares, writes, otherwise=(), **options):
        try:
            return await super().commit(compares, writes, otherwise, **options)
        except t.ConflictError:
            await super().commit([], writes[:1])
            raise


class NobodyWrote(MemoryStore):
    """Does not keep who wrote."""

    async def commit(self, compares, writes, otherwise=(), *, by=None, **options):
        return await super().commit(compares, writes, otherwise, **options)


class EndlessPages(MemoryStore):
    """Gives in a page whatever it holds."""

    async def scan(self, prefix, *, after=None, limit=1000, **options):
        page = await super().scan(prefix, after=after, limit=limit)
        items = dict(page.items)
        while page.more and len(items) < limit:
            page = await super().scan(prefix, after=[*items][-1], limit=limit - len(items))
            items |= page.items
        return t.Snapshot(page.revision, items)


class EarlyTime(MemoryStore):
    """Says now() by a clock that is behind its commits."""

    async def now(self):
        return (await super().now()).replace(year=2000)


class StaysOpen(MemoryStore):
    """Closed, it goes on."""

    async def close(self):
        self._feed.close()


class FoldsCase(MemoryStore):
    """Knows keys by their small letters, as a database with such a collation does."""

    async def commit(self, compares, writes, otherwise=(), **options):
        small = [replace(w, key=w.key.lower()) if isinstance(w, t.Put) else w for w in writes]
        return await super().commit(compares, [*{w.key: w for w in small}.values()], **options)


class TextOnly(MemoryStore):
    """Hands out a key's value as if it were text."""

    async def get(self, key, **options):
        found = await super().get(key, **options)
        return found and replace(found, value=found.value.decode(errors="replace").encode())


class DeletesBeside(MemoryStore):
    """Takes a prefix that ends with a slash for a folder, and the folder's own name with it."""

    async def commit(self, compares, writes, otherwise=(), **options):
        wider = [
            t.DeletePrefix(w.prefix.rstrip("/")) if isinstance(w, t.DeletePrefix) else w
            for w in writes
        ]
        return await super().commit(compares, wider, otherwise, **options)


class AlwaysMore(MemoryStore):
    """Says of every page that another one follows."""

    async def scan(self, prefix, **options):
        return replace(await super().scan(prefix, **options), more=True)


class SameMint(MemoryStore):
    """Mints an op_id anew only when the revision rises."""

    def mint_op_id(self):
        return f"op:{self.epoch}:{self._revision}:{'0' * 16}"


class TellsOfOtherLives(MemoryStore):
    """Resolves what another life of the store minted, as if it were its own."""

    async def resolve(self, op_id, **options):
        parts = op_id.split(":")
        if len(parts) == 4:
            op_id = ":".join(["op", self.epoch, *parts[2:]])
        return await super().resolve(op_id, **options)


FAULTS: list[tuple[Callable[[], t.Store], str]] = [
    (StaleGet, "revisions_rise_and_creation_is_remembered"),
    (NoPhantoms, "a_range_that_changed_is_seen"),
    (PutsAreChanges, "a_range_that_changed_is_seen"),
    (ForgetsOperations, "a_repeat_returns_the_first_result"),
    (AnyContent, "an_op_id_names_one_content"),
    (NeverFences, "resolve_tells_or_fences"),
    (RevisionOfKeys, "a_value_that_came_back_is_another_revision"),
    (LeasesForEver, "keys_go_with_their_lease"),
    (LateKeys, "a_revoked_lease_is_over"),
    (SilentDeletes, "a_watch_tells_every_commit_once_whole_and_in_order"),
    (TwiceTold, "a_watch_tells_every_commit_once_whole_and_in_order"),
    (KeepsSecrets, "what_is_forgotten_is_told_to_nobody"),
    (HalfConflict, "a_conflict_writes_nothing_and_tells_the_present"),
    (NobodyWrote, "a_row_tells_who_wrote_it_and_when"),
    (EndlessPages, "a_page_ends_before_it_is_too_large"),
    (EarlyTime, "a_row_tells_who_wrote_it_and_when"),
    (StaysOpen, "a_closed_store_says_so"),
    (FoldsCase, "what_is_written_is_read"),
    (TextOnly, "what_is_written_is_read"),
    (DeletesBeside, "a_scan_is_a_prefix_in_order_and_in_pages"),
    (AlwaysMore, "a_scan_is_a_prefix_in_order_and_in_pages"),
    (SameMint, "op_ids_of_another_life_are_refused"),
    (TellsOfOtherLives, "op_ids_of_another_life_are_refused"),
]


class Toy:
    """One store for all its clients."""

    def __init__(self, kind: Callable[[], t.Store]) -> None:
        self._kind = kind
        self._store: t.Store | None = None

    async def client(self) -> t.Store:
        self._store = self._store or self._kind()
        return self._store

    async def stop(self) -> None:
        if self._store is not None:
            await self._store.close()


@pytest.mark.parametrize(("faulty", "case"), FAULTS, ids=[kind.__name__ for kind, _ in FAULTS])
async def test_each_fault_of_a_toy_is_caught(faulty: Callable[[], t.Store], case: str) -> None:
    """Engines that are each wrong in one way: the case that is about it says so, in time."""
    toy = Toy(faulty)
    with pytest.raises((AssertionError, t.TransactionalError, TimeoutError, pytest.fail.Exception)):
        async with asyncio.timeout(4):
            await CASES[case](toy)
    await toy.stop()
