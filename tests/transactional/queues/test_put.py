"""What may be put, what a repeat does, and in which order jobs are claimed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

import transactional as t
from transactional import JobExistsError, JobState, WorkQueue

if TYPE_CHECKING:
    from tests.transactional.conftest import HandClock


async def claimed(queue: WorkQueue, count: int = 100) -> list[str]:
    """Claim one after the other and let go of none."""
    ids: list[str] = []
    keep: list[t.Job] = []
    while len(ids) < count and (jobs := await queue.claim("ann")):
        keep += jobs
        ids += [job.id for job in jobs]
    for job in keep:
        await job.done()
    return ids


async def pass_time(store: t.Store, clock: HandClock, seconds: float) -> None:
    """Move the clock, and let the store see it: its own timer runs on real time."""
    clock.forward(seconds)
    await store.commit([], [t.Put("tick", b"")])


async def test_the_higher_priority_comes_first_then_who_was_put_first(store: t.Store) -> None:
    """One claimant gets exactly this order."""
    queue = WorkQueue(store, "tickets")
    for job, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -3), ("e", 5)):
        await queue.put(job, priority=priority)
    assert await claimed(queue) == ["b", "e", "a", "c", "d"]


async def test_order_is_the_authority_s_time_whatever_a_process_thinks_it_is(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """Counterexample: a process whose idea of the time ran ahead put its job behind a later one."""
    ahead, other = WorkQueue(timed_store, "tickets"), WorkQueue(timed_store, "tickets")
    for n in range(
        60
    ):  # business time gets ahead of a clock that stands, and so does what is known
        await timed_store.now()
        await ahead.put(f"early{n}", priority=1)
    await other.config()
    hand_clock.forward(5)
    ahead._clock.hear(await timed_store.now() + timedelta(seconds=1))
    await ahead.put("first")
    await other.put("second")
    assert (await claimed(other))[60:] == ["first", "second"]


async def test_the_same_job_put_again_changes_nothing(store: t.Store) -> None:
    """[agents 5] Whatever has become of it in the meantime."""
    queue = WorkQueue(store, "tickets")
    first = await queue.put("T-1", {"title": "refund", "lines": (1, 2)}, priority=2)
    assert (await queue.put("T-1", {"lines": [1, 2], "title": "refund"}, priority=2)) == first
    (job,) = await queue.claim("ann")
    again = await queue.put("T-1", {"title": "refund", "lines": [1, 2]}, priority=2)
    assert (again.state, again.worker) == (JobState.CLAIMED, "ann")
    await job.done("ok")
    again = await queue.put("T-1", {"title": "refund", "lines": [1, 2]}, priority=2)
    assert (again.state, again.result) == (JobState.DONE, "ok")
    assert await queue.claim("ann") == []


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"payload": 2}, "payload"),
        ({"priority": 1}, "priority"),
        ({"lane": "acme"}, "lane"),
        ({"not_before": datetime(2030, 1, 1, tzinfo=UTC)}, "not_before"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_another_job_under_the_same_id_is_refused(
    store: t.Store, other: dict[str, object], differs: str
) -> None:
    """[agents 5] The error says what differs, and the first one stands."""
    queue = WorkQueue(store, "tickets")
    first = await queue.put("T-1", 1)
    arguments = {"payload": 1} | other
    with pytest.raises(JobExistsError) as caught:
        await queue.put("T-1", **arguments)  # type: ignore[arg-type]
    assert caught.value.differs == differs
    assert await queue.get("T-1") == first


async def test_both_of_two_puts_at_once_are_judged(store: t.Store) -> None:
    """Of two different jobs under one id that share a commit one is refused."""
    import asyncio

    queue = WorkQueue(store, "tickets")
    puts = [queue.put("T-1", n % 2) for n in range(6)]
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["JobInfo", "JobExistsError"] * 3


async def test_a_removed_job_is_remembered_by_its_marker(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """After `keep_ended_s` the job is gone; for a week it is known that it was done."""
    queue = WorkQueue(timed_store, "tickets", keep_ended_s=60)
    await queue.put("T-1", {"b": 1, "a": 2})
    assert await claimed(queue) == ["T-1"]
    hand_clock.forward(61)
    await queue.forget()
    assert await queue.get("T-1") is None
    assert (await queue.put("T-1", {"a": 2, "b": 1})).state is JobState.DONE
    with pytest.raises(JobExistsError):
        await queue.put("T-1", {"a": 3})
    assert (await queue.put("T-2", after=["T-1"])).state is JobState.READY
    hand_clock.forward(8 * 86_400)
    await queue.forget()
    assert (await queue.put("T-1", {"a": 3})).state is JobState.READY


async def test_who_was_not_told_is_told_before_the_job_is_removed(
    timed_store: t.Store, hand_clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counterexample: its process died at the wrong moment; its follower waited for ever."""
    queue = WorkQueue(timed_store, "tickets")
    await queue.put("head")
    await queue.put("follower", after=["head"])
    (job,) = await queue.claim("ann")
    with monkeypatch.context() as patch:
        patch.setattr(queue, "_tell", nothing)
        await job.done()
    hand_clock.forward(8 * 86_400)
    other = WorkQueue(timed_store, "tickets")
    await other.forget()
    assert await claimed(other) == ["follower"]
    await queue.close()
    await other.close()


async def nothing(_: str) -> None:
    """Tell nobody."""


async def test_what_is_removed_in_passing_leaves_nothing(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """Sixty jobs done and one cancelled, a week later: no key of theirs is left."""
    import asyncio

    queue = WorkQueue(timed_store, "tickets")
    await asyncio.gather(*(queue.put(f"T-{n}", n) for n in range(60)))
    jobs = await queue.claim("ann", n=30) + await queue.claim("ann", n=30)
    await asyncio.gather(*(job.checkpoint(1) for job in jobs[:5]))
    await asyncio.gather(*(job.done() for job in jobs))
    await queue.put("T-x")
    await queue.cancel("T-x")
    await queue.put("T-parked")
    (job,) = await queue.claim("ann")
    await job.fail("broken")
    hand_clock.forward(8 * 86_400)
    await queue.forget()
    await queue.close()
    kept = [key for key in (await t.scan_all(timed_store, "queue/")).items if "worker" not in key]
    assert all("T-parked" in key for key in kept), kept
    assert len(kept) == 3


async def test_a_job_waits_for_its_time(timed_store: t.Store, hand_clock: HandClock) -> None:
    """[agents 6] It is claimed neither before nor much later, wherever the clock goes."""
    queue = WorkQueue(timed_store, "tickets")
    soon = (await timed_store.now()) + timedelta(hours=1)
    await queue.put("later", not_before=soon, priority=9)
    await queue.put("now")
    assert await claimed(queue) == ["now"]
    hand_clock.forward(3599)
    assert await claimed(queue) == []
    hand_clock.wall_us -= 7_200_000_000  # set back; business time goes on
    assert await claimed(queue) == []
    hand_clock.forward(2)
    assert await claimed(queue) == ["later"]
    told = await queue.get("later")
    assert told is not None
    assert told.not_before == soon


async def test_many_whose_time_has_come_are_all_claimed_in_order(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """More than one commit wakes: the order among them is that of all."""
    queue = WorkQueue(timed_store, "tickets")
    soon = (await timed_store.now()) + timedelta(seconds=10)
    for n in range(60):
        await queue.put(f"j{n:02d}", priority=n, not_before=soon + timedelta(microseconds=n % 7))
    hand_clock.forward(11)
    assert await claimed(queue) == [f"j{n:02d}" for n in reversed(range(60))]


@pytest.mark.parametrize(
    "arguments",
    [
        {"id": ""},
        {"id": "x" * 300},
        {"id": "\ud800"},
        {"id": 7},
        {"payload": {1, 2}},
        {"payload": float("nan")},
        {"payload": "x" * (300 << 10)},
        {"priority": 1 << 40},
        {"priority": True},
        {"priority": 1.5},
        {"after": "abc"},
        {"after": [f"j{n}" for n in range(100)]},
        {"after": [""]},
        {"lane": ""},
        {"lane": "x" * 300},
        {"not_before": datetime(2030, 1, 1)},  # noqa: DTZ001 that is what is refused
        {"not_before": "tomorrow"},
        {"not_before": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))},
        {"after": 5},
        {"after": None},
        {"after": [[1]]},
        {"compares": 5},
        {"compares": [5]},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
async def test_what_is_not_fit_is_refused_before_anything_is_written(
    store: t.Store, arguments: dict[str, object]
) -> None:
    """A typed error each, and nothing in the store."""
    queue = WorkQueue(store, "tickets")
    with pytest.raises(t.WrongRequestError):
        await queue.put(**({"id": "T-1"} | arguments))  # type: ignore[arg-type]
    assert not (await store.scan("queue/")).items


async def test_names_may_hold_anything(store: t.Store) -> None:
    """Slashes, spaces, percent signs and other alphabets, and two such queues do not meet."""
    queue, other = WorkQueue(store, "a/b %2F"), WorkQueue(store, "a")
    await queue.put("ключ/1 %", 1, lane="œ/1")
    assert await claimed(other) == []
    (job,) = await queue.claim("ann/1")
    assert (job.id, job.lane) == ("ключ/1 %", "œ/1")
    await job.done()
    assert (await queue.get("ключ/1 %")).state is JobState.DONE  # type: ignore[union-attr]


async def test_a_put_may_rest_on_compares(store: t.Store) -> None:
    """A fence of a lock, say: refused with it, and nobody else of the same commit is."""
    import asyncio

    queue = WorkQueue(store, "tickets")
    good, bad = await asyncio.gather(
        queue.put("T-1"),
        queue.put("T-2", compares=[t.Exists("elsewhere")]),
        return_exceptions=True,
    )
    assert isinstance(bad, t.ConflictError)
    assert not isinstance(good, BaseException)
    assert await queue.get("T-2") is None


async def test_what_is_removed_follows_the_rules_of_others(store: t.Store) -> None:
    """An object that has not heard of the new rule yet does not remove by the old one."""
    old = WorkQueue(store, "q", keep_ended_s=0)
    await old.config()
    new = WorkQueue(store, "q", keep_ended_s=3600)
    await new.put("y")
    (job,) = await new.claim("ann")
    await job.done()
    await store.now()
    await old.forget()
    assert await new.get("y") is not None
