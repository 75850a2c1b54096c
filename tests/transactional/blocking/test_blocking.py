"""The synchronous twin of the store and its recipes: all of them, from threads."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import transactional
from transactional import (
    NO_STREAM,
    BlockingDelivery,
    BlockingStore,
    BookingConflict,
    ConflictError,
    DeadlockError,
    EventLog,
    Interval,
    Lock,
    LockBusyError,
    LockLostError,
    NewEvent,
    Put,
    ReentrantCallError,
    Register,
    Reservations,
    Revision,
    Saga,
    Sagas,
    SagaState,
    Step,
    StepRefused,
    StoreClosedError,
    UnknownSchemeError,
    WorkQueue,
    open_sync,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["memory:", "sqlite:"])
def store(request, tmp_path):
    url = request.param if request.param == "memory:" else f"sqlite:{tmp_path / 'store.db'}"
    with open_sync(url) as store:
        yield store


def in_a_thread(action):
    """Start it in a thread of its own; a future of what it returns or raises."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(action)
    pool.shutdown(wait=False)
    return future


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    command = [sys.executable, "-X", "dev", "-c", program, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )


# --- the same ------------------------------------------------------------------------------------


def shape(method: object, skip: int = 0) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults of a method's parameters; not how it is waited for."""
    parameters = list(inspect.signature(method).parameters.values())[skip:]
    return [
        (p.name, p.kind, "a function" if inspect.isfunction(p.default) else p.default)
        for p in parameters
    ]


@pytest.mark.parametrize(
    ("original", "maker", "skip"),
    [
        (Register, BlockingStore.register, 0),
        (Lock, BlockingStore.lock, 0),
        (EventLog, BlockingStore.event_log, 0),
        (Sagas, BlockingStore.sagas, 0),
        (Reservations, BlockingStore.reservations, 0),
        (WorkQueue, BlockingStore.queue, 0),
        (transactional.compare_and_swap, BlockingStore.compare_and_swap, 1),
        (transactional.create, BlockingStore.create, 1),
        (transactional.scan_all, BlockingStore.scan_all, 1),
        (transactional.update, BlockingStore.update, 1),
        (transactional.transact, BlockingStore.transact, 1),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_store_makes_each_recipe_with_the_arguments_of_the_original(original, maker, skip):
    """All but the store, which it is."""
    made = original.__init__ if inspect.isclass(original) else original
    assert shape(made, 2 if inspect.isclass(original) else skip) == shape(maker, 1)


# --- the store -----------------------------------------------------------------------------------


def test_a_store_does_the_same_without_await(store):
    """Reads, commits, leases, watches, and what functions on a store do."""
    commit = store.compare_and_swap("a", b"1", expected=0)
    with pytest.raises(ConflictError):
        store.create("a", b"2")
    store.commit([Revision("a", commit.revision)], [Put("b", b"2")], op_id="once")
    assert store.get("a").value == b"1"
    assert store.get("none") is None
    assert list(store.scan_all("").items) == ["a", "b"]
    assert store.resolve("once").commit.revision == store.get("b").revision
    lease = store.lease(30.0)
    store.commit([], [Put("c", b"3", lease.id)])
    store.renew(lease.id)
    store.revoke(lease.id)
    assert store.get("c") is None
    assert store.update("a", lambda old: old + b"+").value == b"1+"
    assert store.now().tzinfo is not None
    assert store.mint_op_id() != store.mint_op_id()
    assert store.elapsed_s() > 0
    assert store.capabilities.max_operations > 0
    assert store.epoch
    with store.watch("", after=0) as events:
        assert next(events).revision <= next(events).revision
    assert list(events) == []


def test_a_transaction_reads_what_it_wrote_and_is_alone(store):
    """Eight threads add one each, by reading and writing; its function may use the store."""

    def add(transaction):
        assert store.get("none") is None
        old = int(transaction.get("n") or b"0")
        transaction.put("n", str(old + 1).encode())
        assert transaction.get("n") == str(old + 1).encode()
        transaction.delete("gone")
        return old

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: store.transact(add)[0], range(8)))
    assert sorted(seen) == list(range(8))
    assert store.scan_all("").items["n"].value == b"8"


def test_a_watch_that_is_waited_for_in_vain_loses_nothing(store):
    """An asynchronous generator would end by a time-out; this one goes on."""
    with store.watch("k") as events:
        for number in range(3):
            with pytest.raises(TimeoutError):
                events.take(timeout_s=0.01)
            store.commit([], [Put(f"k{number}", b"")])
            assert [change.key for change in events.take(timeout_s=10).changes] == [f"k{number}"]


def test_a_call_out_of_the_stores_own_thread_is_refused(store):
    """A function of `update` that asks the store would wait for itself; nothing was written."""
    with pytest.raises(ReentrantCallError):
        store.update("a", lambda _: store.get("b"))
    with pytest.raises(ReentrantCallError):
        store.register("r", by="ann").update(lambda _: store.get("b"))
    assert store.get("a") is store.get("r") is None


def test_a_url_that_names_no_store_leaves_no_thread():
    """What `connect` refuses is refused; secrets of a URL appear in no message."""
    before = threading.active_count()
    with pytest.raises(UnknownSchemeError):
        open_sync("nonsense:")
    with pytest.raises(transactional.UnavailableError) as refused:
        open_sync("http://127.0.0.1:9/?token=secret")
    assert "secret" not in str(refused.value)
    assert threading.active_count() == before


# --- recipes -------------------------------------------------------------------------------------


def test_a_register_is_set_by_who_knows_what_it_replaces(store):
    """Compare and swap on the revision, and the loop around it, from many threads."""
    register = store.register("r", by="ann")
    first = register.set(1, expected=0)
    with pytest.raises(ConflictError):
        register.set(2, expected=0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: register.update(lambda value: value + 1), range(8)))
    assert (register.get().value, register.get().modified_by) == (9, "ann")
    assert register.get().revision > first.revision


def test_a_lock_is_held_by_one_thread_at_a_time(store):
    """Never two inside; a fence holds as long as the lock does; busy names the holder."""
    inside, most = [], []

    def work(name):
        with store.lock("door", owner=name).held(wait_s=20) as grant:
            inside.append(name)
            most.append(len(inside))
            store.commit([*grant.fence], [Put(f"by/{name}", b"")])
            inside.remove(name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcdef"))
    assert most == [1] * 6
    grant = store.lock("door", owner="ann").acquire()
    assert (grant.names, bool(grant.id), grant.token > 0) == (("door",), True, True)
    assert not grant.lost.is_set()
    assert not grant.lost.wait(timeout_s=0.01)
    with pytest.raises(LockBusyError) as busy:
        store.lock("door", owner="bob").acquire(wait_s=0)
    assert busy.value.holder == "ann"
    grant.release()
    grant.release()
    with pytest.raises(ConflictError):
        store.commit([*grant.fence], [Put("late", b"")])


def test_threads_that_wait_for_each_other_are_told(store):
    """What is one task to the original is one thread here: a circle is found between threads."""
    first = store.lock("a", owner="ann").acquire()
    both = threading.Barrier(2)

    def other():
        with store.lock("b", owner="bob").held():
            both.wait(10)
            with store.lock("a", owner="bob").held(wait_s=20):
                return "through"

    waiting = in_a_thread(other)
    both.wait(10)
    while not any(b"bob" in item.value for item in store.scan_all("lock/a").items.values()):
        pass
    with pytest.raises(DeadlockError):
        store.lock("b", owner="ann").acquire(wait_s=20)
    first.release()
    assert waiting.result(20) == "through"


def test_a_lock_that_was_lost_says_so_at_the_end_of_its_block(store):
    """Its lease was ended by somebody else; who waits for that is woken."""
    lock = store.lock("door", owner="ann", ttl_s=1.0)
    grants = []

    def hold():
        with lock.held() as grant:
            grants.append(grant)
            for item in store.scan_all("lock/door").items.values():
                store.revoke(item.lease)
            assert grant.lost.wait(timeout_s=20)

    with pytest.raises(LockLostError):
        hold()


def test_an_event_log_is_appended_read_and_delivered(store):
    """Streams, state, the hash chain, a consumer group; a follower waits for so long."""
    log = store.event_log()
    log.append("order", [NewEvent("Placed", {"n": 1})], expected=NO_STREAM)
    log.append_many({"order": [NewEvent("Paid", {})], "other": [NewEvent("Seen", {})]})
    assert [event.type for event in log.read("order")] == ["Placed", "Paid"]
    assert [event.position for event in log.read_all(after=1)] == [2, 3]
    assert (log.version("order"), log.head().position, log.verify()) == (2, 3, ())
    follower = log.follow(after=3)
    with pytest.raises(TimeoutError):
        follower.take(timeout_s=0.01)
    log.append("order", [NewEvent("Sent", {})])
    assert next(follower).type == "Sent"
    follower.close()
    deliveries = log.subscribe("mailer", events_max=3)
    delivery = next(deliveries)
    assert isinstance(delivery, BlockingDelivery)
    assert [event.type for event in delivery.events] == ["Placed", "Paid", "Seen"]
    assert delivery.commit(writes=[Put("mailed", b"3")])
    assert delivery.committed
    assert next(deliveries).position == 4
    deliveries.close()
    assert log.erase("order", versions=[1]) == 1
    assert log.position_at(datetime.now(UTC) - timedelta(days=1)) == 0


def test_steps_of_a_saga_run_in_threads_and_may_use_the_store(store):
    """A plain function blocks nobody but itself; a coroutine function runs in the loop."""
    threads = set()
    both = threading.Barrier(2, timeout=20)

    def reserve(step):
        threads.add(threading.current_thread())
        both.wait()  # two runs are inside at once: neither holds up the loop
        store.commit([step.fence], [Put(f"reserved/{step.saga_id}", b"")])
        return step.input

    def undo(step):
        store.update(f"undone/{step.saga_id}", lambda _: str(step.result).encode())

    async def pay(step):
        threads.add(threading.current_thread())
        if step.input == 2:
            raise StepRefused("no money")
        return "paid"

    order = Saga("order", (Step("reserve", reserve, undo), Step("pay", pay)))
    with store.sagas([order], worker="w") as sagas:
        runs = [in_a_thread(lambda n=n: sagas.execute("order", f"o{n}", n)) for n in (1, 2)]
        done, undone = (run.result(30) for run in runs)
        assert (done.state, done.results) == (SagaState.COMPLETED, {"reserve": 1, "pay": "paid"})
        assert undone.state is SagaState.COMPENSATED
        assert store.get("undone/o2").value == b"2"
        assert [run.id for run in sagas.finished()] == ["o1", "o2"]
        assert list(sagas.unfinished()) == []
        assert sagas.get("o1").state is SagaState.COMPLETED
        assert not sagas.signal("o1", "late")
        assert sagas.name.startswith("w~")
    assert len(threads) == 3
    client = store.sagas([order])
    assert client.wait("o1").state is SagaState.COMPLETED


def test_a_room_is_booked_once_by_many_threads(store):
    """Eight threads, one slot: one booking, and the others are told who has it."""
    rooms = store.reservations()
    start = datetime(2030, 1, 1, 9, tzinfo=UTC)
    slot = Interval(start, start + timedelta(hours=1))

    def book(number):
        try:
            return rooms.book("turing", slot, holder=f"agent {number}")
        except BookingConflict as conflict:
            return conflict

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(book, range(8)))
    (made,) = [each for each in answers if not isinstance(each, BookingConflict)]
    assert rooms.agenda("turing") == (made,)
    hold = rooms.hold("hopper", slot, holder="ann", ttl_s=60)
    assert rooms.confirm(hold).holder == "ann"
    assert rooms.cancel(made)
    assert rooms.free("turing", slot, timedelta(hours=1)) == (slot,)


# --- the end -------------------------------------------------------------------------------------


def test_threads_share_a_work_queue(store):
    """Each job to one of them; a body that raises, a lost claim, a thread that waits."""
    queue = store.queue("tickets", lanes={"one": 1}, attempts_max=9)
    for n in range(12):
        queue.put(f"j{n}", n, lane="one" if n % 3 else None)
    done: list[str] = []

    def work(name):
        with queue.claims(name) as claims:
            while True:
                try:
                    job = claims.take(timeout_s=1)
                except TimeoutError:
                    return
                with job:
                    assert not job.lost.is_set()
                    job.checkpoint(1)
                    job.done(writes=[Put(f"effect/{job.id}", name.encode())], compares=job.fence)
                    done.append(job.id)

    for future in [in_a_thread(lambda n=n: work(f"w{n}")) for n in range(3)]:
        future.result(60)
    assert sorted(done) == sorted(f"j{n}" for n in range(12))
    waiting = in_a_thread(lambda: queue.claim("late", wait_s=30))
    queue.put("last")
    (job,) = waiting.result(30)
    with pytest.raises(ZeroDivisionError), job:
        1 / 0  # noqa: B018 the body raises
    assert job.over_by == "retry"
    queue.cancel("last")
    assert [info.id for info in queue.jobs("cancelled")] == ["last"]
    queue.close()


def test_a_close_frees_every_thread_that_waits(store):
    """Watches, locks, followers, sagas; afterwards every call is refused, and a second is none."""
    held = store.lock("door", owner="ann").acquire()
    log, client = store.event_log(), store.sagas([Saga("s", (Step("one", lambda _: None),))])
    client.start("s", "r")
    waits = [
        in_a_thread(lambda: store.lock("door", owner="bob").acquire(wait_s=60)),
        in_a_thread(lambda: client.wait("r")),
        in_a_thread(held.lost.wait),
    ]
    reads = [in_a_thread(lambda: list(store.watch(""))), in_a_thread(lambda: list(log.follow()))]
    while not any(b"bob" in item.value for item in store.scan_all("lock/").items.values()):
        pass
    for close in [in_a_thread(store.close) for _ in range(2)]:
        close.result(30)
    for wait in waits:
        with pytest.raises(transactional.TransactionalError):
            wait.result(10)
    for read in reads:
        assert read.exception(10) is None or isinstance(read.exception(), StoreClosedError)
    for call in (lambda: store.get("a"), log.head, held.release, lambda: store.epoch):
        with pytest.raises(StoreClosedError):
            call()


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_is_told_at_once_and_ends(tmp_path):
    """Every call, the end of a `with` block included; the parent's store goes on."""
    program = """
import os, sys
from transactional import ForkedError, open_sync
with open_sync(sys.argv[1]) as store:
    lock, events = store.lock("a", owner="ann"), store.watch("")
    child = os.fork()
    if not child:
        for call in (lambda: store.get("a"), lock.acquire, events.take, store.close):
            try:
                call()
            except ForkedError as error:
                assert error.hint
            else:
                os._exit(9)
        with open_sync("memory:") as own:
            own.create("a", b"")
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    store.create("a", b"parent")
print("parent went on")
"""
    url = f"sqlite:{tmp_path / 'store.db'}"
    done = run(program, url)
    assert done.stdout.strip() == "parent went on", done.stderr
    with open_sync(url) as store:
        assert store.get("a").value == b"parent"


@pytest.mark.processes
def test_a_process_that_ends_without_a_close_says_so_and_frees_the_file(tmp_path):
    """What was committed is there, as always; the store can be opened by the next at once."""
    program = """
import sys
from transactional import open_sync
store = open_sync(sys.argv[1])
store.create("a", b"1")
"""
    url = f"sqlite:{tmp_path / 'store.db'}"
    done = run(program, url)
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning: store sqlite:" in done.stderr
    with open_sync(url) as store:
        assert store.get("a").value == b"1"
