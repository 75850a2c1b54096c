"""A dozen workers, five hundred jobs: nothing is lost, nothing is done twice, whoever dies.

    python -m demos teams [--workers N] [--jobs N] [--kills N] [--seed N] [--ui]

A warehouse: every order is picked, checked, wrapped and shipped, jobs that wait for each other in
one `WorkQueue`. A shelf has room for one picker, a carrier's dock for two lorries (lanes); express
orders come first. Each worker is a process; they are killed with SIGKILL all the time, and others
take their place. A few labels stick and are tried again; one order's goods are broken, and a person
repairs them. At the end the queue's own history, commit by commit, is judged:

    check                                  found                                 verdict
    every job is done                      500 of 500; 0 parked, 0 left          ok
    every job had its effect once          500 of 500; 0 missing, 0 twice        ok
    no job began before what it waits for  0 of 500                              ok
    no lane ran more than its limit        13 lanes, none over its limit         ok
    a job was with one worker at a time    0 ends by somebody who had lost it    ok
    500 jobs done by 12 workers, 8 of them killed; all 5 checks hold (exit status 0)

Exit status: 0 every check holds; 1 a check failed; 2 usage; 5 the run could not be carried out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console

from demos.arguments import count
from demos.closing import Check, close, show
from demos.page import add_option
from demos.running import progress, run
from demos.teams.plan import LANES, STEPS, Task, plan
from demos.teams.story import Options, Outcome, Story
from transactional import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the demo; returns its exit status as the module's text says."""
    options = _parser().parse_args(arguments)
    return run("teams", lambda folder: _run(options, folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demos teams", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--workers", type=count(1, 100), default=12, help="processes at work (default: 12)")
    add("--jobs", type=count(len(STEPS), 10_000), default=500, help="four per order (default: 500)")
    add("--kills", type=count(0, 1000), default=8, help="how many workers are killed (default: 8)")
    add("--seed", type=count(0, 2**32), default=1, help="repeats the dice of a run")
    add("--run-s-max", type=count(1, 3600), default=120, help="give up after so many seconds")
    add_option(parser)
    add("--drop", default="", help=argparse.SUPPRESS)  # the effect of this job is left out
    return parser


async def _run(arguments: argparse.Namespace, folder: Path) -> int:
    console = Console(highlight=False)
    tasks = plan(arguments.jobs, arguments.seed)
    options = Options(
        folder=folder,
        workers=arguments.workers,
        seed=arguments.seed,
        kills=arguments.kills,
        drop=arguments.drop,
        run_s_max=float(arguments.run_s_max),
        ui=arguments.ui,
    )
    with progress(console, "jobs done", len(tasks)) as remark:
        outcome = await Story(options, tasks, remark).play()
    checks = judge(tasks, outcome)
    _figures(console, outcome)
    killed = f"{outcome.killed} of them killed" if outcome.killed else "none of them killed"
    summary = f"{outcome.depths[JobState.DONE]} jobs done by {arguments.workers} workers, {killed}"
    return close(console, checks, summary)


def judge(tasks: Sequence[Task], outcome: Outcome) -> list[Check]:
    """Every check, from the history of the queue and the effects in the store."""
    lane_of = {task.id: task.lane for task in tasks}
    after = {task.id: task.after for task in tasks}
    ended: Counter[str] = Counter()
    with_worker: dict[str, str | None] = {}
    in_lane: Counter[str] = Counter()
    most: Counter[str] = Counter()
    early = unheld = 0
    for change in outcome.history:
        job, lane = change.id, lane_of[change.id]
        held = job in with_worker
        if change.state is JobState.CLAIMED:
            early += any(not ended[other] for other in after[job])
            with_worker[job] = change.worker
            if lane is not None and not held:
                in_lane[lane] += 1
                most[lane] = max(most[lane], in_lane[lane])
            continue
        if change.state is JobState.DONE:
            unheld += not held
            ended[job] += 1
        if held:
            del with_worker[job]
            if lane is not None:
                in_lane[lane] -= 1
    effects = outcome.effects
    missing = sum(not effects[task.id] for task in tasks)
    twice = sum(count > 1 for count in effects.values()) + sum(n > 1 for n in ended.values())
    over = [lane for lane, count in most.items() if count > LANES[lane]]
    done, left = outcome.depths[JobState.DONE], sum(outcome.depths.values())
    parked = outcome.depths[JobState.PARKED]
    total = len(tasks)
    whole = done == total and left == total
    return [
        Check(
            "every job is done", f"{done} of {total}; {parked} parked, {left - done} left", whole
        ),
        Check(
            "every job had its effect once",
            f"{total - missing} of {total}; {missing} missing, {twice} twice",
            not missing and not twice,
        ),
        Check("no job began before what it waits for", f"{early} of {total}", not early),
        Check(
            "no lane ran more than its limit",
            f"{len(most)} lanes, {', '.join(over) if over else 'none over its limit'}",
            not over,
        ),
        Check(
            "a job was with one worker at a time",
            f"{unheld} ends by somebody who had lost it",
            not unheld,
        ),
    ]


def _figures(console: Console, outcome: Outcome) -> None:
    attempts, jobs = sum(outcome.attempts.values()), len(outcome.attempts)
    rows = [
        ("jobs per second", f"{jobs / outcome.busy_s:.0f} ({outcome.busy_s:.1f} s)"),
        ("workers killed", str(outcome.killed)),
        ("attempts / jobs", f"{attempts} / {jobs}"),
        ("claims that went on where another had stopped", str(outcome.went_on)),
        ("changes of state, one commit each at most", str(len(outcome.history))),
    ]
    show(console, "Figures", ("what", "how much"), rows)
