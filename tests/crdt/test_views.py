"""Views as Python objects: subscribers, batches, reading protocols, and how they look."""

import pytest

from crdt import (
    AmbiguousNameError,
    BatchOpenError,
    BatchTooLargeError,
    Delta,
    InvalidReplicaError,
    InvalidValueError,
    Kernel,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    RWSet,
)


def test_a_subscriber_may_raise_leave_or_write_back():
    """[crdt 26] The mutation stands if a subscriber raises; it may leave and may write."""
    kernel = Kernel("k")
    tags, log, heard = kernel.document("t", ORSet), kernel.document("log", ORSet), []

    def fails(_delta, _change):
        raise RuntimeError("subscriber")

    kernel.on_delta = fails
    with pytest.raises(RuntimeError):
        tags.add("x")
    assert tags == {"x"}
    assert kernel.vector == {"k": 1}

    def once(delta, change):
        kernel.on_delta = None
        heard.append((delta.ranges, change.documents[0].keys))
        log.add("seen")

    kernel.on_delta = once
    tags.add("y")
    tags.add("z")
    assert heard == [((("k", 2, 2),), frozenset({"y"}))]
    assert log == {"seen"}
    kernel._check()
    other = Kernel("o")
    other.merge(kernel)
    by_delta = Kernel("d")
    by_delta.apply(Delta.decode(kernel.delta_since({}).encode()))
    assert other.canonical_bytes() == by_delta.canonical_bytes() == kernel.canonical_bytes()


def test_a_batch_is_seen_whole():
    """[crdt 26] One delta and one change per outermost batch, also for its receivers."""
    kernel, other, heard = Kernel("k"), Kernel("o"), []
    a, b = kernel.document("a", ORSet), kernel.document("b", PNCounter)

    def hears(delta, change):
        heard.append((a.value, b.value, {each.name for each in change.documents}))
        other.apply(Delta.decode(delta.encode()))

    kernel.on_delta = hears
    with kernel.batch():
        a.add(1)
        with a.batch():
            b.increment(5)
        assert not heard
        a.remove(1)
        a.add(2)
    assert heard == [({2}, 5, {"a", "b"})]
    assert other.canonical_bytes() == kernel.canonical_bytes()
    assert Kernel.from_bytes(other.to_bytes(), replica="o").digest() == kernel.digest()
    with kernel.batch() as nothing:
        a.remove("absent")
    assert not nothing.delta
    assert len(heard) == 1


def test_a_batch_over_its_limit_or_with_an_error_never_happened():
    """Rolled back to the byte, dots included; the limit of a nested batch holds for the whole."""
    kernel = Kernel("k")
    tags, title = kernel.document("t", ORSet), kernel.document("title", LWWRegister)
    tags.add("x")
    title.set("one")
    other = Kernel("o")
    other.document("t", ORSet).add("x")
    kernel.merge(other)
    before, vector = kernel.canonical_bytes(), kernel.vector
    with pytest.raises(BatchTooLargeError) as refused, kernel.batch():  # noqa: PT012  # a batch
        tags.remove("x")
        with kernel.batch(bytes_max=100):
            title.set("a" * 200)
    assert refused.value.bytes_max == 100
    assert kernel.canonical_bytes() == before
    with pytest.raises(ZeroDivisionError), kernel.batch():  # noqa: PT012  # as above
        tags.clear()
        tags.add("y")
        1 / 0  # noqa: B018  # the error itself is the point
    assert kernel.canonical_bytes() == before
    assert kernel.vector == vector
    kernel._check()
    kernel.batch_bytes_max = 150
    with pytest.raises(BatchTooLargeError):
        title.set("a" * 200)
    assert kernel.canonical_bytes() == before
    assert kernel.batch_bytes_max == 150
    title.set("short")
    with pytest.raises(BatchOpenError), kernel.batch():
        kernel.merge(other)


def test_writing_may_be_forbidden_from_outside():
    """before_write refuses single mutations and batches before anything changes."""
    kernel = Kernel("k")
    tags = kernel.document("t", ORSet)

    def read_only():
        raise PermissionError("read only")

    kernel.before_write = read_only
    assert kernel.before_write is read_only
    for write in (lambda: tags.add(1), lambda: kernel.batch().__enter__()):
        with pytest.raises(PermissionError):
            write()
    assert not kernel.vector
    kernel.before_write = None
    with kernel.batch():
        tags.add(1)
    assert tags == {1}


def test_reading_is_a_snapshot():
    """Iterating while a merge happens is never an error, and sees the state of its beginning."""
    a, b = ORSet("a"), ORSet("b")
    a.add(1)
    a.add(2)
    b.add(3)
    seen = []
    for element in a:
        a.merge(b)
        a.remove(1)
        seen.append(element)
    assert seen == [1, 2]
    assert a == {2, 3}


def test_containers_read_like_their_python_kin():
    """Set and mapping protocols: comparison, algebra, views, missing keys."""
    s = ORSet("s")
    s.add(1)
    s.add(2)
    assert s >= {1}
    assert s & {2, 3} == {2}
    assert s - {1} == {2}
    assert {3} | s == {1, 2, 3}
    r = RWSet("r")
    r.add(1)
    assert r | {2} == {1, 2}
    assert "absent" not in r
    assert [] not in r
    m = LWWMap("m")
    m["k"] = [1]
    m[(1, 2)] = None
    m[True] = "yes"
    m[1] = "one"
    assert m["k"] == [1]
    assert m[True] == "yes"
    assert m[1] == "one"
    assert m.get("none", 7) == 7
    assert [] not in m
    assert len(m) == len(list(m)) == 4
    with pytest.raises(KeyError):
        m[[]]
    m.clear()
    assert m == {}
    assert m.delete("k") == Delta()


def test_an_ormap_is_addressed_by_name_and_type():
    """m[name, Type] makes or finds a child, m[name] finds the only one, ambiguity is named."""
    m = ORMap("m")
    m["n", PNCounter].increment(2)
    m["n", ORSet].add("x")
    m["only", LWWRegister].set(1)
    assert m["only"].value == 1
    assert m["n", PNCounter].value == 2
    with pytest.raises(AmbiguousNameError, match="ORSet and PNCounter"):
        m["n"]
    with pytest.raises(KeyError):
        m["absent"]
    assert "n" in m
    assert ("n", ORSet) in m
    assert ("n", RWSet) not in m
    assert list(m) == [("n", ORSet), ("n", PNCounter), ("only", LWWRegister)]
    del m["n", ORSet]
    del m["only"]
    with pytest.raises(KeyError):
        del m["only"]
    assert m.value == {"n": 2}
    m.clear()
    assert len(m) == 0
    for name in (1, "\ud800", ("a", "b")):
        with pytest.raises(InvalidValueError):
            m.child(name, ORSet)


def test_views_show_what_they_hold_and_what_it_costs():
    """The repr shows the value, debug the dots, stats the cost; rich and notebooks get markup."""
    a, b = LWWMap("a"), LWWMap("b")
    a["k"] = [1]
    b["k"] = [2]
    a.merge(b)
    assert repr(a) == "LWWMap({'k': [2]})"
    assert "'k' -> [1]  a:1 @1" in a.debug()
    stats = a.stats()
    assert (stats["entries"], stats["dots"], stats["cloud"]) == (1, 2, 0)
    assert stats["bytes"] > 4
    assert a.__rich__() == "[bold]LWWMap[/bold] {'k': \\[2]} [dim]a[/dim]"
    assert "<b>LWWMap</b>" in a._repr_html_()
    assert (a.replica, a.kernel.replica) == ("a", "a")
    assert repr(a.kernel) == "Kernel('a', entries=2, vector=VersionVector(a:1, b:1))"
    assert MVRegister("m").value == ()
    register = LWWRegister("r")
    assert (register.value, register.is_set) == (None, False)
    register.set(None)
    assert register.is_set


def test_names_and_ids_are_checked():
    """A replica id is short text, a document's name is text."""
    for wrong in ("", 1, "\ud800", "x" * 300, None):
        with pytest.raises(InvalidReplicaError):
            Kernel(wrong)
    for wrong in (1, "\ud800", None):
        with pytest.raises(InvalidValueError):
            Kernel("k").document(wrong, ORSet)
