"""A type that is wrong, with mutators whose arguments are no literals of Python."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, Flag
from typing import NamedTuple
from uuid import UUID

from crdt.testing import Choice, register


class Room(Enum):
    NORTH = "n"
    SOUTH = "s"


class Access(Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Seat:
    room: Room
    number: int


class Price(NamedTuple):
    amount: Decimal
    currency: str


class Badge:
    """Neither a repr nor fields; it can be pickled."""

    def __init__(self, text):
        self.text = text

    def __eq__(self, other):
        return isinstance(other, Badge) and other.text == self.text

    def __hash__(self):
        return hash(self.text)


class Secret(Badge):
    """Cannot even be pickled."""

    def __reduce__(self):
        raise TypeError("no")

    def __deepcopy__(self, memo):
        return self


def by_number(seat):
    return seat.number


ARGUMENTS = [
    Room.NORTH,
    Access.READ | Access.WRITE,
    Seat(Room.SOUTH, 3),
    Price(Decimal("1.50"), "EUR"),
    UUID(int=7),
    datetime(2025, 1, 2, tzinfo=UTC),
    date(2025, 1, 2),
    timedelta(days=1),
    Badge("ada"),
    frozenset({Room.NORTH}),
    {"seats": [Seat(Room.NORTH, 1), (1,)], 2: {"a", b"b"}},
    [set(), (), float("-inf"), -1.5, None, True, "it's", 'say "it"\n', "\ud800"],
    by_number,
    Room,
    Badge.__eq__,
]


class FirstComer:
    """Keeps what it heard first, so that replicas differ."""

    def __init__(self, replica):
        self.rows = {}

    @property
    def value(self):
        return list(self.rows.items())

    def put(self, row, key):
        self.rows.setdefault(row, key)

    def merge(self, other):
        for row, key in other.rows.items():
            self.rows.setdefault(row, key)


class SecretFirstComer(FirstComer):
    """The same with arguments that nothing can write down."""


def row(_dice, _size):
    return "r"


register(FirstComer, Choice(1, "put", (row, lambda dice, _: dice.choice(ARGUMENTS))))
register(SecretFirstComer, Choice(1, "put", (row, lambda dice, _: Secret(dice.choice("abc")))))
