"""Authorities with a fault planted in them, to see whether recorded histories show it."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from pathlib import Path

from transactional import Commit, CommitRequest, Put, Snapshot, Unchanged
from transactional.stores.sqlite import SQLiteStore


class DropsWrites(SQLiteStore):
    """Acknowledges one commit in twelve, and does not make it."""

    dice = random.Random(1)

    async def commit_all(self, requests, **options):
        dropped = {
            n
            for n, asked in enumerate(requests)
            if any(isinstance(w, Put) for w in asked.writes) and self.dice.random() < 1 / 12
        }
        asked = [
            CommitRequest(each.compares, [], [], self.mint_op_id()) if n in dropped else each
            for n, each in enumerate(requests)
        ]
        made = await super().commit_all(asked, **options)
        return [
            replace(each, revision=each.revision + 1)
            if n in dropped and isinstance(each, Commit)
            else each
            for n, each in enumerate(made)
        ]


class TwoHold(SQLiteStore):
    """Shows of a lock's queue nobody but who came last, so that he thinks it is his."""

    async def scan(self, prefix, **options):
        found = await super().scan(prefix, **options)
        if not prefix.startswith("lock/") or not found.items:
            return found
        last = max(found.items.values(), key=lambda item: item.created_revision)
        return Snapshot(found.revision, {last.key: last})


class NoPhantoms(SQLiteStore):
    """Does not look whether a range has changed since it was read."""

    def _job(self, asked, caller):
        kept = [compare for compare in asked.compares if not isinstance(compare, Unchanged)]
        return super()._job(replace(asked, compares=kept), caller)


class ForgetsOperations(SQLiteStore):
    """Records no op_id, so that of an answer that was lost it says: never applied."""

    def _job(self, asked, caller):
        return super()._job(replace(asked, op_id=None), caller)


class OldStart(SQLiteStore):
    """Wakes after a fall with the state of its tenth commit."""

    made = 0

    @classmethod
    async def open(cls, path, **options):
        old = Path(f"{path}.old")
        if old.exists():
            for suffix in ("", "-wal", "-shm", "-lock"):  # the last would tell
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            old.rename(path)
        store = await super().open(path, **options)
        store.path = Path(path)
        return store

    async def commit_all(self, requests, **options):
        answer = await super().commit_all(requests, **options)
        before, self.made = self.made, self.made + len(requests)
        if before < 10 <= self.made:
            with sqlite3.connect(self.path) as here, sqlite3.connect(f"{self.path}.old") as there:
                here.backup(there)
            here.close()
            there.close()
        return answer


FAULTS = {
    fault.__name__: fault
    for fault in (DropsWrites, TwoHold, NoPhantoms, ForgetsOperations, OldStart)
}
