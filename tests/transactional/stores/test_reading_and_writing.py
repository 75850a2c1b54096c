"""Reading, scanning, writing: what comes back is what went in, and limits are kept."""

from __future__ import annotations

import random

import pytest

import transactional as t


async def test_a_key_that_was_never_written_is_absent(store: t.Store) -> None:
    """Get of an absent key is None; its revision in a snapshot is 0."""
    assert await store.get("a") is None
    assert (await store.get_many(["a"])).revision_of("a") == 0


async def test_a_commit_is_read_back_with_its_revision(store: t.Store) -> None:
    """What was written is read with the commit's revision, and created_revision stays."""
    first = await store.commit([], [t.Put("a", b"1")])
    second = await store.commit([t.Revision("a", first.revision)], [t.Put("a", b"2")])
    assert second.revision > first.revision
    assert await store.get("a") == t.KeyValue("a", b"2", second.revision, first.revision)


async def test_any_bytes_and_any_text_survive_the_trip(store: t.Store) -> None:
    """Values are bytes, UTF-8 or not; keys may hold spaces, slashes, quotes and emoji."""
    pairs = {"a b/ü\"'%😀?#&=": bytes(range(256)), "empty": b"", "text": "zürich ✓".encode()}
    await store.commit([], [t.Put(key, value) for key, value in pairs.items()])
    read = await store.get_many(list(pairs))
    assert {key: item.value for key, item in read.items.items()} == pairs


async def test_one_commit_writes_all_its_keys_at_one_revision(store: t.Store) -> None:
    """Puts and deletes of one commit share its revision."""
    await store.commit([], [t.Put("gone", b"")])
    commit = await store.commit([], [t.Put("a", b""), t.Put("b", b""), t.Delete("gone")])
    snapshot = await store.scan("")
    assert list(snapshot.items) == ["a", "b"]
    assert {item.revision for item in snapshot.items.values()} == {commit.revision}
    assert snapshot.revision == commit.revision


async def test_scan_gives_exactly_the_keys_of_a_prefix_in_order_and_in_pages(
    store: t.Store,
) -> None:
    """Pages of two cover the prefix once; neighbours of the prefix stay outside."""
    inside = ["p/", "p/a", "p/a/b", "p/z", "p/é", "p/\U0001f600"]
    outside = ["o", "p", "p.", "p0", "q"]
    await store.commit([], [t.Put(key, b"") for key in inside + outside])
    seen: list[str] = []
    page = await store.scan("p/", limit=2)
    while True:
        seen += page.items
        if not page.more:
            break
        page = await store.scan("p/", after=seen[-1], limit=2)
    assert seen == sorted(inside)
    assert list((await t.scan_all(store, "p/")).items) == sorted(inside)


async def test_delete_prefix_deletes_the_prefix_and_nothing_else(store: t.Store) -> None:
    """DeletePrefix takes every key under it, in one commit."""
    await store.commit([], [t.Put(key, b"") for key in ("a", "a/1", "a/2", "b")])
    await store.commit([], [t.DeletePrefix("a/")])
    assert list((await store.scan("")).items) == ["a", "b"]


async def test_a_compare_that_fails_writes_nothing_and_tells_the_present(store: t.Store) -> None:
    """ConflictError carries what failed and the current value of every compared key."""
    await store.commit([], [t.Put("a", b"1")])
    with pytest.raises(t.ConflictError) as caught:
        await store.commit([t.Absent("a"), t.Absent("b")], [t.Put("b", b"2")])
    assert caught.value.failed == (t.Absent("a"),)
    assert caught.value.current == {"a": await store.get("a"), "b": None}
    assert await store.get("b") is None


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (t.Exists("a"), True),
        (t.Exists("b"), False),
        (t.Absent("a"), False),
        (t.Absent("b"), True),
        (t.ValueIs("a", b"1"), True),
        (t.ValueIs("a", b"2"), False),
        (t.ValueIs("b", b""), False),
        (t.Revision("a", 0), False),
        (t.Revision("b", 0), True),
        (t.Revision("a", 10**12), False),
        (t.LeaseAlive("none"), False),
        (t.Unchanged("a", 0), False),
        (t.Unchanged("b", 0), True),
        (t.Unchanged("", 10**12), False),
    ],
)
async def test_each_compare_decides_as_it_says(
    store: t.Store, compare: t.Compare, holds: bool
) -> None:
    """``otherwise`` runs exactly when the compare does not hold."""
    await store.commit([], [t.Put("a", b"1")])
    commit = await store.commit([compare], [t.Put("then", b"")], [t.Put("else", b"")])
    assert commit.succeeded is holds
    assert await store.get("else" if holds else "then") is None
    assert await store.get("then" if holds else "else") is not None


@pytest.mark.parametrize(
    "writes",
    [
        [t.Put("", b"")],
        [t.Put("a\n", b"")],
        [t.Put("a\ud800", b"")],
        [t.Put("a" * 1025, b"")],
        [t.Put("a", b"x" * ((1 << 20) + 1))],
        [t.Put("a", b""), t.Delete("a")],
        [t.Put("a/b", b""), t.DeletePrefix("a/")],
        [t.Put(f"k{number}", b"") for number in range(129)],
    ],
)
async def test_a_commit_outside_the_rules_is_refused_before_it_is_sent(
    store: t.Store, writes: list[t.Write]
) -> None:
    """Limits on keys, values, counts and overlaps are InvalidRequestError; nothing is written."""
    with pytest.raises(t.InvalidRequestError):
        await store.commit([], writes)
    assert not (await store.scan("")).items


async def test_the_largest_value_fits(store: t.Store) -> None:
    """A value of exactly the limit is stored."""
    value = random.Random(1).randbytes(1 << 20)
    await store.commit([], [t.Put("a", value)])
    found = await store.get("a")
    assert found is not None
    assert found.value == value


async def test_a_commit_without_writes_decides_and_changes_nothing(store: t.Store) -> None:
    """Reads are validated by a commit without writes; the revision stays."""
    first = await store.commit([], [t.Put("a", b"1")])
    assert (await store.commit([t.Revision("a", first.revision)], [])).revision == first.revision
    with pytest.raises(t.ConflictError):
        await store.commit([t.Absent("a")], [])
