"""How much of a random test to run: a sample by default, everything under `make soak`.

A scenario names its full count (200 rounds of kill -9, 6 000 histories). `make test` runs the same
code with a twentieth of it or more, `make soak` (CONVOCA_SOAK=1) the count as written. Seeds are
fixed ones plus one that rotates with the day, so that the suite is repeatable within a day and
still wanders over a year; whoever uses `seeds` prints the seed, which is all that a replay needs
(CONVOCA_SEED=N puts that one seed in front).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

SOAK = os.environ.get("CONVOCA_SOAK") == "1"
BRIEF = os.environ.get("CONVOCA_BRIEF") == "1"
"""A third of each sample: for an interpreter that is tried for what it has, and is slow
(`make check-newest`). What a random test finds it finds elsewhere."""
DAY = int(os.environ.setdefault("CONVOCA_DAY", str(datetime.now(UTC).toordinal())))
"""Of the whole run, and of every process of it: a run goes on past midnight, and workers whose
tests had other names would collect different ones."""


def rounds(full: int, sample: int | None = None) -> int:
    """Rounds to run: `full` under soak, else `sample`, which is at least a twentieth.

    (In brief: a third of that.)
    """
    least = -(-full // 20)
    if sample is not None and sample < least:
        raise ValueError(f"a sample of {sample} is less than a twentieth of {full}")
    if SOAK:
        return full
    return max((sample or least) // (3 if BRIEF else 1), 1)


def seeds(count: int) -> list[int]:
    """`count` seeds: CONVOCA_SEED if given, then today's, then fixed ones."""
    given = os.environ.get("CONVOCA_SEED")
    lead = [int(given)] if given else []
    return [*lead, DAY * 1_000_003, *range(1, count)][:count]
