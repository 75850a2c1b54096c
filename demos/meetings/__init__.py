"""Five agents in five processes schedule a real conference.

    python -m demos meetings [--input FILE] [--agents N] [--seed N] [--store STORE] [--ui]
                             [--out DIR]

Each organizer takes the talks of its tracks and drives every one through a saga: hold the room, put
the talk on every attendee's calendar, send notifications, confirm. Rooms are decided by the
linearizable store; calendars, votes, preferences, answers and presence are CRDTs in every
organizer's replica, kept equal by gossip. Trouble is part of the run: rivals hold rooms and abandon
them, pairs of talks of two organizers want one slot (the one that is refused is told by whom and
what is free, and takes that), sagas sleep past their hold's end, the network is cut in two and
heals, one organizer is killed with SIGKILL while its sagas are in flight, and comes back.

    operation      consistency    why                   a conflict              a timeout
    hold a room    linearizable   given once            waits for a hold,       asks again, same
                                                        yields to a booking     op_id
    confirm it     linearizable   the hold may be over  compensates, tries      asks again, same
                                                        anew                    op_id
    calendars      eventual       written by whoever    the later decision's    none: local,
                   (MaxRegister)  drives the saga       revision wins           never waits
    notifications  linearizable   one per change        appended once           asks again, same
                   (event log)                                                  op_id
    votes, answers eventual       nobody waits          they merge              none: local,
    preferences,   (PNCounter, LWWRegister, ORSet)                              never waits
    presence

Rooms are decided by an authority on an SQLite file that is started for the run. With `--store etcd`
three members of etcd are started instead, and their leader is killed half-way; with `--store
postgresql` one PostgreSQL; and `--store URL` takes a store that is running, and empty.

It writes `report.html`, `rooms.ics` and an agenda of each room and person into `--out`, and ends
with a table of checks:

    check                                        found                                       verdict
    talks booked or refused, each once           943 of 943                                  ok
    bookings in the room and at the time wanted  937; 6 more at a free time, ...             ok
    overlapping bookings                         0                                           ok
    refusals that name the booking in the way    6 of 6                                      ok
    pairs of talks that wanted one slot          6 of 6: one got it, the other took ...      ok
    holds that timed out                         26, 23 of them rivals'; ...                 ok
    sagas in flight at the kill                  16 of bob, 16 of them ended                 ok
    sagas neither completed nor compensated      0                                           ok
    notifications in the inboxes                 1178 of 1178; 0 missing, 0 twice, 0 besides ok
    calendars on every replica equal ...         1172 entries on 5 replicas; 0 missing, ...  ok
    replicas equal by digest                     5 of 5: ...                                 ok
    943 talks booked, 0 refused; all 11 checks hold (exit status 0)

Exit status: 0 every talk booked and every check holds; 1 a check failed; 2 usage or no programme;
3 the input held rows that were not understood (the rest was scheduled, every check holds);
4 a talk was refused its room (every check holds); 5 the run could not be carried out.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from demos.arguments import count
from demos.meetings.programme import ProgrammeError
from demos.meetings.reading import read
from demos.meetings.story import NAMES, Options, Story
from demos.page import add_option
from demos.running import BROKEN, USAGE, aside, complain, progress, run
from demos.servers import ENGINES, INSTALL, missing

if TYPE_CHECKING:
    from demos.meetings.programme import Programme

DATA = Path(__file__).parent.parent / "data" / "fosdem-2025.csv"

MALFORMED, REFUSED = 3, 4


def main(arguments: list[str]) -> int:
    """Run the demo; returns its exit status as the module's text says."""
    options = _parser().parse_args(arguments)
    try:
        programme = read(options.input, zone=options.zone, encoding=options.encoding)
        options.out.mkdir(parents=True, exist_ok=True)
    except ProgrammeError as error:
        complain(error)
        return USAGE
    except OSError as error:
        complain(f"cannot write to {options.out}: {error.strerror}")
        return USAGE
    if options.store in ENGINES and (lacking := missing(options.store)):
        complain(lacking, INSTALL[options.store])
        return BROKEN
    for row in programme.malformed:
        aside(f"{options.input}:{row.line}: not scheduled: {row.reason}")
    for row in programme.notes:
        aside(f"{options.input}:{row.line}: note: {row.reason}")
    try:
        return run("meetings", lambda folder: _run(options, programme, folder))
    except ProgrammeError as error:
        complain(error)
        return BROKEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demos meetings", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--input", type=Path, default=DATA, help="a .csv of the shipped form, or an .ics file")
    add("--zone", help="for times in an .ics that name no zone, or an unknown one")
    add("--encoding", help="of a .csv that is neither UTF-8 nor UTF-16, such as windows-1252")
    add("--agents", type=count(1, len(NAMES)), default=5, help="organizers, one process each")
    add("--seed", type=count(0, 2**32), default=1, help="repeats the dice of a run")
    add("--collisions", type=count(0, 100), default=6, help="pairs of talks that want one slot")
    add("--rivals", type=count(0, 200), default=12, help="slots that rivals grab, twice")
    add("--stalls", type=count(0, 50), default=3, help="sagas that sleep past their hold's end")
    add("--no-trouble", action="store_true", help="no partition, no kill")
    add("--run-s-max", type=count(1, 3600), default=120, help="give up after so many seconds")
    add_option(parser)
    add("--store", default="", help="etcd or postgresql: start its servers; or a store's URL")
    add(
        "--out",
        type=Path,
        default=Path("out/meetings"),
        help="where the report and the calendars go",
    )
    return parser


async def _run(arguments: argparse.Namespace, programme: Programme, folder: Path) -> int:
    from demos.meetings.closing import close  # noqa: PLC0415 - rich tables only when there is a run

    options = Options(
        folder=folder,
        agents=arguments.agents,
        seed=arguments.seed,
        collisions=arguments.collisions,
        rivals=arguments.rivals,
        stalls=arguments.stalls,
        trouble=not arguments.no_trouble,
        run_s_max=float(arguments.run_s_max),
        ui=arguments.ui,
        store=arguments.store,
    )
    console = Console(highlight=False)
    with progress(console, "talks settled", len(programme.talks)) as remark:
        story = Story(options, programme, remark)
        try:
            outcome = await story.play()
            status = await close(story, outcome, programme, console, arguments.out)
        finally:
            await story.end()
    return status


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
