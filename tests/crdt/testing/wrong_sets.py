"""Two add-wins sets that are wrong, and one that is right: what the kit has to tell apart.

All three keep `element -> dots of its adds` and a context of dots seen; only their merge differs.
The wrong ones bring removed elements back, and bring them back *everywhere*: their replicas agree.
"""

from __future__ import annotations

import copy

from crdt.testing import Choice, register


class RightSet:
    """The textbook: an add that only one side has is taken unless the other side has seen it."""

    def __init__(self, replica):
        self.replica = replica
        self.adds = {}  # element -> {(replica, seq)}
        self.seen = set()

    @property
    def value(self):
        return {element for element, dots in self.adds.items() if dots}

    def add(self, element):
        dot = (self.replica, 1 + sum(replica == self.replica for replica, _ in self.seen))
        self.seen.add(dot)
        self.adds[element] = {dot}

    def remove(self, element):
        self.adds.pop(element, None)

    def merge(self, other):
        for element in self.adds.keys() | other.adds.keys():
            mine, theirs = self.adds.get(element, set()), other.adds.get(element, set())
            self.adds[element] = self.kept(mine, theirs, other)
        self.seen |= other.seen

    def kept(self, mine, theirs, other):
        return (mine & theirs) | (mine - other.seen) | (theirs - self.seen)

    def fork(self, replica):
        twin = copy.deepcopy(self)
        twin.replica = replica
        return twin


class UnionSet(RightSet):
    """Merge is a plain union."""

    def kept(self, mine, theirs, other):
        return mine | theirs


class ForgetfulSet(RightSet):
    """Merge forgets the test against the local context."""

    def kept(self, mine, theirs, other):
        return (mine & theirs) | (mine - other.seen) | theirs


def add_wins(visible):
    """An add counts unless some remove of the element saw it."""
    removes = [each for each in visible if each.action == "remove"]
    return {
        add.args[0]
        for add in visible
        if add.action == "add"
        and not any(remove.args == add.args and remove.saw(add) for remove in removes)
    }


def letter(dice, size):
    return f"k{dice.randrange(size)}"


for kind in (RightSet, UnionSet, ForgetfulSet):
    register(kind, Choice(5, "add", (letter,)), Choice(4, "remove", (letter,)), oracle=add_wins)
