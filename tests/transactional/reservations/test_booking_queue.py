"""Bookings of one process share commits, and what each one is told holds by itself."""

from __future__ import annotations

import asyncio
import contextlib
import functools

import pytest

from tests.transactional.reservations.times import assert_disjoint, hours
from transactional import (
    BookingConflict,
    InvalidRequestError,
    OperationIdReusedError,
    OutcomeUnknownError,
    Put,
    Reservations,
    Resource,
    Retry,
    Wanted,
)
from transactional.reservations import booking_queue
from transactional.reservations.schedule import DOUBTED_READS


async def revision(store) -> int:
    return (await store.get_many([])).revision


async def commits_since(store, before: int) -> int:
    """How many commits changed a key after a revision; an engine may have revisions of its own."""
    last = await store.commit([], [Put("end", b"")])
    count = 0
    async for event in store.watch("", after=before):
        if event.revision == last.revision:
            return count
        count += 1
    raise AssertionError("the watch ended")


async def test_bookings_that_wait_together_are_one_commit(store):
    """Sixty bookings of twelve rooms, some in each other's way: one commit, each its own answer."""
    rooms = Reservations(store)
    await rooms.rules("room 0")  # opens the connection
    before = await revision(store)
    answers = await asyncio.gather(
        *(
            rooms.book(f"room {n % 12}", hours(8 + n // 12, 9.5 + n // 12), holder=f"agent {n}")
            for n in range(60)
        ),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, BookingConflict)]
    made = [answer for answer in answers if not isinstance(answer, Exception)]
    assert len(made) == 36  # every second one of a room starts before the first one is over
    assert len(refused) == 24
    assert all(refusal.holder.startswith("agent") for refusal in refused)
    most = 1 if store.capabilities.max_operations >= 128 else 2
    assert 1 <= await commits_since(store, before) <= most
    for number in range(12):
        agenda = await rooms.agenda(f"room {number}")
        assert len(agenda) == 3
        assert_disjoint(agenda)
        assert all(booking in made for booking in agenda)  # as they were answered, revision too


async def test_a_lone_booking_reads_nothing_that_it_wrote_itself(store, monkeypatch):
    """The second booking of a day costs one commit and no read of the day."""
    rooms = Reservations(store)
    await rooms.book("turing", hours(9, 10), holder="ann")
    reads = []
    scan = store.scan

    async def counted(prefix, **options):
        reads.append(prefix)
        return await scan(prefix, **options)

    monkeypatch.setattr(store, "scan", counted)
    await rooms.book("turing", hours(10, 11), holder="bob")
    assert reads == []
    with pytest.raises(BookingConflict):  # but nobody is refused on what is merely remembered
        await rooms.book("turing", hours(10, 11), holder="cid")
    assert len(reads) == 1


async def test_a_request_that_cannot_be_committed_spoils_no_other(store):
    """A note beyond the store's limit is refused; its neighbours in the group are booked."""
    rooms = Reservations(store)
    notes = ["", "x" * (2 << 20), ""]
    answers = await asyncio.gather(
        *(
            rooms.book("turing", hours(9 + n, 10 + n), holder="ann", note=note)
            for n, note in enumerate(notes)
        ),
        return_exceptions=True,
    )
    assert isinstance(answers[1], InvalidRequestError)
    assert [booking.interval for booking in await rooms.agenda("turing")] == [
        hours(9, 10),
        hours(11, 12),
    ]


async def test_the_same_key_twice_at_once_books_once(store):
    """A repeat in the same group is answered with the first booking, even where both would fit."""
    rooms = Reservations(store)
    await rooms.define("lab", Resource(capacity=5))
    same = [
        rooms.book("lab", hours(9, 10), holder="ann", idempotency_key="order 1") for _ in range(4)
    ]
    other = rooms.book("lab", hours(9, 10), holder="bob", idempotency_key="order 1")
    *first, reused = await asyncio.gather(*same, other, return_exceptions=True)
    assert len(set(first)) == 1
    assert isinstance(reused, OperationIdReusedError)
    assert await rooms.agenda("lab") == (first[0],)


async def test_what_a_rival_freed_is_not_refused(store):
    """A refusal never rests on memory: a rival's cancellation and new rules count at once."""
    ours, rivals = Reservations(store), Reservations(store)
    taken = await ours.book("turing", hours(9, 10), holder="ann")
    assert await rivals.cancel(taken)
    again = await ours.book("turing", hours(9, 10), holder="bob")
    await rivals.define("turing", Resource(capacity=2))
    beside = await ours.book("turing", hours(9, 10), holder="cid")
    assert {b.id for b in await rivals.agenda("turing")} == {again.id, beside.id}
    with pytest.raises(BookingConflict):
        await ours.book("turing", hours(9, 10), holder="dan")


async def test_buffers_that_changed_meanwhile_are_the_ones_that_count(store):
    """A booking decided on remembered rules is decided again on the present ones."""
    ours, rivals = Reservations(store), Reservations(store)
    await ours.book("turing", hours(9, 10), holder="ann")
    half = hours(0, 0.5).duration
    await rivals.define("turing", Resource(before=half, after=half))
    late = await ours.book("turing", hours(11, 12), holder="bob")
    assert (late.before, late.after) == (half, half)
    with pytest.raises(BookingConflict):
        await ours.book("turing", hours(12, 13), holder="cid")


async def test_two_processes_on_one_day_do_not_deceive_each_other(store):
    """Alternating rivals: whatever each one remembers, every answer is as if it had just read."""
    rivals = [Reservations(store), Reservations(store)]
    for number in range(2 * DOUBTED_READS):
        first, second = rivals[number % 2], rivals[1 - number % 2]
        slot = hours(number / 4, (number + 1) / 4)
        made = await first.book("turing", slot, holder=f"agent {number}")
        with pytest.raises(BookingConflict) as refused:
            await second.book("turing", slot, holder="late")
        assert refused.value.blockers == (made,)
    assert_disjoint(await rivals[0].agenda("turing"))


async def test_many_days_in_one_group_stay_within_one_commits_limits(store):
    """Requests that together exceed the limit of a commit are made in several."""
    rooms = Reservations(store)
    before = await revision(store)
    wanted = [[Wanted(f"room {n}", hours(0, 24 * 30))] for n in range(10)]
    made = await asyncio.gather(*(rooms.book_many(part, holder="ann") for part in wanted))
    assert len(made) == 10
    assert 1 < await commits_since(store, before) <= 10
    for number in range(10):
        assert len(await rooms.agenda(f"room {number}")) == 1


async def test_a_refusal_that_fails_lets_the_others_end_before_anybody_is_served_again(
    store, monkeypatch
):
    """Who was told of a conflict has no booking, though a neighbour's refusal broke in between."""
    rooms = Reservations(store)
    first = await rooms.book("turing", hours(9, 10), holder="ann")
    conflict, commit = rooms._queue._schedule.conflict, store.commit
    asked, broken, written = [], asyncio.Event(), asyncio.Event()

    async def broken_once(no_capacity, now, drafted):
        asked.append(no_capacity)
        if len(asked) == 1:
            await Reservations(store).cancel(first)  # by another process, meanwhile
            broken.set()
            raise ValueError("broken")
        if len(asked) == 2:
            with contextlib.suppress(TimeoutError):  # nobody writes before this one ends
                await asyncio.wait_for(written.wait(), 0.3)
        return await conflict(no_capacity, now, drafted)

    async def told_late(*arguments, **options):
        made = await commit(*arguments, **options)
        if broken.is_set():
            written.set()
            await asyncio.sleep(0.02)
        return made

    monkeypatch.setattr(store, "commit", told_late)
    monkeypatch.setattr(rooms._queue._schedule, "conflict", broken_once)
    answers = await asyncio.gather(
        rooms.book("turing", hours(9, 9.5), holder="bob"),
        rooms.book("turing", hours(9.5, 10), holder="cyd"),
        return_exceptions=True,
    )
    booked = {booking.holder for booking in await rooms.agenda("turing")}
    told = {answer.holder for answer in answers if not isinstance(answer, Exception)}
    assert len(asked) >= 2
    assert booked == told


async def test_only_what_was_proposed_is_in_doubt(store, monkeypatch):
    """A refused neighbour of a commit whose answer was lost is judged again, not left in doubt."""
    rooms = Reservations(store)
    await rooms.book("turing", hours(9, 10), holder="ann")

    async def lost(*_, op_id=None, **__):
        raise OutcomeUnknownError(op_id or "x", "lost")

    commit, resolve = store.commit, store.resolve

    async def heal(op_id):
        monkeypatch.setattr(store, "commit", commit)
        monkeypatch.setattr(store, "resolve", resolve)
        raise OutcomeUnknownError(op_id, "lost again")

    monkeypatch.setattr(store, "commit", lost)
    monkeypatch.setattr(store, "resolve", heal)
    hasty = functools.partial(booking_queue.decided, retry=Retry(attempts_max=2))
    monkeypatch.setattr(booking_queue, "decided", hasty)
    answers = await asyncio.gather(
        rooms.book("turing", hours(11, 12), holder="bob"),
        rooms.book("turing", hours(9, 10), holder="cyd"),
        return_exceptions=True,
    )
    assert isinstance(answers[1], BookingConflict), answers
