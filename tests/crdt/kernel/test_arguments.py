"""What comes in is of the type that is wanted, or refused by type, with nothing changed."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

import crdt
from crdt import (
    BoundedCounter,
    Chunk,
    CRDTError,
    DecodeError,
    Delta,
    GCounter,
    GSet,
    InvalidArgumentError,
    InvalidReplicaError,
    InvalidValueError,
    Kernel,
    LWWMap,
    LWWRegister,
    MaxRegister,
    MVRegister,
    OperatorRefusedError,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
    RWSet,
    TypeMismatchError,
    VersionVector,
)
from crdt.kernel import KINDS, TYPES
from crdt.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

JUNK: tuple[Any, ...] = (None, 5, True, "text", b"bytes", [1], {"a": "b"}, {1: 2}, object())
CALLS: dict[str, tuple[Callable[[Kernel, Any], object], tuple[Any, ...]]] = {
    "merge": (Kernel.merge, (*JUNK, ORSet("o"))),
    "apply": (Kernel.apply, (*JUNK, Kernel("o"))),
    "replay": (Kernel.replay, JUNK),
    "apply_chunk": (Kernel.apply_chunk, (*JUNK, Kernel("o").chunks(100))),
    "delta_since": (Kernel.delta_since, JUNK),
    "delta_since(bytes_max=)": (
        lambda kernel, junk: kernel.delta_since({}, bytes_max=junk),
        (0, -1, True, 5.0, "5"),
    ),
    "chunks": (Kernel.chunks, (*(junk for junk in JUNK if junk != 5), 0, -1, 1.5)),
    "documents_since": (Kernel.documents_since, JUNK),
    "documents_at": (Kernel.documents_at, (*JUNK, ("a", 1), ("a", "1", 2))),
    "places_at": (Kernel.places_at, (*JUNK, ("a", 1), ("a", "1", 2))),
    "drop_records": (Kernel.drop_records, JUNK[1:]),
    "batch": (Kernel.batch, (0, -1, True, 5.0, "5", b"5")),
    "void": (Kernel.void, (None, True, 5.0, "5")),
    "delete": (Kernel.delete, (None, 5, b"x", ["x"])),
    "on_delta": (lambda kernel, junk: setattr(kernel, "on_delta", junk), (5, "x")),
    "before_write": (lambda kernel, junk: setattr(kernel, "before_write", junk), (5, "x")),
    "batch_bytes_max": (
        lambda kernel, junk: setattr(kernel, "batch_bytes_max", junk),
        (0, "x", True),
    ),
    "chunks_aside_bytes_max": (
        lambda kernel, junk: setattr(kernel, "chunks_aside_bytes_max", junk),
        (None, 0, "x", 1.5),
    ),
    "document": (
        lambda kernel, junk: kernel.document("d", junk),
        (*JUNK, View, int, ORSet("o"), "ORSet"),
    ),
    "child": (
        lambda kernel, junk: kernel.document("m", ORMap).child("n", junk),
        (*JUNK, View, int, ORSet("o")),
    ),
    "clock": (lambda _kernel, junk: Kernel("x", clock=junk), (5, "x", 1.5)),
    "clock of a view": (lambda _kernel, junk: ORSet("x", clock=junk), (5, "x")),
    "seen": (
        lambda kernel, junk: kernel.document("s", ORSet).remove(1, seen=junk),
        JUNK[1:],
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_argument_of_another_type_is_refused_by_type(call: str) -> None:
    """A typed error that is a TypeError as well, with a hint; the state is what it was."""
    attempt, junk = CALLS[call]
    for thing in junk:
        kernel = Kernel("a")
        kernel.document("s", ORSet).add(1)
        before, vector = kernel.canonical_bytes(), kernel.vector
        with pytest.raises(InvalidArgumentError) as refused:
            attempt(kernel, thing)
        assert isinstance(refused.value, TypeError)
        assert refused.value.hint
        assert (kernel.canonical_bytes(), kernel.vector) == (before, vector)
        kernel.document("s", ORSet).add(2)
        kernel._check()


def test_hints_say_how_to_get_what_is_wanted() -> None:
    """Bytes are decoded, a set has a kernel, a newcomer has seen nothing."""
    kernel = Kernel("a")
    for attempt, hint in (
        (lambda: kernel.apply(b"..."), "Delta.decode"),  # type: ignore[arg-type]
        (lambda: kernel.apply_chunk(b"..."), "Chunk.decode"),  # type: ignore[arg-type]
        (lambda: kernel.merge(ORSet("b")), "view.kernel"),  # type: ignore[arg-type]
        (lambda: kernel.delta_since(None), "{}"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            attempt()
        assert hint in refused.value.hint


def test_ids_and_bytes_keep_their_own_errors() -> None:
    """What was typed before stays: ids are refused as ids, bytes as bytes."""
    for junk in (None, 5, "", b"a"):
        with pytest.raises(InvalidReplicaError):
            Kernel(junk)  # type: ignore[arg-type]
        with pytest.raises(InvalidReplicaError):
            Kernel("a").fork(junk)  # type: ignore[arg-type]
        with pytest.raises(InvalidReplicaError):
            Kernel("a").reincarnate(junk)  # type: ignore[arg-type]
    for junk in (None, 5, "text", b"", b"junk", bytearray(Kernel("a").to_bytes())):
        with pytest.raises(DecodeError):
            Kernel.from_bytes(junk, replica="b")  # type: ignore[arg-type]
        with pytest.raises(DecodeError):
            Delta.decode(junk)  # type: ignore[arg-type]


def test_a_chunk_made_by_hand_is_checked() -> None:
    """Its head as well as its content: nothing of it is kept."""
    kernel, donor = Kernel("a"), Kernel("b")
    donor.document("s", ORSet).add(1)
    one = donor.chunks(1000).chunks[0]
    for odd in (
        Chunk(b"short", 0, 1, one.vector, one.content),
        Chunk(one.set_id, 1, 1, one.vector, one.content),
        Chunk(one.set_id, "0", 1, one.vector, one.content),  # type: ignore[arg-type]
        Chunk(one.set_id, 0, 2, {"b": 1}, one.content),  # type: ignore[arg-type]
        Chunk(one.set_id, 0, 2, VersionVector({"b": 1 << 50}), one.content),
        Chunk(one.set_id, 0, 2, one.vector, "content"),  # type: ignore[arg-type]
    ):
        with pytest.raises(DecodeError):
            kernel.apply_chunk(odd)
        assert not kernel.stats()["chunks_aside"]


# ------------------------------------------------------------------------------------------ types


def filled(name: str, replica: str = "a") -> View:
    """A replica of each type that holds something."""
    view: Any = TYPES[name](replica)
    if name.endswith("Counter"):
        view.increment(3)
    elif name.endswith("Set"):
        view.add(1)
    elif name.endswith("Register"):
        view.set(1)
    elif name.endswith("Flag"):
        view.enable()
    elif name == "LWWMap":
        view.put(1, 1)
    else:
        view["n", GSet].add(1)
    return view  # type: ignore[no-any-return]  # one of the types


@pytest.mark.parametrize("name", KINDS)
def test_bytes_and_deltas_of_every_other_type_are_refused(name: str) -> None:
    """from_bytes, apply and merge of any other type raise and change nothing; of the same, not."""
    mine: Any = filled(name)
    before = mine.canonical_bytes()
    for other in KINDS:
        theirs: Any = filled(other, "b")
        delta = theirs.kernel.delta_since({})
        if other == name:
            assert type(mine).from_bytes(theirs.to_bytes(), replica="c").value == theirs.value
            twin = mine.fork("c")
            twin.apply(delta)
            twin.merge(theirs)
            continue
        attempts = (
            lambda t=theirs: type(mine).from_bytes(t.to_bytes(), replica="c"),
            lambda t=theirs: type(mine).from_bytes(t.kernel.to_bytes(), replica="c"),
            lambda t=TYPES[other]: type(mine).from_bytes(t("e").to_bytes(), replica="c"),
            lambda d=delta: mine.apply(d),
            lambda d=delta: mine.apply(Delta.decode(d.encode())),
            lambda t=theirs: mine.merge(t),
        )
        for attempt in attempts:
            with pytest.raises(TypeMismatchError):
                attempt()
    assert mine.canonical_bytes() == before


def test_another_bound_is_another_type() -> None:
    """Bytes, deltas and merges of a BoundedCounter name its bound."""
    ten, zero = BoundedCounter("a", minimum=10), BoundedCounter("b")
    delta = ten.increment(5)
    for attempt in (
        lambda: BoundedCounter.from_bytes(ten.to_bytes(), replica="a"),
        lambda: BoundedCounter.from_bytes(ten.to_bytes(), replica="a", minimum=11),
        lambda: zero.merge(ten),
        lambda: zero.apply(delta),
        lambda: ten.merge(PNCounter("p")),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeMismatchError):
            attempt()
    assert zero.value == 0
    assert BoundedCounter.from_bytes(ten.to_bytes(), replica="a", minimum=10).value == 15


def test_bytes_of_a_kernel_are_those_of_any_type() -> None:
    """A view's bytes make a kernel; a kernel's make a view if they hold nothing else."""
    elements = ORSet("a")
    elements.add(1)
    kernel = Kernel.from_bytes(elements.to_bytes(), replica="a")
    assert kernel.digest() == elements.kernel.digest()
    assert ORSet.from_bytes(kernel.to_bytes(), replica="a").value == {1}
    kernel.document("other", ORSet).add(2)
    with pytest.raises(TypeMismatchError):
        ORSet.from_bytes(kernel.to_bytes(), replica="a")
    assert ORSet.from_bytes(ORSet("e").to_bytes(), replica="f").value == frozenset()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ORSet, (5, "text", b"bytes", {"a": 1}, None, [[]])),
        (GSet, (5, "text", {"a": 1})),
        (RWSet, (5, "text", {"a": 1})),
        (PNCounter, ("5", 5.0, True, None, [5])),
        (GCounter, ("5", -1, True)),
        (ResettableCounter, ("5", True)),
        (BoundedCounter, ("5", -1, True)),
        (LWWMap, (5, "text", [1, 2], {"k": object()}, None)),
        (ORMap, (5, "text", [1], {("n", "Nothing"): 1})),
        (MVRegister, (5, "text", [1])),
        (MaxRegister, (True, [1], float("nan"))),
        (LWWRegister, (object(), Decimal(1))),
    ],
    ids=lambda given: given.__name__ if isinstance(given, type) else "",
)
def test_values_of_another_type_are_not_imported(kind: Any, values: tuple[Any, ...]) -> None:
    """import_value refuses what `value` of that type cannot show, and writes none of it."""
    for value in values:
        view = kind("a")
        with pytest.raises(CRDTError):
            view.import_value(value)
        assert not view.kernel.vector


# ---------------------------------------------------------------------------------- where and what


def refusal(write: Callable[[], object]) -> InvalidValueError:
    """What a write is refused with."""
    with pytest.raises(InvalidValueError) as refused:
        write()
    return refused.value


def test_a_refusal_says_where_and_what_is_storable() -> None:
    """The document, the key, and the way inside of the value; keys have a hint of their own."""
    kernel = Kernel("a")
    orders, one = kernel.document("orders", LWWMap), kernel.document("one", LWWRegister)
    nested = kernel.document("all", ORMap)["deep", ORMap]["orders", LWWMap]
    tags, high = kernel.document("tags", ORSet), kernel.document("high", MaxRegister)
    bad = {"note": Decimal(1)}
    where = {
        "orders[42].note": lambda: orders.put(42, bad),
        "orders['k'][1].note": lambda: orders.put("k", [1, bad]),
        "orders['k']['a b'][0]": lambda: orders.update({"fine": 1, "k": {"a b": (bad["note"],)}}),
        "orders[<object": lambda: orders.put(object(), 1),
        "orders['n']": lambda: orders.put("n", 10**5000),
        "all.deep.orders[1]": lambda: nested.put(1, Decimal(1)),
        "one.note": lambda: one.set(bad),
        "one": lambda: one.set({1, 2}),
        "tags": lambda: tags.add([1]),
        "high": lambda: high.set([1]),
        "MVRegister.note": lambda: MVRegister("b").set(bad),
        "LWWMap['k'] key (1, nan)": lambda: LWWMap("b").put("k", {(1, float("nan")): 1}),
    }
    for place, write in where.items():
        found = refusal(write)
        assert found.where.startswith(place)
        assert f", at {place}" in str(found)
    assert not kernel.vector
    assert "list" in refusal(lambda: one.set(Decimal(1))).hint
    assert "list" not in refusal(lambda: tags.add([1])).hint
    assert "list" not in refusal(lambda: orders.put([1], 1)).hint
    assert "flat tuples" in refusal(lambda: high.set([1])).hint
    assert "UTC" in refusal(lambda: one.set(datetime(2026, 1, 1))).hint  # noqa: DTZ001


def test_a_repr_that_raises_does_not_hide_the_refusal() -> None:
    """Whatever somebody's `__repr__` does, the write is refused by type."""

    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "its repr raises" in str(refusal(lambda: LWWRegister("a").set(Odd())))
    assert refusal(lambda: ORSet("a").add(Odd())).code == "invalid_value"
    assert refusal(lambda: LWWMap("a").put(Odd(), 1)).where


def test_every_error_has_a_code_and_a_hint() -> None:
    """Programs read the one, people the other."""
    errors = [getattr(crdt, name) for name in crdt.__all__ if name.endswith("Error")]
    for error in errors:
        assert error.code
        assert error.hint or error in {CRDTError, OperatorRefusedError}  # whose cases have theirs
