"""What every engine promises: one suite, run on each of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds, seeds
from transactional.retry import propose
from transactional.store import mint_op_id

if TYPE_CHECKING:
    from tests.transactional.conftest import HandClock
    from tests.transactional.engines import Engine


def count(value: bytes | None) -> int:
    return int(value or b"0")


async def total(store: t.Store, prefix: str) -> int:
    snapshot = await store.scan(prefix)
    return sum(count(item.value) for item in snapshot.items.values())


# --- reading and writing -------------------------------------------------------------------------


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


# --- time ----------------------------------------------------------------------------------------


async def test_business_time_never_goes_back_with_the_wall_clock(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """The wall clock goes back an hour: commits and now() still get later and later."""
    first = await timed_store.commit([], [t.Put("a", b"")])
    hand_clock.wall_us -= 3_600_000_000
    then = await timed_store.now()
    second = await timed_store.commit([], [t.Put("a", b"")])
    assert first.time < then < second.time
    assert then.tzinfo is UTC
    assert second.time - first.time < datetime.resolution * 10


async def test_business_time_goes_on_though_the_wall_clock_was_set_back(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """An hour back, or a wall clock that was years ahead once: a second still takes a second.

    Holds lapse by this time.  It stood still until the wall clock had caught up.
    """
    first = await timed_store.commit([], [t.Put("a", b"")])
    hand_clock.wall_us -= 3_600_000_000
    for elapsed_s in (1, 30, 1800):
        before = await timed_store.now()
        hand_clock.forward(elapsed_s)
        ran_s = (await timed_store.now() - before).total_seconds()
        assert elapsed_s - 0.001 <= ran_s <= elapsed_s + 0.001
    second = await timed_store.commit([], [t.Put("a", b"")])
    assert timedelta(0) <= second.time - first.time - timedelta(seconds=1831) < timedelta(seconds=1)
    hand_clock.forward(7200)  # the wall clock overtakes it and is followed again
    hand_clock.wall_us += 7_200_000_000
    third = await timed_store.commit([], [t.Put("a", b"")])
    assert abs(third.time.timestamp() - hand_clock.wall_us / 1e6) < 0.001


# --- concurrency ---------------------------------------------------------------------------------


async def test_fifty_tasks_add_two_hundred_each_and_none_is_lost(engine: Engine) -> None:
    """[transactional 1] 50 tasks x 200 update(+1) make 10 000; reading and putting loses some."""
    clients = [await engine.client() for _ in range(4)]
    each = rounds(200, 10)

    async def add(store: t.Store) -> None:
        for _ in range(each):
            await t.update(store, "n", lambda value: b"%d" % (count(value) + 1))

    async def add_naively(store: t.Store) -> None:
        for _ in range(each):
            found = await store.get("naive")
            await asyncio.sleep(0)
            value = count(found.value if found else None)
            await store.commit([], [t.Put("naive", b"%d" % (value + 1))])

    await asyncio.gather(*[add(clients[number % 4]) for number in range(50)])
    await asyncio.gather(*[add_naively(clients[number % 4]) for number in range(50)])
    assert await total(clients[0], "n") - await total(clients[0], "naive") == 50 * each
    assert 0 < await total(clients[0], "naive") < 50 * each


async def test_a_value_that_came_back_is_not_the_value_that_was_read(store: t.Store) -> None:
    """[transactional 2] A to B to A, or deleted and made again: the old revision conflicts."""
    first = await store.commit([], [t.Put("a", b"A")])
    await store.commit([], [t.Put("a", b"B")])
    await store.commit([], [t.Put("a", b"A")])
    with pytest.raises(t.ConflictError):
        await t.compare_and_swap(store, "a", b"C", expected=first.revision)
    again = await store.get("a")
    assert again is not None
    await store.commit([], [t.Delete("a")])
    await t.create(store, "a", b"A")
    with pytest.raises(t.ConflictError):
        await t.compare_and_swap(store, "a", b"C", expected=again.revision)


async def test_of_a_hundred_creators_one_wins_and_the_rest_learn_who(engine: Engine) -> None:
    """[transactional 3] 99 creators are told the winner's revision."""
    clients = [await engine.client() for _ in range(4)]

    async def attempt(number: int) -> t.Commit | t.ConflictError:
        try:
            return await t.create(clients[number % 4], "a", b"%d" % number)
        except t.ConflictError as error:
            return error

    results = await asyncio.gather(*[attempt(number) for number in range(100)])
    (winner,) = [result for result in results if isinstance(result, t.Commit)]
    losers = [result for result in results if isinstance(result, t.ConflictError)]
    assert len(losers) == 99
    told = [loser.current["a"] for loser in losers]
    assert {found.revision for found in told if found is not None} == {winner.revision}


async def test_of_two_doctors_one_stays_on_call(store: t.Store) -> None:
    """[transactional 4] Write skew: both see two on call, both sign off, one is refused."""
    await store.commit([], [t.Put("call/ann", b"on"), t.Put("call/bob", b"on")])
    both_read = asyncio.Barrier(2)

    async def sign_off(name: str) -> bool:
        first = True

        async def decide(tx: t.Transaction) -> bool:
            nonlocal first
            on_call = [key for key, value in (await tx.scan("call/")).items() if value == b"on"]
            if first:
                first = False
                await both_read.wait()
            if len(on_call) > 1:
                tx.put(f"call/{name}", b"off")
            return len(on_call) > 1

        return (await t.transact(store, decide))[0]

    assert sorted(await asyncio.gather(sign_off("ann"), sign_off("bob"))) == [False, True]


async def test_a_phantom_insert_under_a_prefix_is_seen(store: t.Store) -> None:
    """[transactional 4] Both find the prefix empty, both insert another key: one wins."""
    seen = await store.scan("room/")
    await store.commit([t.Unchanged("room/", seen.revision)], [t.Put("room/a", b"")])
    with pytest.raises(t.ConflictError):
        await store.commit([t.Unchanged("room/", seen.revision)], [t.Put("room/b", b"")])
    after_delete = await store.scan("room/")
    await store.commit([], [t.Delete("room/a")])
    with pytest.raises(t.ConflictError):
        await store.commit([t.Unchanged("room/", after_delete.revision)], [t.Put("x", b"")])


async def test_writes_elsewhere_do_not_disturb_a_prefix(store: t.Store) -> None:
    """Unchanged looks at its own prefix only."""
    seen = await store.scan("room/")
    await store.commit([], [t.Put("room", b""), t.Put("room0", b"")])
    await store.commit([t.Unchanged("room/", seen.revision)], [t.Put("room/a", b"")])


async def test_a_transfer_that_is_cut_anywhere_keeps_the_sum(engine: Engine) -> None:
    """[transactional 5] Transfers cancelled at random awaits: every read sees the same sum."""
    store, reader = await engine.client(), await engine.client()
    await store.commit([], [t.Put("account/a", b"500"), t.Put("account/b", b"500")])
    dice = random.Random(seeds(1)[0])
    done = asyncio.Event()

    async def transfer(tx: t.Transaction) -> None:
        a, b = count(await tx.get("account/a")), count(await tx.get("account/b"))
        amount = dice.randint(-20, 20)
        tx.put("account/a", b"%d" % (a - amount))
        tx.put("account/b", b"%d" % (b + amount))

    async def watch_the_sum() -> int:
        reads = 0
        while not done.is_set():
            snapshot = await reader.get_many(["account/a", "account/b"])
            assert sum(count(item.value) for item in snapshot.items.values()) == 1000
            reads += 1
            await asyncio.sleep(0)
        return reads

    watching = asyncio.create_task(watch_the_sum())
    for _ in range(rounds(400, 60)):
        task = asyncio.create_task(t.transact(store, transfer))
        for _ in range(dice.randint(0, 12)):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    done.set()
    assert await watching > 0
    assert await total(store, "account/") == 1000


async def test_two_hundred_tasks_on_one_key_finish_in_few_attempts(engine: Engine) -> None:
    """[transactional 6] 200 tasks over 8 clients: all finish, 99 of 100 within 8 attempts."""
    clients = [await engine.client() for _ in range(8)]
    attempts: list[int] = []

    async def add(store: t.Store) -> None:
        tries = 0

        def plus_one(value: bytes | None) -> bytes:
            nonlocal tries
            tries += 1
            return b"%d" % (count(value) + 1)

        await t.update(store, "n", plus_one)
        attempts.append(tries)

    await asyncio.gather(*[add(clients[number % 8]) for number in range(200)])
    assert await total(clients[0], "n") == 200
    assert sorted(attempts)[198] <= 8


# --- op_ids --------------------------------------------------------------------------------------


async def test_a_repeat_returns_the_first_result_and_changes_nothing(store: t.Store) -> None:
    """[transactional 7] Blind repeat with the op_id: same commit, no second effect."""
    first = await store.commit([t.Absent("a")], [t.Put("a", b"1")], op_id="order-17")
    await store.commit([], [t.Put("a", b"2")])
    repeat = await store.commit([t.Absent("a")], [t.Put("a", b"1")], op_id="order-17")
    assert repeat == first
    assert repeat.replayed
    found = await store.get("a")
    assert found is not None
    assert found.value == b"2"


async def test_resolve_says_applied_of_what_was_applied(store: t.Store) -> None:
    """[transactional 7] resolve returns the commit, for minted and for callers' own op_ids."""
    for op_id in (store.mint_op_id(), "order-17"):
        commit = await store.commit([], [t.Put("a", b"1")], op_id=op_id)
        outcome = await store.resolve(op_id)
        assert isinstance(outcome, t.Applied)
        assert outcome.commit == commit


async def test_resolve_fences_off_what_was_not_applied(store: t.Store) -> None:
    """[transactional 7] After resolve said Fenced, a late arrival of the commit is refused."""
    for op_id in (store.mint_op_id(), "order-18"):
        assert await store.resolve(op_id) == t.Fenced(op_id)
        assert await store.resolve(op_id) == t.Fenced(op_id)
        with pytest.raises(t.OpIdFencedError):
            await store.commit([], [t.Put("late", b"")], op_id=op_id)
    assert await store.get("late") is None


async def test_one_op_id_twice_at_once_has_one_effect(engine: Engine) -> None:
    """[transactional 8] Two clients send the same commit at once: one effect, one result."""
    one, other = await engine.client(), await engine.client()
    for number in range(rounds(200, 20)):
        before = await total(one, "n")

        async def add(store: t.Store, before: int = before, name: str = f"op-{number}") -> t.Commit:
            return await store.commit([], [t.Put("n", b"%d" % (before + 1))], op_id=name)

        commits = await asyncio.gather(*[add(store) for store in (one, other, one, other)])
        assert len({commit.revision for commit in commits}) == 1
        assert sum(not commit.replayed for commit in commits) == 1


async def test_one_op_id_for_two_contents_is_refused(store: t.Store) -> None:
    """The same op_id with another content is OperationIdReusedError; the first stands."""
    await store.commit([], [t.Put("a", b"1")], op_id="x")
    with pytest.raises(t.OperationIdReusedError):
        await store.commit([], [t.Put("a", b"2")], op_id="x")
    with pytest.raises(t.OperationIdReusedError):
        await store.commit([], [t.Put("a", b"1"), t.Delete("b")], op_id="x")
    found = await store.get("a")
    assert found is not None
    assert found.value == b"1"


async def test_a_conflict_does_not_use_up_the_op_id(store: t.Store) -> None:
    """A refused commit left no record: the same op_id may carry the next attempt."""
    await store.commit([], [t.Put("a", b"1")])
    with pytest.raises(t.ConflictError):
        await store.commit([t.Absent("a")], [t.Put("a", b"2")], op_id="x")
    await store.commit([], [t.Put("a", b"3")], op_id="x")


async def test_an_op_id_of_another_life_is_refused(store: t.Store) -> None:
    """A minted op_id carries the epoch; one of another epoch wrote nothing and says so."""
    foreign = mint_op_id("0123abcd", 0)
    with pytest.raises(t.EpochMismatchError):
        await store.commit([], [t.Put("a", b"")], op_id=foreign)
    with pytest.raises(t.EpochMismatchError):
        await store.resolve(foreign)


async def test_one_bad_operation_among_sixty_four_harms_only_itself(store: t.Store) -> None:
    """[transactional 9] 63 good commits and one that cannot be: 63 are written."""
    await store.commit([], [t.Put("used", b"")], op_id="used")

    async def write(number: int) -> t.Commit:
        if number == 31:
            return await store.commit([], [t.Put("bad", b"other")], op_id="used")
        return await store.commit([], [t.Put(f"good/{number:02}", b"")])

    results = await asyncio.gather(*map(write, range(64)), return_exceptions=True)
    assert sum(isinstance(result, t.Commit) for result in results) == 63
    assert isinstance(results[31], t.OperationIdReusedError)
    assert len((await store.scan("good/")).items) == 63
    assert await store.get("bad") is None


# --- lost answers --------------------------------------------------------------------------------


class Lossy:
    """A store whose commits are lost on the way there or on the way back, as the dice say."""

    def __init__(self, store: t.Store, dice: random.Random, share: float = 0.3) -> None:
        self._store = store
        self._dice = dice
        self._share = share
        self.lost_before = self.lost_after = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def commit(self, compares, writes, otherwise=(), *, op_id=None) -> t.Commit:
        op_id = op_id or self._store.mint_op_id()
        fate = self._dice.random()
        if fate < self._share / 2:
            self.lost_before += 1
            raise t.OutcomeUnknownError(op_id, "lost on the way there")
        commit = await self._store.commit(compares, writes, otherwise, op_id=op_id)
        if fate < self._share:
            self.lost_after += 1
            raise t.OutcomeUnknownError(op_id, "lost on the way back")
        return commit


async def test_update_counts_every_increment_once_though_answers_are_lost(
    engine: Engine,
) -> None:
    """[transactional 7] A third of all answers are lost: update still adds exactly once each."""
    dice = random.Random(seeds(1)[0])
    clients = [Lossy(await engine.client(), dice) for _ in range(4)]
    patient = t.Retry(attempts_max=200)
    returned: list[int] = []

    async def add(store: Lossy) -> None:
        for _ in range(rounds(100, 10)):
            written = await t.update(
                store, "n", lambda value: b"%d" % (count(value) + 1), retry=patient
            )
            returned.append(count(written.value))

    await asyncio.gather(*[add(client) for client in clients])
    assert sorted(returned) == list(range(1, len(returned) + 1))
    assert sum(client.lost_before + client.lost_after for client in clients)


async def test_a_lost_answer_reaches_a_caller_who_does_not_insist(store: t.Store) -> None:
    """[transactional 7] propose without attempts left raises OutcomeUnknownError, resolvable."""
    lossy = Lossy(store, random.Random(0), share=1.0)
    with pytest.raises(t.OutcomeUnknownError) as caught:
        await t.update(lossy, "n", lambda _: b"1", retry=t.Retry(attempts_max=1))
    outcome = await store.resolve(caught.value.op_id)
    assert isinstance(outcome, t.Applied) == (await store.get("n") is not None)


async def test_a_loop_that_meets_only_conflicts_gives_up_within_its_budget(
    store: t.Store,
) -> None:
    """RetriesExhaustedError is a definite conflict and counts the attempts."""
    from transactional.retry import Decision

    await store.commit([], [t.Put("a", b"")])
    made = 0

    async def hopeless(_: t.ConflictError | None) -> Decision[None]:
        nonlocal made
        made += 1
        return Decision(None, [t.Absent("a")], [t.Put("a", b"")])

    retry = t.Retry(base_s=0.0001, cap_s=0.001, attempts_max=5)
    with pytest.raises(t.RetriesExhaustedError) as caught:
        await propose(store, hopeless, retry=retry)
    assert caught.value.attempts == made == 5


# --- leases --------------------------------------------------------------------------------------


async def test_keys_go_with_their_lease(timed_store: t.Store, hand_clock: HandClock) -> None:
    """At its deadline a lease takes its keys along, in one commit; others stay."""
    lease = await timed_store.lease(10)
    await timed_store.commit([], [t.Put("a", b"", lease.id), t.Put("b", b"", lease.id)])
    await timed_store.commit([], [t.Put("c", b"")])
    hand_clock.forward(9.9)
    await timed_store.commit([t.LeaseAlive(lease.id)], [t.Put("proof", b"")])
    hand_clock.forward(0.1)
    with pytest.raises(t.LeaseExpiredError):
        await timed_store.commit([], [t.Put("d", b"", lease.id)])
    assert list((await timed_store.scan("")).items) == ["c", "proof"]


async def test_a_renewed_lease_lives_on_and_a_dead_one_stays_dead(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """[transactional 20] Renewal starts the time anew; at the deadline it is too late, for ever."""
    lease = await timed_store.lease(10)
    for _ in range(3):
        hand_clock.forward(9)
        assert await timed_store.renew(lease.id) == lease
    hand_clock.forward(10)
    for _ in range(2):
        with pytest.raises(t.LeaseExpiredError):
            await timed_store.renew(lease.id)
    with pytest.raises(t.ConflictError):
        await timed_store.commit([t.LeaseAlive(lease.id)], [t.Put("a", b"")])


async def test_revoking_ends_a_lease_at_once_and_twice_is_fine(store: t.Store) -> None:
    """Revoke deletes the keys now; revoking what is over has no effect."""
    lease = await store.lease(60)
    await store.commit([], [t.Put("a", b"", lease.id)])
    await store.revoke(lease.id)
    await store.revoke(lease.id)
    assert await store.get("a") is None
    with pytest.raises(t.LeaseExpiredError):
        await store.renew(lease.id)


async def test_a_put_without_lease_detaches_the_key(store: t.Store) -> None:
    """The last put decides whether a key is leased."""
    lease = await store.lease(60)
    await store.commit([], [t.Put("a", b"1", lease.id)])
    await store.commit([], [t.Put("a", b"2")])
    await store.revoke(lease.id)
    assert await store.get("a") is not None


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), 1e9])
async def test_a_lease_of_no_sensible_length_is_refused(store: t.Store, ttl_s: float) -> None:
    """ttl_s has limits on both sides."""
    with pytest.raises(t.InvalidRequestError):
        await store.lease(ttl_s)


# --- watching ------------------------------------------------------------------------------------


async def test_a_watcher_sees_every_commit_once_whole_and_in_order(engine: Engine) -> None:
    """[transactional 14] Across reconnects: events equal the commits under the prefix."""
    store, other = await engine.client(), await engine.client()
    dice = random.Random(seeds(1)[0])
    written: dict[int, set[str]] = {}

    async def write(client: t.Store, number: int) -> None:
        inside = {f"in/{dice.randint(0, 9)}" for _ in range(dice.randint(0, 3))}
        writes = [t.Put(key, b"%d" % number) for key in inside]
        commit = await client.commit([], [*writes, t.Put("out", b"")])
        if inside:
            written[commit.revision] = inside

    async def write_all() -> None:
        for start in range(0, total_writes, 20):
            numbers = range(start, start + 20)
            await asyncio.gather(*[write(store if n % 2 else other, n) for n in numbers])
        await store.commit([], [t.Put("in/end", b"")])

    total_writes = rounds(2000, 200)
    writer = asyncio.create_task(write_all())
    seen: dict[int, set[str]] = {}
    cursor, last = 0, False
    while not last:
        events = other.watch("in/", after=cursor)
        async for event in events:
            assert isinstance(event, t.WatchEvent)
            assert event.revision > cursor
            cursor = event.revision
            seen[cursor] = {change.key for change in event.changes}
            last = "in/end" in seen[cursor]
            if last or dice.random() < 0.1:
                break  # connect anew at the cursor
        await events.aclose()
    await writer
    del seen[cursor]
    assert seen == written


async def test_a_watch_from_now_on_waits_for_the_next_commit(store: t.Store) -> None:
    """after=None starts at the present."""
    await store.commit([], [t.Put("a", b"old")])
    events = store.watch("a")
    first = asyncio.ensure_future(anext(events))
    while not first.done():
        await store.commit([], [t.Put("a", b"new")])
        await asyncio.sleep(0.01)
    event = await first
    assert isinstance(event, t.WatchEvent)
    assert [change.current.value for change in event.changes if change.current] == [b"new"]
    await events.aclose()


async def test_deletes_and_expiries_are_events_too(store: t.Store) -> None:
    """A watcher hears of a delete and of a lease that ran out, without anybody calling."""
    lease = await store.lease(0.2)
    first = await store.commit([], [t.Put("a", b""), t.Put("b", b"", lease.id)])
    await store.commit([], [t.Delete("a")])
    events = store.watch("", after=first.revision)
    gone = [await anext(events), await anext(events)]
    await events.aclose()
    assert [list(event.changes) for event in gone if isinstance(event, t.WatchEvent)] == [
        [t.KeyChange("a", None)],
        [t.KeyChange("b", None)],
    ]


async def test_a_cursor_from_the_future_is_refused(store: t.Store) -> None:
    """A revision the store never had belongs to another store."""
    events = store.watch("a", after=10**9)
    with pytest.raises(t.InvalidRequestError):
        await anext(events)


async def test_closing_a_store_ends_its_watches(store: t.Store) -> None:
    """A watcher of a closed store comes to its end."""
    await store.commit([], [t.Put("a", b"")])
    seen = asyncio.Event()

    async def watch() -> None:
        async for _ in store.watch("", after=0):
            seen.set()

    watcher = asyncio.create_task(watch())
    await seen.wait()
    await store.close()
    with contextlib.suppress(t.UnavailableError):
        await asyncio.wait_for(watcher, 10)
    with pytest.raises(t.StoreClosedError):
        await store.get("a")


# --- transact ------------------------------------------------------------------------------------


async def test_a_transaction_sees_its_own_writes(store: t.Store) -> None:
    """Get and scan inside a transaction include what it wrote."""
    await store.commit([], [t.Put("p/a", b"1"), t.Put("p/b", b"2")])

    async def run(tx: t.Transaction) -> dict[str, bytes]:
        tx.put("p/c", b"3")
        tx.delete("p/a")
        assert await tx.get("p/a") is None
        assert await tx.get("p/c") == b"3"
        return await tx.scan("p/")

    seen, commit = await t.transact(store, run)
    assert seen == {"p/b": b"2", "p/c": b"3"}
    assert list((await store.scan("p/")).items) == ["p/b", "p/c"]
    assert commit.succeeded


async def test_an_exception_inside_a_transaction_writes_nothing(store: t.Store) -> None:
    """What the function raises comes out, and its writes are forgotten."""

    async def run(tx: t.Transaction) -> None:
        tx.put("a", b"")
        raise LookupError("no")

    with pytest.raises(LookupError):
        await t.transact(store, run)
    assert await store.get("a") is None


async def test_a_commit_that_changes_nothing_concerns_nobody(store: t.Store) -> None:
    """Deleting what is absent is no change: ranges stay unchanged, watchers are not woken."""
    first = await store.commit([], [t.Put("a/1", b"")])
    events, everything = store.watch("a/", after=first.revision), store.watch("", after=0)
    empty = await store.commit([], [t.Delete("zzz/absent"), t.DeletePrefix("none/")])
    assert empty.revision > first.revision
    for prefix in ("a/", "zzz/", ""):
        await store.commit([t.Unchanged(prefix, first.revision)], [])
    second = await store.commit([], [t.Put("a/2", b"")])
    seen = [await anext(everything), await anext(everything), await anext(events)]
    assert [event.revision for event in seen] == [first.revision, second.revision, second.revision]
    await events.aclose()
    await everything.aclose()


async def test_an_op_id_of_a_revision_to_come_was_minted_by_nobody(store: t.Store) -> None:
    """Its record would be kept and looked for by the wrong revision; it is refused, fenced or not.

    Such an op_id was applied again after a restart, and so was one that had been fenced.
    """
    revision = (await store.commit([], [t.Put("a", b"")])).revision
    forged = f"op:{store.epoch}:{revision + 1_000_000}:{'0' * 16}"
    with pytest.raises(t.InvalidRequestError):
        await store.commit([], [t.Put("a", b"x")], op_id=forged)
    with pytest.raises(t.InvalidRequestError):
        await store.resolve(forged)
    present = f"op:{store.epoch}:{revision}:{'0' * 16}"
    assert not (await store.commit([], [t.Put("a", b"x")], op_id=present)).replayed
