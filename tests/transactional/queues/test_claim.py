"""Claims: one worker each, what they may do, and what becomes of those who do not come back."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.transactional.queues.test_put import pass_time
from transactional import ClaimLostError, JobState, WorkQueue
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.transactional.conftest import HandClock
    from tests.transactional.engines import Engine


async def state_of(queue: WorkQueue, job: str) -> JobState:
    told = await queue.get(job)
    assert told is not None
    return told.state


async def test_every_job_goes_to_one_worker(engine: Engine) -> None:
    """Three processes' worth of queues, four workers each: 120 jobs, each done once."""
    queues = [WorkQueue(await engine.client(), "tickets") for _ in range(3)]
    await asyncio.gather(*(queues[0].put(f"j{n}", n) for n in range(120)))
    done: Counter[str] = Counter()

    async def work(queue: WorkQueue, name: str) -> None:
        while jobs := await queue.claim(name, wait_s=0.2):
            for job in jobs:
                await asyncio.sleep(0)
                await job.done()
                done[job.id] += 1

    await asyncio.gather(*(work(queue, f"w{n}") for n in range(4) for queue in queues))
    assert done == {f"j{n}": 1 for n in range(120)}
    for queue in queues:
        await queue.close()


async def test_who_waits_is_woken_by_a_put(engine: Engine) -> None:
    """Of another client, without asking again and again: few reads while nothing comes."""
    queue, other = WorkQueue(await engine.client(), "q"), WorkQueue(await engine.client(), "q")
    waiting = [asyncio.create_task(queue.claim(f"w{n}", wait_s=20)) for n in range(3)]
    await asyncio.sleep(0.1)
    claimed: list[t.Job] = []
    for n in range(3):
        await other.put(f"j{n}")
        done, pending = await asyncio.wait(waiting, timeout=10, return_when="FIRST_COMPLETED")
        waiting = list(pending)
        claimed += [job for task in done for job in task.result()]
        assert [job.id for job in claimed] == [f"j{m}" for m in range(n + 1)]
    await queue.close()


async def test_a_wait_ends_in_time(store: t.Store) -> None:
    """Nothing comes: an empty list, and nobody is left waiting."""
    queue = WorkQueue(store, "q")
    assert await queue.claim("ann", wait_s=0.05) == []
    assert await queue.claim("ann") == []
    await queue.close()


async def test_who_is_cancelled_while_waiting_passes_the_news_on(store: t.Store) -> None:
    """The job goes to the next who waits."""
    queue = WorkQueue(store, "q")
    first = asyncio.create_task(queue.claim("ann", wait_s=20))
    second = asyncio.create_task(queue.claim("bob", wait_s=20))
    await asyncio.sleep(0.05)
    await queue.put("j")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    (job,) = await asyncio.wait_for(second, 10)
    assert job.id == "j"
    await queue.close()


async def test_a_late_finisher_is_refused_with_what_he_wrote(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """[agents 2] Paused past its lease; another did the job; the late effects are not written."""
    late, other = WorkQueue(timed_store, "q"), WorkQueue(timed_store, "q")
    await late.put("j")
    (job,) = await late.claim("ann", lease_s=5)
    await job.checkpoint({"page": 3})
    await pass_time(timed_store, hand_clock, 6)
    (again,) = await other.claim("bob", lease_s=5)
    assert (again.attempt, again.checkpointed) == (2, {"page": 3})
    for act in (job.done(writes=[t.Put("effect", b"ann")]), job.checkpoint(4), job.fail("no")):
        with pytest.raises(ClaimLostError):
            await act
    assert job.lost.is_set()
    assert await timed_store.get("effect") is None
    await again.done("by bob", writes=[t.Put("effect", b"bob")])
    told = await other.get("j")
    assert told is not None
    assert (told.state, told.result) == (JobState.DONE, "by bob")
    assert [(a.worker, a.ended) for a in told.history] == [("ann", "lost"), ("bob", "done")]


async def test_a_late_finisher_is_refused_even_if_nobody_took_over(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """A claim is as long as its lease: what may be taken by others is not his any more."""
    queue = WorkQueue(timed_store, "q")
    await queue.put("j")
    (job,) = await queue.claim("ann", lease_s=5)
    await pass_time(timed_store, hand_clock, 6)
    with pytest.raises(ClaimLostError):
        await job.done()
    assert [again.id for again in await queue.claim("ann")] == ["j"]


async def test_one_who_waits_takes_over_from_one_who_died(engine: Engine) -> None:
    """Nobody sweeps: the end of the lease wakes him."""
    dead, queue = WorkQueue(await engine.client(), "q"), WorkQueue(await engine.client(), "q")
    await dead.put("j")
    (job,) = await dead.claim("ann", lease_s=1)
    for session in dead._sessions.values():
        session.abandon()  # as if its process were gone
    (again,) = await queue.claim("bob", lease_s=5, wait_s=20)
    assert (again.id, again.attempt) == ("j", 2)
    assert job.lost.is_set()
    await again.done()
    await queue.close()


async def test_a_handler_that_blocks_the_loop_keeps_its_job(engine: Engine) -> None:
    """Renewed off the loop: two leases long nothing runs in it, and the claim holds."""
    store = await engine.client()
    if not isinstance(store, t.RenewsFromThreads):
        pytest.skip("this engine lives in the loop that is blocked")
    queue = WorkQueue(store, "q")
    await queue.put("j")
    (job,) = await queue.claim("ann", lease_s=1)
    if engine.__class__.__name__ == "HTTPEngine":  # its authority lives in this loop, too
        await asyncio.sleep(2.2)
    else:
        time.sleep(2.2)  # noqa: ASYNC251 that is what is tried
    await job.done()
    await queue.close()


async def test_done_and_its_effects_are_one(store: t.Store) -> None:
    """A compare that fails leaves the job claimed, a repeat is harmless, another end is refused."""
    queue = WorkQueue(store, "q")
    await queue.put("j")
    (job,) = await queue.claim("ann")
    with pytest.raises(t.ConflictError):
        await job.done(writes=[t.Put("x", b"1")], compares=[t.Exists("y")])
    assert await store.get("x") is None
    assert await state_of(queue, "j") is JobState.CLAIMED
    await job.done({"n": 1}, writes=[t.Put("x", b"1")], compares=[*job.fence])
    await job.done({"n": 1})
    with pytest.raises(ClaimLostError):
        await job.fail("changed my mind")
    assert (await store.get("x")).value == b"1"  # type: ignore[union-attr]


async def test_one_bad_end_is_refused_alone(store: t.Store) -> None:
    """Ten ends share commits; those whose writes cannot be made are told, the others are done."""
    queue = WorkQueue(store, "q")
    await asyncio.gather(*(queue.put(f"j{n}") for n in range(10)))
    jobs = await queue.claim("ann", n=10)

    def writes(n: int) -> list[t.Write]:
        if n == 3:
            return [t.Put("k" * 2000, b"")]  # no such key
        if n == 5:
            return [t.Put("x", b"", lease="nobody's")]
        return [t.Put("shared", str(n).encode())]  # all of them write the same key

    ends = [job.done(writes=writes(n)) for n, job in enumerate(jobs)]
    outcomes = await asyncio.gather(*ends, return_exceptions=True)
    names = [type(outcome).__name__ for outcome in outcomes]
    assert names[3] == "InvalidRequestError"
    assert names[5] == "LeaseExpiredError"
    assert names.count("NoneType") == 8
    assert (await queue.depths())[JobState.DONE].count == 8


async def test_the_queue_s_own_keys_are_not_to_be_written(store: t.Store) -> None:
    """An effect is of the caller's own state."""
    queue = WorkQueue(store, "q")
    await queue.put("j")
    (job,) = await queue.claim("ann")
    with pytest.raises(t.InvalidRequestError):
        await job.done(writes=[t.Delete("queue/q/job/j")])
    await job.done()


async def test_too_much_for_one_commit_is_refused_and_the_job_stays(store: t.Store) -> None:
    """The limit counts what the queue itself writes, and the message says which it is."""
    queue = WorkQueue(store, "q")
    await queue.put("j")
    (job,) = await queue.claim("ann")
    with pytest.raises(t.InvalidRequestError, match="too much for one commit"):
        await job.done(writes=[t.Put(f"k{n}", b"") for n in range(128)])
    most = store.capabilities.max_operations - 8  # what the end of a job is made of
    await job.done(writes=[t.Put(f"k{n}", b"") for n in range(most)])


async def test_a_job_that_fails_is_parked_after_its_attempts(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """[agents 7] Poison: retried with pauses, parked with its error, requeued by hand."""
    queue = WorkQueue(timed_store, "q", attempts_max=3)
    await queue.put("j", "poison")
    for attempt in (1, 2, 3):
        (job,) = await queue.claim("ann")
        assert job.attempt == attempt
        await job.checkpoint(attempt)
        await job.retry(f"no {attempt}", in_s=60)
        assert await queue.claim("ann") == []
        hand_clock.forward(61)
    parked = await queue.get("j")
    assert parked is not None
    assert (parked.state, parked.error, parked.checkpointed) == (JobState.PARKED, "no 3", 3)
    assert [(a.number, a.ended, a.error) for a in parked.history] == [
        (n, "retry", f"no {n}") for n in (1, 2, 3)
    ]
    assert [job.id async for job in queue.jobs("parked")] == ["j"]
    assert (await queue.requeue("j")).state is JobState.READY
    (job,) = await queue.claim("bob")
    assert (job.attempt, job.checkpointed) == (1, 3)
    await job.done()
    told = await queue.get("j")
    assert told is not None
    assert len(told.history) == 4


async def test_a_job_that_kills_its_workers_is_parked(
    timed_store: t.Store, hand_clock: HandClock
) -> None:
    """[agents 7] Attempts are counted before they run, so silence counts, too."""
    queue = WorkQueue(timed_store, "q", attempts_max=3)
    await queue.put("poison", priority=1)
    await queue.put("fine")
    for attempt in (1, 2, 3):
        (job,) = await queue.claim("ann", lease_s=5)
        assert (job.id, job.attempt) == ("poison", attempt)
        await pass_time(timed_store, hand_clock, 6)
    (job,) = await queue.claim("ann", lease_s=5)
    assert job.id == "fine"
    parked = await queue.get("poison")
    assert parked is not None
    assert parked.state is JobState.PARKED
    assert "ann" in parked.error


async def test_a_released_job_was_not_tried(store: t.Store) -> None:
    """It goes back to its place in the order."""
    queue = WorkQueue(store, "q")
    await queue.put("a")
    await queue.put("b")
    (job,) = await queue.claim("ann")
    await job.release()
    (job,) = await queue.claim("ann")
    assert (job.id, job.attempt) == ("a", 1)
    await job.done()


async def test_a_dropped_job_goes_back(store: t.Store) -> None:
    """Nobody refers to it any more, the process lives on: others get it soon."""
    queue = WorkQueue(store, "q")
    await queue.put("j")
    jobs = await queue.claim("ann")
    assert jobs
    jobs.clear()
    gc.collect()
    (job,) = await queue.claim("bob", wait_s=20)
    assert (job.id, job.attempt) == ("j", 2)
    await job.done()
    await queue.close()


async def test_an_exception_in_the_body_lets_the_job_be_retried(store: t.Store) -> None:
    """`async with job:` tells the error; a body that ends the job itself is left alone."""
    queue = WorkQueue(store, "q")
    await queue.put("j")

    async def work() -> None:
        async for job in queue.claims("ann"):
            async with job:
                1 / 0  # noqa: B018 the body raises

    with pytest.raises(ZeroDivisionError):
        await work()
    (job,) = await queue.claim("ann", wait_s=20)
    assert job.attempt == 2
    async with job:
        await job.done()
    told = await queue.get("j")
    assert told is not None
    assert told.history[0].error == "ZeroDivisionError: division by zero"
    await queue.close()


async def test_a_claim_goes_on_in_another_process(engine: Engine) -> None:
    """By its token; a wrong one is refused."""
    here, there = WorkQueue(await engine.client(), "q"), WorkQueue(await engine.client(), "q")
    await here.put("j", 7)
    (job,) = await here.claim("ann")
    await job.checkpoint("half")
    with pytest.raises(ClaimLostError):
        await there.resume("j", job.token + "9")
    with pytest.raises(t.InvalidRequestError):
        await there.resume("j", "nonsense")
    with pytest.raises(t.NotFoundError):
        await there.resume("k", job.token)
    same = await there.resume("j", job.token)
    assert (same.payload, same.checkpointed, same.worker) == (7, "half", "ann")
    await same.done()
    assert await state_of(here, "j") is JobState.DONE
    await here.close()


async def test_closing_gives_back_at_once(engine: Engine) -> None:
    """Who ends in good order does not make others wait for his lease."""
    here, there = WorkQueue(await engine.client(), "q"), WorkQueue(await engine.client(), "q")
    await here.put("j")
    (job,) = await here.claim("ann", lease_s=600)
    await here.close()
    assert job.lost.is_set()
    assert [again.id for again in await there.claim("bob")] == ["j"]
    await there.close()


async def test_who_claims_while_his_lease_is_given_up_is_told(store: t.Store) -> None:
    """The claim was on its way when renewals had failed for too long: what it brings is lost."""
    queue = WorkQueue(store, "q")
    await queue.put("j")
    (before,) = await queue.claim("ann", lease_s=600)
    real = store.commit

    async def slow(*given: object, **named: object) -> t.Commit:
        commit = await real(*given, **named)
        for session in queue._sessions.values():
            session.abandon()
        return commit

    await queue.put("k")
    store.commit = slow  # type: ignore[method-assign]
    (job,) = await queue.claim("ann", lease_s=600)
    store.commit = real  # type: ignore[method-assign]
    assert (before.id, job.id) == ("j", "k")
    assert before.lost.is_set()
    assert job.lost.is_set()
    await queue.close()


async def test_a_store_that_hangs_does_not_hide_that_the_lease_is_over() -> None:
    """The worker looks at its jobs meanwhile, and gets no answer: it is told in its time."""
    store = MemoryStore()
    answers = asyncio.Event()
    answers.set()
    real = store.get_many

    async def hangs(keys: Sequence[str]) -> t.Snapshot:
        await answers.wait()
        return await real(keys)

    def fails(_: str) -> None:
        raise t.UnavailableError("no member answers")

    store.get_many = hangs  # type: ignore[method-assign]
    store.renew_from_thread = fails  # type: ignore[attr-defined]
    queue = WorkQueue(store, "q")
    await queue.put("j")
    (job,) = await queue.claim("ann", lease_s=1)
    answers.clear()
    async with asyncio.timeout(10):
        await job.lost.wait()
    answers.set()
    await queue.close()
    await store.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 0},
        {"n": 100},
        {"n": True},
        {"lease_s": 0},
        {"lease_s": float("nan")},
        {"wait_s": -1},
        {"wait_s": float("nan")},
        {"wait_s": "x"},
        {"lease_s": "x"},
        {"lease_s": True},
        {"worker": ""},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
async def test_a_claim_that_is_not_fit_is_refused(
    store: t.Store, arguments: dict[str, object]
) -> None:
    """Before a lease is taken."""
    queue = WorkQueue(store, "q")
    with pytest.raises(t.InvalidRequestError):
        await queue.claim(**({"worker": "ann"} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "act",
    [
        lambda job: job.retry(in_s="x"),
        lambda job: job.retry(in_s=float("nan")),
        lambda job: job.retry(5),
        lambda job: job.fail(""),
        lambda job: job.done({1, 2}),
        lambda job: job.done(writes=5),
        lambda job: job.done(writes=[5]),
        lambda job: job.done(compares=[5]),
        lambda job: job.done(writes=[t.DeletePrefix("queue/")]),
        lambda job: job.done(writes=[t.DeletePrefix("")]),
    ],
)
async def test_an_act_that_is_not_fit_is_refused_and_the_job_stays(store: t.Store, act) -> None:
    """A typed error each; done as it should be the job is over."""
    queue = WorkQueue(store, "q")
    await queue.put("j")
    (job,) = await queue.claim("ann")
    with pytest.raises(t.InvalidRequestError):
        await act(job)
    await job.done()


async def test_questions_that_are_not_fit_are_refused(store: t.Store) -> None:
    """A state that is none, a token that is no text, a reason that is none."""
    queue = WorkQueue(store, "q")
    await queue.put("j")
    with pytest.raises(t.InvalidRequestError):
        [info async for info in queue.jobs("odd")]
    with pytest.raises(t.InvalidRequestError):
        await queue.resume("j", None)  # type: ignore[arg-type]
    with pytest.raises(t.InvalidRequestError):
        await queue.cancel("j", 5)  # type: ignore[arg-type]


async def test_who_breaks_off_gives_back_what_he_was_not_handed(store: t.Store) -> None:
    """Counterexample: each round counted an attempt of jobs that nobody had begun."""
    queue = WorkQueue(store, "q", attempts_max=2)
    for n in range(4):
        await queue.put(f"j{n}", priority=-n)
    for _ in range(3):
        claims = queue.claims("ann", n=4)
        job = await anext(claims)
        assert job.attempt == 1
        await job.release()
        await claims.aclose()
    jobs = await queue.claim("bob", n=4)
    assert [job.attempt for job in jobs] == [1, 1, 1, 1]


async def test_a_claim_takes_no_more_than_a_commit_holds(store: t.Store) -> None:
    """Counterexample: 32 jobs with long histories were refused, again and again."""
    queue = WorkQueue(store, "q", attempts_max=100)
    await asyncio.gather(*(queue.put(f"j{n}") for n in range(32)))
    for _ in range(20):  # each turn keeps another error, of control characters, which weigh most
        jobs = [job for _ in range(4) for job in await queue.claim("ann", n=8)]
        await asyncio.gather(*(job.retry("\x01" * 2000) for job in jobs))
    taken: list[t.Job] = []
    while jobs := await queue.claim("ann", n=32):
        taken += jobs
    assert sorted(job.id for job in taken) == sorted(f"j{n}" for n in range(32))


async def test_watching_tells_each_change_once(engine: Engine) -> None:
    """In order, from now on or from a revision on."""
    queue = WorkQueue(await engine.client(), "q")
    first = await queue.put("j")
    (job,) = await queue.claim("ann")
    await job.done()
    seen = []
    async for change in queue.watch(after=first.revision - 1):
        assert not isinstance(change, t.Compacted)
        seen.append((change.id, change.state, change.worker))
        if len(seen) == 3:
            break
    assert seen == [
        ("j", JobState.READY, None),
        ("j", JobState.CLAIMED, "ann"),
        ("j", JobState.DONE, None),
    ]
    await queue.close()


async def test_all_who_wait_are_woken_by_one_commit(engine: Engine) -> None:
    """Who is woken and takes one of several wakes the next."""
    queue = WorkQueue(await engine.client(), "q")
    putting = WorkQueue(await engine.client(), "q")
    await putting.config()
    async with asyncio.timeout(8):  # by themselves they look again after ten seconds
        waiting = [asyncio.create_task(queue.claim(f"w{n}", wait_s=30)) for n in range(4)]
        await asyncio.sleep(0.2)
        await asyncio.gather(*(putting.put(f"j{n}") for n in range(4)))
        found = await asyncio.gather(*waiting)
    assert sorted(job.id for jobs in found for job in jobs) == ["j0", "j1", "j2", "j3"]


async def test_a_put_while_the_time_is_asked_for_is_heard(
    store: t.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The news come between the look and the wait."""
    queue = WorkQueue(store, "q")
    later = await store.now() + timedelta(hours=1)
    await queue.put("later", not_before=later)
    alarm = queue._bell._set_alarm

    async def slowly(next_us: int) -> None:
        await alarm(next_us)
        if await queue.get("now") is None:
            await queue.put("now")
            await asyncio.sleep(0.5)

    monkeypatch.setattr(queue._bell, "_set_alarm", slowly)
    async with asyncio.timeout(8):
        (job,) = await queue.claim("ann", wait_s=30)
    assert job.id == "now"


async def test_an_error_with_half_a_character_is_kept(store: t.Store) -> None:
    """As in the name of a file that is no text."""
    queue = WorkQueue(store, "q")
    await queue.put("j")
    (job,) = await queue.claim("ann")
    with pytest.raises(FileNotFoundError):
        async with job:
            raise FileNotFoundError("a\udcffb")
    info = await queue.get("j")
    assert info is not None
    assert (info.state, info.error) == (JobState.READY, "FileNotFoundError: a\\udcffb")
    assert (await queue.cancel("j", "\ud800")).error == "\\ud800"
    with pytest.raises(t.InvalidRequestError):
        await queue.resume("\ud800", job.token)
