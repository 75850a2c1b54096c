"""Networks: replicas, and what is on its way between them.

`Replicas` is what a history asks of a network; `Network` is the one of kernels, `StateNetwork`
(crdt.testing.state_network) the one of a user's own type.

It knows, apart from the kernels, which dots each of them should have seen - from the ranges that
deltas and chunks declare, added up as plain sets - and compares after every exchange. Everything
that travels goes through bytes.

    net = Network(ORSet, ["a", "b", "c"])
    net.views[0].add("x")          # published deltas wait in net.in_flight
    net.heal()                     # exchange by vectors until nobody lacks anything
    assert net.converged
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from crdt.errors import BelowFloorError, InsufficientRightsError, InvalidAmountError, require
from crdt.kernel import Chunk, ChunkSet, Delta, Dot, Kernel, Range
from crdt.testing.oracle import shown
from crdt.testing.refusal import refuse, relearn
from crdt.testing.subscriber import Subscriber

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from crdt.kernel import Batch, CausalContext, Change, DocumentType
    from crdt.testing.operation import Operation

DOCUMENT = "doc"


class InFlight(NamedTuple):
    """A published delta on its way from one replica to another; `moment` is when it left."""

    source: int
    target: int
    data: Any
    moment: int = 0


class Written(NamedTuple):
    """What a mutation became: its dot and its stamp (0 inside a batch, which decides it later)."""

    dot: Dot
    stamp: int


class RollBackError(Exception):
    """Raised inside a batch to have it undone."""


class Replicas(Protocol):
    """What a history asks of a network. A step that a network cannot do returns False."""

    seen: list[set[Dot]]
    in_flight: list[InFlight]
    moment: int

    @property
    def converged(self) -> bool:
        """Whether all replicas hold the same state."""

    @property
    def values(self) -> list[Any]:
        """What each replica shows."""

    def write(self, index: int, operation: Operation, context: Any) -> Written | None:
        """Perform an operation; None if it took no dot. `context` is a read context or None."""

    def batch(self, index: int) -> AbstractContextManager[Any] | None:
        """A group of writes that an exception undoes; None where there is no such thing."""

    def look(self, index: int) -> Any:
        """What is seen now, to be handed to `write` later."""

    def deliver(self, message: InFlight) -> None:
        """A published delta arrives."""

    def exchange(self, index: int, source: int, bytes_max: int | None = None) -> bool:
        """A replica asks another for what it lacks. False if there was no news."""

    def merge_from(self, index: int, source: int) -> None:
        """A replica joins the whole state of another."""

    def copy(self, index: int, name: str) -> Any:
        """An independent copy of a state."""

    def merge_copy(self, index: int, copy: Any, seen: set[Dot]) -> None:
        """A replica joins such a copy, which stays as it is."""

    def some_chunks(self, index: int, source: int, bytes_max: int, dice: random.Random) -> bool:
        """A replica gets some chunks of another's state."""

    def refuse(self, message: InFlight, pick: int) -> bool:
        """A spoiled form of a delta arrives and is refused."""

    def catch_up(self, index: int) -> bool:
        """A replica that is about to write gets what came before what it has. False if nothing."""

    def relearn(self, index: int) -> bool:
        """Somebody who lost the replica's disk learns its state anew."""

    def restart(self, index: int) -> bool:
        """A replica goes through its bytes and on under its name."""

    def rebirth(self, index: int, name: str, back: tuple[Any, set[Dot]], copies: list[Any]) -> bool:
        """A replica goes on from an earlier copy, under a new name."""

    def forget(self, index: int, pick: int) -> bool:
        """A replica drops some of its removal records."""

    def void(self, index: int, count: int) -> bool:
        """A replica leaves out some of its numbers."""

    def check(self, index: int) -> None:
        """Assert that a replica is sound and saw what it was told."""

    def heal(self) -> None:
        """Let everybody learn everything."""


def dots_of(ranges: Iterable[Range]) -> set[Dot]:
    """The dots of ranges, one by one."""
    return {Dot(origin, seq) for origin, first, last in ranges for seq in range(first, last + 1)}


class Network:
    """Kernels with one document of a type each; `clocks` may give each its own time."""

    def __init__(
        self,
        kind: DocumentType[Any],
        names: list[str],
        clocks: list[Callable[[], int] | None] | None = None,
    ) -> None:
        self.kind = kind
        self.clocks = clocks or [None] * len(names)
        self.kernels: list[Kernel] = []
        self.seen: list[set[Dot]] = [set() for _ in names]
        self.in_flight: list[InFlight] = []
        self.moment = 0  # set by whoever counts steps; noted on what is published
        self.subscribers: list[Subscriber] = []
        # Own events that a replica had when it last gave out its state.
        self.given_out: dict[str, int] = {}
        for index, name in enumerate(names):
            self.kernels.append(Kernel(name, clock=self.clocks[index]))
            self.put_in_place(index, self.kernels[index])
            self.subscribers.append(Subscriber(self.view(index)))

    def put_in_place(self, index: int, kernel: Kernel) -> None:
        """This kernel is replica `index` from now on: listen to what it publishes."""
        self.kernels[index] = kernel

        def publish(delta: Delta, change: Change) -> None:
            self.subscribers[index].hear(change)
            self.seen[index] |= dots_of(delta.ranges)
            data = delta.encode()
            require(Delta.decode(data) == delta, "a delta came back from bytes as another one")
            for target in range(len(self.kernels)):
                if target != index:
                    self.in_flight.append(InFlight(index, target, data, self.moment))

        kernel.on_delta = publish

    @property
    def views(self) -> list[Any]:
        """The document at every replica."""
        return [self.view(index) for index in range(len(self.kernels))]

    def view(self, index: int) -> Any:
        """The document at one replica."""
        return self.kernels[index].document(DOCUMENT, self.kind)

    def next_dot(self, index: int) -> Dot:
        """The dot that the next mutation of a replica will take, inside of a batch as well."""
        kernel = self.kernels[index]
        return Dot(kernel.replica, kernel.writer.last + 1)

    @property
    def values(self) -> list[Any]:
        """What each replica shows."""
        return [shown(view) for view in self.views]

    def write(self, index: int, operation: Operation, context: Any) -> Written | None:
        """Perform an operation; None if it took no dot."""
        dot = self.next_dot(index)
        given = {} if context is None else {"seen": context}
        try:
            delta = operation.perform(self.view(index), **given)
        except (InsufficientRightsError, InvalidAmountError):
            return None  # refused, as it has to be
        if self.next_dot(index) == dot:
            return None
        self.seen[index].add(dot)
        stamps = [event.stamp for run in delta.runs for event in run.events]
        return Written(dot, max(stamps, default=0))

    @contextmanager
    def batch(self, index: int) -> Iterator[Batch]:
        """A batch of the replica's kernel; what is rolled back leaves no trace."""
        kernel = self.kernels[index]
        digest, seen = kernel.digest(), set(self.seen[index])
        try:
            with kernel.batch() as batch:
                yield batch
        except RollBackError:
            self.seen[index] = seen
            require(kernel.digest() == digest, "a rolled back batch left a trace")
            raise

    def look(self, index: int) -> CausalContext:
        """What is seen now."""
        return self.kernels[index].context

    def deliver(self, message: InFlight) -> None:
        """A delta arrives."""
        self.learn(message.target, Delta.decode(message.data))

    def learn(self, index: int, delta: Delta) -> None:
        """A replica applies a delta; what it covers counts as seen."""
        self.subscribers[index].hear(self.kernels[index].apply(delta))
        self.seen[index] |= dots_of(delta.ranges)

    def refuse(self, message: InFlight, pick: int) -> bool:
        """A spoiled form of a delta arrives, is refused and leaves no trace."""
        refuse(self.kernels[message.target], message.data, pick)
        return True

    def answers(self, source: int) -> None:
        """A replica gives out (a part of) its state, which speaks of all its events so far."""
        replica = self.kernels[source].replica
        self.given_out[replica] = self.next_dot(source).seq - 1

    def exchange(self, index: int, source: int, bytes_max: int | None = None) -> bool:
        """A replica asks another by vector; chunks where records are gone. False if no news."""
        mine, theirs = self.kernels[index], self.kernels[source]
        self.answers(source)
        try:
            delta = theirs.delta_since(mine.vector, bytes_max=bytes_max)
        except BelowFloorError:
            whole = theirs.chunks(bytes_max or 256)
            for chunk in whole.chunks:
                self.learn_chunk(index, chunk, whole)
            require(whole.vector <= mine.vector, "a complete set of chunks was not joined")
            return True
        self.learn(index, Delta.decode(delta.encode()))
        return bool(delta)

    def learn_chunk(self, index: int, chunk: Chunk, whole: ChunkSet) -> None:
        """A replica gets one chunk; with the last one it has seen the whole set, before nothing."""
        kernel = self.kernels[index]
        before = kernel.digest()
        self.subscribers[index].hear(kernel.apply_chunk(Chunk.decode(chunk.encode())))
        dots = dots_of(known for each in whole.chunks for known in each.ranges)
        if dots <= dots_of(kernel.context.ranges()):
            self.seen[index] |= dots
        else:
            require(kernel.digest() == before, "a part of a set changed the state")

    def merge_from(self, index: int, source: int) -> None:
        """A replica joins the whole state of another."""
        self.answers(source)
        self.merge_copy(index, self.kernels[source], self.seen[source])

    def copy(self, index: int, name: str) -> Kernel:
        """An independent copy of a state."""
        self.answers(index)
        return self.kernels[index].fork(name)

    def merge_copy(self, index: int, copy: Kernel, seen: set[Dot]) -> None:
        """A replica joins a whole state, which stays as it is."""
        digest = copy.digest()
        self.subscribers[index].hear(self.kernels[index].merge(copy))
        self.seen[index] |= seen
        require(copy.digest() == digest, "merging changed its argument")

    def some_chunks(self, index: int, source: int, bytes_max: int, dice: random.Random) -> bool:
        """A replica gets some chunks of another's state, in any order."""
        self.answers(source)
        whole = self.kernels[source].chunks(bytes_max)
        for chunk in dice.sample(whole.chunks, dice.randint(1, len(whole.chunks))):
            self.learn_chunk(index, chunk, whole)
        return True

    def catch_up(self, _index: int) -> bool:
        """A kernel may write whatever it lacks: the oracles of our types know what that means."""
        return False

    def relearn(self, index: int) -> bool:
        """An empty replica is told of its old life, and takes it under a new name."""
        kernel = self.kernels[index]
        if self.next_dot(index).seq == 1:
            return False  # no old life
        again = relearn(kernel.chunks(256), kernel.replica)
        require(again.digest() == kernel.digest(), "chunks that were refused do not work later")
        return True

    def restart(self, index: int) -> bool:
        """A replica goes through its bytes and on under its name; nobody looks at it before.

        The state of a second reading is compared: to walk a whole state may put right what the
        reading left wrong, and the gossip that follows has to do without.
        """
        kernel = self.kernels[index]
        data, name, clock = kernel.to_bytes(), kernel.replica, self.clocks[index]
        twin = Kernel.from_bytes(data, replica=name, clock=clock)
        require(twin.digest() == kernel.digest(), "a restart changed the state")
        require(twin.vector == kernel.vector, "a restart changed the vector")
        self.put_in_place(index, Kernel.from_bytes(data, replica=name, clock=clock))
        return True

    def rebirth(
        self, index: int, name: str, back: tuple[Kernel, set[Dot]], copies: list[Kernel]
    ) -> bool:
        """A restored backup: an earlier state goes on under a new id.

        What is lost is the end of the old life, and nobody must have seen a trace of it: an answer
        given later already leaves out what the lost events had killed. Nor may the replica have
        been the last to know what an ended life of another one wrote. Otherwise it is refused.
        """
        old = self.kernels[index].replica
        others = [kernel for kernel in self.kernels if kernel.replica != old]
        half_known = any(
            kernel.context.last_seq(old) != kernel.vector.get(old, 0)
            for kernel in [*others, *copies]
        )
        known = max(kernel.vector.get(old, 0) for kernel in others)
        last_to_know = any(
            all(kernel.vector.get(origin, 0) < seq for kernel in others)
            for origin, seq in self.kernels[index].vector.items()
            if origin != old
        )
        if half_known or last_to_know or known < self.given_out.get(old, 0):
            return False
        self.in_flight = [each for each in self.in_flight if each.source != index]
        kernel, seen = back
        reborn = Kernel.from_bytes(kernel.to_bytes(), replica=name, clock=self.clocks[index])
        self.seen[index] = set(seen)
        self.put_in_place(index, reborn)
        self.subscribers[index] = Subscriber(self.view(index))
        return True

    def forget(self, index: int, pick: int) -> bool:
        """A replica drops some of its removal records."""
        kernel = self.kernels[index]
        kernel.drop_records({name: pick % (seq + 1) for name, seq in kernel.vector.items()})
        return True

    def void(self, index: int, count: int) -> bool:
        """A replica leaves out some of its numbers."""
        kernel = self.kernels[index]
        kernel.void(kernel.vector.get(kernel.replica, 0) + count)
        return True

    def check(self, index: int) -> None:
        """The kernel is sound, has seen exactly what it was told, and announced what changed."""
        kernel = self.kernels[index]
        kernel._check()  # noqa: SLF001  # the kit asserts what the kernel promises
        claimed = dots_of(kernel.context.ranges())
        require(
            claimed == self.seen[index],
            f"{kernel.replica} was told of {sorted(self.seen[index])}, claims {sorted(claimed)}",
        )
        self.subscribers[index].check(self.view(index))

    def heal(self) -> None:
        """Exchange by vectors until nobody lacks anything."""
        self.in_flight.clear()
        everyone = range(len(self.kernels))
        news = True
        while news:
            news = False
            for index in everyone:
                for source in everyone:
                    vector = self.kernels[index].vector
                    if not self.kernels[source].vector <= vector:
                        self.exchange(index, source)
                        news = news or self.kernels[index].vector != vector
        for index in everyone:
            self.check(index)
        for view in self.views:
            least = getattr(view, "minimum", None)
            require(least is None or view.value >= least, f"{view!r} is below its bound")

    @property
    def converged(self) -> bool:
        """Whether all replicas have equal vectors, equal canonical bytes and saw the same dots."""
        first = self.kernels[0]
        return all(
            kernel.vector == first.vector
            and kernel.canonical_bytes() == first.canonical_bytes()
            and self.seen[index] == self.seen[0]
            for index, kernel in enumerate(self.kernels)
        )
