"""What may be stored at all: refused alike as a write, a delta made by hand, and as bytes."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from crdt import (
    BoundedCounter,
    ClockError,
    CRDTError,
    DecodeError,
    Delta,
    Event,
    GCounter,
    InvalidAmountError,
    InvalidArgumentError,
    InvalidValueError,
    Kernel,
    LWWMap,
    LWWRegister,
    MaxRegister,
    MinRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
    Run,
    SeqsExhaustedError,
    encode_value,
)
from crdt.kernel import HLC, SEQ_MAX, milliseconds
from crdt.kernel.codec import pack
from crdt.kernel.envelope import seal
from crdt.kernel.limits import (
    INT_MAX,
    INT_MIN,
    PATH_DEPTH_MAX,
    STAMP_MAX,
    VALUE_BYTES_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def delta_of(path: tuple[str, ...], step: Any, value: Any, stamp: int = 0, seq: int = 1) -> Delta:
    """One event of `x`, made by hand, as a forger makes it."""
    return Delta((Run("x", seq, seq, (Event(seq, path, step, stamp, value, ()),)),))


FORGED = {
    "an integer too long": delta_of(("d", "MVRegister"), "", INT_MAX + 1),
    "an integer too long, below": delta_of(("d", "MVRegister"), "", INT_MIN - 1),
    "a total too long": delta_of(("d", "PNCounter"), "x", 10**5000),
    "an element too long": delta_of(("d", "ORSet"), INT_MAX + 1, None),
    "a path too deep": delta_of(
        ("d", "ORMap") + ("n", "ORMap") * (PATH_DEPTH_MAX - 1) + ("x", "ORSet"), 1, None
    ),
    "a child of a set": delta_of(("d", "ORSet", "n", "ORSet"), 1, None),
    "no such type": delta_of(("d", "Nothing"), "", 1),
    "a stamp too late": delta_of(("d", "LWWRegister"), "", 1, STAMP_MAX + 1),
    "a stamp before all": delta_of(("d", "LWWRegister"), "", 1, -1),
    "a stamp where none is": delta_of(("d", "ORSet"), 1, None, 7),
    "a seq too late": delta_of(("d", "ORSet"), 1, None, seq=SEQ_MAX + 1),
    "a seq before all": delta_of(("d", "ORSet"), 1, None, seq=0),
    "tuples in a tuple": delta_of(("d", "MaxRegister"), "", (encode_value(((1,),)),)),
    "NaN as a greatest": delta_of(("d", "MaxRegister"), "", float("nan")),
    "NaN in a tuple": delta_of(("d", "MinRegister"), "", (encode_value((1, float("nan"))),)),
    "a bool as a greatest": delta_of(("d", "MaxRegister"), "", True),
    "rights granted to nobody": delta_of(
        ("d", "BoundedCounter:0"), "x", (encode_value((1, 0, {"": 1})),)
    ),
    "the row of another": delta_of(("d", "GCounter"), "y", 1),
    "a list as it is": delta_of(("d", "LWWRegister"), "", [1], 1),
    "an increment of bytes": delta_of(("d", "ResettableCounter"), 1, b"12345678"),
    "op_ids remembered under an op_id": delta_of(("d", "ResettableCounter"), "x", b"12345678"),
    "op_ids remembered by half": delta_of(("d", "ResettableCounter"), b"", b"1234567"),
    "no op_ids remembered": delta_of(("d", "ResettableCounter"), b"", b""),
    "op_ids remembered as a number": delta_of(("d", "ResettableCounter"), b"", 5),
    "too many op_ids remembered": delta_of(("d", "ResettableCounter"), b"", bytes(8 * 1025)),
    "not an event": Delta((Run("x", 1, 1, (5,)),)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", FORGED)
def test_what_could_not_be_written_cannot_be_forged(name: str) -> None:
    """Nothing comes in by hand or as bytes that a view would refuse, and nothing is half taken."""
    kernel = Kernel("a")
    kernel.document("d", ORSet).add("here")
    before, vector = kernel.canonical_bytes(), kernel.vector
    with pytest.raises(DecodeError):
        kernel.apply(FORGED[name])
    with pytest.raises(DecodeError):
        kernel.replay(FORGED[name])
    try:
        data = FORGED[name].encode()
    except Exception:  # then there are no bytes to take in
        data = b""
    with pytest.raises(DecodeError):
        Delta.decode(data)
    assert (kernel.canonical_bytes(), kernel.vector) == (before, vector)
    kernel._check()


def test_a_delta_made_by_hand_is_taken_as_its_bytes_would_be() -> None:
    """NaN comes in the one pattern that is stored, whatever pattern was put in."""
    odd = -float("nan")
    by_hand, as_bytes = Kernel("a"), Kernel("b")
    delta = delta_of(("d", "LWWRegister"), "", odd, 1)
    by_hand.apply(delta)
    as_bytes.apply(Delta.decode(delta.encode()))
    assert by_hand.canonical_bytes() == as_bytes.canonical_bytes()


def everywhere(kernel: Kernel) -> None:
    """Peers take it in three ways, it restarts, and every document of it can be shown."""
    peers = [Kernel(name) for name in ("p", "q", "r")]
    peers[0].apply(Delta.decode(kernel.delta_since({}).encode()))
    peers[1].merge(kernel)
    for chunk in kernel.chunks(1000).chunks:
        peers[2].apply_chunk(chunk)
    peers.append(Kernel.from_bytes(kernel.to_bytes(), replica=kernel.replica))
    for peer in peers:
        assert peer.canonical_bytes() == kernel.canonical_bytes()
        assert Kernel.from_bytes(peer.to_bytes(), replica="z").digest() == kernel.digest()
        for name, kind in peer.documents():
            view = peer.document(name, kind)
            assert repr(view)
            assert str(view.value)
            assert view.debug()


def test_what_is_accepted_can_be_read_everywhere() -> None:
    """The largest of everything: written, told, merged, cut in chunks, restarted and shown."""
    kernel = Kernel("a")
    for kind in (LWWRegister, MVRegister, MaxRegister, MinRegister):
        kernel.document("max", kind).set(INT_MAX)
        kernel.document("min", kind).set(INT_MIN)
    for counter in (GCounter, PNCounter, ResettableCounter, BoundedCounter):
        kernel.document("c", counter).increment(INT_MAX)
    kernel.document("b", BoundedCounter.at_least(INT_MAX)).increment(1)
    kernel.document("s", ORSet).add((INT_MIN, INT_MAX))
    kernel.document("m", LWWMap).put(INT_MIN, [INT_MAX, {INT_MIN: float("nan")}])
    place = kernel.document("deep", ORMap)
    for _ in range(PATH_DEPTH_MAX - 2):
        place = place["n", ORMap]
    place["x", LWWRegister].set("bottom")
    everywhere(kernel)


def test_sums_of_what_is_accepted_can_be_shown() -> None:
    """Many replicas at the limit together: the sum is longer than any of them, and still shown."""
    kernel = Kernel("a")
    for index in range(20):
        other = Kernel(f"o{index}")
        other.document("c", PNCounter).increment(INT_MAX)
        other.document("r", ResettableCounter).increment(INT_MAX)
        kernel.merge(other)
    assert kernel.document("c", PNCounter) == 20 * INT_MAX
    everywhere(kernel)


def over_the_limit() -> dict[str, tuple[Kernel, Callable[[], object]]]:
    """Writes that are one too many, on a kernel that holds what makes them so."""
    kernel = Kernel("a")
    total = kernel.document("c", PNCounter)
    total.increment(INT_MAX)
    rights = kernel.document("b", BoundedCounter)
    rights.increment(INT_MAX)
    resettable = kernel.document("r", ResettableCounter)
    values, keys = kernel.document("v", MVRegister), kernel.document("m", LWWMap)
    elements, deepest = kernel.document("s", ORSet), kernel.document("deep", ORMap)
    for _ in range(PATH_DEPTH_MAX - 1):
        deepest = deepest["n", ORMap]
    longest = kernel.document("x" * (VALUE_BYTES_MAX - 1), ORMap)

    def twice() -> None:
        with kernel.batch():
            resettable.increment(INT_MAX)
            resettable.increment(1)

    writes: dict[str, Callable[[], object]] = {
        "total": lambda: total.increment(1),
        "rights": lambda: rights.increment(1),
        "amount": lambda: total.increment(-(10**5000)),
        "amount of a GCounter": lambda: kernel.document("g", GCounter).increment(-(10**5000)),
        "decrement": lambda: rights.decrement(10**5000),
        "coalesced": twice,
        "value": lambda: values.set(INT_MAX + 1),
        "value of a key": lambda: keys.put("k", INT_MIN - 1),
        "in a list": lambda: keys.put("k", [10**5000]),
        "key": lambda: keys.put(INT_MAX + 1, 1),
        "element": lambda: elements.add(10**5000),
        "level": lambda: deepest["x", ORSet].add(1),
        "names": lambda: longest["xy", ORSet].add(1),
        "bound": lambda: BoundedCounter.at_least(10**5000),
        "order": lambda: kernel.document("o", MaxRegister).set(((1,), 2)),
    }
    return {name: (kernel, write) for name, write in writes.items()}


@pytest.mark.parametrize("name", over_the_limit())
def test_a_write_over_a_limit_is_refused_with_nothing_changed(name: str) -> None:
    """Typed, in words that can be shown, and the state and the next dot are what they were."""
    kernel, write = over_the_limit()[name]
    before, vector = kernel.canonical_bytes(), kernel.vector
    with pytest.raises((InvalidValueError, InvalidAmountError)) as refused:
        write()
    assert str(refused.value)
    assert (kernel.canonical_bytes(), kernel.vector) == (before, vector)
    kernel._check()


def test_concurrent_values_of_two_kinds_are_in_one_order_everywhere() -> None:
    """One kind per register is a rule for writers; where two meet, both are ordered."""
    values = [3, 2.5, "text", b"bytes", datetime(2026, 1, 1, tzinfo=UTC), (1, "a"), ("a", 1), ()]
    kernels = [Kernel(f"k{index}") for index in range(len(values))]
    for kernel, value in zip(kernels, values, strict=True):
        kernel.document("r", MaxRegister).set(value)
        kernel.document("r", MinRegister).set(value)
    for first in kernels:
        for second in kernels:
            first.merge(second)
    assert {repr(k.document("r", MaxRegister).value) for k in kernels} == {"('a', 1)"}
    assert {repr(k.document("r", MinRegister).value) for k in kernels} == {"2.5"}
    assert kernels[0].document("r", MaxRegister).set(("b",))


# ----------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize(
    "clock",
    [time.time_ns, lambda: 1 << 48, lambda: -1, lambda: 1.5, lambda: None, lambda: True],
    ids=["nanoseconds", "too late", "negative", "float", "nothing", "bool"],
)
def test_a_clock_that_gives_no_milliseconds_is_refused_before_anything_changes(clock: Any) -> None:
    """At a write, in a batch, and where stamps of others are taken in."""
    other = LWWRegister("b")
    delta = other.set("theirs")
    register = LWWRegister("a", clock=clock)
    kernel = register.kernel
    attempts: list[Callable[[], object]] = [
        lambda: register.set("paid"),
        lambda: register.apply(delta),
        lambda: register.merge(other),
        lambda: kernel.apply_chunk(other.kernel.chunks(1000).chunks[0]),
        lambda: LWWRegister.from_bytes(other.to_bytes(), replica="c", clock=clock),
    ]
    for attempt in attempts:
        with pytest.raises(ClockError, match=r"clock"):
            attempt()
        assert not kernel.vector
        kernel._check()


def test_a_clock_that_fails_in_a_batch_rolls_it_back() -> None:
    """What the batch wrote before it is gone as well."""
    kernel = Kernel("a", clock=time.time_ns)

    def write() -> None:
        with kernel.batch():
            kernel.document("n", PNCounter).increment()
            kernel.document("r", LWWRegister).set("paid")

    with pytest.raises(ClockError):
        write()
    assert not kernel.vector
    assert not list(kernel.documents())


@pytest.mark.parametrize("stamp", [STAMP_MAX, STAMP_MAX >> 1, (STAMP_MAX >> 1) + 1])
@pytest.mark.parametrize("clock", [None, lambda: 1_700_000_000_000], ids=["none", "wall"])
def test_a_forged_stamp_stops_nobody_from_writing(stamp: int, clock: Any) -> None:
    """It is stored, whoever saw it wins over it, and what they write is read everywhere."""
    register = LWWRegister("a", clock=clock)
    register.kernel.apply(delta_of(("", "LWWRegister"), "", "forged", stamp))
    assert register.value == "forged"
    for word in ("one", "two", "three"):
        register.set(word)
    assert register.value == "three"
    assert milliseconds(register.kernel.clock.last) <= milliseconds(STAMP_MAX >> 1) + 1
    everywhere(register.kernel)


def test_a_clock_at_its_last_stamp_says_so() -> None:
    """Only a forged beginning leads there; what it would issue next could not be sent."""
    clock = HLC(STAMP_MAX)
    with pytest.raises(ClockError, match="last stamp"):
        clock.tick(1)
    for start in (-1, STAMP_MAX + 1, 1.5, None):
        with pytest.raises(ClockError):
            HLC(start)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- seqs


def test_the_last_dot_is_the_last() -> None:
    """Numbers may be voided up to the last there is; then no write, and a new id goes on."""
    kernel = Kernel("a")
    elements = kernel.document("s", ORSet)
    for beyond in (SEQ_MAX + 1, 1 << 64, 10**5000):
        with pytest.raises(SeqsExhaustedError):
            kernel.void(beyond)
    for wrong in (None, "5", 5.0, True):
        with pytest.raises(InvalidArgumentError):
            kernel.void(wrong)  # type: ignore[arg-type]
    kernel.void(SEQ_MAX - 1)
    elements.add("last")
    before = kernel.canonical_bytes()
    with pytest.raises(SeqsExhaustedError, match="all of its"):
        elements.add("one more")
    with pytest.raises(SeqsExhaustedError):
        elements.remove("last")
    with pytest.raises(SeqsExhaustedError), kernel.batch():
        kernel.document("r", LWWRegister).set(1)
    assert kernel.canonical_bytes() == before
    everywhere(kernel)
    kernel.reincarnate("b")
    elements.add("one more")
    assert elements.value == {"last", "one more"}
    kernel._check()


def test_a_large_part_of_a_message_is_refused() -> None:
    """A value, name or step over its limit, also where the whole fits its envelope."""
    large = "x" * (VALUE_BYTES_MAX + 1)
    for names, path, step, value in (
        (["x"], ["d", 8], "", large),
        (["x"], [large, 8], "", 1),
        (["x"], ["d", 14], large, 1),
    ):
        body = [names, [path], [[0, 1, 0, 0, [], [[0, 0, step, 1, value]]]]]
        with pytest.raises(DecodeError):
            Delta.decode(seal("d", pack(body)))


def test_errors_of_limits_are_errors_of_this_package() -> None:
    """Each has a code and says what to do next."""
    for error in (ClockError, SeqsExhaustedError, InvalidArgumentError):
        assert issubclass(error, CRDTError)
        assert error.code
        assert error.hint
