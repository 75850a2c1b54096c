"""The laws every type must keep, as one test function.

    test_laws = laws(ORSet)

Algebra: merging commutes, associates, is idempotent, and only adds knowledge. And what algebra does
not say: a delta does what the merged state would do; an argument is never changed; bytes come back
as the same state with the same future; a replica reads its own writes. Of our types also: change
events replay to the value; what is refused - because it is damaged, or not to be taken now - leaves
no trace, and the sound thing works afterwards.

A type of your own is one that `register` was told about. Or give `operate(dice, replica)`, which
makes one random mutation and returns its delta, if there are such, and, unless its replicas have
`fork(name)`, `copy(replica, name)`. It needs `merge` and `value`; what it lacks beyond that
(deltas: `apply`; bytes: `to_bytes` and `from_bytes`) is not tested.
"""

from __future__ import annotations

import copy as copying
from typing import TYPE_CHECKING, Any

from crdt.errors import InsufficientRightsError, InvalidAmountError, require
from crdt.kernel import Delta
from crdt.testing.histories import History
from crdt.testing.operation import Operation, draw, is_view, name_of
from crdt.testing.oracle import shown
from crdt.testing.refusal import WAYS, refuse, relearn
from crdt.testing.scheduler import Plan, dice_of, draw_step
from crdt.testing.seed import examples_of_the_run, seed_of_the_run
from crdt.testing.source import replay_line
from crdt.testing.subscriber import Subscriber

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_EXAMPLES = 60


class _Subject:
    """How to make, copy, change and compare replicas of a type."""

    def __init__(
        self,
        kind: Any,
        operate: Callable[[random.Random, Any], Any] | None,
        copy: Callable[[Any, str], Any] | None,
    ) -> None:
        self.kind = kind
        self.ours = is_view(kind)
        self._operate = operate
        self._copy = copy

    def mutate(self, dice: random.Random, replica: Any) -> Any:
        """One random mutation; returns what the mutator returned: its delta, if there are such."""
        if self._operate is not None:
            return self._operate(dice, replica)
        operation, _ = draw(name_of(self.kind), dice, dice.randint(2, 6))
        try:
            return operation.perform(replica)
        except (InsufficientRightsError, InvalidAmountError):
            return Delta()  # refused, as it has to be

    def copy(self, replica: Any, name: str) -> Any:
        """An independent copy."""
        if self._copy is not None:
            return self._copy(replica, name)
        return replica.fork(name) if hasattr(replica, "fork") else copying.deepcopy(replica)

    def twin(self, replica: Any) -> Any:
        """A copy that goes on in the replica's place."""
        return copying.deepcopy(replica) if self._copy is None else self._copy(replica, "a")

    def state(self, replica: Any) -> Any:
        """What has to be equal: canonical bytes of our types, the value of others."""
        return replica.canonical_bytes() if self.ours else replica.value

    def joined(self, *replicas: Any) -> Any:
        """A fresh copy of the first with the others merged into it, in order."""
        result = self.copy(replicas[0], "joined")
        for other in replicas[1:]:
            result.merge(other)
        return result


def laws(
    kind: Any,
    *,
    operate: Callable[[random.Random, Any], Any] | None = None,
    copy: Callable[[Any, str], Any] | None = None,
    examples: int | None = None,
    seed: int | None = None,
) -> Callable[[], None]:
    """A test function that checks the laws on random states of a type. About 2 ms per example.

    Args:
        kind: a type of ours, or one of yours.
        operate: makes one random mutation, of a type that nobody registered.
        copy: makes a copy of one under another name.
        examples: how many; by default as many as the profile of Hypothesis says.
        seed: of the first; by default Hypothesis chooses (see `crdt.testing.seed`).
    """
    subject = _Subject(kind, operate, copy)

    def test() -> None:
        first = seed_of_the_run() if seed is None else seed
        count = examples_of_the_run(_EXAMPLES) if examples is None else examples
        for number in range(first, first + count):
            dice = dice_of(number)
            try:
                replicas = _random_replicas(subject, dice)
                _algebra(subject, *replicas)
                if operate is None:
                    _own_writes(kind, dice)
                if operate is None and not subject.ours:
                    _own_writes_unaided(subject, dice)
                if not subject.ours:
                    _deltas_of_yours(subject, dice, replicas)
                    _bytes_of_yours(subject, dice, replicas)
                if subject.ours:
                    _deltas(subject, dice, replicas)
                    _bytes(subject, dice, replicas[0])
                    _changes(subject, dice, replicas)
                    _refusals(subject, dice, replicas)
            except AssertionError as error:
                line = replay_line(kind, "laws", f"examples=1, seed={number}")
                error.add_note(f"replay: {line}()")
                raise

    test.__doc__ = f"{kind.__name__} keeps the laws of a replicated data type."
    return test


def _random_replicas(subject: _Subject, dice: random.Random) -> list[Any]:
    """Three replicas with a common past and concurrent writes."""
    replicas = [subject.kind(name) for name in "abc"]
    for _ in range(dice.randint(3, 24)):
        index = dice.randrange(3)
        if dice.random() < 0.7:
            subject.mutate(dice, replicas[index])
        else:
            replicas[index].merge(replicas[dice.choice([n for n in range(3) if n != index])])
    return replicas


def _algebra(subject: _Subject, a: Any, b: Any, c: Any) -> None:
    state, joined = subject.state, subject.joined
    before = [state(each) for each in (a, b, c)]
    require(state(joined(a, b)) == state(joined(b, a)), "merge does not commute")
    left, right = joined(joined(a, b), c), joined(a, joined(b, c))
    require(state(left) == state(right), "merge does not associate")
    require(state(joined(a, a)) == state(a), "merge is not idempotent")
    require(state(joined(left, a, b, c)) == state(left), "a merge went backwards")
    require([state(each) for each in (a, b, c)] == before, "a merge changed its argument")


def _own_writes(kind: Any, dice: random.Random) -> None:
    """A replica that nobody disturbs shows what it wrote, after every single write."""
    name = name_of(kind)
    drawn = [draw_step(name, dice, 2, size=2 + n // 2, kind="write") for n in range(8)]
    steps = tuple(step._replace(replica=0, peer=1) for step in drawn)
    for count in range(1, len(steps) + 1):
        run = History(kind, Plan(name, 2, "mesh", (None, None), steps[:count]))
        if not run.expected.knows(run.path):
            return
        require(run.failure is None, f"a write failed: {run.failure!r}")
        if run.values[0] != run.oracle[0]:
            raise AssertionError(f"a replica does not read its own writes\n{run.diagram()}")


def _own_writes_unaided(subject: _Subject, dice: random.Random) -> None:
    """A write is not lost because others were heard before it. Needs no oracle.

    Nobody has to say what a write should do; the type says so itself. If one changes nothing at a
    replica that has heard of others, though it does change the value there without them, and also
    where one replica alone did all that was seen, from the very same value: then it was lost. (It
    may be lawful that a write changes nothing: adding what is there, bidding less, using a right
    that one does not have. Then it changes nothing in one of these settings either.)
    """
    replicas = {name: subject.kind(name) for name in "abc"}
    seen: dict[str, list[tuple[int, str, Operation]]] = {name: [] for name in replicas}
    for number in range(12):
        name, other = dice.sample(sorted(replicas), 2)
        if dice.random() < 0.4:
            replicas[name].merge(replicas[other])
            seen[name] += [each for each in seen[other] if each not in seen[name]]
            continue
        operation, _ = draw(name_of(subject.kind), dice, 4)
        before = copying.deepcopy(replicas[name].value)
        operation.perform(replicas[name])
        own = [done for _, writer, done in seen[name] if writer == name]
        every = [done for _, _, done in seen[name]]
        if len(own) < len(every) and replicas[name].value == before:
            alone = _effect(subject, name, own, operation)
            as_one = _effect(subject, name, every, operation)
            if alone is not None and as_one is not None and as_one[0] == before:
                heard = ", ".join(f"{writer}{done}" for _, writer, done in seen[name])
                raise AssertionError(
                    f"a replica does not read its own write: {operation} changes nothing, after "
                    f"{heard}; one replica that did all of it goes from {before!r:.200} to "
                    f"{as_one[1]!r:.200}"
                )
        seen[name].append((number, name, operation))


def _effect(
    subject: _Subject, name: str, past: list[Operation], operation: Operation
) -> tuple[Any, Any] | None:
    """The value before and after an operation where one replica did all of it; None if equal."""
    replica = subject.kind(name)
    try:
        for each in past:
            each.perform(replica)
        before = copying.deepcopy(replica.value)
        operation.perform(replica)
    except Exception:  # noqa: BLE001  # what one replica alone cannot do says nothing
        return None
    return None if replica.value == before else (before, replica.value)


def _deltas_of_yours(subject: _Subject, dice: random.Random, replicas: list[Any]) -> None:
    """Deltas do what the state does, each by itself and all in any order; nobody changes them."""
    if not hasattr(subject.kind, "apply"):
        return
    writer, reader = subject.copy(replicas[0], "a'"), subject.copy(replicas[1], "b'")
    reader.merge(writer)
    told: list[tuple[Any, Any]] = []  # deltas, as they are and as they were when they were new
    for _ in range(6):
        before = copying.deepcopy(writer.value)
        delta = subject.mutate(dice, writer)
        if delta is not None:
            told.append((delta, copying.deepcopy(delta)))
        elif told:
            require(writer.value == before, "a mutator changed the value and returned no delta")
    if not told:
        return  # its mutators return nothing: it has no deltas
    by_delta, by_state = subject.copy(reader, "d"), subject.copy(reader, "s")
    for delta, new in dice.sample(told, len(told)):
        by_delta.apply(delta)
        by_delta.apply(delta)
        one, other = subject.copy(reader, "one"), subject.copy(reader, "other")
        one.apply(delta)
        other.apply(new)
        require(one.value == other.value, "a delta was changed after it was made")
    by_state.merge(writer)
    require(by_delta.value == by_state.value, "deltas differ from the state")
    for each in (reader, replicas[2]):
        by_delta.merge(each)
        by_state.merge(each)
        require(by_delta.value == by_state.value, "what deltas told is undone by a merge")


def _bytes_of_yours(subject: _Subject, dice: random.Random, replicas: list[Any]) -> None:
    """Bytes come back as the same value with the same future: writes, and merges both ways."""
    if not (hasattr(subject.kind, "to_bytes") and hasattr(subject.kind, "from_bytes")):
        return
    original = subject.twin(replicas[0])
    again = subject.kind.from_bytes(original.to_bytes(), replica="a")
    require(again.value == original.value, "bytes came back as another value")
    future = dice.getrandbits(32)
    for each in (original, again):
        same = dice_of(future)
        for _ in range(4):
            subject.mutate(same, each)
    require(again.value == original.value, "a restart has another future")
    for other in replicas[1:]:
        forth = [subject.joined(other, each).value for each in (original, again)]
        back = [subject.joined(each, other).value for each in (original, again)]
        require(forth[0] == forth[1] and back[0] == back[1], "after a restart merges differ")


def _deltas(subject: _Subject, dice: random.Random, replicas: list[Any]) -> None:
    writer, reader, _ = (subject.copy(each, f"{each.replica}'") for each in replicas)
    reader.merge(writer)
    by_delta = subject.copy(reader, "d")
    deltas = []
    for _ in range(6):
        delta = subject.mutate(dice, writer)
        require(Delta.decode(delta.encode()) == delta, "a delta changed on its way through bytes")
        deltas.append(delta)
    for delta in dice.sample(deltas, len(deltas)):
        by_delta.apply(delta)
        by_delta.apply(delta)
    by_state = subject.copy(reader, "s")
    by_state.merge(writer)
    require(subject.state(by_delta) == subject.state(by_state), "deltas differ from the state")
    require(shown(by_delta) == shown(by_state), "equal states read differently")
    asked = subject.copy(reader, "q")
    asked.apply(writer.kernel.delta_since(asked.kernel.vector))
    require(subject.state(asked) == subject.state(by_state), "delta_since differs from the state")


def _bytes(subject: _Subject, dice: random.Random, replica: Any) -> None:
    data = replica.to_bytes()
    again = subject.kind.from_bytes(data, replica=replica.replica)
    require(subject.state(again) == subject.state(replica), "bytes came back as another state")
    require(again.to_bytes() == data, "equal states have different bytes")
    future = dice.getrandbits(32)
    original = subject.kind.from_bytes(data, replica=replica.replica)
    for each in (original, again):
        same = dice_of(future)
        for _ in range(4):
            subject.mutate(same, each)
    require(subject.state(again) == subject.state(original), "a restart has another future")


def _changes(subject: _Subject, dice: random.Random, replicas: list[Any]) -> None:
    """A reader who looks again only at what change events name sees what the document shows."""
    document, writer = subject.copy(replicas[0], "r"), subject.copy(replicas[1], "w")
    reader = Subscriber(document)
    document.kernel.on_delta = lambda _delta, change: reader.hear(change)

    def chunks() -> None:
        for chunk in writer.kernel.chunks(60).chunks:
            reader.hear(document.kernel.apply_chunk(chunk))

    ways = (
        lambda: subject.mutate(dice, document),
        lambda: reader.hear(document.apply(subject.mutate(dice, writer))),
        lambda: reader.hear(document.merge(writer)),
        chunks,
    )
    for way in dice.choices(ways, (4, 4, 1, 1), k=8):
        way()
        reader.check(document)


def _refusals(subject: _Subject, dice: random.Random, replicas: list[Any]) -> None:
    """What is refused leaves no trace, and the sound thing that follows works as ever."""
    writer, reader = subject.copy(replicas[0], "w"), subject.copy(replicas[1], "r")
    by_state = subject.copy(reader, "s")
    by_state.merge(writer)
    reader.merge(writer)
    for way in range(WAYS):
        delta = subject.mutate(dice, writer)
        refuse(reader.kernel, delta.encode(), way + WAYS * dice.randrange(1 << 12))
        reader.apply(delta)
    by_state.merge(writer)
    require(subject.state(reader) == subject.state(by_state), "after a refusal deltas do not work")
    if writer.kernel.vector.get("w"):
        again = relearn(writer.kernel.chunks(60), "w")
        require(again.digest() == writer.kernel.digest(), "after a refusal chunks do not work")
