"""The end of a run: what the auditor found is judged, printed, and written into the two files."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table

from demos.meetings import verdict
from demos.meetings.agendas import write_agendas, write_calendar
from demos.meetings.report import Account, write_report
from demos.stage import Actor, StageError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from demos.meetings.programme import Programme, Talk
    from demos.meetings.story import Outcome, Story

AUDIT_S_MAX = 60.0
SETBACKS_SHOWN = 10  # the report lists all of them
FAILED, MALFORMED, REFUSED = 1, 3, 4


async def close(
    story: Story, outcome: Outcome, read: Programme, console: Console, out: Path
) -> int:
    """Audit, judge, print, write; returns the exit status.

    `read` is the programme as the file has it; `story.programme` is what was scheduled.

    Raises:
        StageError: the auditor failed, or the files cannot be written.
    """
    auditor = Actor("auditor", lambda _name, _told: None)
    place = ("--store", story.store_url, "--programme", str(story.programme_file))
    await auditor.start("demos.meetings.audit", *place, greeting="audit")
    try:
        found = await auditor.hear("audit", timeout_s=AUDIT_S_MAX)
    finally:
        await auditor.stop()
    programme = replace(story.programme, malformed=read.malformed)
    account = judge(outcome, programme, found, story.replicas)
    _print(account, console)
    try:
        stamp = datetime.now(UTC)
        write_calendar(out / "rooms.ics", account.bookings, stamp)
        agendas = write_agendas(out / "agendas", account.bookings, stamp)
        write_report(out / "report.html", account)
    except OSError as error:
        raise StageError(
            f"cannot write to {out}: {error.strerror}", "give --out a folder that you may write"
        ) from error
    console.print(
        f"written: {out / 'report.html'}, {out / 'rooms.ics'}, and {agendas} agendas of rooms and"
        f" persons ({out / 'agendas' / 'index.tsv'} says whose)",
        soft_wrap=True,
    )
    status = status_of(account)
    console.print(f"{account.summary} (exit status {status})", style="bold", soft_wrap=True)
    return status


def status_of(account: Account) -> int:
    """0 if all is well, else what is worst: a failed check, a refused talk, a malformed row."""
    if not all(check.ok for check in account.checks):
        return FAILED
    if account.refused:
        return REFUSED
    return MALFORMED if account.malformed else 0


def judge(outcome: Outcome, programme: Programme, found: dict[str, Any], replicas: int) -> Account:
    """Every check and figure of a run, from what the auditor found and the replicas told."""
    talks = {talk.id: talk for talk in programme.talks}
    bookings = _bookings(talks, found)
    refused = [verdict.Refused(talks[name], why) for name, why in found["refused"].items()]
    yielded = [
        verdict.Refused(
            replace(
                talks[name], start=datetime.fromisoformat(start), end=datetime.fromisoformat(end)
            ),
            why,
        )
        for name, start, end, why in found["yielded"]
    ]
    expired = [
        (room, datetime.fromisoformat(start), datetime.fromisoformat(end))
        for room, start, end in found["expired"]
    ]
    implied = verdict.implied_notices(
        bookings, [(talks[name], attempt) for name, attempt in found["cancelled"]]
    )
    sent: Counter[verdict.Notice] = Counter(
        {tuple(notice): count for *notice, count in found["notices"]}
    )
    by_key = {talk.key: talk.id for talk in programme.talks}
    dumps = {
        name: {
            (person, by_key.get(key, key)): (state, room, start, end)
            for person, key, state, room, start, end in entries
        }
        for name, entries in outcome.calendars.items()
    }
    setbacks = Counter(found["compensated"])
    setbacks -= Counter(item.reason for item in (*refused, *yielded))  # they have their own tables
    ended = sum(run in found["ended"] for run in outcome.left_by_killed)
    checks = [
        *verdict.booking_checks(programme.talks, bookings, refused, yielded),
        *([verdict.collision_check(programme.pairs, bookings, yielded)] if programme.pairs else []),
        *(
            [verdict.expiry_check(outcome.rivals_held, expired, bookings)]
            if outcome.rivals_held
            else []
        ),
        *(
            [verdict.kill_check(outcome.killed, len(outcome.left_by_killed), ended)]
            if outcome.trouble
            else []
        ),
        verdict.Check("sagas neither completed nor compensated", *_none(found["unfinished"])),
        verdict.notice_check(implied, sent),
        *verdict.replica_checks(bookings, dumps, outcome.digests, replicas),
    ]
    clashes = [
        f"person {person} is in {earlier.id} ({earlier.room}) and {later.id} ({later.room})"
        f" at {later.start:%Y-%m-%d %H:%M} UTC; both talks are booked"
        for person, earlier, later in verdict.double_booked_people(bookings)
    ]
    return Account(
        title="Meetings: what was booked, and whether it holds",
        figures=_figures(outcome, found, bookings, refused),
        checks=checks,
        bookings=bookings,
        refused=refused,
        yielded=yielded,
        malformed=programme.malformed,
        clashes=clashes,
        story=outcome.story,
        setbacks=[(str(count), why) for why, count in setbacks.most_common()],
    )


def _none(count: int) -> tuple[str, bool]:
    return str(count), count == 0


def _bookings(talks: dict[str, Talk], found: dict[str, Any]) -> list[verdict.Booked]:
    return [
        verdict.Booked(
            talk=talks[talk],
            booking=booking,
            room=room,
            start=datetime.fromisoformat(start),
            end=datetime.fromisoformat(end),
            attempt=attempt,
        )
        for talk, booking, room, start, end, attempt in found["bookings"]
    ]


def _figures(
    outcome: Outcome,
    found: dict[str, Any],
    bookings: list[verdict.Booked],
    refused: list[verdict.Refused],
) -> list[tuple[str, str]]:
    took_ms = [told["ms"] for told in outcome.settled.values() if told["ms"] is not None]
    ends = found["finished_by"]
    resumed = Counter(
        f"completed by {ends[run]}" if run in ends else "compensated"
        for run in outcome.left_by_killed
    )
    by_whom = ", ".join(f"{count} {end}" for end, count in sorted(resumed.items()))
    left = len(outcome.left_by_killed)
    compensated = sum(found["compensated"].values())
    sagas = len(bookings) + compensated
    figures = [
        ("talks booked / refused", f"{len(bookings)} / {len(refused)}"),
        ("bookings per second", f"{len(bookings) / outcome.busy_s:.0f} ({outcome.busy_s:.1f} s)"),
        ("holds of rivals / holds expired", f"{outcome.rivals_held} / {len(found['expired'])}"),
        ("sagas completed / compensated", f"{len(bookings)} / {compensated}"),
        ("sagas per second over HTTP", f"{sagas / outcome.busy_s:.0f}"),
        ("sagas left by the killed organizer", by_whom if left else "none"),
    ]
    if len(took_ms) > 1:
        cuts = statistics.quantiles(took_ms, n=100, method="inclusive")
        figures.append(("a booking, p50 / p99", f"{cuts[49]:.0f} / {cuts[98]:.0f} ms"))
    if outcome.converged_s is not None:
        figures.append(("converged after heal", f"{outcome.converged_s:.2f} s"))
    gossiped = sum(figure["bytes sent"] for figure in outcome.figures.values())
    figures.append(("gossiped by all organizers", f"{gossiped / 1024:.0f} KiB"))
    return figures


def _print(account: Account, console: Console) -> None:
    for title, columns, rows in (
        ("Figures", ("what", "how much"), account.figures),
        ("Sagas compensated", ("sagas", "why"), account.setbacks[:SETBACKS_SHOWN]),
        ("Talks refused", ("talk", "why"), [(r.talk.id, r.reason) for r in account.refused]),
        (
            "Slots that two wanted",
            ("talk", "why it was refused", "what it took"),
            account.moves,
        ),
        (
            "Rows not understood",
            ("line", "why"),
            [(str(m.line), m.reason) for m in account.malformed],
        ),
        ("Persons in two places at once", ("who and where",), [(c,) for c in account.clashes]),
        (
            "Checks",
            ("check", "found", "verdict"),
            [(c.name, c.found, "ok" if c.ok else "FAILED") for c in account.checks],
        ),
    ):
        if rows:
            table = Table(*columns, title=title, title_justify="left")
            for row in rows:
                style = {"FAILED": "bold red", "ok": "green"}.get(row[-1])
                table.add_row(*map(_plain, row), style=style)
            console.print(table)


def _plain(text: str) -> str:
    """Text of the input is not markup."""
    return text.replace("[", r"\[")
