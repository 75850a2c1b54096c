"""Why it matters: twenty agents want one room for one slot, and book it in five ways.

    python -m demos rooms [--agents N] [--seed N]

Each agent is a process that looks whether the room is free, thinks for a moment, and books. Two
ways are what one writes first: a dict that all share, and a replicated register. Both tell many
agents that the room is theirs, and one of them has it. The other three decide: by comparing, under
a lock whose fence goes into the write, or by a hold that is confirmed. Whoever has the lock first
sleeps through its lease and writes too late; whoever holds first is killed. What was told and what
stands in the end is counted:

    way                        told "booked"  really booked  double bookings  attempts   time
    naive shared dict                     20              1               19        20  0.1 s
    LWW register                          20              1               19        20  0.1 s
    compare-and-swap, retried              1              1                0        20  0.2 s
    lock with fence                        1              1                0         2  2.5 s
    hold and confirm                       1              1                0        57  1.9 s

    check                                         found                                verdict
    the naive shared dict breaks its word         20 told, 1 has it                         ok
    the LWW register breaks its word              20 told, 1 has it                         ok
    ... and its replicas are equal all the same   20 of 20: ...                             ok
    compare-and-swap books once                   told agent-07, and it has it              ok
    the lock books once                           told agent-11, and it has it              ok
    ... and a write after the lease is refused    1 refused by its fence                    ok
    hold and confirm books once                   told agent-03, and it has it              ok
    ... and the hold of the killed one expired    agent-14                                  ok
    20 agents, one room: 38 broken promises by 2 naive ways, 0 by the other 3; all 8 checks hold
    (exit status 0)

Exit status: 0 every check holds; 1 a check failed, also if a naive way kept its word, for then
nothing was shown; 2 usage; 5 the run could not be carried out.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console

from demos.arguments import count
from demos.closing import Check, close, show
from demos.rooms.story import Outcome, Row, Story
from demos.rooms.ways import CAS, DICT, HOLD, LOCK, LWW, NAIVE
from demos.running import run

if TYPE_CHECKING:
    from pathlib import Path

AGENTS_MAX = 60
DIGEST_SHOWN = 16


def main(arguments: list[str]) -> int:
    """Run the demo; returns its exit status as the module's text says."""
    options = _parser().parse_args(arguments)
    return run("rooms", lambda folder: _run(options, folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demos rooms", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--agents", type=count(2, AGENTS_MAX), default=20, help="processes (default: 20)")
    add("--seed", type=count(0, 2**32), default=1, help="of how long each agent thinks")
    add("--lie", action="store_true", help=argparse.SUPPRESS)  # who lost says "booked", once
    return parser


async def _run(options: argparse.Namespace, folder: Path) -> int:
    console = Console(highlight=False)

    def remark(text: str) -> None:
        console.print(f"  {text}", markup=False, soft_wrap=True)

    outcome = await Story(options.agents, options.seed, folder, remark, lie=options.lie).play()
    columns = ("way", 'told "booked"', "really booked", "double bookings", "attempts", "time")
    rows = [
        (
            row.way,
            *map(str, (len(row.told), row.kept, row.double, row.attempts)),
            f"{row.took_s:.1f} s",
        )
        for row in outcome.rows
    ]
    show(console, "One room, one slot", columns, rows)
    naive = sum(row.double for row in outcome.rows if row.way in NAIVE)
    others = sum(row.double for row in outcome.rows if row.way not in NAIVE)
    summary = (
        f"{options.agents} agents, one room: {naive} broken promises by {len(NAIVE)} naive ways,"
        f" {others} by the other {len(outcome.rows) - len(NAIVE)}"
    )
    return close(console, judge(outcome), summary)


def judge(outcome: Outcome) -> list[Check]:
    """Every check, from what was counted."""
    by_way = {row.way: row for row in outcome.rows}
    count, replicas = len(outcome.digests), outcome.replicas
    shown = ", ".join(digest[:DIGEST_SHOWN] for digest in sorted(outcome.digests)[:3])
    late = by_way[LOCK].late
    return [
        _broken("the naive shared dict breaks its word", by_way[DICT]),
        _broken("the LWW register breaks its word", by_way[LWW]),
        Check(
            "... and its replicas are equal all the same",
            f"{replicas if count == 1 else 0} of {replicas}: {shown}",
            count == 1,
        ),
        _kept("compare-and-swap books once", by_way[CAS]),
        _kept("the lock books once", by_way[LOCK]),
        Check(
            "... and a write after the lease is refused", f"{late} refused by its fence", late == 1
        ),
        _kept("hold and confirm books once", by_way[HOLD]),
        Check(
            "... and the hold of the killed one expired",
            ", ".join(outcome.expired) or "none did",
            bool(outcome.killed) and outcome.killed == outcome.expired,
        ),
    ]


def _broken(name: str, row: Row) -> Check:
    return Check(name, f"{len(row.told)} told, {row.kept} has it", row.double > 0)


def _kept(name: str, row: Row) -> Check:
    told, has = " ".join(row.told) or "nobody", " ".join(row.stands) or "nobody"
    found = f"told {told}, and {'it' if row.told == row.stands else has} has it"
    return Check(name, found, len(row.stands) == 1 and row.told == row.stands)
