"""The queue against a model in plain Python: Hypothesis looks for a difference."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.scale import rounds
from tests.transactional.conftest import HandClock
from transactional import (
    ClaimLostError,
    DependencyCycleError,
    Job,
    JobStateError,
    UnknownJobError,
    WorkQueue,
    scan_all,
)
from transactional.queues import queue as queue_module
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import pytest

LANES = {"one": 1, "two": 2}
ATTEMPTS_MAX = 2
IDS = [f"j{n}" for n in range(8)]
LEASE_S = 80_000.0
WORKERS = st.sampled_from(["ann", "bob"])


@dataclass
class Entry:
    """What the model knows of a job."""

    order: tuple[int, int]
    lane: str | None
    after: tuple[str, ...]
    not_before_s: float
    state: str = ""
    missing: list[str] = field(default_factory=list)
    until_s: float = 0.0
    attempts: int = 0
    by: str = ""
    """Which worker has it; empty while claimed: one who is gone."""


class Model:
    """Lists and loops, one job after the other."""

    def __init__(self) -> None:
        self.jobs: dict[str, Entry] = {}
        self.now_s = 0.0
        self.count = 0

    # --- putting

    def put(
        self,
        job: str,
        priority: int,
        lane: str | None,
        after: list[str],
        wait_s: float,
        *,
        expected: bool,
    ) -> str:
        """The name of the error that it must meet, or the state that it gets."""  # fmt: skip
        if job in self.jobs:
            return "repeat"
        if job in after:
            return "DependencyCycleError"
        self.count += 1
        entry = Entry(
            (-priority, self.count), lane, tuple(dict.fromkeys(after)), self.now_s + wait_s
        )
        return self.begin(job, entry, expected=expected)

    def begin(self, job: str, entry: Entry, *, expected: bool) -> str:
        missing: list[str] = []
        for other in entry.after:
            there = self.jobs.get(other)
            if there is None and not expected:
                return "UnknownJobError"
            if there is None or there.state not in {"done", "parked", "cancelled"}:
                missing.append(other)
            elif there.state != "done":
                self.jobs[job] = entry
                self.end(job, "parked")
                return "parked"
        if self.reaches(missing, job):
            return "DependencyCycleError"
        entry.missing = missing
        self.jobs[job] = entry
        self.enter(entry)
        return self.shown(job)

    def reaches(self, ahead: list[str], job: str) -> bool:
        seen: set[str] = set()
        ahead = list(ahead)
        while ahead:
            other = ahead.pop()
            if other == job:
                return True
            if other not in seen and other in self.jobs:
                seen.add(other)
                ahead += self.jobs[other].missing if self.jobs[other].state == "waiting" else []
        return False

    def enter(self, entry: Entry) -> None:
        until_s = max(entry.until_s, entry.not_before_s)
        entry.state = "waiting" if entry.missing or until_s > self.now_s else "ready"
        entry.by = ""

    def wake(self) -> None:
        """The time of some has come; it is seen when somebody claims."""
        for entry in self.jobs.values():
            due = max(entry.until_s, entry.not_before_s) <= self.now_s
            if entry.state == "waiting" and not entry.missing and due:
                entry.state = "ready"

    def shown(self, job: str) -> str:
        return self.jobs[job].state

    # --- claiming

    def claimable(self) -> list[str]:
        """In order: what is ready and has a place in its lane, and what dead workers had."""
        found = [(e.order, j) for j, e in self.jobs.items() if e.state == "claimed" and not e.by]
        for lane in (None, *LANES):
            ready = sorted(
                (e.order, j) for j, e in self.jobs.items() if e.state == "ready" and e.lane == lane
            )
            taken = sum(e.state == "claimed" and e.lane == lane for e in self.jobs.values())
            found += ready if lane is None else ready[: max(0, LANES[lane] - taken)]
        return [job for _, job in sorted(found)]

    def claim(self, worker: str) -> str | None:
        self.wake()
        while found := self.claimable():
            job = found[0]
            entry = self.jobs[job]
            if entry.state == "claimed" and entry.attempts >= ATTEMPTS_MAX:
                self.end(job, "parked")
                continue
            entry.state, entry.by = "claimed", worker
            entry.attempts += 1
            return job
        return None

    def back(self, job: str, in_s: float, *, counted: bool) -> None:
        entry = self.jobs[job]
        if not counted:
            entry.attempts -= 1
        if entry.attempts >= ATTEMPTS_MAX:
            self.end(job, "parked")
        else:
            entry.until_s = self.now_s + in_s if in_s else 0.0
            self.enter(entry)

    # --- ending

    def end(self, job: str, state: str) -> None:
        entry = self.jobs[job]
        entry.state, entry.by, entry.missing = state, "", []
        for other, follower in self.jobs.items():
            if job in follower.missing and follower.state == "waiting":
                if state == "done":
                    follower.missing.remove(job)
                    self.enter(follower)
                else:
                    self.end(other, "parked")


class QueueMachine(RuleBasedStateMachine):
    """Two workers' processes, eight ids, three kinds of lanes."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.hands = HandClock()
        self.store = self.run(self.opened())
        self.model = Model()
        self.queues: dict[str, WorkQueue] = {}
        self.held: dict[str, tuple[Job, str]] = {}
        self.stale: list[Job] = []

    async def opened(self) -> MemoryStore:
        return MemoryStore(clock=self.hands.clock())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.closed())
            self.loop.close()

    async def closed(self) -> None:
        for queue in self.queues.values():
            await queue.close()
        await self.store.close()

    def queue(self, worker: str) -> WorkQueue:
        if worker not in self.queues:
            self.queues[worker] = WorkQueue(self.store, "q", lanes=LANES, attempts_max=ATTEMPTS_MAX)
        return self.queues[worker]

    async def settled(self) -> None:
        layout = self.queue("ann")._layout
        while (await self.store.scan(layout.all_told)).items:  # noqa: ASYNC110 of this process
            await asyncio.sleep(0)

    def outcome(self, work: Coroutine[Any, Any, Any]) -> str:
        try:
            result = self.run(work)
        except (DependencyCycleError, UnknownJobError, JobStateError, ClaimLostError) as error:
            return type(error).__name__
        return result.state.value if hasattr(result, "state") else "ok"

    # --- what happens

    @rule(
        job=st.sampled_from(IDS),
        worker=WORKERS,
        priority=st.integers(0, 2),
        lane=st.sampled_from([None, "one", "two", "one"]),
        after=st.lists(st.sampled_from(IDS), max_size=3),
        wait_s=st.sampled_from([0, 0, 0, 5]),
        expected=st.booleans(),
    )
    def put(self, job, worker, priority, lane, after, wait_s, expected):  # noqa: PLR0917 drawn
        self.put_one(job, worker, priority, lane, after, wait_s, expected=expected)

    @rule(jobs=st.lists(st.sampled_from(IDS), max_size=4), worker=WORKERS, data=st.data())
    def put_some(self, jobs, worker, data):
        """Several of one lane, which is full then."""
        lane = data.draw(st.sampled_from(sorted(LANES)))
        for job in jobs:
            self.put_one(job, worker, data.draw(st.integers(0, 2)), lane, [], 0, expected=False)

    @rule(worker=WORKERS, count=st.integers(1, 3))
    def claim(self, worker, count):
        for _ in range(count):
            self.claim_one(worker)

    def put_one(self, job, worker, priority, lane, after, wait_s, *, expected):  # noqa: PLR0917
        wanted = self.model.put(job, priority, lane, after, wait_s - 0.5, expected=expected)
        if wanted == "repeat":
            return

        async def put():
            not_before = (await self.store.now()) + timedelta(seconds=wait_s - 0.5)
            return await self.queue(worker).put(
                job, priority=priority, lane=lane, after=after,
                not_before=not_before, expected=expected,
            )  # fmt: skip

        assert self.outcome(put()) == wanted

    def claim_one(self, worker):
        wanted = self.model.claim(worker)
        jobs = self.run(self.queue(worker).claim(worker, lease_s=LEASE_S))
        assert [job.id for job in jobs] == ([wanted] if wanted else [])
        for job in jobs:
            assert job.attempt == self.model.jobs[job.id].attempts
            self.held[job.id] = (job, worker)

    def one_of(self, number: int) -> tuple[Job, str] | None:
        held = sorted(self.held)
        return self.held.pop(held[number % len(held)]) if held else None

    @rule(number=st.integers(0, 7), how=st.sampled_from(["done", "done", "fail", "release"]))
    def end(self, number, how):
        if found := self.one_of(number):
            job, _ = found
            if how == "release":
                self.model.back(job.id, 0, counted=False)
            else:
                self.model.end(job.id, "done" if how == "done" else "parked")
            acts = {"done": job.done, "release": job.release, "fail": lambda: job.fail("no")}
            assert self.outcome(acts[how]()) == "ok"
            self.stale.append(job)

    @rule(number=st.integers(0, 7), in_s=st.sampled_from([0, 4.5]))
    def retry(self, number, in_s):
        if found := self.one_of(number):
            job, _ = found
            self.model.back(job.id, in_s, counted=True)
            assert self.outcome(job.retry("again", in_s=in_s)) == "ok"

    @rule()
    def late(self):
        """Whoever lost a job acts on it all the same."""
        for job in self.stale:
            if not job.over_by:
                assert self.outcome(job.done()) == "ClaimLostError"
        self.stale.clear()

    @rule(worker=st.sampled_from(["ann", "bob"]))
    def die(self, worker):
        """Its lease ends; it is another process afterwards."""
        if queue := self.queues.pop(worker, None):
            self.run(queue.close())
        for job, (claim, who) in list(self.held.items()):
            if who == worker:
                self.stale.append(claim)
                del self.held[job]
        for entry in self.model.jobs.values():
            if entry.by == worker:
                entry.by = ""

    @rule(job=st.sampled_from(IDS))
    def cancel(self, job):
        entry = self.model.jobs.get(job)
        if entry is None:
            wanted = "UnknownJobError"
        elif entry.state == "done":
            wanted = "JobStateError"
        else:
            wanted = "cancelled"
            if entry.state != "cancelled":
                self.model.end(job, "cancelled")
            if found := self.held.pop(job, None):
                self.stale.append(found[0])
        assert self.outcome(self.queue("ann").cancel(job)) == wanted

    @rule(job=st.sampled_from(IDS))
    def requeue(self, job):
        entry = self.model.jobs.get(job)
        wanted = "UnknownJobError" if entry is None else "JobStateError"
        if entry is not None and entry.state in {"parked", "cancelled"}:
            before = entry.state
            there = [self.model.jobs.get(other) for other in entry.after]
            if all(e is None or e.state not in {"parked", "cancelled"} for e in there):
                entry.attempts, entry.until_s = 0, 0.0
                wanted = self.model.begin(job, entry, expected=True)
                if wanted == "DependencyCycleError":
                    entry.state = before
        assert self.outcome(self.queue("bob").requeue(job)) == wanted

    @rule(job=st.sampled_from(IDS))
    def skip(self, job):
        entry = self.model.jobs.get(job)
        wanted = "UnknownJobError" if entry is None else "JobStateError"
        if entry is not None and entry.state == "parked":
            self.model.end(job, "done")
            wanted = "done"
        assert self.outcome(self.queue("ann").skip(job)) == wanted

    @rule(seconds=st.sampled_from([1, 4]))
    def tick(self, seconds):
        self.hands.forward(seconds)
        self.model.now_s += seconds

    @invariant()
    def all_stand_where_the_model_says(self):
        if not hasattr(self, "model"):
            return
        self.run(self.settled())
        for job, entry in self.model.jobs.items():
            info = self.run(self.queue("ann").get(job))
            assert info is not None
            assert (info.state.value, set(info.missing)) == (entry.state, set(entry.missing)), job

    @invariant()
    def a_lane_s_places_are_those_of_its_jobs(self):
        if not hasattr(self, "model"):
            return
        self.run(self.settled())
        places = self.run(scan_all(self.store, "queue/q/lane/")).items
        used = {e.lane for e in self.model.jobs.values() if e.state in {"ready", "claimed"}}
        assert {key.rpartition("/")[2] for key in places} == used - {None}


def test_the_queue_against_plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer, and where each job stands after each step, is what lists and loops say.

    With dependencies in any order, lanes, pauses, dead workers, late acts and people's verbs.
    """
    monkeypatch.setattr(queue_module, "ORPHANS_EVERY_S", -1.0)
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=rounds(2000, 100),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
