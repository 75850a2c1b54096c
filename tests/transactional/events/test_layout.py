"""Where the log lies: keys sort as their numbers do, and names stay inside their own keys."""

from __future__ import annotations

from datetime import UTC, datetime

from transactional.events.event import GENESIS
from transactional.events.layout import Head, LogLayout, StreamEnd

LAYOUT = LogLayout()


def test_keys_sort_as_their_numbers_do():
    """A scan in the order of keys is a walk in the order of positions and versions."""
    numbers = [0, 1, 9, 10, 99, 100, 10**9]
    for keys in (
        [LAYOUT.at(number) for number in numbers],
        [LAYOUT.stream("s", number) for number in numbers],
    ):
        assert keys == sorted(keys)
    assert all(LAYOUT.at(number).startswith(LAYOUT.at()) for number in numbers)


def test_a_stream_is_no_prefix_of_another():
    """Slashes and non-ASCII in a name are quoted, so streams and snapshots do not mix."""
    assert not LAYOUT.stream("a/b", 1).startswith(LAYOUT.stream("a"))
    assert not LAYOUT.stream("ab", 1).startswith(LAYOUT.stream("a"))
    assert not LAYOUT.snapshot("a/b", "r").startswith(LAYOUT.snapshot("a"))
    assert LAYOUT.snapshot("a", "r").startswith(LAYOUT.snapshot("a"))
    assert LAYOUT.op("ä/1").isascii()


def test_the_rooms_of_one_namespace_are_apart():
    """No key of one kind lies under the prefix of another."""
    prefixes = [LAYOUT.head, LAYOUT.at(), LAYOUT.ends(), LAYOUT.stream("at")]
    keys = [LAYOUT.at(1), LAYOUT.end("s"), LAYOUT.op("o"), LAYOUT.group("g"), LAYOUT.stream("s", 1)]
    for prefix in prefixes:
        assert sum(key.startswith(prefix) for key in keys) <= 1
    assert LogLayout("other").head == "other/head"


def test_ends_survive_their_bytes():
    """What is written of the log's and a stream's end is what is read."""
    head = Head(7, datetime(2025, 1, 1, 1, 2, 3, 4, tzinfo=UTC), "ab")
    assert Head.decode(head.encode()) == head
    assert Head.decode(Head().encode()) == Head()
    assert StreamEnd.decode(StreamEnd(3, "cd").encode()) == StreamEnd(3, "cd")
    assert StreamEnd().hash == GENESIS
