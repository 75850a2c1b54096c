"""The history of what a kernel saw replaced: what it holds, where it ends, and what it never is."""

from __future__ import annotations

import pytest

from crdt import (
    BatchTooLargeError,
    Kernel,
    LWWMap,
    LWWRegister,
    ORMap,
    ORSet,
    explain,
    recollection,
)
from crdt.kernel.replaced import (
    CHANGE_VALUES_MAX,
    DOCUMENT_VALUES_MAX,
    DOCUMENTS_MAX,
    ROW_BYTES,
)

BYTES_MAX = 1 << 23
WIDE = 5000


def keeping(replica: str, bytes_max: int = BYTES_MAX) -> Kernel:
    kernel = Kernel(replica, clock=lambda: 1_700_000_000_000)
    kernel.keep_replaced(bytes_max)
    return kernel


def replaced(kernel: Kernel, name: str) -> list[tuple]:
    """(place, value, who, by whom, what is missing), the last death first."""
    return [
        (line.place, line.value, str(line.dot), str(line.by) if line.by else "", line.missing)
        for line in explain(kernel, name)
        if line.fate == "replaced"
    ]


def test_what_is_overwritten_and_removed_here_keeps_its_value_and_its_killer():
    """Registers, maps in maps, sets; also when the records and the slots are gone."""
    kernel = keeping("a")
    register = kernel.document("r", LWWRegister)
    register.set("one")
    register.set(["two", 2])
    register.set(None)
    tags = kernel.document("cart", ORMap).child("tags", LWWMap)
    tags.put("size", "S")
    tags.delete("size")
    things = kernel.document("things", ORSet)
    things.add("x")
    things.remove("x")
    kernel.drop_records()
    assert replaced(kernel, "r") == [
        ("", ["two", 2], "a:2", "a:3", ""),
        ("", "one", "a:1", "a:2", ""),
    ]
    assert replaced(kernel, "cart") == [("tags/size", "S", "a:4", "a:5", "")]
    assert replaced(kernel, "things") == [("x", None, "a:6", "a:7", "")]
    assert {line.written_ms for line in explain(kernel, "r")} == {1_700_000_000_000}


@pytest.mark.parametrize("together", [True, False], ids=["one delta", "delta by delta"])
def test_what_others_replaced_is_told_with_who_did(together):
    """Writes of two, each killed by the other's; and a row of which one event killed but a part."""
    one, two, here = Kernel("one"), Kernel("two"), keeping("here")
    deltas = [one.document("r", LWWRegister).set("a")]
    two.merge(one)
    deltas.append(two.document("r", LWWRegister).set("b"))
    deltas.append(one.document("r", LWWRegister).set("c"))  # beside b: a is dead already
    two.apply(deltas[2])
    deltas.append(two.document("r", LWWRegister).set("d"))
    if together:
        for delta in deltas[:1]:
            here.apply(delta)
        here.apply(two.delta_since(here.vector))
    else:
        for delta in deltas:
            here.apply(delta)
            here.apply(delta)  # a second time says nothing new
    told = {line[2]: line for line in replaced(here, "r")}
    assert told["one:1"][1] == "a"
    assert told["one:1"][3] in {"two:1", "one:2"}  # both killed it
    assert told["one:2"][3:] == ("two:2", "never seen" if together else "")
    assert told["two:1"][3:] == ("two:2", "never seen" if together else "")
    assert len(told) == 3


def test_who_joins_later_says_that_it_never_saw_what_was_replaced():
    """By history: the kills name what is not there. As a whole: that it begins late."""
    ada, by_delta, by_state = Kernel("ada"), keeping("bob"), keeping("cyd")
    for value in ("first", "second"):
        ada.document("r", LWWRegister).set(value)
    by_delta.apply(ada.delta_since({}))
    assert replaced(by_delta, "r") == [("", None, "ada:1", "ada:2", "never seen")]
    assert recollection(by_delta, "r") == (0, False, False, False)
    for chunk in ada.chunks(1 << 16).chunks:
        by_state.apply_chunk(chunk)
    assert replaced(by_state, "r") == []
    assert recollection(by_state, "r").begins_late
    by_state.apply(ada.document("r", LWWRegister).set("third"))
    assert replaced(by_state, "r") == [("", "second", "ada:2", "ada:3", "")]
    began = Kernel("dan")
    began.document("r", LWWRegister).set(1)
    began.document("r", LWWRegister).set(2)
    began.keep_replaced(BYTES_MAX)
    assert recollection(began, "r").begins_late
    assert replaced(began, "r") == [("", None, "dan:1", "dan:2", "forgotten")]
    assert recollection(Kernel("eve"), "r") is None


def test_a_document_keeps_its_last_values_and_says_that_older_ones_are_forgotten():
    """A busy document does not push out a quiet one."""
    kernel = keeping("a")
    quiet, busy = kernel.document("quiet", LWWRegister), kernel.document("busy", LWWRegister)
    quiet.set("old")
    quiet.set("new")
    for number in range(DOCUMENT_VALUES_MAX + 1):
        busy.set(number)
    assert recollection(kernel, "busy") == (DOCUMENT_VALUES_MAX, False, False, False)
    busy.set("one more")
    assert recollection(kernel, "busy") == (DOCUMENT_VALUES_MAX, True, False, False)
    kept = [line[1] for line in replaced(kernel, "busy") if not line[4]]
    assert kept == list(range(DOCUMENT_VALUES_MAX, 0, -1))
    assert {line[4] for line in replaced(kernel, "busy") if line[1] is None} <= {"forgotten"}
    assert replaced(kernel, "quiet") == [("", "old", "a:1", "a:2", "")]
    assert not recollection(kernel, "quiet").ran_out


def test_bytes_are_limited_and_what_rested_longest_goes_first():
    """Also where one value is more than all of the room, and where documents are many."""
    room = 3 * (ROW_BYTES + 1000)
    kernel = keeping("a", room)
    for name in ("rested", "fresh"):
        for letter in "abc":
            kernel.document(name, LWWRegister).set(letter * 1000)
            assert kernel.stats()["replaced_bytes"] <= room
    assert [line[1][:1] for line in replaced(kernel, "rested") if line[1]] == ["b"]
    assert recollection(kernel, "rested").ran_out
    assert recollection(kernel, "fresh") == (2, False, False, False)
    kernel.document("large", LWWRegister).set("x" * room)
    kernel.document("large", LWWRegister).set("y")
    assert kernel.stats()["replaced_bytes"] == 0
    assert recollection(kernel, "large") == (0, False, True, False)
    many = keeping("b")
    for _ in range(2):
        with many.batch():
            for number in range(DOCUMENTS_MAX // 50):
                many.document(f"d{number}", LWWRegister).set("v")
    assert many.stats()["replaced_bytes"] == DOCUMENTS_MAX // 50 * (ROW_BYTES + 1)


@pytest.mark.parametrize("how", ["clear", "delete", "batch", "heard", "range"])
def test_a_wide_removal_is_noted_in_part_and_says_so(how):
    """However many entries die at once: a bounded number is kept, and the document ran out."""
    writer, kernel = Kernel("w"), keeping("a")
    source = kernel if how in {"clear", "delete", "batch"} else writer
    elements = source.document("s", LWWMap)
    with source.batch() as filled:
        for number in range(WIDE):
            elements.put(f"k{number}", number)
    if source is writer:
        kernel.apply(filled.delta)
    if how == "batch":
        with kernel.batch():
            for number in range(WIDE):
                elements.put(f"k{number}", -1)
    elif how == "heard":
        with writer.batch() as gone:
            for number in range(WIDE):
                elements.delete(f"k{number}")
        kernel.apply(gone.delta)
    else:
        delta = source.delete("s") if how != "clear" else elements.clear()
        if source is writer:
            kernel.apply(delta)
    assert recollection(kernel, "s") == (DOCUMENT_VALUES_MAX, True, False, False)
    told = [line for line in replaced(kernel, "s") if not line[4]]
    assert len(told) == DOCUMENT_VALUES_MAX
    assert {(f"k{line[1]}", f"w:{line[1] + 1}") for line in told} == {
        (line[0], line[2].replace("a:", "w:")) for line in told
    }
    assert all(line[3] for line in told)
    assert CHANGE_VALUES_MAX < WIDE


def test_what_is_rolled_back_or_refused_was_never_here():
    """Nor is what a batch wrote and replaced itself, which nobody ever saw."""
    kernel = keeping("a")
    register = kernel.document("r", LWWRegister)
    register.set("before")

    def write_too_much() -> None:
        with kernel.batch(bytes_max=500):
            register.set("n" * 400)
            kernel.document("other", LWWRegister).set("e" * 400)

    with pytest.raises(BatchTooLargeError):
        write_too_much()
    assert replaced(kernel, "r") == []
    with kernel.batch():
        register.set("passing")
        register.set("after")
        assert replaced(kernel, "r") == []  # not yet: it may be rolled back
    assert replaced(kernel, "r")[0] == ("", "before", "a:1", "a:2", "")
    assert [line[1] for line in replaced(kernel, "r") if not line[4]] == ["before"]


def test_a_history_is_no_part_of_the_state():
    """Bytes, digests, copies and deltas are those of a kernel that keeps none."""
    with_it, without = keeping("a"), Kernel("a", clock=lambda: 1_700_000_000_000)
    for kernel in (with_it, without):
        register = kernel.document("r", LWWRegister)
        register.set("a secret")
        register.set("x")
    assert with_it.to_bytes() == without.to_bytes()
    assert with_it.digest() == without.digest()
    assert b"a secret" not in with_it.to_bytes()
    copy = Kernel.from_bytes(with_it.to_bytes(), replica="b")
    assert recollection(copy, "r") is None
