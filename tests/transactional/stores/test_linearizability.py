"""The checkers catch what is wrong, and the engines give them nothing to catch."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.scale import rounds, seeds
from tests.transactional.linearizability import (
    LockModel,
    Operation,
    Recorder,
    RegisterModel,
    linearizable,
    list_append_anomaly,
    log_anomaly,
)
from tests.transactional.trouble import BadLine
from tests.transactional.workloads import WORKLOADS, anomaly, drained, log_client, run
from transactional.clock import BusinessClock
from transactional.events.append import Appender
from transactional.queues.draft import Draft
from transactional.queues.job import Record, decode_record
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.transactional.engines import Engine


# --- the checkers --------------------------------------------------------------------------------


def op(  # noqa: PLR0917 one line per operation in the tables below
    f: str, span: tuple[int, int], value=None, result=None, revision=None, kind="ok"
) -> Operation:
    return Operation(f, "k", value, kind, result, revision, *span)


FOREVER = 1 << 60


@pytest.mark.parametrize(
    ("history", "good"),
    [
        ([op("write", (0, 1), "a", None, 1), op("read", (2, 3), result=("a", 1))], True),
        ([op("write", (0, 1), "a", None, 1), op("read", (2, 3), result=None)], False),
        ([op("write", (0, 3), "a", None, 1), op("read", (1, 2), result=None)], True),
        ([op("write", (0, 1), "a", None, 1), op("cas", (2, 3), (0, "b"), None, 2)], False),
        ([op("write", (0, 1), "a", None, 1), op("cas", (2, 3), (1, "b"), "conflict", kind="fail")],
         False),
        ([op("write", (0, 1), "a", None, 5), op("write", (2, 3), "b", None, 4)], False),
        ([op("write", (0, FOREVER), "a", kind="info"), op("read", (9, 10), result=None)], True),
        ([op("write", (0, FOREVER), "a", kind="info"), op("read", (9, 10), result=("a", 3)),
          op("read", (11, 12), result=None)], False),
        ([op("write", (0, 1), "a", None, 1), op("read", (2, 9), result=("b", 2)),
          op("write", (3, 4), "b", None, 2), op("read", (5, 6), result=("a", 1))], False),
    ],
)  # fmt: skip
def test_the_register_checker_knows_right_from_wrong(history: list[Operation], good: bool) -> None:
    """Reads of nil, unknown outcomes, stale reads and revisions that go back are judged."""
    assert linearizable(sorted(history, key=lambda o: o.start), RegisterModel()) is good


def test_the_lock_checker_refuses_a_write_behind_a_later_grant() -> None:
    """A guarded write accepted after another one acquired is wrong; refused, it is fine."""
    start = [op("acquire", (0, 1), revision=5), op("acquire", (2, 3), revision=7)]
    late = op("guarded", (4, 5), 5)
    assert not linearizable([*start, late], LockModel(expires=True))
    refused = op("guarded", (4, 5), 5, kind="fail")
    assert linearizable([*start, refused], LockModel(expires=True))


def txn(span: tuple[int, int], *steps: tuple[str, str, object], kind: str = "ok") -> Operation:
    return Operation("txn", "", list(steps), kind, list(steps), None, *span)


@pytest.mark.parametrize(
    ("history", "wrong"),
    [
        ([txn((0, 1), ("append", "x", 1)), txn((2, 3), ("r", "x", [1]))], None),
        ([txn((0, 1), ("append", "x", 1)), txn((2, 3), ("r", "x", [])),
          txn((4, 5), ("r", "x", [1]))], "cycle"),
        ([txn((0, 5), ("r", "x", []), ("append", "y", 1)), txn((0, 5), ("r", "y", []),
          ("append", "x", 1)), txn((6, 7), ("r", "x", [1]), ("r", "y", [1]))], "cycle"),
        ([txn((0, 1), ("append", "x", 1)), txn((2, 3), ("append", "x", 2)),
          txn((4, 5), ("r", "x", [2]))], "lost append"),
        ([txn((0, 1), ("append", "x", 1)), txn((2, 3), ("r", "x", [1, 1]))], "duplicate"),
        ([txn((0, 1), ("append", "x", 1), kind="fail"), txn((2, 3), ("r", "x", [1]))], "aborted"),
        ([txn((0, 1), ("r", "x", [1, 2])), txn((0, 1), ("r", "x", [2, 1]))], "incompatible"),
    ],
)  # fmt: skip
def test_the_list_append_checker_names_the_anomaly(
    history: list[Operation], wrong: str | None
) -> None:
    """Stale reads, write skew, lost, doubled and aborted writes each have their name."""
    found = list_append_anomaly(history)
    assert found is None if wrong is None else (found or "").startswith(wrong)


# --- stores with a fault planted in them ---------------------------------------------------------


class StaleRead(MemoryStore):
    """Now and then get answers from before the last write."""

    def __init__(self) -> None:
        super().__init__()
        self.older: dict[str, t.KeyValue | None] = {}
        self.dice = random.Random(1)

    async def get(self, key: str) -> t.KeyValue | None:
        if key in self.older and self.dice.random() < 0.2:
            return self.older[key]
        return await super().get(key)

    async def commit(self, compares, writes, otherwise=(), *, op_id=None) -> t.Commit:
        for write in writes:
            if isinstance(write, t.Put):
                self.older[write.key] = self._keys.get(write.key)
        return await super().commit(compares, writes, otherwise, op_id=op_id)


class BlindRetry(MemoryStore):
    """A client that repeats a write whose answer was late, under a new op_id."""

    async def commit(self, compares, writes, otherwise=(), *, op_id=None) -> t.Commit:
        commit = await super().commit(compares, writes, otherwise, op_id=op_id)
        if not compares:
            loop = asyncio.get_running_loop()
            again = super().commit
            loop.call_later(0.001, lambda: asyncio.ensure_future(again((), writes)))
        return commit


class RevisionPerKey(MemoryStore):
    """Counts revisions per key, so a recreated key begins anew."""

    def _write(self, writes, *, succeeded: bool, by: str) -> t.Commit:
        commit = super()._write(writes, succeeded=succeeded, by=by)
        revision = 0
        for write in writes:
            found = self._keys.get(write.key)
            if isinstance(write, t.Put) and found is not None:
                local = self.counts.get(write.key, 0) + 1
                self.counts[write.key] = revision = local
                self._keys[write.key] = t.KeyValue(write.key, write.value, local, local)
            else:
                revision = self.counts.pop(write.key, 0) + 1
        return t.Commit(revision, commit.succeeded, commit.time)

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}


class NoPrefixCompare(MemoryStore):
    """Forgets to look for phantoms."""

    def changed(self, prefix: str, since: int) -> bool:
        return False


class EarlyAcknowledge(MemoryStore):
    """Answers before the write is done."""

    def _write(self, writes, *, succeeded: bool, by: str) -> t.Commit:
        real = super()._write
        late = partial(real, writes, succeeded=succeeded, by=by)
        asyncio.get_running_loop().call_later(0.001, late)
        time = t.Commit(0, True, self._now()).time
        self.promised = max(self.promised, self._revision) + 1
        return t.Commit(self.promised, succeeded, time)

    def _now(self):
        from transactional.clock import utc

        return utc(self._time.next_us(self._clock.wall_us(), self._clock.elapsed_s()))

    promised = 0


class ReleaseWithoutToken(MemoryStore):
    """A release takes away whatever entry is first, its own or not.

    A little later, in turns of the loop: each store made waits for another number of them, so that
    some meet the next holder at work, however fast the machine is.
    """

    made = 0

    def __init__(self) -> None:
        super().__init__()
        ReleaseWithoutToken.made += 1
        self.turns = ReleaseWithoutToken.made % 20

    async def revoke(self, lease_id: str) -> None:
        await super().revoke(lease_id)
        first = min(
            (item for key, item in self._keys.items() if key.startswith("lock/")),
            key=lambda item: item.created_revision,
            default=None,
        )
        if first is not None and first.lease is not None:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            await super().revoke(first.lease)


FAULTS = [
    (StaleRead, "register"),
    (BlindRetry, "register"),
    (RevisionPerKey, "register"),
    (NoPrefixCompare, "append"),
    (EarlyAcknowledge, "register"),
    (ReleaseWithoutToken, "lock"),
]


class Halting:
    """Gives up the loop before and after each call, so that clients interleave."""

    def __init__(self, store: t.Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        found = getattr(self._store, name)
        if name in {"watch", "elapsed_s", "mint_op_id", "epoch", "capabilities"}:
            return found

        async def call(*arguments: object, **options: object) -> object:
            await asyncio.sleep(0)
            result = await found(*arguments, **options)
            await asyncio.sleep(0)
            return result

        return call


@pytest.mark.parametrize(("faulty", "workload"), FAULTS, ids=lambda x: getattr(x, "__name__", x))
async def test_each_planted_fault_is_caught(faulty: type[MemoryStore], workload: str) -> None:
    """Six stores, each wrong in one way: within a hundred seeds the checker says so."""
    for seed in range(100):
        store = faulty()
        log = await run(workload, [Halting(store)], seed)
        await store.close()
        if anomaly(workload, log.events, expires=False) is not None:
            return
    pytest.fail(f"{faulty.__name__} was not caught")


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_the_store_without_fault_passes(workload: str) -> None:
    """The same runs on the sound store are accepted: what was caught was the fault."""
    for seed in range(10):
        store = MemoryStore()
        log = await run(workload, [Halting(store)], seed)
        await store.close()
        assert anomaly(workload, log.events, expires=False) is None, f"CONVOCA_SEED={seed}"


# --- event logs with a fault planted in them -----------------------------------------------------


class StaleEnd(Appender):
    """Catches up with the head, keeps the ends that it knew, and does not look what lies there."""

    async def _ends_at(self, head, known):
        return dict(known.ends)

    def _decision(self, group, revision, at):
        made = super()._decision(group, revision, at)
        kept = [c for c in made.compares if not isinstance(c, t.Absent) or "/op/" in c.key]
        return replace(made, compares=kept)


class StaleRefusal(Appender):
    """Refuses by what it remembers."""

    async def _commit(self, group):
        if self._known is not None:
            judged = (await self._judge(group.waiting, self._known, {})).result
            if not judged.accepted:
                return judged
        return await super()._commit(group)


class LostBatch(Appender):
    """Acknowledges all batches of a commit and leaves the last one out."""

    def _decision(self, group, revision, at):
        last = group.batches[-1]
        if len(group.batches) > 1:
            group.batches.pop()
        made = super()._decision(group, revision, at)
        group.batches.append(last)
        return made


def opened(kind: type[Appender]) -> Callable[[t.Store], t.EventLog]:
    def open_(store: t.Store) -> t.EventLog:
        log = t.EventLog(store)
        log._appender = kind(store, log.layout, BusinessClock(store))
        return log

    return open_


@pytest.mark.parametrize("faulty", [StaleEnd, StaleRefusal, LostBatch])
async def test_each_planted_fault_of_a_log_is_caught(faulty: type[Appender]) -> None:
    """Three appenders, each wrong in one way: within a hundred seeds the checker says so."""
    for seed in range(100):
        store = MemoryStore()
        log = await run(
            "log", [Halting(store)], seed, client=partial(log_client, opened=opened(faulty))
        )
        await store.close()
        if anomaly("log", log.events) is not None:
            return
    pytest.fail(f"{faulty.__name__} was not caught")


def log_op(f: str, span: tuple[int, int], value, result=None, kind="ok") -> Operation:
    return Operation(f, "", value, kind, result, None, *span)


def appended(
    span: tuple[int, int], data: list[str], first: int, kind="ok", **expected
) -> Operation:
    last = first + len(data) - 1
    result = {"first": first, "last": last, "versions": {"s": last}}
    return log_op("append", span, {"parts": {"s": data}, "expected": expected}, result, kind)


def whole(*data: str) -> Operation:
    events = [(n, "s", n, each) for n, each in enumerate(data, start=1)]
    return log_op("read_all", (98, 99), 0, events)


@pytest.mark.parametrize(
    ("history", "wrong"),
    [
        ([appended((0, 1), ["a", "b"], 1), whole("a", "b")], None),
        ([appended((0, 1), ["a", "b"], 1), whole("a")], "pieces"),
        ([appended((0, 1), ["a"], 1), appended((2, 3), ["b"], 1), whole("b")], "lost"),
        ([appended((0, 1), ["a"], 1), appended((2, 3), ["b"], 1), whole("a", "b")], "said to be"),
        ([appended((2, 3), ["a"], 1), appended((0, 1), ["b"], 2), whole("a", "b")],
         "before it began"),
        ([appended((0, 3), ["a"], 1), appended((1, 2), ["b"], 2), whole("a", "b")], None),
        ([appended((0, 1), ["a"], 1, s=1), whole("a")], "another version was expected"),
        ([appended((0, 1), ["a"], 1, "fail"), whole("a")], "failed for certain"),
        ([appended((0, FOREVER), ["a"], 1, "info"), whole("a")], None),
        ([appended((0, FOREVER), ["a"], 1, "info"), whole()], None),
        ([appended((0, 1), ["a"], 1), log_op("read", (2, 3), ("s", 0), []), whole("a")],
         "did not see"),
        ([appended((0, 2), ["a"], 1), log_op("read", (1, 3), ("s", 0), []), whole("a")], None),
        ([appended((0, 9), ["a", "b"], 1), log_op("read", (1, 3), ("s", 0), [(1, "a")]),
          whole("a", "b")], "saw a part"),
        ([appended((0, 1), ["a"], 1), log_op("read", (2, 3), ("s", 0), [(1, "b")]), whole("a")],
         "saw [(1"),
        ([appended((0, 1), ["a"], 1), log_op("append", (2, 3), {"parts": {"s": ["b"]},
          "expected": {"s": 1}}, {"refused": ["s", 0]}), whole("a")], "did not see"),
        ([appended((0, 1), ["a"], 1), log_op("append", (2, 3), {"parts": {"s": ["b"]},
          "expected": {"s": 1}}, {"refused": ["s", 1]}), whole("a")], "that it expected"),
        ([appended((0, 1), ["a"], 1), log_op("tail", (2, 3), 0, []), whole("a")], None),
        ([appended((2, 3), ["a"], 1), log_op("tail", (0, 1), 0, [(1, "s", 1, "a")]), whole("a")],
         "before it began"),
    ],
)  # fmt: skip
def test_the_log_checker_knows_right_from_wrong(
    history: list[Operation], wrong: str | None
) -> None:
    """Lost, torn, doubled, overwritten and reordered appends; stale reads and refusals."""
    found = log_anomaly(history)
    assert found is None if wrong is None else wrong in (found or "")


class NoLookAtTheClaim(Draft):
    """Ends a job for whoever says that it is his."""

    async def held(self, job, session, token, worker, known=None):
        key = self._layout.claimed(job)
        await self.load([key])
        if self._seen[key] is None:
            return Record(attempts=1, history=[])
        self._rely(key)
        return decode_record(self._seen[key].value)


class NoCompareOfPlaces(Draft):
    """Moves a job without a look whether it is still where it was."""

    def compares(self):
        places = (self._layout.all_ready, self._layout.all_claimed)
        return [c for c in super().compares() if not getattr(c, "key", "").startswith(places)]


class ForgetsTheNextJob(Draft):
    """Says that there is nothing, now and then."""

    async def claim(self, count, worker, session, *, look):
        found = await super().claim(count, worker, session, look=look)
        if found.jobs and int(found.jobs[0].content.order[-6:-4], 10) % 7 == 0:
            self.back_to((0, 0, {}, 0))
            return replace(found, jobs=(), more=False)
        return found


@pytest.mark.parametrize("faulty", [NoLookAtTheClaim, NoCompareOfPlaces, ForgetsTheNextJob])
async def test_each_planted_fault_of_a_queue_is_caught(
    faulty: type[Draft], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three drafts, each wrong in one way: within a hundred seeds the checker says so."""
    monkeypatch.setattr("transactional.queues.queue.Draft", faulty)
    for seed in range(100):
        store = MemoryStore()
        log = await run("queue", [Halting(store)], seed)
        await store.close()
        if anomaly("queue", log.events) is not None:
            return
    pytest.fail(f"{faulty.__name__} was not caught")


async def test_the_last_look_at_a_queue_is_of_one_moment(store: t.Store) -> None:
    """A job goes back between the look at the ready ones and that at the claimed ones: it is seen.

    So a history on three members was once held against the queue: its last client had ended with
    a job under a lease that was given up, and the job went back while the look was taken.
    """
    queue = t.WorkQueue(store, "q")
    await queue.put("j")
    (job,) = await queue.claim("ann")
    real = store.scan

    async def scan(prefix: str, **named: object) -> t.Snapshot:
        found = await real(prefix, **named)
        if prefix == "queue/q/index/ready/" and not job.over_by:
            store.scan = real  # type: ignore[method-assign]
            await job.release()
        return found

    store.scan = scan  # type: ignore[method-assign]
    assert await drained(store, "q") == (["j"], None)
    assert job.over_by == "release"
    await queue.close()


# --- the engines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_every_engine_is_linearizable(engine: Engine, workload: str, tmp_path: Path) -> None:
    """Five clients without faults, on every engine: every history has an order."""
    stores = [await engine.client() for _ in range(2)]
    for seed in seeds(rounds(20, 2)):
        log = await run(workload, stores, seed)
        log.save(tmp_path / f"{workload}-{seed}.jsonl")
        # Keys live on in the next run: start it from nothing.
        begun = ("r/", "l0/", "l1/", "l2/", "log/", "reservation/", "queue/")
        await stores[0].commit([], [t.DeletePrefix(prefix) for prefix in begun])
        assert anomaly(workload, log.events) is None, f"CONVOCA_SEED={seed}"


@pytest.mark.parametrize("seed", seeds(rounds(200, 10)))
@pytest.mark.parametrize("workload", ["register", "append", "log", "reservation", "queue"])
async def test_eight_clients_behind_bad_lines(workload: str, seed: int) -> None:
    """Each call may be cut off before it is sent or before its answer is there: an order exists."""
    store, dice = MemoryStore(), random.Random(seed)
    lines = [BadLine(store, dice, odds=0.1) for _ in range(8)]
    log = await run(workload, lines, seed, steps=12, settle=partial(mend, lines))
    await store.close()
    assert anomaly(workload, log.events) is None, f"CONVOCA_SEED={seed}"


async def mend(lines: list[BadLine]) -> None:
    for line in lines:
        line.odds = 0.0


def test_a_history_is_saved_as_json_lines(tmp_path: Path) -> None:
    """One event per line, with index, process, type, f and key."""
    log = Recorder()
    log.add(log.process(), "invoke", "read", "a")
    log.save(tmp_path / "h.jsonl")
    assert (tmp_path / "h.jsonl").read_text() == (
        '{"index": 0, "process": 1, "type": "invoke", "f": "read", "key": "a"}\n'
    )
