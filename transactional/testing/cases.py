"""What every engine must do, a case each; the docstring is the promise.

A case gets an engine without data and opens the clients it needs.  Cases ask nothing of time but
that a lease of a second is over some seconds after nobody renewed it.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, Protocol

import pytest

import transactional as t
from transactional.store import mint_op_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LEASE_ENDS_S: Final = 30.0
"""So long after its end a lease's keys may still be there, before it is a failure."""


class Engine(Protocol):
    """One set of data, empty at first, and the handles on it."""

    async def client(self) -> t.Store:
        """Return another handle on the same data, or the same one again; the engine closes it."""
        ...

    async def stop(self) -> None:
        """Close everything that was opened."""
        ...


CASES: dict[str, Callable[[Engine], Awaitable[None]]] = {}


def _case(check: Callable[[Engine], Awaitable[None]]) -> Callable[[Engine], Awaitable[None]]:
    CASES[check.__name__] = check
    return check


async def _value(store: t.Store, key: str) -> bytes | None:
    found = await store.get(key)
    return found.value if found is not None else None


# --- reading and writing -------------------------------------------------------------------------


@_case
async def what_is_written_is_read(engine: Engine) -> None:
    """Any bytes under any key, by any client at once, with the revision of its commit.

    Keys that look alike are not: case, a final blank, an accent in one code point or in two.
    """
    store, other = await engine.client(), await engine.client()
    assert await store.get("a") is None
    pairs = {"a b/ü\"'%😀?#&=": bytes(range(256)), "empty": b"", "long": b"x" * 300_000}
    pairs |= {key: key.encode() for key in ("k", "K", "k ", "\u00e9", "e\u0301")}
    made = await store.commit([], [t.Put(key, value) for key, value in pairs.items()])
    read = await other.get_many([*pairs, "absent"])
    assert {key: item.value for key, item in read.items.items()} == pairs
    assert {item.revision for item in read.items.values()} == {made.revision}
    assert read.revision >= made.revision
    assert read.revision_of("absent") == 0
    assert {key: await _value(other, key) for key in pairs} == pairs
    assert {key: item.value for key, item in (await other.scan("")).items.items()} == pairs


@_case
async def revisions_rise_and_creation_is_remembered(engine: Engine) -> None:
    """Each commit has a higher revision; a key keeps that which created it until it is deleted."""
    store = await engine.client()
    first = await store.commit([], [t.Put("a", b"1")])
    second = await store.commit([], [t.Put("a", b"2")])
    assert second.revision > first.revision
    assert await store.get("a") == t.KeyValue("a", b"2", second.revision, first.revision)
    await store.commit([], [t.Delete("a")])
    third = await store.commit([], [t.Put("a", b"1")])
    found = await store.get("a")
    assert found is not None
    assert found.created_revision == third.revision > second.revision


@_case
async def a_row_tells_who_wrote_it_and_when(engine: Engine) -> None:
    """`by` and the time of the commit; times rise with revisions, and now() is behind none."""
    store = await engine.client()
    first = await store.commit([], [t.Put("a", b"")], by="ann")
    now = await store.now()
    second = await store.commit([], [t.Put("b", b"")], by="bob")
    assert first.time < now < second.time
    for key, by, made in (("a", "ann", first), ("b", "bob", second)):
        found = await store.get(key)
        assert found is not None
        assert (found.by, found.time) == (by, made.time)


@_case
async def a_scan_is_a_prefix_in_order_and_in_pages(engine: Engine) -> None:
    """Each key of the prefix once, in the order of code points, and none beside it."""
    store = await engine.client()
    inside = ["p/", "p/a", "p/a/b", "p/z", "p/é", "p/\U0001f600"]
    await store.commit([], [t.Put(k, b"") for k in [*inside, "o", "p", "p.", "p0", "q"]])
    seen: list[str] = []
    page = await store.scan("p/", limit=2)
    while True:
        seen += page.items
        if not page.more:
            break
        page = await store.scan("p/", after=seen[-1], limit=2)
        assert page.items, "a page says that more follows, and nothing does"
    assert seen == sorted(inside)
    assert not (await store.scan("p/")).more
    await store.commit([], [t.Delete("p/a"), t.DeletePrefix("p/z")])
    assert list((await store.scan("p/")).items) == ["p/", "p/a/b", "p/é", "p/\U0001f600"]
    assert list((await store.scan("p/", after="p/b", limit=1)).items) == ["p/é"]
    assert not (await store.scan("p/", after="q")).items
    await store.commit([], [t.DeletePrefix("p/")])
    assert list((await store.scan("")).items) == ["o", "p", "p.", "p0", "q"]


@_case
async def a_page_ends_before_it_is_too_large(engine: Engine) -> None:
    """Six values of a MiB are more than a page; together the pages have them all."""
    store = await engine.client()
    for number in range(6):
        await store.commit([], [t.Put(f"p/{number}", random.Random(number).randbytes(1 << 20))])
    page = await store.scan("p/")
    assert page.more
    assert list((await t.scan_all(store, "p/")).items) == [f"p/{n}" for n in range(6)]
    with pytest.raises(t.AnswerTooLargeError):
        await store.get_many([f"p/{n}" for n in range(6)])


@_case
async def what_breaks_a_rule_is_refused(engine: Engine) -> None:
    """A typed refusal, and nothing is written; what is at a limit is taken."""
    store = await engine.client()
    wrong: list[list[t.Write]] = [
        [t.Put("", b"")],
        [t.Put("a\n", b"")],
        [t.Put("a" * 1025, b"")],
        [t.Put("a", b"x" * ((1 << 20) + 1))],
        [t.Put("a", b""), t.Delete("a")],
        [t.Put("a/b", b""), t.DeletePrefix("a/")],
        [t.Put(f"k{n}", b"") for n in range(129)],
    ]
    for writes in wrong:
        with pytest.raises(t.InvalidRequestError):
            await store.commit([], writes)
    assert not (await store.scan("")).items
    most = store.capabilities.max_operations
    at = (await store.commit([], [t.Put("seed", b"")])).revision
    await store.commit(
        [t.Unchanged(f"day/{n}/", at) for n in range(most)],
        [t.Put(f"k/{n}", b"") for n in range(most)],
    )
    await store.commit(
        [t.Exists(f"k/{n}") for n in range(most)], [t.Delete(f"k/{n}") for n in range(most)]
    )
    assert not (await store.scan("k/")).items


# --- deciding ------------------------------------------------------------------------------------

_COMPARES: Final[tuple[tuple[t.Compare, bool], ...]] = (
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
)


@_case
async def each_compare_decides_as_it_says(engine: Engine) -> None:
    """`otherwise` is written exactly if the compare does not hold, and the commit says which."""
    store = await engine.client()
    await store.commit([], [t.Put("a", b"1")])
    for number, (compare, holds) in enumerate(_COMPARES):
        then, else_ = t.Put(f"then{number}", b""), t.Put(f"else{number}", b"")
        made = await store.commit([compare], [then], [else_])
        assert made.succeeded is holds, compare
        assert (await store.get(then.key) is not None) is holds, compare
        assert (await store.get(else_.key) is None) is holds, compare


@_case
async def a_conflict_writes_nothing_and_tells_the_present(engine: Engine) -> None:
    """What did not hold, and every compared key as it stands; the op_id is not used up."""
    store = await engine.client()
    await store.commit([], [t.Put("a", b"1")])
    with pytest.raises(t.ConflictError) as caught:
        await store.commit([t.Absent("a"), t.Absent("b")], [t.Put("b", b"")], op_id="once")
    assert caught.value.failed == (t.Absent("a"),)
    assert caught.value.current == {"a": await store.get("a"), "b": None}
    assert await store.get("b") is None
    assert not (await store.commit([], [t.Put("b", b"")], op_id="once")).replayed
    with pytest.raises(t.ConflictError):
        await store.commit([t.Absent("a")], [])


@_case
async def a_value_that_came_back_is_another_revision(engine: Engine) -> None:
    """A to B to A, and delete and create: what was compared with before does not hold."""
    store = await engine.client()
    first = await store.commit([], [t.Put("a", b"A")])
    await store.commit([], [t.Put("a", b"B")])
    second = await store.commit([], [t.Put("a", b"A")])
    await store.commit([], [t.Delete("a")])
    await store.commit([], [t.Put("a", b"A")])
    for old in (first.revision, second.revision):
        with pytest.raises(t.ConflictError):
            await t.compare_and_swap(store, "a", b"C", expected=old)


@_case
async def of_many_creators_one_wins(engine: Engine) -> None:
    """Forty from four clients at once: the others are told the winner's revision."""
    clients = [await engine.client() for _ in range(4)]

    async def attempt(number: int) -> t.Commit | t.ConflictError:
        try:
            return await t.create(clients[number % 4], "a", b"%d" % number)
        except t.ConflictError as error:
            return error

    results = await asyncio.gather(*map(attempt, range(40)))
    (winner,) = [result for result in results if isinstance(result, t.Commit)]
    told = [result.current["a"] for result in results if isinstance(result, t.ConflictError)]
    assert {found.revision for found in told if found is not None} == {winner.revision}
    assert None not in told


@_case
async def no_update_is_lost(engine: Engine) -> None:
    """Twenty tasks on four clients add ten each to one key, and take from another as much."""
    clients = [await engine.client() for _ in range(4)]
    await clients[0].commit([], [t.Put("x", b"0"), t.Put("y", b"0")])
    sums: list[int] = []

    async def move(store: t.Store) -> None:
        for _ in range(5):

            async def transfer(tx: t.Transaction) -> None:
                x, y = await tx.get("x"), await tx.get("y")
                tx.put("x", b"%d" % (int(x or 0) + 1))
                tx.put("y", b"%d" % (int(y or 0) - 1))

            await t.transact(store, transfer, retry=t.Retry(attempts_max=10_000, deadline_s=90))
            seen = await store.get_many(["x", "y"])
            sums.append(sum(int(item.value) for item in seen.items.values()))

    async def add(store: t.Store) -> None:
        for _ in range(10):
            await t.update(store, "n", lambda value: b"%d" % (int(value or 0) + 1))

    await asyncio.gather(*[add(clients[n % 4]) for n in range(20)], *map(move, clients))
    assert await _value(clients[0], "n") == b"200"
    assert await _value(clients[0], "x") == b"20"
    assert {*sums} == {0}


@_case
async def a_range_that_changed_is_seen(engine: Engine) -> None:
    """Inserts, deletes, deletes by prefix, at any depth: no phantom, no alarm for neighbours."""
    store = await engine.client()

    async def changed(prefix: str, since: int) -> bool:
        try:
            await store.commit([t.Unchanged(prefix, since)], [])
        except t.ConflictError:
            return True
        return False

    at = (await store.commit([], [t.Put(k, b"") for k in ("r/a/1", "r/a/2", "r/b")])).revision
    await store.commit([], [t.Put("r", b""), t.Put("r0", b""), t.Put("s/a", b"")])
    assert not await changed("r/", at)
    await store.commit([], [t.Delete("r/zzz"), t.DeletePrefix("none/")])
    assert not await changed("r/", at)
    assert not await changed("none/", at)
    steps: list[tuple[t.Write, tuple[str, ...], tuple[str, ...]]] = [
        (t.Put("r/a/3", b""), ("r/", "r/a/", "r/a/3", ""), ("r/b", "s/")),
        (t.Delete("r/a/1"), ("r/", "r/a/", "r/a/1"), ("s/", "r/b/")),
        (t.DeletePrefix("r/a/"), ("r/", "r/a/", "r/a/2"), ()),
    ]
    for write, seen, unseen in steps:
        at = (await store.scan("")).revision
        await store.commit([], [write])
        for prefix in seen:
            assert await changed(prefix, at), (write, prefix)
        for prefix in unseen:
            assert not await changed(prefix, at), (write, prefix)


@_case
async def of_two_who_rely_on_a_range_one_wins(engine: Engine) -> None:
    """Both find two on call and sign one off: write skew is refused."""
    one, other = await engine.client(), await engine.client()
    await one.commit([], [t.Put("call/ann", b""), t.Put("call/bob", b"")])

    async def sign_off(store: t.Store, name: str) -> bool:
        seen = await store.scan("call/")
        if len(seen.items) < 2:
            return False
        await asyncio.sleep(0.01)
        try:
            await store.commit([t.Unchanged("call/", seen.revision)], [t.Delete(f"call/{name}")])
        except t.ConflictError:
            return False
        return True

    for _ in range(10):
        await one.commit([], [t.Put("call/ann", b""), t.Put("call/bob", b"")])
        both = await asyncio.gather(sign_off(one, "ann"), sign_off(other, "bob"))
        assert sum(both) <= 1
        assert len((await one.scan("call/")).items) >= 1


# --- operations ----------------------------------------------------------------------------------


@_case
async def a_repeat_returns_the_first_result(engine: Engine) -> None:
    """The same op_id and content, by any client: one effect, also at once."""
    one, other = await engine.client(), await engine.client()
    first = await one.commit([t.Absent("a")], [t.Put("a", b"1")], op_id="order-17")
    await other.commit([], [t.Put("a", b"2")])
    repeat = await other.commit([t.Absent("a")], [t.Put("a", b"1")], op_id="order-17")
    assert repeat == first
    assert repeat.replayed
    assert await _value(one, "a") == b"2"
    for number in range(10):
        same = [
            store.commit([], [t.Put("n", b"%d" % number)], op_id=f"n-{number}")
            for store in (one, other, one, other)
        ]
        made = await asyncio.gather(*same)
        assert len({commit.revision for commit in made}) == 1
        assert sum(not commit.replayed for commit in made) == 1
    missed = await one.commit([t.Absent("a")], [], [t.Put("b", b"")], op_id="else")
    again = await other.commit([t.Absent("a")], [], [t.Put("b", b"")], op_id="else")
    assert (again, again.succeeded) == (missed, False)


@_case
async def an_op_id_names_one_content(engine: Engine) -> None:
    """Used for another content it is refused, and the first one stands."""
    store = await engine.client()
    await store.commit([], [t.Put("a", b"1")], op_id="x")
    others: list[list[t.Write]] = [[t.Put("a", b"2")], [t.Put("a", b"1"), t.Delete("b")]]
    for writes in others:
        with pytest.raises(t.OperationIdReusedError):
            await store.commit([], writes, op_id="x")
    assert await _value(store, "a") == b"1"


@_case
async def resolve_tells_or_fences(engine: Engine) -> None:
    """Applied: the commit and its content. Else it never will be, though it arrives later."""
    one, other = await engine.client(), await engine.client()
    for op_id in (one.mint_op_id(), "order-1"):
        made = await one.commit([], [t.Put("a", b"1")], op_id=op_id)
        outcome = await other.resolve(op_id)
        assert isinstance(outcome, t.Applied)
        assert outcome.commit == made
    for op_id in (one.mint_op_id(), "order-2"):
        for store in (other, one):
            assert await store.resolve(op_id) == t.Fenced(op_id)
        with pytest.raises(t.OpIdFencedError):
            await one.commit([], [t.Put("late", b"")], op_id=op_id)
    assert await one.get("late") is None


@_case
async def op_ids_of_another_life_are_refused(engine: Engine) -> None:
    """Those of another epoch, and those whose revision is yet to come: nobody minted them here."""
    store = await engine.client()
    at = (await store.commit([], [t.Put("a", b"")])).revision
    with pytest.raises(t.EpochMismatchError):
        await store.commit([], [t.Put("a", b"x")], op_id=mint_op_id("0123abcd", 0))
    with pytest.raises(t.EpochMismatchError):
        await store.resolve(mint_op_id("0123abcd", 0))
    assert len({store.mint_op_id() for _ in range(1000)}) == 1000
    forged = f"op:{store.epoch}:{at + 1_000_000}:{'0' * 16}"
    with pytest.raises(t.InvalidRequestError):
        await store.commit([], [t.Put("a", b"x")], op_id=forged)
    assert await _value(store, "a") == b""


# --- leases --------------------------------------------------------------------------------------


@_case
async def keys_go_with_their_lease(engine: Engine) -> None:
    """By themselves, in time and no sooner; watched, by `lease`, and the range has changed."""
    one, other = await engine.client(), await engine.client()
    kept, lease = await one.lease(60), await one.lease(1)
    made = await one.commit(
        [t.LeaseAlive(lease.id)], [t.Put("q/a", b"", lease.id), t.Put("q/b", b"", kept.id)]
    )
    assert await one.get("q/a") is not None
    events = other.watch("q/", after=made.revision)
    async with asyncio.timeout(LEASE_ENDS_S):
        gone = await anext(events)
    await events.aclose()
    assert isinstance(gone, t.WatchEvent)
    assert [(c.key, c.current) for c in gone.changes] == [("q/a", None)]
    assert gone.by == "lease"
    with pytest.raises(t.ConflictError):
        await one.commit([t.Unchanged("q/", made.revision)], [])
    with pytest.raises(t.ConflictError):
        await one.commit([t.LeaseAlive(lease.id)], [])
    with pytest.raises(t.LeaseExpiredError):
        await one.renew(lease.id)
    with pytest.raises(t.LeaseExpiredError):
        await one.commit([], [t.Put("q/c", b"", lease.id)])
    assert list((await one.scan("q/")).items) == ["q/b"]


@_case
async def a_renewed_lease_lives_on(engine: Engine) -> None:
    """For longer than its time, as long as it is renewed, by any client."""
    one, other = await engine.client(), await engine.client()
    lease = await one.lease(2)
    await one.commit([], [t.Put("a", b"", lease.id)])
    for store in (one, other, one, other, one, other):
        await asyncio.sleep(0.7)
        assert await store.renew(lease.id) == lease
    assert await one.get("a") is not None


@_case
async def a_revoked_lease_is_over(engine: Engine) -> None:
    """Its keys are gone at once, but one that was put without it since; twice is as once."""
    store = await engine.client()
    lease = await store.lease(60)
    await store.commit([], [t.Put("a", b"", lease.id), t.Put("b", b"", lease.id)])
    await store.commit([], [t.Put("b", b"mine")])
    await store.revoke(lease.id)
    await store.revoke(lease.id)
    assert list((await store.scan("")).items) == ["b"]
    with pytest.raises(t.LeaseExpiredError):
        await store.renew(lease.id)
    for wrong in (0, -1, float("nan"), 1e9):
        with pytest.raises(t.InvalidRequestError):
            await store.lease(wrong)


# --- watching ------------------------------------------------------------------------------------


@_case
async def a_watch_tells_every_commit_once_whole_and_in_order(engine: Engine) -> None:
    """From any cursor, across new watches; deletes too, and nothing of what lies beside."""
    store, other = await engine.client(), await engine.client()
    dice = random.Random(7)
    written: dict[int, set[str]] = {}

    async def write(number: int) -> None:
        keys = {f"in/{dice.randint(0, 9)}" for _ in range(dice.randint(0, 3))}
        writes: list[t.Write] = [t.Put(key, b"%d" % number) for key in keys]
        made = await (store if number % 2 else other).commit([], [*writes, t.Put("out", b"")])
        if keys:
            written[made.revision] = keys

    async def write_all() -> None:
        for start in range(0, 60, 10):
            await asyncio.gather(*map(write, range(start, start + 10)))
        gone = await store.commit([], [t.DeletePrefix("in/")])
        left = {key for keys in written.values() for key in keys}
        written[gone.revision] = left
        await store.commit([], [t.Put("in/end", b"")])

    writing = asyncio.create_task(write_all())
    seen: dict[int, set[str]] = {}
    cursor, ended = 0, False
    while not ended:
        events = other.watch("in/", after=cursor)
        async for event in events:
            assert isinstance(event, t.WatchEvent)
            assert event.revision > cursor
            cursor = event.revision
            seen[cursor] = {change.key for change in event.changes}
            ended = "in/end" in seen[cursor]
            if ended or dice.random() < 0.1:
                break
        await events.aclose()
    await writing
    del seen[cursor]
    assert seen == written


@_case
async def a_watch_begins_at_the_present(engine: Engine) -> None:
    """Without a cursor it tells nothing of the past; one of the future is refused."""
    store = await engine.client()
    await store.commit([], [t.Put("a", b"old")])
    events = store.watch("a")
    first = asyncio.ensure_future(anext(events))
    while not first.done():
        await store.commit([], [t.Put("a", b"new")])
        await asyncio.sleep(0.01)
    event = await first
    await events.aclose()
    assert isinstance(event, t.WatchEvent)
    assert [c.current.value for c in event.changes if c.current] == [b"new"]
    with pytest.raises(t.InvalidRequestError):
        await anext(store.watch("a", after=10**12))


@_case
async def what_is_forgotten_is_told_to_nobody(engine: Engine) -> None:
    """A watch from before: the same commits without the values, or that they are compacted."""
    store = await engine.client()
    first = await store.commit([], [t.Put("a", b"secret 1")])
    await store.commit([], [t.Put("a", b"secret 2"), t.Put("b", b"secret 3")])
    last = await store.commit([], [t.Put("a", b"bare", forget=True), t.Delete("b", forget=True)])
    async for event in store.watch("", after=first.revision - 1):
        if isinstance(event, t.Compacted):
            assert not store.capabilities.forgets_in_place
            break
        values = [change.current.value for change in event.changes if change.current]
        assert not any(b"secret" in value for value in values)
        if event.revision >= last.revision:
            break
    assert await _value(store, "a") == b"bare"


@_case
async def a_closed_store_says_so(engine: Engine) -> None:
    """Its watches end, calls are refused, and closing twice is closing once."""
    store = await engine.client()
    await store.commit([], [t.Put("a", b"")])
    seen = asyncio.Event()

    async def watch() -> None:
        try:
            async for _ in store.watch("", after=0):
                seen.set()
        except t.UnavailableError:
            return

    watching = asyncio.create_task(watch())
    await seen.wait()
    await store.close()
    await store.close()
    await asyncio.wait_for(watching, 10)
    with pytest.raises(t.StoreClosedError):
        await store.get("a")
