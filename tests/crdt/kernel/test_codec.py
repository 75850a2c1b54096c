"""Bytes: canonical values, golden vectors per wire version, and decoders under attack."""

import enum
import json
import os
import random
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import msgpack
import pytest

import crdt
from crdt import (
    BodyTooLargeError,
    Chunk,
    DecodeError,
    Delta,
    InvalidValueError,
    Kernel,
    LWWMap,
    LWWRegister,
    ORMap,
    ORSet,
    PNCounter,
    UnknownVersionError,
    decode_value,
    encode_value,
)
from crdt.kernel.codec import _PACKED, pack, unpack_body
from crdt.kernel.envelope import deflated, inflated, seal, unseal
from crdt.kernel.limits import NESTING_MAX, VALUE_BYTES_MAX
from tests.crdt.joining import joined
from tests.crdt.kernel.chunks import only_chunk
from tests.scale import rounds, seeds

GOLDEN = Path(__file__).parent / "golden_v3.json"

VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**63,
    2**64,
    -(2**64),
    10**40,
    0.0,
    -0.0,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "é",
    "a" * 300,
    b"",
    b"\x00\xff",
    (),
    (1, (2, "x")),
    [],
    [1, [2]] * 9,
    {},
    {"b": 1, "a": {"nested": (1,)}, 1: "one", (1, 2): None},
    {str(number): number for number in range(20)},
    datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=UTC),
]


def busy_kernel():
    """A deterministic kernel with every kind of thing that goes on the wire."""
    kernel, other = Kernel("a", clock=lambda: 1_700_000_000_000), Kernel("b~0123456789abcdef")
    mapping = kernel.document("values", LWWMap)
    for number, value in enumerate(VALUES):
        mapping.put(number, value)
    for element in (1, True, 1.0, "x", b"x", None, (1, "x"), 2**70):
        kernel.document("set", ORSet).add(element)
    deep = kernel.document("m", ORMap)["inner", ORMap]["count", PNCounter]
    with kernel.batch():
        deep.increment(3)
        deep.decrement(1)
        kernel.document("set", ORSet).remove("x")
    other.document("set", ORSet).add("theirs")
    kernel.merge(other)
    other.document("set", ORSet).add("later")
    late = other.document("set", ORSet).remove("theirs")
    kernel.apply(late)
    return kernel


def wide_kernel():
    """A kernel whose history goes as columns: two paths, a gap in the stamps, an overwrite."""
    kernel = Kernel("wide", clock=lambda: 1_700_000_000_000)
    for number in range(24):
        kernel.document("values", LWWMap).put(f"key {number % 20:02}", number)
        if number % 8 == 0:
            kernel.document("set", ORSet).add((number, "x"))
    return kernel


def wire_forms():
    """Name -> bytes of one of everything."""
    kernel = busy_kernel()
    forms = {f"value {number}": encode_value(value) for number, value in enumerate(VALUES)}
    forms["delta"] = kernel.delta_since({}).encode()
    forms["wide delta"] = wide_kernel().delta_since({}).encode()
    for chunk in kernel.chunks(402).chunks:
        forms[f"chunk {chunk.index}"] = chunk.encode()
    forms["snapshot"] = kernel.to_bytes()
    forms["canonical"] = kernel.canonical_bytes()
    return forms


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value!r:.20}")
def test_values_come_back_as_they_were(value):
    """Every storable value survives its canonical bytes with its exact type."""
    data = encode_value(value)
    back = decode_value(data)
    assert type(back) is type(value)
    assert back == value or encode_value(value) == data
    assert encode_value(back) == data
    register = LWWRegister("a")
    register.set(value)
    assert encode_value(register.value) == data


def test_elements_are_told_apart_by_type():
    """[crdt 24] 1, True and 1.0 are three elements, -0.0 and 0.0 two, b"a" and "a" two."""
    s = ORSet("a")
    elements = [1, True, 1.0, -0.0, 0.0, b"a", "a", None, (), (1,), (True,)]
    for element in elements:
        s.add(element)
    assert len(s) == len(elements)
    assert sorted(map(encode_value, s)) == sorted(map(encode_value, elements))
    s.remove(True)
    assert 1 in s
    assert True not in s
    assert [] not in s
    assert s.value == {1, 0.0, b"a", "a", None, (), (1,)}
    other = ORSet("b")
    other.add(1.0)
    other.add(2**64)
    assert joined(s, other) == s.value | {2**64}
    s.merge(other)
    assert sorted(map(encode_value, s)) == sorted(
        encode_value(each) for each in [*elements, 2**64] if each is not True
    )


class Text(str):
    """A str subclass: it would come back as a str."""

    __slots__ = ()


class Number(enum.IntEnum):
    """An int that is more than an int."""

    ONE = 1


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("\ud800", ValueError),
        (Text("x"), TypeError),
        (Number.ONE, TypeError),
        ({1, 2}, TypeError),
        (object(), TypeError),
        (bytearray(b"x"), TypeError),
        (1j, TypeError),
        (datetime(2024, 1, 1), ValueError),  # noqa: DTZ001  # naive on purpose
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), ValueError),
        ([Text("x")], TypeError),
        ({Text("x"): 1}, TypeError),
        ({float("nan"): 1}, ValueError),
        ({(1, float("nan")): 1}, ValueError),
        ({(1, Number.ONE): 1}, TypeError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_come_back_is_refused_at_the_write(value, kind):
    """[crdt 24] Subclasses, lone surrogates, naive times, NaN keys: refused, nothing changed."""
    r, m, s = LWWRegister("a"), LWWMap("b"), ORSet("c")
    r.set("before")
    before = r.canonical_bytes()
    writes = [lambda: r.set(value), lambda: m.put("k", value)]
    if not isinstance(value, list | dict | set | bytearray):
        writes += [lambda: s.add(value), lambda: m.put(value, 1)]
    for write in writes:
        with pytest.raises(InvalidValueError) as refused:
            write()
        assert isinstance(refused.value, kind)
        assert refused.value.code == "invalid_value"
    assert r.canonical_bytes() == before
    assert not m.kernel.vector
    assert not s.kernel.vector


def test_what_no_envelope_could_hold_is_refused_at_the_write():
    """A value that its own decoder would refuse for its size; what fits comes back."""
    kernel = Kernel("a")
    register, keys = kernel.document("r", LWWRegister), kernel.document("m", LWWMap)
    text, umlauts = "x" * VALUE_BYTES_MAX, "ä" * (VALUE_BYTES_MAX // 2)
    large = bytes(VALUE_BYTES_MAX)
    elements = kernel.document("s", ORSet)
    for write in (
        lambda: register.set(text + "x"),
        lambda: keys.put(umlauts + "x", 1),
        lambda: elements.add(large + b"x"),
        lambda: register.set([large]),
        lambda: elements.add((large,)),
        lambda: kernel.document(text + "x", LWWRegister),
    ):
        with pytest.raises(InvalidValueError, match="bytes, allowed are"):
            write()
    assert kernel.vector == {}
    assert Delta.decode(register.set(large).encode()) == kernel.delta_since({})
    for number in range(4):
        keys.put(number, large)
    with pytest.raises(BodyTooLargeError, match="in one piece"):
        kernel.delta_since({}).encode()
    assert kernel.delta_since({}, bytes_max=1).encode()
    other = Kernel("b")
    for chunk in kernel.chunks(1 << 40).chunks:
        other.apply_chunk(Chunk.decode(chunk.encode()))
    assert other.digest() == kernel.digest()
    assert Kernel.from_bytes(kernel.to_bytes(), replica="c").digest() == kernel.digest()


def test_elements_are_hashable_things():
    """[crdt 24] NaN, lists and dicts are no elements, also inside a tuple."""
    s = ORSet("a")
    for element in (float("nan"), [], {}, ([],), (float("nan"),)):
        with pytest.raises(InvalidValueError):
            s.add(element)
        assert element not in s
    assert not s.kernel.vector


def test_nothing_leads_in_or_out_of_a_replica():
    """[crdt 24] Changing a list after storing it, or what was read, changes nothing."""
    r = LWWRegister("a")
    stored = {"list": [1, 2]}
    r.set(stored)
    stored["list"].append(3)
    read = r.value
    read["list"].clear()
    assert r.value == {"list": [1, 2]}
    assert r.value is not r.value
    other = LWWRegister("b")
    other.merge(r)
    other.value["list"].append(4)
    assert joined(r, other) == {"list": [1, 2]}


def test_nesting_is_limited_at_the_write_and_at_decode():
    """[crdt 27] 500 levels: a typed error at the write and at decode, state unchanged."""
    deep = []
    for _ in range(500):
        deep = [deep]
    r = LWWRegister("a")
    with pytest.raises(InvalidValueError, match="deeper"):
        r.set(deep)
    assert not r.kernel.vector
    with pytest.raises(DecodeError):
        decode_value(b"\x91" * 500 + b"\xc0")
    with pytest.raises(DecodeError):
        decode_value(b"\x91" * 5000 + b"\xc0")
    tuples = encode_value(None)
    for _ in range(500):
        body = b"\x91" + tuples
        tuples = b"\xc9" + len(body).to_bytes(4, "big") + b"\x03" + body
    with pytest.raises(DecodeError):
        decode_value(tuples)
    fits = None
    for _ in range(NESTING_MAX):
        fits = [fits]
    r.set(fits)
    other = LWWRegister("b")
    with pytest.raises(InvalidValueError, match="deeper"):
        other.set(deep)
    assert joined(r, other) == r.value == fits


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0\xc0",
        b"\xd0\x01",  # one byte more than needed
        b"\xca\x3f\x80\x00\x00",  # a 32 bit float
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x01",  # another NaN
        b"\x82\xa1b\x01\xa1a\x02",  # keys out of order
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\x90\x01",  # a list as a key
        b"\xd4\x01\x05",  # a big integer that is small
        b"\xd7\xff\x00\x00\x00\x00\x00\x00\x00\x00",  # another extension
        b"\xd7\x02\x7f\xff\xff\xff\xff\xff\xff\xff",  # a time outside of the calendar
        b"\xd4\x03\x05",  # a tuple that is an int
        b"\xa2\xed\xa0",  # half a character
        b"\xdd\xff\xff\xff\xff",  # four billion items announced
        b"\xdf\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff\x01",
    ],
)
def test_bytes_that_are_no_canonical_value_are_refused(data):
    """Trailing, longer than needed, unordered, forged: DecodeError."""
    with pytest.raises(DecodeError):
        decode_value(data)


@pytest.mark.processes
def test_equal_content_gives_equal_bytes_under_every_hash_seed():
    """[crdt 25] The same bytes under three hash seeds, each in a process of its own."""
    script = (
        "import hashlib, sys; from tests.crdt.kernel.test_codec import wire_forms\n"
        "for name, data in sorted(wire_forms().items()):\n"
        "    print(name, hashlib.sha256(data).hexdigest())\n"
    )
    outputs = set()
    for hash_seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            capture_output=True,
            check=True,
            text=True,
        )
        outputs.add(done.stdout)
    golden = {name: bytes.fromhex(text) for name, text in json.loads(GOLDEN.read_text()).items()}
    recorded = [f"{name} {sha256(golden[name]).hexdigest()}\n" for name in sorted(golden)]
    assert outputs == {"".join(recorded)}


def test_golden_vectors_of_wire_version_3():
    """The bytes of wire version 3 are read, and written, as on the day they were recorded."""
    golden = {name: bytes.fromhex(text) for name, text in json.loads(GOLDEN.read_text()).items()}
    assert golden == wire_forms()
    kernel, wide, reader = busy_kernel(), wide_kernel(), Kernel("r")
    reader.apply(Delta.decode(golden["wide delta"]))
    assert reader.canonical_bytes() == wide.canonical_bytes()
    reader = Kernel("r")
    reader.apply(Delta.decode(golden["delta"]))
    assert reader.document("set", ORSet) == kernel.document("set", ORSet)
    restored = Kernel.from_bytes(golden["snapshot"], replica="a")
    assert restored.canonical_bytes() == golden["canonical"]
    joiner = Kernel("j")
    for name in [name for name in golden if name.startswith("chunk")]:
        joiner.apply_chunk(Chunk.decode(golden[name]))
    assert joiner.canonical_bytes() == golden["canonical"]


DECODERS = {
    "d": Delta.decode,
    "c": Chunk.decode,
    "s": lambda data: Kernel.from_bytes(data, replica="x"),
}


def test_an_envelope_is_checked_before_it_is_opened():
    """Damage, another kind, an unknown version, trailing bytes: typed, naming both versions."""
    data = busy_kernel().delta_since({}).encode()
    with pytest.raises(UnknownVersionError) as error:
        Delta.decode(data[:2] + b"\x63" + data[3:])
    assert (error.value.version, error.value.known) == (99, 3)
    for wrong in (data[:-1], data + b"\x00", b"", b"cv", data[:20], b"XX" + data[2:]):
        for decode in DECODERS.values():
            with pytest.raises(DecodeError):
                decode(wrong)
    with pytest.raises(DecodeError):
        Chunk.decode(data)
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 4
        with pytest.raises(DecodeError):
            Delta.decode(bytes(flipped))


def test_a_bomb_is_refused_before_it_grows():
    """[crdt 25] Forged lengths and compressed bombs allocate nothing to speak of."""
    body, wide = seal("d", b"\x00" * (1 << 20)), [0, 1, (1 << 40) - 2]
    oversize = seal("d", b"")
    forged = [
        body,
        oversize[:9] + (1 << 31).to_bytes(4, "big"),
        seal("d", b"\xdd\x7f\xff\xff\xff" * 200),
        seal("d", closed("d", [[["a"], wide, [[], [[0, [], [[0, wide]]]]]]])),
    ]
    kernel = Kernel("k")
    tracemalloc.start()
    for data in forged:
        with pytest.raises(crdt.CRDTError):
            kernel.apply(Delta.decode(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    assert not kernel.context


def mutated(dice, body):
    """A body with one thing in it changed, removed, repeated or replaced."""
    if not isinstance(body, list) or not body or dice.random() < 0.1:
        return dice.choice([None, -1, 0, 1, 1 << 40, 1 << 64, "", "x", b"", [], [[]], True, 1.5])
    body = list(body)
    index = dice.randrange(len(body))
    roll = dice.random()
    if roll < 0.7:
        body[index] = mutated(dice, body[index])
    elif roll < 0.8:
        del body[index]
    elif roll < 0.9:
        body.insert(index, body[index])
    else:
        other = dice.randrange(len(body))
        body[index], body[other] = body[other], body[index]
    return body


SPLICED = (
    None, [True, {"k": [1.5, -0.0], "l": b"x"}], (1, (2**70, -(2**70))), {1: {"": []}, (1,): ()},
    datetime(2024, 1, 1, tzinfo=UTC), "text" * 20, [[[[["deep"]]]]], {True: 1, "a": None},
)  # fmt: skip


def spliced(dice, values):
    """Canonical bytes of a value with a piece of another one in them, or a byte changed."""
    one, other = dice.choice(values), dice.choice(values)
    start, stop = sorted((dice.randrange(len(one) + 1), dice.randrange(len(one) + 1)))
    if dice.random() < 0.5:
        stop = min(start + 1, len(one))
        return one[:start] + bytes([dice.randrange(256)]) + one[stop:]
    return one[:start] + other[dice.randrange(len(other)) :] + one[stop:]


def forged_numbers(body):
    """Every body in which one number is another one, far too large."""
    for index, part in enumerate(body):
        if type(part) is int:
            for wide in ((1 << 20) + 1, (1 << 40) - 2):
                yield [*body[:index], wide, *body[index + 1 :]]
        elif type(part) is list:
            for inner in forged_numbers(part):
                yield [*body[:index], inner, *body[index + 1 :]]


def opened(letter, data):
    """The body of an envelope as lists; the events of a delta, which are closed, as well."""
    body = unpack_body(unseal(letter, data), 1 << 30)
    if letter != "d":
        return body
    return [
        [names, flat, unpack_body(inflated(content, size))] for names, flat, size, content in body
    ]


def closed(letter, body):
    """The other way round, for bodies that need not make sense."""
    if letter != "d" or type(body) is not list:
        return pack(body)
    parts = []
    for part in body:
        if type(part) is list and len(part) == 3:
            names, flat, events = part
            events = pack(events)
            parts.append([names, flat, len(events), deflated(events)])
        else:
            parts.append(part)
    return pack(parts)


@pytest.mark.parametrize("kind", ["d", "w", "e", "c", "s"])
def test_forged_numbers_allocate_nothing(kind):
    """[crdt 25] Each number of each kind of message made huge, in turn: no growth, typed errors."""
    kernel = wide_kernel() if kind == "w" else busy_kernel()
    snapshot = kernel.to_bytes()
    size = int.from_bytes(snapshot[:4], "big")
    chunk = kernel.chunks(10_000).chunks[0]
    data = {
        "d": lambda: kernel.delta_since({}).encode(),
        "w": lambda: kernel.delta_since({}).encode(),
        "e": lambda: chunk.content,
        "c": chunk.encode,
        "s": lambda: snapshot[4 : 4 + size],
    }[kind]()
    letter = "d" if kind == "w" else kind
    cases = 0
    tracemalloc.start()
    forgeries = [closed(letter, body) for body in forged_numbers(opened(letter, data))]
    forgeries += [pack(body) for body in forged_numbers(unpack_body(unseal(letter, data), 1 << 30))]
    for body in forgeries:
        forged, cases = seal(letter, body), cases + 1
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        with suppress(crdt.CRDTError):
            if letter == "d":
                Kernel("r").apply(Delta.decode(forged))
            elif letter == "e":
                Kernel("r").apply_chunk(only_chunk(body, kernel.vector))
            elif letter == "c":
                Kernel("r").apply_chunk(Chunk.decode(forged))
            else:
                whole = len(forged).to_bytes(4, "big") + forged + snapshot[4 + size :]
                Kernel.from_bytes(whole, replica="r")
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < 8 << 20
    tracemalloc.stop()
    assert cases > 3


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_snapshot_dooms_no_more_than_may_be_doomed(count, monkeypatch):
    """Many ranges of doomed dots, each below the limit: they were counted one by one only."""
    monkeypatch.setattr("crdt.kernel.state.DOOMED_MAX", 1000)
    snapshot = Kernel("k").to_bytes()
    size = int.from_bytes(snapshot[:4], "big")
    head = unpack_body(unseal("s", snapshot[4 : 4 + size]))
    head[1] = ["z"]
    head[4] = [part for index in range(count) for part in (0, 1 + index * 601, 599)]
    forged = seal("s", pack(head))
    whole = len(forged).to_bytes(4, "big") + forged
    if count == 1:
        assert Kernel.from_bytes(whole, replica="r").stats()["doomed"] == 600
        return
    with pytest.raises(DecodeError, match="more doomed"):
        Kernel.from_bytes(whole, replica="r")


def test_structure_aware_forgeries_are_typed_errors_or_sound():
    """[crdt 25] Well-formed envelopes with forged bodies: refused, or a kernel that checks out."""
    kernel = busy_kernel()
    snapshot = kernel.to_bytes()
    head_size = int.from_bytes(snapshot[:4], "big")
    head = snapshot[4 : 4 + head_size]
    sources = {
        "d": kernel.delta_since({}).encode(),
        "e": kernel.chunks(10_000).chunks[0].content,
        "w": wide_kernel().delta_since({}).encode(),
        "s": head,
    }
    pieces = kernel.chunks(60).chunks
    assert len(pieces) > 2
    sources["c"] = pieces[0].encode()
    vector, values = kernel.vector, [encode_value(value) for value in SPLICED]
    bodies = {kind: opened(data[3:4].decode(), data) for kind, data in sources.items()}
    accepted = refused = 0
    for seed in seeds(2):
        dice = random.Random(seed)
        for _ in range(rounds(100_000) // 10):
            kind = dice.choice("ddweeeesccv")
            if kind == "v":
                data = spliced(dice, values)
                try:
                    assert encode_value(decode_value(data)) == data
                except DecodeError:
                    refused += 1
                continue
            letter = "d" if kind == "w" else kind
            content = closed(letter, mutated(dice, bodies[kind]))
            data = seal(letter, content)
            reader = Kernel("r")
            try:
                if kind in "dw":
                    reader.apply(Delta.decode(data))
                elif kind == "e":
                    reader.apply_chunk(only_chunk(content, vector))
                elif kind == "c":
                    for chunk in (*pieces[1:], Chunk.decode(data), pieces[0]):
                        reader.apply_chunk(chunk)
                else:
                    size = len(data).to_bytes(4, "big")
                    reader = Kernel.from_bytes(size + data + snapshot[4 + head_size :], replica="r")
            except crdt.CRDTError:
                refused += 1
            else:
                reader._check()
                accepted += 1
    assert refused > 100
    assert accepted > 10


@pytest.mark.parametrize("scalar", ["text", 7, b"bytes", 1 << 80, -3])
def test_a_plain_scalar_has_no_packed_form(scalar):
    """One value, one form: else equal states would have other bytes, and be other values here."""
    packed = msgpack.ExtType(_PACKED, encode_value(scalar))
    with pytest.raises(DecodeError, match="packed form"):
        unpack_body(msgpack.packb([packed]))
    assert unpack_body(pack([(encode_value([scalar]),)])) == [(encode_value([scalar]),)]


def test_nothing_may_follow_a_compressed_body():
    """Bytes behind it would make two forms of one message; the checksum fits them both."""
    data = seal("d", b"abc" * 1_000)
    assert data[4] == 1  # compressed
    longer = data[:5] + bytes(4) + data[9:] + b"more"
    crc = zlib.crc32(longer[9:], zlib.crc32(longer[:5]))
    with pytest.raises(DecodeError, match="does not end where it should"):
        unseal("d", longer[:5] + crc.to_bytes(4, "big") + longer[9:])
    assert unseal("d", data) == b"abc" * 1_000


def test_an_instant_does_not_remember_that_its_hour_came_twice():
    """`fold` belongs to a place; two datetimes of one instant are stored and read as one."""
    for fold in (0, 1):
        title = LWWRegister("a")
        title.set(datetime(2025, 10, 26, 0, 30, tzinfo=UTC, fold=fold))
        assert title.value.fold == 0
        again = LWWRegister.from_bytes(title.to_bytes(), replica="a")
        assert (again.value, again.value.fold) == (title.value, 0)


def test_random_bytes_are_typed_errors():
    """[crdt 25] 100 000 random byte strings into the decoders: DecodeError, nothing else."""
    for seed in seeds(2):
        dice = random.Random(seed)
        for _ in range(rounds(100_000) // 2):
            data = dice.randbytes(dice.randrange(40))
            for kind, decode in DECODERS.items():
                with pytest.raises(DecodeError):
                    decode(data)
                if (kind, data) == ("d", b"\x90"):  # no parts: the delta of nothing
                    continue
                with pytest.raises(DecodeError):
                    decode(seal(kind, data))
            try:
                assert encode_value(decode_value(data)) == data
            except DecodeError:
                continue
