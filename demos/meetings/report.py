"""What a person keeps of a run: `rooms.ics` for a calendar program, an HTML report to read.

The report is one file without scripts or fetches: a bar per room and day, a table behind each
picture for those who read rather than see, light and dark. Both files are written whole or not at
all (written beside, then renamed).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime
    from pathlib import Path

    from demos.meetings.programme import Malformed
    from demos.meetings.verdict import Booked, Check, Refused

STYLE = """
:root { color-scheme: light dark;
  --line: #8886; --bar: #2a6fbb; --bar2: #3d8b5f; --bad: #b3261e; --good: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --bad: #f2857d; --good: #81c784; } }
body { font: 15px/1.45 system-ui, sans-serif;
  margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { border: 1px solid var(--line); padding: .2rem .6rem;
  text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.bad { color: var(--bad); font-weight: 600; }
.good { color: var(--good); font-weight: 600; }
.day { overflow-x: auto; }
.chart { min-width: 60rem; }
.room { display: grid; grid-template-columns: 9rem 1fr; align-items: center;
  border-top: 1px solid var(--line); }
.lane { position: relative; height: 1.6rem; }
.lane span { position: absolute; top: .15rem; bottom: .15rem; overflow: hidden; white-space: nowrap;
  font-size: .7rem; line-height: 1.3rem; padding: 0 .2rem; color: #fff; background: var(--bar);
  border-radius: 3px; box-sizing: border-box; }
.lane span:nth-child(even) { background: var(--bar2); }
.hours { position: relative; height: 1.2rem; font-size: .75rem; }
.hours span { position: absolute; border-left: 1px solid var(--line); padding-left: .2rem; }
details { margin: .5rem 0 1.5rem; }
"""


@dataclass(frozen=True, slots=True)
class Account:
    """All that a run has to tell: the terminal's tables and the report show this."""

    title: str
    figures: Sequence[tuple[str, str]]
    checks: Sequence[Check]
    bookings: Sequence[Booked]
    refused: Sequence[Refused]
    malformed: Sequence[Malformed]
    clashes: Sequence[str]
    story: Sequence[tuple[float, str]]  # seconds since the start, what happened
    setbacks: Sequence[tuple[str, str]] = ()  # how many sagas were compensated, and why

    @property
    def summary(self) -> str:
        """The run in one sentence."""
        failed = [check.name for check in self.checks if not check.ok]
        told = f"{len(self.bookings)} talks booked, {len(self.refused)} refused"
        if self.malformed:
            told += f", {len(self.malformed)} rows not understood"
        if failed:
            return f"{told}; {len(failed)} of {len(self.checks)} checks FAILED: {', '.join(failed)}"
        return f"{told}; all {len(self.checks)} checks hold"


def write_calendar(path: Path, bookings: Sequence[Booked], stamp: datetime) -> None:
    """One VEVENT per booking (RFC 5545), in time order; `stamp` becomes their DTSTAMP.

    Raises:
        OSError: the file cannot be written; an earlier one stays as it was.
    """
    from icalendar import Calendar, Event  # noqa: PLC0415 - the extra `calendar` is optional

    calendar = Calendar()
    calendar.add("prodid", "-//convoca//meetings demo//EN")
    calendar.add("version", "2.0")
    for booked in sorted(bookings, key=lambda item: (item.start, item.room)):
        event = Event()
        event.add("uid", f"{booked.talk.key}.{booked.booking}@convoca.invalid")
        event.add("dtstamp", stamp)
        event.add("dtstart", booked.start)
        event.add("dtend", booked.end)
        event.add("location", booked.room)
        event.add("summary", booked.talk.title)
        event.add("categories", [booked.talk.track])
        event.add("status", "CONFIRMED")
        for person in booked.talk.people:
            event.add("attendee", person if ":" in person else f"urn:person:{person}")
        calendar.add_component(event)
    _write_whole(path, calendar.to_ical())


def write_report(path: Path, account: Account) -> None:
    """The HTML report of a run.

    Raises:
        OSError: the file cannot be written; an earlier one stays as it was.
    """
    verdict = "good" if all(check.ok for check in account.checks) else "bad"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>{escape(account.title)}</title><style>{STYLE}</style>",
        f"<h1>{escape(account.title)}</h1>",
        f"<p class={verdict}>{escape(account.summary)}.</p>",
        "<h2>Checks</h2>",
        _table(
            ("check", "found", "verdict"),
            [(item.name, item.found, "ok" if item.ok else "FAILED") for item in account.checks],
        ),
        "<h2>Figures</h2>",
        _table(("what", "how much"), account.figures),
    ]
    if account.setbacks:
        parts += ["<h2>Sagas compensated</h2>", _table(("sagas", "why"), account.setbacks)]
    if account.refused:
        rows = [
            (item.talk.id, item.talk.room, item.talk.title, item.reason) for item in account.refused
        ]
        parts += ["<h2>Refused</h2>", _table(("talk", "room", "title", "why"), rows)]
    if account.malformed:
        unread = [(str(item.line), item.reason) for item in account.malformed]
        parts += ["<h2>Rows not understood</h2>", _table(("line", "why"), unread)]
    if account.clashes:
        parts += ["<h2>Persons in two places at once</h2><ul>"]
        parts += [f"<li>{escape(clash)}</li>" for clash in account.clashes]
        parts += ["</ul>"]
    parts += ["<h2>What happened</h2>"]
    parts += [_table(("second", "event"), [(f"{at:.1f}", text) for at, text in account.story])]
    parts += _timelines(account.bookings)
    _write_whole(path, "\n".join(parts).encode())


def _timelines(bookings: Sequence[Booked]) -> list[str]:
    days: dict[date, list[Booked]] = defaultdict(list)
    for booked in bookings:
        days[booked.start.date()].append(booked)
    parts = []
    for day, booked_then in sorted(days.items()):
        first = min(item.start for item in booked_then).replace(minute=0, second=0, microsecond=0)
        last = max(item.end for item in booked_then)
        span = max(last - first, timedelta(hours=1))
        parts.append(
            f"<h2>Rooms on {day} (UTC)</h2><div class=day><div class=chart aria-hidden=true>"
        )
        parts.append(
            f"<div class=room><div></div><div class=hours>{_hours(first, last, span)}</div></div>"
        )
        lanes: dict[str, list[Booked]] = defaultdict(list)
        for item in booked_then:
            lanes[item.room].append(item)
        for room, items in sorted(lanes.items()):
            spans = "".join(
                _block(item, first, span) for item in sorted(items, key=lambda b: b.start)
            )
            parts.append(
                f"<div class=room><div>{escape(room)}</div><div class=lane>{spans}</div></div>"
            )
        parts.append("</div></div><details><summary>The same as a table</summary>")
        rows = [
            (
                item.room,
                f"{item.start:%H:%M}",
                f"{item.end:%H:%M}",
                item.talk.track,
                item.talk.title,
            )
            for item in sorted(booked_then, key=lambda b: (b.room, b.start))
        ]
        parts.append(_table(("room", "start", "end", "track", "title"), rows) + "</details>")
    return parts


def _hours(first: datetime, last: datetime, span: timedelta) -> str:
    count = int((last - first) / timedelta(hours=1)) + 1
    step = max(count // 12, 1)
    return "".join(
        f'<span style="left:{100 * timedelta(hours=hour) / span:.2f}%">'
        f"{first + timedelta(hours=hour):%H:%M}</span>"
        for hour in range(0, count, step)
        if timedelta(hours=hour) < span
    )


def _block(item: Booked, first: datetime, span: timedelta) -> str:
    left, width = 100 * ((item.start - first) / span), 100 * ((item.end - item.start) / span)
    title = escape(item.talk.title)
    place = f"left:{left:.2f}%;width:{width:.2f}%"
    return (
        f'<span style="{place}" title="{item.start:%H:%M}-{item.end:%H:%M} {title}">{title}</span>'
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        kind = {"FAILED": " class=bad", "ok": " class=good"}.get(text, "")
        return f"<td{kind}>{escape(text)}</td>"

    body = "".join("<tr>" + "".join(cell(text) for text in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"


def _write_whole(path: Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(data)
    beside.replace(path)
