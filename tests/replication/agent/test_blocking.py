"""The synchronous twin: what the agent does, from any thread, and nothing that it does not."""

from __future__ import annotations

import copy
import inspect
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import crdt
from crdt import (
    BatchOpenError,
    BoundedCounter,
    Kernel,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    UncopyableError,
)
from crdt.errors import BatchTooLargeError, InsufficientRightsError
from replication import (
    BatchExpiredError,
    BlockingAgent,
    BlockingBounded,
    BlockingWatch,
    ClosedError,
    NotYetError,
    ReentrantCallError,
    UncopyableAgentError,
    UnknownPeerError,
    Version,
)
from replication.agent import proxy
from replication.agent.proxy import BlockingDocument, proxy_class
from replication.journal.memory import MemoryJournal

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def twin():
    with BlockingAgent("ada", journal=MemoryJournal()) as agent:
        yield agent


def in_a_thread(action):
    """Start it in a thread of its own; a future of what it returns or raises."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(action)
    pool.shutdown(wait=False)
    return future


def run(program: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    command = [sys.executable, "-X", "dev", "-c", program, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60, **options
    )


# ------------------------------------------------------------------------------------ the same


def test_the_synchronous_twin_does_the_same_without_await(tmp_path):
    """Counters, sets, batches, tokens and restarts from a thread that knows no loop."""
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        ada.counter("n").increment(2)
        ada.batch(lambda agent: (agent.orset("tags").add("x"), agent.orset("tags").add("y")))
        ada.durable(ada.version(), timeout_s=10)
        assert set(ada.orset("tags")) == {"x", "y"}
        assert "x" in ada.orset("tags")
        assert len(ada.orset("tags")) == 2
        with BlockingAgent("bob", peers=[ada.address], journal=tmp_path / "bob.db") as bob:
            bob.seen(ada.version(), timeout_s=10)
            assert bob.counter("n").value == 2
            assert [member.name for member in bob.members()] == ["ada"]
            assert bob.digest() == ada.digest()
            assert ada.replicated(ada.version(), 1, timeout_s=10) == 1
            assert ada.lag() == {bob.id: 0}
        before = ada.id
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        assert (ada.id, ada.counter("n").value) == (before, 2)


def test_the_synchronous_twin_reads_at_least_and_resumes():
    """The same tokens from threads without a loop; a watch ends with its agent."""
    with BlockingAgent("ada") as ada, BlockingAgent("bob", peers=[ada.address]) as bob:
        watch = bob.watch("n")
        ada.counter("n").increment(3)
        seen = bob.read("n", PNCounter, at_least=ada.version(), timeout_s=10)
        assert seen.value == 3
        event = watch.take(timeout_s=10)
        assert [d.name for d in event.documents] == ["n"]
        with pytest.raises(TimeoutError):
            watch.take(timeout_s=0.05)
        token = watch.token
        watch.close()
        assert list(watch) == []
        bob.counter("n").increment(1)
        again = bob.watch("n", after=token)
        assert next(again).cause == "resume"
        with pytest.raises(NotYetError):
            ada.read("n", PNCounter, at_least=Version({"nobody~1": 9}), timeout_s=0.05)
        assert bob.quarantine() == {}
        with pytest.raises(UnknownPeerError):
            bob.skip(ada.id)


def test_an_event_that_comes_after_a_time_out_is_not_lost(twin):
    """`take` gave up; what it would have got is what the next one gets, once."""
    watch = twin.watch("n")
    for number in range(3):
        with pytest.raises(TimeoutError):
            watch.take(timeout_s=0)
        twin.counter(f"n{number}").increment(1)
        assert [d.name for d in watch.take(timeout_s=10).documents] == [f"n{number}"]


def names_of(kind: type) -> set[str]:
    """What a class offers: public names, and the operators that it has beyond every object's."""
    made = {"__init__", "__new__", "__aiter__", "__anext__"}
    operators = {
        name
        for name in dir(kind)
        if name.startswith("__") and inspect.isfunction(inspect.getattr_static(kind, name))
    }
    return {name for name in dir(kind) if not name.startswith("_")} | (operators - made)


def shape(method: object) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults of a method's parameters; not how it is waited for."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


def test_a_twin_is_typed_throughout():
    """No `Any` in what is written here, and no `**options`; the rest is the original's."""
    for twin in (BlockingAgent, BlockingBounded, BlockingWatch):
        for name, found in vars(twin).items():
            if inspect.isfunction(found) and found.__module__ == twin.__module__:
                signature = inspect.signature(found)
                told = [p.annotation for p in signature.parameters.values() if p.name != "self"]
                assert inspect.Parameter.empty not in told, name
                assert not any("Any" in str(each) for each in (*told, signature.return_annotation))
                kinds = {p.kind for p in signature.parameters.values()}
                assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


TYPES = [
    kind
    for kind in [getattr(crdt, name) for name in crdt.__all__]
    if isinstance(kind, type) and hasattr(kind, "attach")
]


@pytest.mark.parametrize("kind", [*TYPES, Kernel], ids=lambda kind: kind.__name__)
def test_a_document_of_the_twin_offers_all_that_its_type_does(kind):
    """Methods, properties and operators; made from the type, so that a new one is there at once."""
    made = proxy_class(kind)
    for name in names_of(kind) - {"writer"}:
        wanted, found = (inspect.getattr_static(each, name) for each in (kind, made))
        if inspect.isfunction(wanted):
            assert shape(wanted) == shape(found), name
            assert found is not wanted, f"{name} would run in the caller's thread"
        elif isinstance(wanted, property):
            assert isinstance(found, property), name
            assert found.__doc__ == wanted.__doc__
    assert made.__hash__ is None if kind.__hash__ is None else made.__hash__
    assert not hasattr(made, "writer"), "the machinery stays in its thread"


def test_the_types_were_found():
    """The two tests above had something to look at."""
    assert {PNCounter, ORSet, ORMap, LWWMap, BoundedCounter, MVRegister} <= set(TYPES)


# ------------------------------------------------------------------------------------ documents


def test_everything_that_a_document_hands_out_works_in_the_agents_thread(twin, monkeypatch):
    """Children of maps to any depth, however they are reached, and the kernel's documents."""
    threads = []

    def spied(cls, name):
        original = getattr(cls, name)

        def spy(self, *args, **kwargs):
            threads.append(threading.get_ident())
            return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, name, spy)

    spied(ORSet, "add")
    spied(LWWMap, "put")
    spied(ORMap, "__len__")
    home = twin.call(threading.get_ident)
    outer = twin.map("m")
    outer["tags", ORSet].add("x")
    outer.child("tags", ORSet).add("y")
    outer["deep", ORMap]["settings", LWWMap]["k"] = 1
    outer["tags"].add("z")
    for (name, kind), child in outer.items():
        assert isinstance(child, BlockingDocument), (name, kind)
    for child in outer.values():
        assert len(child) in {1, 3}
    outer.get(("tags", ORSet)).add("w")
    twin.kernel.document("plain", ORSet).add("v")
    twin.call(lambda: twin.inner.orset("plain")).add("u")
    twin.batch(lambda agent: agent.orset("plain")).add("t")
    assert outer.value == {
        "deep": {"settings": {"k": 1}},
        "tags": {"x", "y", "z", "w"},
    }
    assert twin.orset("plain") == {"v", "u", "t"}
    assert len(threads) > 8
    assert set(threads) == {home}


def test_documents_read_like_what_they_stand_for(twin):
    """Comparisons, arithmetic, sets, mappings, truth: as in the agent's own thread."""
    counter, other = twin.counter("c"), twin.counter("d")
    counter.increment(2)
    other.increment(3)
    assert (counter == 2, counter > 1, int(counter), counter + other, bool(twin.counter("e"))) == (
        (True, True, 2, 5, False)
    )
    assert list(range(4))[counter] == 2  # an index
    with pytest.raises(TypeError):
        hash(counter)
    tags = twin.orset("s")
    tags.add(1)
    assert tags == {1}
    assert {1} == tags
    assert (tags | {2}, {2} | tags, tags & {1}, tags <= {1, 2}) == ({1, 2}, {1, 2}, {1}, True)
    settings = twin.document("m", LWWMap)
    settings["k"] = [1]
    settings["x"] = 2
    settings[1] = "one"
    settings[True] = "true"
    del settings["x"]
    with pytest.raises(KeyError):
        del settings["x"]
    assert (settings["k"], settings.get("y", 0), "k" in settings) == ([1], 0, True)
    assert [pair for pair in settings.items() if pair[0] is True] == [(True, "true")]
    assert len(settings.items()) == len(settings.keys()) == len(settings.values()) == 3
    assert ("k", [1]) in settings.items()
    assert isinstance(settings, LWWMap)
    assert repr(tags) == "ORSet(frozenset({1}))"
    assert "ORSet" in tags._repr_html_()
    twin.register("r").set("draft")
    assert twin.register("r") == twin.register("r") == "draft"


def test_a_name_goes_on_meaning_the_document_after_an_operator_in_place(twin):
    """`+=` changes the document where its type can do that; the name still means it."""

    class Tally(PNCounter):
        def __iadd__(self, amount):
            self.increment(amount)
            return self

    tally = twin.call(lambda: Tally.attach(*pair_of(twin)))
    before = tally
    tally += 3
    assert tally is before
    assert tally == 3


def pair_of(twin):
    """Kernel and container of a counter."""
    counter = twin.inner.counter("tally")
    return counter._kernel, counter._container


def test_a_snapshot_that_is_iterated_does_not_move(twin):
    """A loop over a document goes over what was there when it began."""
    tags = twin.orset("s")
    for number in range(5):
        tags.add(number)
    for number in tags:
        tags.remove(number)
        tags.add(number + 100)
    assert tags == set(range(100, 105))


def test_documents_of_two_twins_meet_by_value(twin):
    """A document of another agent is another thread's: what goes in is its value."""
    with BlockingAgent("bob") as bob:
        for agent, amount in ((twin, 2), (bob, 3)):
            agent.counter("n").increment(amount)
            agent.orset("s").add(amount)
        assert twin.counter("n") + bob.counter("n") == 5
        assert twin.counter("n") < bob.counter("n")
        assert twin.orset("s") | bob.orset("s") == {2, 3}


def test_a_document_is_no_more_copyable_than_its_original(twin):
    """Two copies would write under one identity."""
    with pytest.raises(UncopyableError):
        copy.deepcopy(twin.orset("s"))
    with pytest.raises(UncopyableAgentError):
        copy.deepcopy(twin)


def test_what_is_measured_and_operated_is_there(twin):
    """Blocks, refusals, vitals and counts; the machinery of the kernel is not handed out."""
    with BlockingAgent("bob", peers=[twin.address]) as bob:
        watch = twin.watch()
        bob.counter("n").increment(1)
        assert watch.take(timeout_s=10)  # they have met
        twin.block("bob")
        assert twin.blocked() == ["bob"]
        twin.unblock("bob")
    for unknown in (twin.retire, twin.block, twin.unblock):
        with pytest.raises(UnknownPeerError):
            unknown("nobody")
    assert (twin.read_only, twin.behind(), twin.blocked()) == (False, {}, [])
    assert twin.bytes_sent > 0 < twin.bytes_received
    assert isinstance(twin.counts(), dict)
    assert twin.vitals.heartbeat.worst_s >= 0
    twin.counter("n").increment(1)
    assert list(twin.kernel.documents()) == [("n", PNCounter)]
    assert dict(twin.kernel.vector) == dict(twin.version().vector)
    with pytest.raises(AttributeError):
        _ = twin.kernel.writer


# ------------------------------------------------------------------------------------ threads


def test_writes_of_many_threads_are_all_there(twin):
    """One twin, its documents shared by eight threads that know nothing of each other."""
    counter, tags = twin.counter("n"), twin.orset("s")

    def work(number):
        for step in range(50):
            counter.increment(1)
            tags.add((number, step))
            assert (number, step) in tags

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert (counter.value, len(tags)) == (400, 400)


def test_a_call_out_of_the_agents_own_thread_is_refused(twin):
    """It would wait for itself, and everybody with it; the next call finds nothing changed."""
    for call in (
        lambda: twin.call(lambda: twin.counter("n").increment(1)),
        lambda: twin.batch(lambda _: twin.counter("n").increment(1)),
        lambda: twin.batch(lambda _: twin.durable()),
        lambda: twin.batch(lambda *_: twin.version()),
        lambda: twin.call(lambda: twin.batch().__enter__()),
        lambda: twin.call(twin.close),
        lambda: twin.call(lambda: next(twin.watch())),
    ):
        with pytest.raises(ReentrantCallError):
            call()
    assert twin.counter("n").value == 0

    async def later():
        twin.version()

    with pytest.raises(ReentrantCallError):
        twin.carry(later)


def test_what_a_call_raises_ends_neither_the_thread_nor_the_agent(twin):
    """SystemExit in a function that was handed over is its caller's, like any other error."""
    for error in (SystemExit(3), KeyboardInterrupt(), ValueError("x")):

        def raising(error=error):
            raise error

        async def later(error=error):
            raise error

        with pytest.raises(type(error)):
            twin.call(raising)
        with pytest.raises(type(error)):
            twin.carry(later)
        with pytest.raises(type(error)):
            twin.batch(lambda _, raising=raising: raising())
    twin.counter("n").increment(1)
    twin.durable(timeout_s=10)


# ------------------------------------------------------------------------------------ batches


def test_a_batch_of_statements_is_one_change(twin):
    """Documents of several types, reads of what was just written; one event, one delta."""
    watch = twin.watch()
    with twin.batch() as batch:
        twin.counter("n").increment(1)
        twin.orset("s").add("x")
        twin.map("m")["t", ORSet].add("y")
        assert twin.counter("n").value == 1
        assert "x" in twin.orset("s")
    assert sum(run.last - run.first + 1 for run in batch.delta.runs) == 3
    assert {d.name for d in watch.take(timeout_s=10).documents} == {"n", "s", "m"}


def test_a_batch_function_returns_its_result_and_rolls_back_what_raises(twin):
    """One plain function in the agent's thread; one that would have to be awaited is refused."""
    assert twin.batch(lambda agent: (agent.counter("n").increment(2), 7)[1]) == 7
    before = twin.version()

    def failing(agent):
        agent.counter("n").increment(5)
        raise ValueError("no")

    async def waiting(agent):
        agent.counter("n").increment(5)

    with pytest.raises(ValueError, match="no"):
        twin.batch(failing)

    async def waiting_here():
        raise AssertionError("not run")

    for asynchronous in (waiting, waiting_here):
        with pytest.raises(TypeError):
            twin.batch(asynchronous)
    assert twin.version() == before
    assert twin.counter("n").value == 2


def test_a_batch_function_without_an_argument_uses_the_twin(twin):
    """What is written for an Agent runs here: `f()`, in this thread, as one batch."""
    counter, watch = twin.counter("n"), twin.watch()

    def write():
        counter.increment(1)
        twin.orset("s").add(counter.value)
        return twin.orset("s").value

    assert twin.batch(write) == {1}
    assert {d.name for d in watch.take(timeout_s=10).documents} == {"n", "s"}

    def failing():
        write()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        twin.batch(failing)
    assert (counter.value, twin.orset("s").value) == (1, {1})


def test_a_batch_belongs_to_the_thread_that_opened_it(twin):
    """A write of another thread neither joins it nor sees half of it; rolled back, it takes none.

    Such a write waits for the end of the block.
    """
    counter = twin.counter("n")

    def other():
        before = counter.value
        counter.increment(10)
        return before

    with pytest.raises(ZeroDivisionError), twin.batch():  # noqa: PT012 - a batch's body
        counter.increment(1)
        writer = in_a_thread(other)
        tagger = in_a_thread(lambda: twin.orset("s").add("theirs"))
        counter.increment(1)
        assert counter.value == 2
        assert not writer.done()
        _ = 1 / 0
    assert writer.result(10) == 0
    tagger.result(10)
    assert counter.value == 10
    assert twin.orset("s") == {"theirs"}
    with twin.batch():
        counter.increment(1)
        reader = in_a_thread(other)
        counter.increment(1)
    assert reader.result(10) == 12


def test_batches_of_many_threads_take_turns(twin):
    """Each is whole: two counters that move together are never seen apart."""

    def work(number):
        for step in range(20):
            try:
                with twin.batch():
                    twin.counter("a").increment(1)
                    twin.counter("b").increment(1)
                    assert twin.counter("a").value == twin.counter("b").value
                    if (number + step) % 3 == 0:
                        raise KeyError(step)
            except KeyError:
                pass
            twin.batch(lambda agent: (agent.counter("a").value, agent.counter("b").value))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    kept = sum((number + step) % 3 != 0 for number in range(4) for step in range(20))
    assert (twin.counter("a").value, twin.counter("b").value) == (kept, kept)


def test_a_wait_inside_a_batch_is_refused(twin):
    """What it would wait for cannot happen before the block ends; the block goes on."""
    seats = twin.bounded("seats")
    seats.increment(3)
    with twin.batch():
        twin.counter("n").increment(1)
        for wait in (
            twin.durable,
            lambda: twin.replicated(twin.version(), 1),
            seats.decrement,
            twin.watch("n").take,
            twin.close,
        ):
            with pytest.raises(BatchOpenError):
                wait()
    assert (twin.counter("n").value, seats.value) == (1, 3)


def test_batches_nest_and_a_document_opens_one_too(twin):
    """The outermost decides; a document's own `batch()` is held by its thread just so."""
    tags = twin.orset("s")
    with tags.batch(), twin.batch():
        tags.add("x")
        with twin.counter("n").batch():
            twin.counter("n").increment(1)
    with pytest.raises(KeyError), twin.batch(), tags.batch():  # noqa: PT012 - a batch's body
        tags.add("y")
        raise KeyError
    assert (tags == {"x"}, twin.counter("n").value) == (True, 1)
    with pytest.raises(BatchTooLargeError), tags.batch(10):
        tags.add("z" * 100)
    assert tags == {"x"}


def let_time_run_out(twin):
    """What the agent's thread does when the time of this thread's batch is over, now."""
    twin._carrier._mine()._put(BatchExpiredError(proxy.BATCH_S_MAX))
    in_a_thread(twin.version).result(10)  # others are served again


def test_a_block_that_holds_up_its_agent_for_too_long_is_rolled_back(twin):
    """Its owner is told by the next use, or at the end; others go on meanwhile."""
    counter = twin.counter("n")
    with pytest.raises(BatchExpiredError), twin.batch():  # noqa: PT012 - a batch's body
        counter.increment(1)
        let_time_run_out(twin)
        counter.increment(1)
    with pytest.raises(BatchExpiredError), twin.batch():  # noqa: PT012 - a batch's body
        counter.increment(1)
        let_time_run_out(twin)
    with pytest.raises(ValueError, match="mine"), twin.batch():  # noqa: PT012 - a batch's body
        counter.increment(1)
        let_time_run_out(twin)
        raise ValueError("mine")  # the error of the body is the one that is seen
    assert counter.value == 0
    counter.increment(1)
    assert counter.value == 1


def test_a_batch_of_a_thread_that_went_away_ends_by_itself(twin, monkeypatch):
    """A generator that is never resumed: its writes are gone in time, and the agent is free."""
    monkeypatch.setattr(proxy, "BATCH_S_MAX", 0.2)

    def half():
        with twin.batch():
            yield
            yield

    left = []

    def abandon():
        left.append(half())
        next(left[0])

    in_a_thread(abandon).result(10)
    twin.counter("n").increment(2)  # waits for the end of that time
    next(left[0])
    with pytest.raises(BatchExpiredError):
        next(left[0])  # too late, in whatever thread
    assert twin.counter("n").value == 2


# ------------------------------------------------------------------------------------ the end


def test_a_close_frees_every_thread_that_waits():
    """By a typed error, at whatever it waited; a loop over changes ends."""
    twin = BlockingAgent("ada", journal=MemoryJournal()).start()
    token = twin.version()
    waits = [
        in_a_thread(lambda: twin.replicated(token, 3)),
        in_a_thread(lambda: twin.seen(Version({"bob~1": 3}))),
        in_a_thread(lambda: twin.read("n", PNCounter, at_least=Version({"bob~1": 3}))),
    ]
    watch, unread = twin.watch(), twin.watch()
    with pytest.raises(TimeoutError):
        unread.take(timeout_s=0)
    for name in ("m", "n"):
        twin.counter(name).increment(1)
        twin.durable()
    events = in_a_thread(lambda: list(watch))
    closes = [in_a_thread(twin.close) for _ in range(2)]
    for close in closes:
        close.result(20)
    for wait in waits:
        with pytest.raises(ClosedError):
            wait.result(10)
    assert len(events.result(10)) == len(list(unread)) == 2
    for call in (twin.version, lambda: twin.counter("n"), twin.watch, twin.durable):
        with pytest.raises(ClosedError):
            call()
    twin.close()


def test_a_twin_that_was_closed_starts_again(tmp_path):
    """Another loop, another agent, the same journal; before its first start it is refused."""
    twin = BlockingAgent("ada", journal=tmp_path / "ada.db")
    with pytest.raises(ClosedError):
        twin.counter("n")
    twin.close()
    for number in range(3):
        with twin:
            counter = twin.counter("n")
            assert counter.value == number
            counter.increment(1)
        with pytest.raises(ClosedError):
            counter.increment(1)


def test_a_start_that_fails_leaves_no_thread(tmp_path):
    """The journal is held: typed, and the second try works."""
    before = threading.active_count()
    second = BlockingAgent("ada", journal=tmp_path / "ada.db")
    with BlockingAgent("ada", journal=tmp_path / "ada.db"), pytest.raises(Exception, match="held"):
        second.start()
    with second:
        second.counter("n").increment(1)
    assert threading.active_count() <= before


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_is_told_at_once_and_ends(tmp_path):
    """Every call, the end of a `with` block included; the parent's agent goes on."""
    program = """
import os, sys, threading
from replication import BlockingAgent, ForkedError
with BlockingAgent("ada", journal=sys.argv[1]) as ada:
    tags, watch = ada.orset("s"), ada.watch()
    child = os.fork()
    if not child:
        for call in (lambda: tags.add("x"), ada.version, ada.durable, watch.take, ada.start,
                     lambda: len(tags), lambda: ada.batch().__enter__(), ada.close):
            try:
                call()
            except ForkedError as error:
                assert error.hint
            else:
                os._exit(9)
        with BlockingAgent("own", journal=sys.argv[1] + ".own") as own:
            own.counter("n").increment(1)
            own.durable(timeout_s=10)
        sys.exit(7)  # through the block, the hooks of the interpreter, and all
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    tags.add("y")
    ada.durable(timeout_s=10)
print("parent went on")
"""
    done = run(program, tmp_path / "ada.db")
    assert done.stdout.strip() == "parent went on", done.stderr
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        assert ada.orset("s") == {"y"}


@pytest.mark.processes
def test_a_process_that_ends_without_a_close_keeps_what_it_wrote_and_says_so(tmp_path):
    """Also by an error, and while another thread goes on writing: flushed, and told."""
    program = """
import sys, threading
from replication import BlockingAgent
ada = BlockingAgent("ada", journal=sys.argv[1]).start()
def go_on():
    for _ in range(200):
        ada.counter("thread").increment(1)
threading.Thread(target=go_on).start()
for _ in range(50):
    ada.counter("n").increment(1)
raise RuntimeError("the program's own")
"""
    done = run(program, tmp_path / "ada.db")
    assert done.returncode == 1
    assert "the program's own" in done.stderr
    assert "ResourceWarning: agent 'ada' was not closed" in done.stderr
    with BlockingAgent("ada", journal=tmp_path / "ada.db") as ada:
        assert (ada.counter("n").value, ada.counter("thread").value) == (50, 200)


@pytest.mark.processes
def test_ctrl_c_in_a_wait_leaves_the_twin_as_it_was():
    """The wait is over for both sides, and the next call works."""
    program = """
import os, signal, threading
from replication import BlockingAgent
from replication.journal.memory import MemoryJournal
with BlockingAgent("ada", journal=MemoryJournal()) as ada:
    token = ada.version()
    waits = lambda: ada.call(lambda: len(ada.inner._runtime._waiters))
    def interrupt():
        while not waits():
            pass
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    try:
        ada.replicated(token, 3)
    except KeyboardInterrupt:
        print("interrupted")
    while waits():
        pass
    ada.counter("n").increment(1)
    ada.durable(timeout_s=10)
    print("went on")
"""
    done = run(program)
    assert done.stdout.split("\n")[:2] == ["interrupted", "went on"], done.stderr


# ------------------------------------------------------------------------------------ bounded


def test_a_bounded_quantity_of_the_twin_decrements_durably(twin):
    """The one lazy mutator that waits; refused, it changed nothing."""
    seats = twin.bounded("seats", 1)
    seats.increment(2)
    seats.decrement(2, timeout_s=10)
    with pytest.raises(InsufficientRightsError):
        seats.decrement()
    assert (seats.value, int(seats), seats.minimum, seats.rights()) == (1, 1, 1, 0)
    assert repr(seats) == "BoundedCounter(1)"
    assert seats.stranded([]) == {}
    assert LWWRegister.__name__ == type(twin.register("x")).__name__
