"""What is ordered, by whom, and what goes wrong with it; everything follows from the seed.

Chairs lie in one place: the store says how many there are, and each order takes its own by a
compare-and-swap. Mugs are a bounded counter: whoever sells them, sells out of a share of his own,
and asks nobody. Of both there are too few.

    trouble          what happens
    reserve before   the warehouse does not answer, and has done nothing; so for the other steps
    reserve after    it has, and its answer is lost
    charge refused   the card is declined
    ship refused     nobody delivers to that address: the order is undone
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

CHAIR, MUG = "chair", "mug"
PRICES = {CHAIR: 40, MUG: 7}
STOCK = {CHAIR: 40, MUG: 60}
COUNTER_SHARE = 20
"""Mugs that the shop's counter may sell, of all."""
WALK_INS = 26
"""People who come to the counter; the last of them get none."""
CUSTOMERS = 12
BALANCE = 1000
STEPS = ("reserve", "charge", "ship")
TROUBLES = (
    "",
    "reserve before",
    "charge after",
    "",
    "ship refused",
    "reserve after",
    "",
    "charge refused",
    "ship after",
    "",
    "charge before",
    "ship before",
)
SHOP = "shop"
"""Whose account the money goes to."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order."""

    id: str
    customer: str
    item: str
    pieces: int
    trouble: str

    @property
    def price(self) -> int:
        """What all pieces cost."""
        return PRICES[self.item] * self.pieces

    def to_json(self) -> dict[str, Any]:
        """As the input of its saga."""
        return asdict(self)


def plan(orders: int, seed: int) -> list[Order]:
    """The orders, in the order in which they come."""
    dice = random.Random(f"orders {seed}")
    troubles = [TROUBLES[number % len(TROUBLES)] for number in range(orders)]
    dice.shuffle(troubles)
    return [
        Order(
            id=f"{number:03}",
            customer=f"customer-{dice.randint(1, CUSTOMERS)}",
            item=CHAIR if number % 2 else MUG,
            pieces=dice.randint(1, 3),
            trouble=trouble,
        )
        for number, trouble in enumerate(troubles, 1)
    ]


def kills_at(kills: int, orders: int, seed: int) -> list[int]:
    """At which record of all the sagas the coordinator is killed: anywhere in the first half each.

    An order has about six records.
    """
    dice = random.Random(f"kills {seed}")
    each = orders * 4 // (kills + 1)
    return [number * each + dice.randint(1, max(1, each // 2)) for number in range(kills)]
