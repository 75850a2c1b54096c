"""Five replicas write all the time while their network breaks and heals; watch them converge.

    python -m demos gossip [--nodes N] [--seed N] [--ui] [--script FILE | --by-hand] [--simulate N]

Each node is a process: an agent with its replica and journal, that writes counters, registers and
sets, and gossips. Between them stands a network that is cut in two and heals, a link that becomes
slow, a node that is killed with SIGKILL and returns on another port. In a terminal you see the
replicas coloured by digest, every key on every replica with what differs marked, diverged keys and
bytes over time; anywhere else, a line a second. `--script FILE` is a script of your own (its form
stands in `demos/gossip/script.py`), `--by-hand` gives you the keys, and `--simulate 200` carries
the same script out on virtual time. `--ui` serves a page for your browser, with buttons instead of
a script, until Ctrl-C. At the end it is judged what the nodes hold:

    check                                              found                              verdict
    replicas equal by digest                           5 of 5: ...                             ok
    everybody knows who lives, and no former life      5 of 5 know 4 others                    ok
    nothing acknowledged is lost                       ... writes acknowledged; 0 lost         ok
    nothing counts twice, nothing is invented          ... writes made; 0 besides              ok
    heal at 10 s: everybody has all                    after ... rounds of at most 10          ok
    back: ... at 25 s: everybody has all               after ... rounds of at most 10          ok
    deltas weigh less than full states                 ... KiB sent in all; ...                ok
    5 nodes, 2 heals; all 7 checks hold (exit status 0)

A full state for each delta is what agents would send that do not know what their peers have.

Exit status: 0 every check holds; 1 a check failed; 2 usage, or a script that cannot be carried out;
5 the run could not be carried out.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import transactional
from crdt import ConvocaError
from demos.arguments import count
from demos.closing import close
from demos.gossip.processes import Processes
from demos.gossip.screen import Screen, curves
from demos.gossip.script import ScriptError, names_of, read, rolled
from demos.gossip.simulated import Simulated
from demos.gossip.story import Outcome, Story, while_open
from demos.gossip.verdict import judge
from demos.running import USAGE, complain, run
from demos.stage import Actor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demos.gossip.cluster import Cluster
    from demos.gossip.script import Step

NODES_MAX, SIMULATED_MAX = 20, 200
WRITES_PER_S, SIMULATED_DELIVERIES_PER_S = 20.0, 400.0
"""Of all nodes together; simulated ones write less the more they are: one thread carries it all."""
SHOWN_WRITES_PER_S = 0.5
"""Of all nodes together, while the page shows them: who looks wants to see what a button does."""
BY_HAND_S_MAX = 600.0
READY_S_MAX = 30.0


def main(arguments: list[str]) -> int:
    """Run the demo; returns its exit status as the module's text says."""
    options = _parser().parse_args(arguments)
    names = names_of(options.simulate or options.nodes)
    try:
        script = _script(options, names)
    except ScriptError as error:
        complain(error)
        return USAGE
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        complain(f"cannot read {options.script}: {why}")
        return USAGE
    try:
        return run("gossip", lambda folder: _run(options, names, script, folder))
    except ConvocaError as error:
        if error.code != "page":
            raise
        complain(error)
        return USAGE


def _script(options: argparse.Namespace, names: Sequence[str]) -> list[Step]:
    if options.ui and options.simulate:
        raise ScriptError("--ui shows real nodes", "leave --simulate out")
    if options.by_hand and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ScriptError("--by-hand wants a terminal", "give it --script FILE instead")
    if options.by_hand or (options.ui and options.script is None):
        return read(f"{BY_HAND_S_MAX:g} end", names)
    if options.script is None:
        return rolled(names, options.seed)
    return read(options.script.read_text(encoding="utf-8"), names, str(options.script))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demos gossip", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--nodes", type=count(2, NODES_MAX), default=5, help="processes (default: 5)")
    add("--seed", type=count(0, 2**32), default=1, help="of the script and of what is written")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--script", type=Path, help="a script of your own")
    which.add_argument("--by-hand", action="store_true", help="you cut and heal, with keys")
    add(
        "--ui",
        nargs="?",
        const="127.0.0.1:0",
        metavar="HOST:PORT",
        help="serve a page with buttons, on loopback",
    )
    add("--simulate", type=count(2, SIMULATED_MAX), help="so many nodes on virtual time instead")
    add("--drop", type=int, default=0, help=argparse.SUPPRESS)  # acknowledged, and never made
    return parser


async def _run(
    options: argparse.Namespace, names: Sequence[str], script: list[Step], folder: Path
) -> int:
    console = Console(highlight=False)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    if options.ui:
        outcome = await _run_with_page(options, names, script, folder, console)
        return _close(console, outcome)
    writes_per_s = WRITES_PER_S
    if options.simulate:
        writes_per_s = min(writes_per_s, SIMULATED_DELIVERIES_PER_S / len(names))
    pause_s = len(names) / writes_per_s
    title = f"gossip: {len(names)} processes"
    cluster: Cluster
    if options.simulate:
        title = f"gossip: {len(names)} simulated nodes, virtual time"
        cluster = Simulated(names, options.seed, pause_s, options.drop)
    else:
        cluster = Processes(names, options.seed, folder, pause_s, options.drop)
    with ExitStack() as stack:
        if options.by_hand:
            from demos.gossip.hands import HELP, Hands  # noqa: PLC0415 - terminals of Unix only

            screen = stack.enter_context(Screen(console, title, HELP))
            hands = stack.enter_context(Hands(names, lambda: story.down))
            story = Story(cluster, screen.changed, hands.step)
        else:
            screen = stack.enter_context(Screen(console, title))
            story = Story(cluster, screen.changed)
        outcome = await while_open(cluster, story.play(script))
    return _close(console, outcome)


async def _run_with_page(
    options: argparse.Namespace,
    names: Sequence[str],
    script: list[Step],
    folder: Path,
    console: Console,
) -> Outcome:
    """Real nodes, a store for what they book, and the page; Ctrl-C ends the writing."""
    from convoca.page import Page  # noqa: PLC0415 - only a run that is shown needs it
    from demos.gossip.shown import Shown  # noqa: PLC0415 - as above

    authority = Actor("authority", lambda _name, _told: None, obeys=False)
    file = str(folder / "store.db")
    await authority.start(
        "transactional", "serve", file, "--listen", "127.0.0.1:0", greeting="line"
    )
    try:
        line = await authority.hear("line", timeout_s=READY_S_MAX)
        url = str(line["text"]).split()[2]
        cluster = Processes(
            names, options.seed, folder, len(names) / SHOWN_WRITES_PER_S, options.drop, store=url
        )
        shown = Shown(cluster, options.seed)
        loop = asyncio.get_running_loop()
        with Screen(console, f"gossip: {len(names)} processes") as screen:
            shown.story = story = Story(cluster, screen.changed, shown.hand)
            async with transactional.open(url) as store:
                page = Page("gossip", replicas=shown, store=lambda: store, listen=options.ui)
                async with page:
                    loop.add_signal_handler(signal.SIGINT, shown.end)  # before it is promised
                    console.print(f"page: {page.url}", style="bold", markup=False, soft_wrap=True)
                    console.print("Ctrl-C ends the writing and closes with the checks")
                    console.file.flush()
                    try:
                        outcome: Outcome = await while_open(cluster, story.play(script))
                    finally:
                        await shown.close()
    finally:
        await authority.stop()
    return outcome


def _close(console: Console, outcome: Outcome) -> int:
    curves(console, outcome)
    heals = len(outcome.heals)
    summary = f"{len(outcome.names)} nodes, {heals} heal{'' if heals == 1 else 's'}"
    return close(console, judge(outcome), summary)
