"""What the nodes of a run write, and the ledger of what was acknowledged.

Write `number` of a node in one of its lives follows from the seed alone, so a node says just the
number: before it writes (`wrote`), and when its disk has it (`acked`). What a node did not say that
it wrote may be nowhere; what it said may be there; what was acknowledged has to be everywhere.

    key          type        a write                              the others' writes
    orders/*     PNCounter   adds 1 to 3                          add up
    tags/*       ORSet       adds an element of its own, or       stay
                             removes one that it had added
    status/*     LWWRegister sets [node, life, number]            the latest wins

Pure.
"""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crdt import LWWRegister, ORSet, PNCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PLACES = ("east", "north", "west")
KEYS = tuple(f"{kind}/{place}" for kind in ("orders", "status", "tags") for place in PLACES)
KINDS: dict[str, Any] = {"orders": PNCounter, "status": LWWRegister, "tags": ORSet}
REMOVES_EVERY = 5

Place = tuple[str, int, int]  # node, life, number


@dataclass(frozen=True, slots=True)
class Write:
    """One batch of a node: an order, a status, and a tag that comes or goes."""

    orders: str
    amount: int
    status: str
    value: list[Any]
    tags: str
    element: str
    removes: bool


def write(seed: int, place: Place) -> Write:
    """The write of that number; a removal takes the element of the write before it."""
    node, life, number = place
    dice = random.Random(f"{seed} {place}")
    amount, orders, status = dice.randint(1, 3), dice.choice(PLACES), dice.choice(PLACES)
    removes = number % REMOVES_EVERY == 0
    subject = number - 1 if removes else number
    tags = random.Random(f"{seed} {node} {life} {subject}").choice(PLACES)
    return Write(
        orders=f"orders/{orders}",
        amount=amount,
        status=f"status/{status}",
        value=[node, life, number],
        tags=f"tags/{tags}",
        element=f"{node}.{life}.{subject}",
        removes=removes,
    )


def carry_out(written: Write, document: Callable[[str, Any], Any]) -> None:
    """Make the write; whoever calls makes it one batch."""
    document(written.orders, PNCounter).increment(written.amount)
    document(written.status, LWWRegister).set(written.value)
    tags = document(written.tags, ORSet)
    if written.removes:
        tags.discard(written.element)
    else:
        tags.add(written.element)


def values(document: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Every key as JSON has it."""
    return {
        key: sorted(seen) if key.startswith("tags/") else seen.value
        for key in KEYS
        for seen in [document(key, KINDS[key.partition("/")[0]])]
    }


def shown(found: Mapping[str, Any]) -> dict[str, str]:
    """Values as a person compares them: a set by its size and a checksum of its elements."""
    texts = {}
    for key, value in found.items():
        if key.startswith("tags/"):
            texts[key] = f"{len(value)} #{zlib.crc32(repr(value).encode()) & 0xFFF:03x}"
        elif key.startswith("status/") and value is not None:
            texts[key] = f"{value[0]} {value[2]}"
        else:
            texts[key] = "-" if value is None else str(value)
    return texts


@dataclass(slots=True)
class Ledger:
    """What nodes said that they wrote, and what of it was acknowledged."""

    seed: int
    wrote: dict[Place, Write] = field(default_factory=dict)
    acked: set[Place] = field(default_factory=set)

    def note(self, place: Place, *, acked: bool) -> None:
        """A node said so."""
        if acked:
            self.acked.add(place)
        else:
            self.wrote[place] = write(self.seed, place)

    def compare(self, found: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """(lost, invented) of what a replica holds, each told in a few words."""
        lost, invented = [], []
        least: dict[str, int] = defaultdict(int)
        most: dict[str, int] = defaultdict(int)
        here: dict[str, set[str]] = defaultdict(set)
        maybe: dict[str, set[str]] = defaultdict(set)
        gone: dict[str, set[str]] = defaultdict(set)
        going: dict[str, set[str]] = defaultdict(set)
        for place, each in self.wrote.items():
            acked = place in self.acked
            most[each.orders] += each.amount
            least[each.orders] += each.amount if acked else 0
            (going if each.removes else maybe)[each.tags].add(each.element)
            if acked:
                (gone if each.removes else here)[each.tags].add(each.element)
        for key in KEYS:
            value = found[key]
            if key.startswith("orders/"):
                if value < least[key]:
                    lost.append(f"{key} is {value}, acknowledged were {least[key]}")
                if value > most[key]:
                    invented.append(f"{key} is {value}, written were {most[key]}")
            elif key.startswith("tags/"):
                tags = set(value)
                lost += [f"{key}: {e} is missing" for e in here[key] - going[key] - tags]
                lost += [f"{key}: {e} is back" for e in gone[key] & tags]
                invented += [f"{key}: {e}" for e in tags - maybe[key]]
            else:
                lost += self._overwritten(key, value)
                invented += self._never_set(key, value)
        return sorted(lost), sorted(invented)

    def _overwritten(self, key: str, value: list[Any] | None) -> list[str]:
        """Whether the writer of what is there was acknowledged a later one of the same key."""
        acked = [place for place in self.acked if self._sets(place, key)]
        if value is None:
            return [f"{key} is empty, {len(acked)} writes were acknowledged"] if acked else []
        later = [p for p in acked if p[0] == value[0] and p[1:] > (value[1], value[2])]
        return [f"{key} is {value}, acknowledged was {max(later)}"] if later else []

    def _never_set(self, key: str, value: list[Any] | None) -> list[str]:
        if value is None:
            return []
        place = (value[0], value[1], value[2])
        return [] if self._sets(place, key) else [f"{key} is {value}, which nobody wrote"]

    def _sets(self, place: Place, key: str) -> bool:
        each = self.wrote.get(place)
        return each is not None and each.status == key
