"""Types as a user would write them: six that are right, and of each some that are wrong.

`RIGHT` and `WRONG` are what the kit is measured by, beside the faults planted in our own types
(mutants): each of the first passes at default settings, each of the others is caught. A wrong
type says in its docstring what is wrong with it; everything else it has from the right one.
"""

from __future__ import annotations

import pickle
from enum import Enum

from crdt.testing import Choice, OneOf, register


def later_ones_replace(visible):
    """An add counts unless a later operation on its label saw it."""
    return {
        add.args[0]
        for add in visible
        if add.action == "add"
        and not any(other.args == add.args and other.saw(add) for other in visible)
    }


def removes_take_back(visible):
    """An add counts unless a remove of its label saw it: what the tutorial shows."""
    removes = [each for each in visible if each.action == "remove"]
    return {
        add.args[0]
        for add in visible
        if add.action == "add"
        and not any(remove.args == add.args and remove.saw(add) for remove in removes)
    }


def last_write(visible):
    """One of the writes that no other write saw."""
    last = [one for one in visible if not any(other.saw(one) for other in visible)]
    return OneOf(*(one.args[0] for one in last)) if last else None


def last_write_by_key(visible):
    """For each key one of the writes that no other saw; a delete among them shows nothing."""

    def open_ones(key):
        here = [one for one in visible if one.args[0] is key]
        return [one for one in here if not any(other.saw(one) for other in here)]

    shows = [{}]
    for key in {one.args[0] for one in visible}:
        ends = open_ones(key)
        shows = [
            {**each, key: end.args[1]} if end.action == "put" else each
            for each in shows
            for end in ends
        ]
    return OneOf(*shows)


def label(dice, size):
    return dice.choice("abcdefgh"[: max(1, size)])


def amount(dice, _size):
    return dice.choice((1, 2, 5))


class Colour(Enum):
    """Keys of a map: not literals of Python."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"


def colour(dice, _size):
    return dice.choice(list(Colour))


# ---------------------------------------------------------------------------------------- labels


class Labels:
    """A set in which an add wins; an add replaces those that it saw. Has deltas and bytes."""

    def __init__(self, replica):
        self.replica, self.adds, self.seen = replica, {}, set()

    @property
    def value(self):
        return set(self.adds)

    def add(self, name):
        number = max((n for replica, n in self.seen if replica == self.replica), default=0) + 1
        old, dot = self.adds.get(name, set()), (self.replica, number)
        self.seen.add(dot)
        self.adds[name] = {dot}
        return {name: {dot}}, old | {dot}

    def remove(self, name):
        return {}, self.adds.pop(name, set())

    def join(self, adds, seen):
        for name in self.adds.keys() | adds.keys():
            kept = self.kept(self.adds.get(name, set()), adds.get(name, set()), seen)
            self.adds[name] = kept
            if not kept:
                del self.adds[name]
        self.seen |= seen

    def kept(self, mine, theirs, seen):
        return (mine & theirs) | (mine - seen) | (theirs - self.seen)

    def merge(self, other):
        self.join(other.adds, other.seen)

    def apply(self, delta):
        self.join(*delta)

    def to_bytes(self):
        return pickle.dumps((self.adds, self.seen))

    @classmethod
    def from_bytes(cls, data, *, replica):
        again = cls(replica)
        again.adds, again.seen = pickle.loads(data)  # noqa: S301 - our own bytes
        return again


class SilentRemove(Labels):
    """The delta of a remove says nothing."""

    def remove(self, name):
        super().remove(name)
        return {}, set()


class RemoveWithoutDelta(Labels):
    """A remove forgets to return its delta."""

    def remove(self, name):
        super().remove(name)


class AddKeepsOld(Labels):
    """The delta of an add does not say which earlier ones it replaced."""

    def add(self, name):
        adds, _ = super().add(name)
        return adds, set(adds[name])


class RemoveByName(Labels):
    """The delta of a remove names the label: it takes adds back that its writer never saw."""

    def remove(self, name):
        self.adds.pop(name, None)
        return name, None

    def apply(self, delta):
        if delta[1] is None:
            self.adds.pop(delta[0], None)
        else:
            super().apply(delta)


class ApplyForgetsContext(Labels):
    """What a delta has covered counts as unseen: the overtaken add comes back."""

    def apply(self, delta):
        seen = set(self.seen)
        super().apply(delta)
        self.seen = seen | {dot for dots in delta[0].values() for dot in dots}


class HighestSeen(Labels):
    """What was seen is a maximum by replica: a gap counts as seen."""

    def join(self, adds, seen):
        super().join(adds, seen)
        for replica, number in list(self.seen):
            self.seen |= {(replica, n) for n in range(1, number)}


class BringsBack(Labels):
    """A state brings back what was seen and removed here."""

    def merge(self, other):
        for name, dots in other.adds.items():
            self.adds[name] = self.adds.get(name, set()) | dots
        self.seen |= other.seen


class LosesNews(Labels):
    """What the other side has not heard of is taken for removed."""

    def merge(self, other):
        self.adds = {name: set(dots) for name, dots in self.adds.items() if name in other.adds}
        super().merge(other)


class QuietAdd(Labels):
    """Adding what is there is no add: a concurrent remove wins over it."""

    def add(self, name):
        return ({}, set()) if name in self.adds else super().add(name)


class ForgetsInARestart(Labels):
    """Bytes hold the labels, but not what was seen."""

    @classmethod
    def from_bytes(cls, data, *, replica):
        again = super().from_bytes(data, replica=replica)
        again.seen = {dot for dots in again.adds.values() for dot in dots}
        return again


class SharesItsSets(Labels):
    """A merge keeps the other's sets themselves, and an add adds to them in place."""

    def add(self, name):
        adds, seen = super().add(name)
        self.adds[name] = adds[name]
        return adds, seen

    def merge(self, other):
        super().merge(other)
        for name in self.adds.keys() & other.adds.keys():
            self.adds[name] = other.adds[name]
        self.seen = other.seen = self.seen | other.seen


class Tags:
    """A set in which an add wins; adds stand beside each other. Removed ones leave a tombstone."""

    def __init__(self, replica):
        self.replica, self.added, self.dead, self.count = replica, set(), set(), 0

    @property
    def value(self):
        return {name for name, *_ in self.added - self.dead}

    def add(self, name):
        self.count += 1
        new = {(name, self.replica, self.count)}
        self.added |= new
        return new, set()

    def remove(self, name):
        gone = {tag for tag in self.added - self.dead if tag[0] == name}
        self.dead |= gone
        return gone, gone

    def merge(self, other):
        self.apply((other.added, other.dead))

    def apply(self, delta):
        self.added = self.added | delta[0]
        self.dead = self.dead | delta[1]


class TombstonesOfNames(Tags):
    """A tombstone says the name: who removed it once can never have it again."""

    @property
    def value(self):
        return {name for name, *_ in self.added} - {name for name, *_ in self.dead}


class DeltaOfOne(Tags):
    """The delta of a remove tells of one tag only."""

    def remove(self, name):
        gone, _ = super().remove(name)
        one = set(sorted(gone)[:1])
        return one, one


# --------------------------------------------------------------------------------------- counter


class Tally:
    """A counter: what each replica has put in and taken out. Its deltas are the writer's row."""

    def __init__(self, replica):
        self.replica, self.rows = replica, {}

    @property
    def value(self):
        return sum(more - less for more, less in self.rows.values())

    def put(self, number):
        return self.change(number, 0)

    def take(self, number):
        return self.change(0, number)

    def change(self, more, less):
        row = self.rows.get(self.replica, (0, 0))
        self.rows[self.replica] = (row[0] + more, row[1] + less)
        return {self.replica: self.rows[self.replica]}

    def merge(self, other):
        self.apply(other.rows)

    def apply(self, rows):
        for replica, theirs in rows.items():
            mine = self.rows.get(replica, (0, 0))
            self.rows[replica] = tuple(map(max, mine, theirs))


class CountsTwice(Tally):
    """The delta is the amount, and is added as often as it comes."""

    def change(self, more, less):
        super().change(more, less)
        return {self.replica: (more, less)}

    def apply(self, rows):
        for replica, (more, less) in rows.items():
            mine = self.rows.get(replica, (0, 0))
            self.rows[replica] = (mine[0] + more, mine[1] + less)

    def merge(self, other):
        Tally.apply(self, other.rows)


class AddsStates(Tally):
    """A merge adds where it should take the greater."""

    def merge(self, other):
        for replica, (more, less) in other.rows.items():
            mine = self.rows.get(replica, (0, 0))
            self.rows[replica] = (mine[0] + more, mine[1] + less)


class TellsOfGains(Tally):
    """The delta forgets what was taken."""

    def take(self, number):
        super().take(number)
        return {self.replica: (self.rows[self.replica][0], 0)}


class HighestBalance(Tally):
    """Of two rows of one replica the one with the greater balance is kept, not the later one."""

    def apply(self, rows):
        for replica, theirs in rows.items():
            mine = self.rows.get(replica, (0, 0))
            self.rows[replica] = max(mine, theirs, key=lambda row: (row[0] - row[1], row))


def balance(visible):
    """The sum of all."""
    return sum(each.args[0] * (1 if each.action == "put" else -1) for each in visible)


# -------------------------------------------------------------------------------------- register


class Title:
    """A register in which the latest write wins, by a Lamport clock and then by replica."""

    def __init__(self, replica):
        self.replica, self.text, self.stamp = replica, None, (0, "")

    @property
    def value(self):
        return self.text

    def set(self, text):
        return self.take(text, (self.stamp[0] + 1, self.replica))

    def take(self, text, stamp):
        if self.wins(text, stamp):
            self.text, self.stamp = text, stamp
        return text, stamp

    def wins(self, _text, stamp):
        return stamp > self.stamp

    def merge(self, other):
        self.take(other.text, other.stamp)

    def apply(self, delta):
        self.take(*delta)


class SlowClock(Title):
    """The clock counts own writes only: one that comes after a faster writer's is lost."""

    def __init__(self, replica):
        super().__init__(replica)
        self.written = 0

    def set(self, text):
        self.written += 1
        return self.take(text, (self.written, self.replica))


class UnbrokenTie(Title):
    """Of two writes at the same time each replica keeps what it had."""

    def wins(self, _text, stamp):
        return stamp[0] > self.stamp[0]


class TieByLength(Title):
    """Of two writes at the same time the longer one wins, and of equally long ones neither."""

    def wins(self, text, stamp):
        return (stamp[0], len(text or "")) > (self.stamp[0], len(self.text or ""))


class FirstWriteWins(Title):
    """What is there stays."""

    def wins(self, _text, stamp):
        return self.text is None or (self.stamp[0], self.stamp[1]) > stamp > (0, "")


class StampOfTheReader(Title):
    """A delta tells no time: it is written where it arrives as if it were new."""

    def apply(self, delta):
        self.take(delta[0], (self.stamp[0] + 1, delta[1][1]))


# ------------------------------------------------------------------------------------------- map


class Board:
    """A map in which the latest write of a key wins; a delete is a write. Keys are an Enum."""

    def __init__(self, replica):
        self.replica, self.rows, self.time = replica, {}, 0

    @property
    def value(self):
        return {key: text for key, (_, text) in self.rows.items() if text is not None}

    def put(self, key, text):
        self.time += 1
        return self.take({key: ((self.time, self.replica), text)})

    def delete(self, key):
        return self.put(key, None)

    def take(self, rows):
        for key, row in rows.items():
            self.time = max(self.time, row[0][0])
            if key not in self.rows or row[0] > self.rows[key][0]:
                self.rows[key] = row
        return rows

    def merge(self, other):
        self.take(other.rows)

    def apply(self, delta):
        self.take(delta)


class DeleteLeavesNothing(Board):
    """A delete leaves no trace: whoever has the key brings it back."""

    def delete(self, key):
        self.rows.pop(key, None)
        return {}


class WholeMapWins(Board):
    """The map with the latest write replaces the other: what others put elsewhere is lost."""

    def merge(self, other):
        def latest(rows):
            return max((row[0] for row in rows.values()), default=(0, ""))

        if latest(other.rows) > latest(self.rows):
            self.rows = dict(other.rows)
        self.time = max(self.time, other.time)


class LastArrivalWins(Board):
    """A delta is taken as it comes, whatever its time."""

    def apply(self, delta):
        super().apply(delta)
        self.rows.update(delta)


class HandsOutItself(Board):
    """The delta is the state, the very dict that goes on changing."""

    def put(self, key, text):
        super().put(key, text)
        return self.rows

    def apply(self, delta):
        super().apply(delta)
        delta.update(self.rows)


# ---------------------------------------------------------------------------- concurrent choices


class Choices:
    """A register that keeps all concurrent writes. No deltas; restarts through bytes."""

    def __init__(self, replica):
        self.replica, self.writes, self.seen = replica, {}, {}

    @property
    def value(self):
        return sorted(self.writes.values())

    def choose(self, text):
        number = self.seen.get(self.replica, 0) + 1
        self.seen[self.replica] = number
        self.writes = {(self.replica, number): text}

    def merge(self, other):
        ours = {dot: text for dot, text in self.writes.items() if self.stays(dot, other)}
        theirs = {dot: text for dot, text in other.writes.items() if other.stays(dot, self)}
        self.writes = {**ours, **theirs}
        for replica, number in other.seen.items():
            self.seen[replica] = max(number, self.seen.get(replica, 0))

    def stays(self, dot, other):
        return dot in other.writes or dot[1] > other.seen.get(dot[0], 0)

    def to_bytes(self):
        return pickle.dumps((self.writes, self.seen))

    @classmethod
    def from_bytes(cls, data, *, replica):
        again = cls(replica)
        again.writes, again.seen = pickle.loads(data)  # noqa: S301 - our own bytes
        return again


class KeepsTheReplaced(Choices):
    """A choice that somebody replaced stays where it was heard of."""

    def stays(self, dot, other):
        return True


class NumbersAnew(Choices):
    """After a restart the numbers begin again: two writes go by one name."""

    @classmethod
    def from_bytes(cls, data, *, replica):
        again = super().from_bytes(data, replica=replica)
        again.seen.pop(replica, None)
        return again


def not_replaced(visible):
    """All that no other choice saw."""
    return sorted(one.args[0] for one in visible if not any(other.saw(one) for other in visible))


# ------------------------------------------------------------------------------------------ menus

_SET = (Choice(5, "add", (label,)), Choice(4, "remove", (label,)))
_TALLY = (Choice(3, "put", (amount,)), Choice(2, "take", (amount,)))
_BOARD = (Choice(5, "put", (colour, label)), Choice(3, "delete", (colour,)))
_FAMILIES = (
    (Labels, _SET, later_ones_replace),
    (Tags, _SET, removes_take_back),
    (Tally, _TALLY, balance),
    (Title, (Choice(1, "set", (label,)),), last_write),
    (Board, _BOARD, last_write_by_key),
    (Choices, (Choice(1, "choose", (label,)),), not_replaced),
)
# Types that nobody wrote an oracle for: laws and convergence have to do.
_WITHOUT_ORACLE = (SlowClock, SilentRemove, CountsTwice, WholeMapWins)

RIGHT = tuple(kind for kind, _, _ in _FAMILIES)
WRONG = tuple(wrong for kind in RIGHT for wrong in kind.__subclasses__())

for right, menu, oracle in _FAMILIES:
    for each in (right, *right.__subclasses__()):
        register(each, *menu, oracle=None if each in _WITHOUT_ORACLE else oracle)


class LabelsAsInTheTutorial(Labels):
    """The same as `Labels`, judged by the oracle that the tutorial shows: removes take back."""


register(LabelsAsInTheTutorial, *_SET, oracle=removes_take_back)


class TagsAsReplaced(Tags):
    """The same as `Tags`, judged as if later adds replaced earlier ones: no difference shows."""


register(TagsAsReplaced, *_SET, oracle=later_ones_replace)
RIGHT += (LabelsAsInTheTutorial, TagsAsReplaced)
