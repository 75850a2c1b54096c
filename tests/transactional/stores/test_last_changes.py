"""Whether a range is unchanged is decided without a look at all that changed elsewhere."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import seeds
from tests.transactional.counting import calls
from transactional.stores import last_changes
from transactional.stores.last_changes import LastChanges
from transactional.stores.memory import MemoryStore
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transactional.conftest import HandClock

PREFIXES = ["", "a", "a/", "a/b", "a/b/", "b/", "b/a/a/", "c/", "c", "none/"]


def test_what_is_known_is_so_whatever_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a list of all changes: True and False are right, and None is rare enough."""
    print(f"replay: CONVOCA_SEED={seeds(1)[0]}")
    dice = random.Random(seeds(1)[0])
    monkeypatch.setattr(last_changes, "FOLDERS_MAX", 6)
    monkeypatch.setattr(last_changes, "KEYS_MAX", 12)
    known, told = LastChanges(0), 0
    changes: list[tuple[int, str]] = []
    for revision in range(1, 600):
        keys = ["/".join(dice.choices("abc", k=dice.randint(1, 4))) for _ in range(2)]
        known.note(revision, keys)
        changes += [(revision, key) for key in keys]
        for prefix in PREFIXES:
            since = dice.randint(max(0, revision - 30), revision)
            really = any(at > since and key.startswith(prefix) for at, key in changes)
            found = known.changed(prefix, since)
            assert found in {None, really}, (prefix, since)
            told += found is not None
    assert told > 1500


async def test_what_forgets_its_oldest_finds_it_at_once(tmp_path: Path) -> None:
    """Counterexample: the oldest of a plain dict is behind the places of all that went before it.

    With 65,536 op_ids remembered each new one cost 60 us more, and ever more with the store's age.
    """
    known = LastChanges(0)
    store = await SQLiteStore.open(tmp_path / "s.db")
    memory = MemoryStore()
    forgetful = [known._keys, known._revisions, store._state._operations]
    forgetful += [memory._minted, memory._own]
    assert all(isinstance(each, OrderedDict) for each in forgetful)
    await store.close()
    await memory.close()


async def test_op_ids_are_known_in_memory_and_in_the_file_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten that were used four are remembered; each repeat is told what the first was."""
    monkeypatch.setattr("transactional.stores.sqlite.REMEMBERED_OPERATIONS", 4)
    store = await SQLiteStore.open(tmp_path / "s.db")
    names = [store.mint_op_id() if n % 2 else f"mine-{n}" for n in range(10)]
    first = {
        name: await store.commit([], [t.Put("a", name.encode())], op_id=name) for name in names
    }
    assert len(store._state._operations) == 4
    for name in names:
        again = await store.commit([], [t.Put("a", name.encode())], op_id=name)
        assert (again.revision, again.replayed) == (first[name].revision, True)
        found = await store.resolve(name)
        assert isinstance(found, t.Applied)
    await store.close()


async def test_a_quiet_range_costs_the_same_beside_a_hundred_changes_and_ten_thousand(
    hand_clock: HandClock,
) -> None:
    """In the memory engine, where a look is a call.

    The clock stands: a commit after a while also notes the moment, which is work of its own.
    """
    costs = []
    for changes in (100, 10_000):
        store = MemoryStore(clock=hand_clock.clock())
        since = (await store.commit([], [t.Put("quiet/a", b"")])).revision
        for n in range(changes):
            await store.commit([], [t.Put(f"busy/{n % 100}", b"")])
        with calls() as made:
            await store.commit([t.Unchanged("quiet/", since)], [t.Put("quiet/b", b"")])
        costs.append(made[0])
        await store.close()
    assert costs[0] == costs[1]


@pytest.mark.parametrize("prefix", ["quiet", "quiet-", "quiet-1", "user:7:"])
async def test_a_prefix_without_a_slash_is_not_refused_for_what_changed_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Counterexample: behind 20,000 changes elsewhere it counted as changed, whatever it was."""
    monkeypatch.setattr("transactional.stores.sqlite.LOOK_ROWS_MAX", 20)
    store = await SQLiteStore.open(tmp_path / "s.db")
    since = (await store.commit([], [t.Put("quiet-1", b""), t.Put("user:7:x", b"")])).revision
    for n in range(60):
        await store.commit([], [t.Put(f"busy/{n % 10}", b""), t.Put("user:8:x", b"")])
    assert await holds(store, t.Unchanged(prefix, since))
    await store.commit([], [t.Delete("quiet-1"), t.Delete("user:7:x")])
    assert not await holds(store, t.Unchanged(prefix, since))
    await store.close()


async def test_unchanged_is_right_over_a_restart_and_beyond_what_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of folders then: the file is searched, up to a limit, and no further."""
    store = await SQLiteStore.open(tmp_path / "s.db")
    since = (await store.commit([], [t.Put("quiet/a", b"")])).revision
    await store.commit([], [t.Put(f"busy/{n}", b"") for n in range(50)])
    await store.close()
    store = await SQLiteStore.open(tmp_path / "s.db")
    await store.commit([t.Unchanged("quiet/", since)], [t.Put("x", b"")])
    for changed in ("busy/", "bus", ""):
        assert not await holds(store, t.Unchanged(changed, since))
    monkeypatch.setattr("transactional.stores.sqlite.LOOK_ROWS_MAX", 40)
    assert not await holds(store, t.Unchanged("quiet/", since))  # it may have been
    at = (await store.get_many([])).revision
    await store.commit([], [t.Put("quiet/a", b"2")])
    assert not await holds(store, t.Unchanged("quiet/", at))
    assert await holds(store, t.Unchanged("quiet/", at + 1))
    await store.close()


async def holds(store: t.Store, compare: t.Compare) -> bool:
    try:
        await store.commit([compare], [])
    except t.ConflictError:
        return False
    return True
