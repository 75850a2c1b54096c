"""The weighted scheduler: histories that bring out what goes wrong with replicated data.

A history is a *plan* - a list of steps drawn from one `random.Random` - and its execution. Steps
name what they act on by indices that are taken modulo what there is, so every subsequence of a plan
is a plan: that is what makes a failing one shrinkable by leaving steps out.

What the weights are for (each of them found planted bugs that plain random operations missed):
at least three replicas; a universe that starts tiny and grows; states put aside and merged again
when they are stale; deltas held back, repeated, lost; deltas cut at a byte budget; chunk sets of
which only some arrive; restarts through bytes; forks and lives under a new id; the *same* operation
at two replicas at once; clocks that disagree and jump; partitions; lines and rings beside meshes;
and one figure of several steps in the end, the *detour*, which chance alone makes too seldom: news
that comes as a part of somebody's state first, and as itself later.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from crdt.testing.operation import Operation, draw

if TYPE_CHECKING:
    from collections.abc import Sequence

TOPOLOGIES = ("mesh", "mesh", "line", "ring")


class Step(NamedTuple):
    """One step of a plan: `pick` chooses among whatever is there when it is executed."""

    kind: str
    replica: int
    peer: int = 0
    pick: int = 0
    operations: tuple[Operation, ...] = ()
    seen: tuple[bool, ...] = ()  # which operations act on what was seen some time ago

    def __str__(self) -> str:
        what = " ".join(map(str, self.operations))
        return f"{self.kind} {self.replica}<-{self.peer} #{self.pick} {what}".rstrip()


class Plan(NamedTuple):
    """A history to be executed."""

    type_name: str
    replicas: int
    topology: str
    skews_ms: tuple[int | None, ...]  # per replica; None: no clock
    steps: tuple[Step, ...]


class Happened(NamedTuple):
    """A step that did something: where, and from where and since when it was on its way."""

    step: Step
    replica: int
    source: int | None = None
    sent: int | None = None  # index of the step that published it


# kind -> weight. "write" is counted: a plan has a given number of mutations.
WEIGHTS: dict[str, int] = {
    "write": 40,
    "equal": 6,  # the same operation at two replicas at once
    "batch": 4,
    "rollback": 1,
    "deliver": 22,  # a published delta arrives, in any order
    "repeat": 6,  # ... and stays in flight
    "lose": 4,
    "overtake": 2,  # the newest delta between two replicas arrives before the others
    "refused": 3,  # a spoiled form of one arrives and is refused, then the sound one
    "relearn": 1,  # ... and a whole state in chunks likewise
    "exchange": 10,  # by vectors
    "truncated": 6,  # ... with a byte budget
    "merge": 4,
    "stash": 4,  # put the state aside
    "stale": 5,  # merge one that was put aside
    "chunks": 5,  # some chunks of a set
    "restart": 3,  # through bytes, same id
    "rebirth": 1,  # an old state goes on under a new id; what was not told is lost
    "forget": 2,  # drop removal records
    "void": 1,
    "look": 4,  # remember what is seen now, for a later `seen=`
    "jump": 2,  # a clock jumps
    "cut": 3,  # or heal, a link
}
_WHOLE = 2  # the pick of a chunk set that is one chunk


def plan(type_name: str, dice: random.Random, *, replicas: int = 3, mutations: int = 40) -> Plan:
    """Draw a history with that many mutating steps, and the exchanges between them."""
    count, skews = draw_replicas(dice, replicas)
    steps: list[Step] = []
    written = 0
    kinds = iter(dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=8 * mutations))
    while written < mutations:
        step = draw_step(type_name, dice, count, size=universe_after(written), kind=next(kinds))
        written += len(step.operations) if step.kind != "rollback" else 0
        steps.append(step)
    steps += draw_end(type_name, dice, count, size=universe_after(written))
    return Plan(type_name, count, dice.choice(TOPOLOGIES), skews, tuple(steps))


def draw_replicas(dice: random.Random, replicas: int) -> tuple[int, tuple[int | None, ...]]:
    """How many replicas there are, rarely one more, and how far each clock is off, if clocked."""
    count = replicas + (dice.random() < 0.3)
    clocked = dice.random() < 0.6
    skews = tuple(
        dice.choice((0, 0, 5, -3_600_000, 120_000, 315_360_000_000)) if clocked else None
        for _ in range(count)
    )
    return count, skews


def draw_end(type_name: str, dice: random.Random, count: int, *, size: int) -> list[Step]:
    """The last steps of a history: a detour, or nothing. Earlier, a merge would undo its damage.

    An event comes to a replica with a whole state, then by itself, then a fourth hears of it. The
    state is one with a gap: its owner has the second of two events and lacks the first. So the
    reader knows the second, but not that it has all of it: what it killed must be honoured, and
    kept for others, when the event itself comes later. The last asks the reader and nobody else.
    """
    if count < 4 or dice.random() < 0.5:
        return []
    origin, gap, reader, last = dice.sample(range(count), 4)

    def write(replica: int) -> Step:
        step = draw_step(type_name, dice, count, size=size, kind="write")
        return step._replace(replica=replica, peer=gap, seen=(False,))

    victim, first, second = write(last), write(origin), write(origin)
    if dice.random() < 0.5:
        second = victim._replace(replica=origin)  # the same again is what kills it most often
    return [
        victim,
        *(Step("exchange", *way) for way in ((reader, last), (reader, gap), (origin, reader))),
        Step("exchange", last, origin),  # from here on nobody needs a whole state
        first,
        Step("exchange", reader, origin),
        second,
        Step("overtake", gap, origin),
        Step("chunks", reader, gap, _WHOLE),
        Step("overtake", reader, origin),
        Step("exchange", last, reader),
    ]


def draw_step(
    type_name: str, dice: random.Random, count: int, *, size: int, kind: str = ""
) -> Step:
    """Draw one step for `count` replicas, with arguments from a universe of `size` elements."""
    if not kind:
        (kind,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
    replica, peer = dice.sample(range(count), 2)
    drawn: Sequence[tuple[Operation, bool]] = ()
    if kind in {"write", "equal"}:
        drawn = [draw(type_name, dice, size)]
    elif kind in {"batch", "rollback"}:
        drawn = [draw(type_name, dice, size) for _ in range(dice.randint(2, 5))]
    return Step(
        kind,
        replica,
        peer,
        dice.randrange(1 << 16),
        tuple(operation for operation, _ in drawn),
        tuple(allowed and dice.random() < 0.15 for _, allowed in drawn),
    )


def linked(topology: str, count: int, one: int, other: int) -> bool:
    """Whether two replicas talk to each other directly."""
    distance = abs(one - other)
    if topology == "mesh":
        return True
    return distance == 1 or (topology == "ring" and distance == count - 1)


def universe_after(written: int) -> int:
    """How many elements there are to draw from: few, so that writes meet; more as they go on."""
    return 2 + written // 4


def dice_of(seed: int) -> random.Random:
    """The dice of a history: one int is all that a replay needs."""
    return random.Random(seed)
