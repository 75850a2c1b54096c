"""Sixty orders, each completed or compensated, whoever is killed.

    python -m demos orders [--orders N] [--kills N] [--seed N] [--ui]

`process_order` reserves the pieces, has the bank charge the customer and the carrier ship: a saga.
Each step fails for some orders: before it has done anything, after it has, or with a plain no. The
coordinator, a process, is killed with SIGKILL at records that the seed names, and goes on where it
fell. Chairs are decided by the store; mugs are a bounded counter, which the shop's counter sells
from at the same time without asking. Fulfilment and customer service read where an order is from
replicas of their own. `--ui` serves a page of the sagas while they run. In the end the ledgers are
compared:

    check                               found                                            verdict
    each order completed or compensated 41 + 19 of 60                                         ok
    chairs (compare-and-swap)           40 sold + 0 left of 40                                ok
    mugs (bounded counter)              39 sold + 20 over the counter + 1 left of 60          ok
    money is conserved                  12000 in all accounts; the shop has 1873 for 1873     ok
    each outside effect at most once    88 effects, 17 repeats known; 0 twice                 ok
    paid and shipped, or neither        60 of 60                                              ok
    statuses read lazily are the log's  2 of 2 readers: ...; ... reads, 0 backwards           ok
    the state at T is what it was at T  60 of 60 at ..., 37 begun by then                     ok
    the log is whole                    195 events; 0 altered                                 ok
    60 orders, the coordinator killed 6 times; all 9 checks hold (exit status 0)

Exit status: 0 every check holds; 1 a check failed; 2 usage; 5 the run could not be carried out.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console

from demos.arguments import count
from demos.closing import close, show
from demos.orders.story import Options, Outcome, Story
from demos.orders.verdict import judge
from demos.page import add_option
from demos.running import progress, run

if TYPE_CHECKING:
    from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the demo; returns its exit status as the module's text says."""
    options = _parser().parse_args(arguments)
    return run("orders", lambda folder: _run(options, folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demos orders", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--orders", type=count(12, 500), default=60, help="how many (default: 60)")
    add("--kills", type=count(0, 50), default=6, help="of the coordinator (default: 6)")
    add("--seed", type=count(0, 2**32), default=1, help="repeats the dice of a run")
    add("--run-s-max", type=count(1, 3600), default=120, help="give up after so many seconds")
    add_option(parser)
    add("--forgetful", action="store_true", help=argparse.SUPPRESS)  # the world ignores keys
    return parser


async def _run(arguments: argparse.Namespace, folder: Path) -> int:
    console = Console(highlight=False)
    options = Options(
        folder=folder,
        orders=arguments.orders,
        kills=arguments.kills,
        seed=arguments.seed,
        forgetful=arguments.forgetful,
        run_s_max=float(arguments.run_s_max),
        ui=arguments.ui,
    )
    with progress(console, "orders over", arguments.orders) as remark:
        outcome = await Story(options, remark).play()
    _figures(console, outcome)
    times = "once" if outcome.killed == 1 else f"{outcome.killed} times"
    summary = f"{len(outcome.orders)} orders, the coordinator killed {times}"
    return close(console, judge(outcome), summary)


def _figures(console: Console, outcome: Outcome) -> None:
    ends = list(outcome.ends.values())
    rows = [
        ("completed / compensated", f"{ends.count('completed')} / {ends.count('compensated')}"),
        ("records of sagas, one commit each", str(outcome.records)),
        ("coordinator killed", str(outcome.killed)),
        ("failures injected outside", str(outcome.ledger["failures"])),
        (
            "sold over the counter / sent away",
            f"{outcome.sold['sold']} / {outcome.sold['sent_away']}",
        ),
        ("took", f"{outcome.busy_s:.1f} s"),
    ]
    show(console, "Figures", ("what", "how much"), rows)
