"""CRDTs of others, adapted to the kit: what `register` asks for is all that an adapter has to give.

`YMap` wraps a pycrdt Map in a Doc of its own; `py3_set` wraps the ORSet of python3-crdt, if it is
there: its wheel brings a package `tests` that would hide ours, so it is no dependency. Try

    pip install --no-deps --target DIR python3-crdt
    CONVOCA_PY3CRDT=DIR python -m pytest tests/crdt/testing/test_third_party.py

The oracles say what *we* would promise of such a type; where theirs promise less, a
complaint is a difference and not a defect, and the test that shows it says which of the two it is.
"""

from __future__ import annotations

import copy
import itertools
import os
import sys
import zlib
from typing import Any

from pycrdt import Doc, Map

from crdt.testing import Choice, register


class YMap:
    """A pycrdt Map: the latest writer of a key wins, by causality and then by client id."""

    def __init__(self, replica, update=None):
        self.replica = replica
        self.doc: Doc[Any] = Doc(client_id=zlib.crc32(replica.encode()))
        if update is not None:
            self.doc.apply_update(update)
        self.map = self.doc.get("map", type=Map)

    @property
    def value(self):
        """The keys: which of several concurrent values shows is theirs to say."""
        return set(self.map.keys())

    def put(self, key, value):
        self.map[key] = value

    def delete(self, key):
        if key in self.map:
            del self.map[key]

    def merge(self, other):
        self.doc.apply_update(other.doc.get_update(self.doc.get_state()))

    def fork(self, replica):
        return YMap(replica, self.doc.get_update())

    def __deepcopy__(self, memo):
        return self.fork(self.replica)

    def to_bytes(self):
        return self.doc.get_update()

    @classmethod
    def from_bytes(cls, data, *, replica):
        return cls(replica, data)


class YMapValues(YMap):
    """The same, by its values: for convergence."""

    @property
    def value(self):
        return self.map.to_py()

    def __deepcopy__(self, memo):
        return YMapValues(self.replica, self.doc.get_update())

    def fork(self, replica):
        return YMapValues(replica, self.doc.get_update())


def puts_survive(visible):
    """A key is there if some put of it was seen by no other put and by no delete of it."""
    return {
        put.args[0]
        for put in visible
        if put.action == "put"
        and not any(other.args[0] == put.args[0] and other.saw(put) for other in visible)
    }


def add_wins(visible):
    """An add counts unless a remove of the element saw it."""
    return {
        add.args[0]
        for add in visible
        if add.action == "add"
        and not any(
            other.action == "remove" and other.args == add.args and other.saw(add)
            for other in visible
        )
    }


def letter(dice, size):
    return "abcdefgh"[dice.randrange(min(size, 8))]


def digit(dice, _size):
    return dice.randrange(10)


def py3_set(*, copying: bool):
    """The ORSet of python3-crdt as a class that the kit can test; ImportError if it is not there.

    `copying`: hand `merge` a copy, as if the other state had come over a wire.
    """
    sys.path.append(os.environ.get("CONVOCA_PY3CRDT", ""))  # behind everything that is ours
    from py3crdt.orset import ORSet

    tags = itertools.count()

    class Py3Set:
        def __init__(self, replica):
            self.replica = replica
            self.inner = ORSet(replica)

        @property
        def value(self):
            known = [item["elem"] for item in self.inner.A]
            return {element for element in known if self.inner.query(element)}

        def add(self, element):
            self.inner.add(element, f"{self.replica}{next(tags)}")

        def remove(self, element):
            if self.inner.A:  # removing from a set that never had an element breaks it for good
                self.inner.remove(element)

        def merge(self, other):
            self.inner.merge(copy.deepcopy(other.inner) if copying else other.inner)

    register(Py3Set, Choice(5, "add", (letter,)), Choice(4, "remove", (letter,)), oracle=add_wins)
    return Py3Set


_MENU = (Choice(5, "put", (letter, digit)), Choice(4, "delete", (letter,)))
register(YMap, *_MENU, oracle=puts_survive)
register(YMapValues, *_MENU)
