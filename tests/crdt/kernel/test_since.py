"""Which documents changed after a vector, as far as the history tells."""

from __future__ import annotations

import random

from crdt import (
    BoundedCounter,
    EWFlag,
    GSet,
    Kernel,
    LWWRegister,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
)


def changed(kernel: Kernel, vector) -> tuple[set[str], bool]:
    found, complete = kernel.documents_since(vector)
    return {name for name, _ in found}, complete


def test_overwrites_name_their_document_and_no_other():
    """An overwrite removes what it replaces, in the same place; however often."""
    kernel = Kernel("ada")
    kernel.document("other", LWWRegister).set(1)
    kernel.document("status", LWWRegister).set("new")
    token = kernel.vector
    assert changed(kernel, token) == (set(), True)
    for number in range(500):
        kernel.document("status", LWWRegister).set(number)
        kernel.document("hits", PNCounter).increment(1)
    assert changed(kernel, token) == ({"status", "hits"}, True)


def test_a_fresh_removal_names_the_document_that_it_emptied():
    """The place of what died lately is known still."""
    kernel = Kernel("ada")
    kernel.document("tags", ORSet).add("x")
    kernel.document("other", ORSet).add("y")
    token = kernel.vector
    kernel.document("tags", ORSet).remove("x")
    assert changed(kernel, token) == ({"tags"}, True)
    assert ("tags", ORSet) in kernel.documents_since(token)[0]


def test_a_removal_whose_place_is_forgotten_makes_it_incomplete():
    """After a restart of what was taken over nothing tells where a dead entry was: it says so."""
    kernel = Kernel("ada")
    for number in range(300):
        kernel.document("tags", ORSet).add(number)
    kernel.document("other", ORSet).add("y")
    token = kernel.vector
    for number in range(300):
        kernel.document("tags", ORSet).remove(number)
    twin = Kernel.from_bytes(kernel.to_bytes(), replica="bob")
    assert changed(twin, token) == (set(), False)
    twin.drop_records()
    assert changed(twin, token) == (set(), False)
    assert changed(twin, twin.vector) == (set(), True)


def test_what_it_names_is_what_differs_on_random_histories():
    """Two replicas that write, remove, reset and exchange: no change goes untold."""
    for seed in range(60):
        dice = random.Random(seed)
        kernels = [Kernel("ada"), Kernel("bob")]
        seen = dict(kernels[0].vector), values(kernels[0])
        for step in range(120):
            kernel = dice.choice(kernels)
            mutate(kernel, dice)
            if dice.random() < 0.2:
                one, other = dice.sample(kernels, 2)
                one.apply(other.delta_since(one.vector))
            if step == 40 + seed % 40:
                seen = dict(kernels[0].vector), values(kernels[0])
        names, complete = changed(kernels[0], seen[0])
        now = values(kernels[0])
        differ = {name for name in now if now[name] != seen[1][name]}
        assert differ <= names or not complete, f"seed {seed}: {differ - names} untold"


KINDS = {
    "set": ORSet,
    "register": LWWRegister,
    "hits": PNCounter,
    "sum": ResettableCounter,
    "map": ORMap,
    "seats": BoundedCounter,
}


def values(kernel: Kernel) -> dict[str, object]:
    return {
        f"{kind}/{number}": kernel.document(f"{kind}/{number}", KINDS[kind]).value
        for kind in KINDS
        for number in range(2)
    }


def mutate(kernel: Kernel, dice: random.Random) -> None:
    kind = dice.choice(list(KINDS))
    document = kernel.document(f"{kind}/{dice.randrange(2)}", KINDS[kind])
    match kind:
        case "set":
            (document.add if dice.random() < 0.5 else document.remove)(dice.randrange(4))
        case "register":
            document.set(dice.randrange(9))
        case "hits" | "seats":
            document.increment(1)
        case "sum":
            if dice.random() < 0.3:
                document.reset()
            else:
                document.increment(2)
        case "map":
            if dice.random() < 0.3 and "a" in document:
                document.remove("a")
            else:
                document.child("a", ORSet).add(dice.randrange(3))


def test_an_origin_of_which_nothing_lives_is_told_after_a_restart():
    """Removed, overwritten, void: what was heard is told on, by whatever way it came back."""
    for end in ("removed", "overwritten", "void", "records dropped"):
        ada, bob = Kernel("ada"), Kernel("bob")
        if end == "void":
            ada.void(7)
        elif end == "overwritten":
            ada.document("r", LWWRegister).set(1)
        else:
            ada.document("s", ORSet).add("x")
        bob.merge(ada)
        if end == "overwritten":
            bob.document("r", LWWRegister).set(2)
        elif end != "void":
            bob.document("s", ORSet).remove("x")
        again = Kernel.from_bytes(bob.to_bytes(), replica="bob")
        if end == "records dropped":
            again.drop_records()
        newcomer = Kernel("eve")
        if end == "records dropped":
            for chunk in again.chunks(64).chunks:
                newcomer.apply_chunk(chunk)
        else:
            newcomer.apply(again.delta_since(newcomer.vector))
        assert newcomer.vector == again.vector, end
        assert newcomer.stats()["doomed"] == 0, end
        assert newcomer.canonical_bytes() == again.canonical_bytes(), end
        third = Kernel("flo")
        third.merge(Kernel.from_bytes(newcomer.to_bytes(), replica="eve"))
        assert third.vector == again.vector, end


def test_which_documents_changed_is_not_said_to_be_all_where_nothing_tells():
    """After a restart the place of a foreign entry that was overwritten is known by its killer."""
    ada, bob = Kernel("ada"), Kernel("bob")
    ada.document("r", LWWRegister).set(1)
    bob.merge(ada)
    bob.document("r", LWWRegister).set(2)
    again = Kernel.from_bytes(bob.to_bytes(), replica="bob")
    assert changed(again, {}) == ({"r"}, True)
    assert "ada" not in again._state.live.bases


def test_documents_changed_beyond_a_gap_are_named():
    """A vector cannot say that an event beyond a gap was seen, so its document is always told."""
    a, b = Kernel("a"), Kernel("b")
    deltas = [
        a.document("x", GSet).add(1),
        a.document("y", EWFlag).enable(),
        a.document("z", GSet).add(1),
    ]
    before = b.vector
    b.apply(deltas[2])
    assert b.documents_since(before) == ({("z", GSet)}, True)
    b.apply(deltas[1])
    assert b.documents_since(before) == ({("y", EWFlag), ("z", GSet)}, True)
    after = b.vector
    b.apply(deltas[0])
    assert b.documents_since(after)[0] == {("x", GSet), ("y", EWFlag), ("z", GSet)}
    assert b.documents_since(b.vector) == (set(), True)


def test_a_state_seen_beyond_what_was_applied_is_not_all_there_is_to_tell():
    """What a cut state knows to be dead it does not name: the answer says that it is not all."""
    donor, middle, reader = Kernel("d"), Kernel("m"), Kernel("r")
    tags, flag = donor.document("t", ORSet), donor.document("f", EWFlag)
    first = tags.add(1)
    later = [tags.remove(1), flag.enable()]
    for delta in later:
        middle.apply(delta)
    for chunk in middle.chunks(1000).chunks:
        reader.apply_chunk(chunk)
    assert reader.documents_since({}) == ({("f", EWFlag)}, False)
    reader.apply(first)
    for delta in later:
        reader.apply(delta)
    assert reader.documents_since({})[0] >= {("f", EWFlag)}
    assert not reader.documents_since({})[1]  # the add was dead on arrival, so nothing was placed


def test_a_deletion_of_several_documents_names_each_or_says_that_it_cannot():
    """One event took documents of three names; a chain that it ends names none of the others."""
    kernel = Kernel("a")
    for name in ("p/one", "p/two", "q"):
        kernel.document(name, ORSet).add(1)
    before = kernel.vector
    kernel.delete("p/")
    one, two = ("p/one", ORSet), ("p/two", ORSet)
    assert kernel.documents_since(before) == ({one, two}, True)
    other = Kernel.from_bytes(kernel.to_bytes(), replica="b")
    found, complete = other.documents_since(before)
    assert not complete
    assert ("q", ORSet) not in found
