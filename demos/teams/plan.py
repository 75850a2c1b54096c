r"""What the team has to do: orders, and for each of them four jobs that wait for each other.

    pick --> check --+
        \--> wrap ---+--> ship

A shelf has room for one picker, a carrier's dock for two lorries: these are lanes. Express orders
come first. A few labels stick (the job is tried again), one order's goods are broken (a person has
to look), so that all ends of a job are seen. Everything follows from the seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SHELVES = 10
CARRIERS = ("owl", "stork", "swift")
LANES = {f"shelf {n}": 1 for n in range(SHELVES)} | {f"dock {name}": 2 for name in CARRIERS}
STEPS = ("pick", "check", "wrap", "ship")
EXPRESS_OF = 8  # every eighth order
STICKS_OF = 25  # every twenty-fifth wrapping
EFFECT = "teams/effect/"  # keys that the jobs leave behind
REPAIRED = "teams/repaired"  # a person has repaired what was broken
PAGES = 3  # of the list that a job walks through; one checkpoint each


@dataclass(frozen=True, slots=True)
class Task:
    """One job of the plan."""

    id: str
    step: str
    order: int
    lane: str | None
    after: tuple[str, ...]
    priority: int
    trouble: str
    """`sticks`: the first attempt fails; `broken`: it fails until a person has repaired it."""

    @property
    def payload(self) -> dict[str, object]:
        """What its worker is told."""
        return {"step": self.step, "order": self.order, "trouble": self.trouble}


def plan(jobs: int, seed: int) -> list[Task]:
    """The jobs, `jobs` of them rounded down to whole orders, in the order in which they are put."""
    dice = random.Random(seed)
    orders = range(1, jobs // len(STEPS) + 1)
    broken = dice.choice(list(orders))
    tasks: list[Task] = []
    for order in orders:
        shelf, carrier = f"shelf {dice.randrange(SHELVES)}", f"dock {dice.choice(CARRIERS)}"
        priority = 5 if order % EXPRESS_OF == 0 else 0
        sticks = "sticks" if order % STICKS_OF == 1 else ""
        for step, lane, after, trouble in (
            ("pick", shelf, (), ""),
            ("check", None, ("pick",), "broken" if order == broken else ""),
            ("wrap", None, ("pick",), sticks),
            ("ship", carrier, ("check", "wrap"), ""),
        ):
            waits_for = tuple(f"{order}-{other}" for other in after)
            name = f"{order}-{step}"
            tasks.append(Task(name, step, order, lane, waits_for, priority, trouble))
    return tasks
