"""What a person keeps of a run: an HTML report to read, on a screen of any width or on paper.

It is one file without scripts or fetches: a bar per room and day, a table behind each picture for
those who read rather than see, light and dark. A narrow screen and a printer get each bar as a list
with its times, for neither can scroll sideways. What a colour says, a mark beside it says too, and
a legend explains both; text stands out from its ground by 4.5 : 1 or more (WCAG 2.1, 1.4.3).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING

from demos.meetings.agendas import write_whole
from demos.meetings.verdict import is_moved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime
    from pathlib import Path

    from demos.meetings.programme import Malformed
    from demos.meetings.verdict import Booked, Check, Refused

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1b1b; --line: #8886;
  --bad: #b3261e; --good: #256b29; --wanted: #1f5fa8; --moved: #7b2d8e; --again: #7a4b00; }
@media (prefers-color-scheme: dark) { :root { --ground: #161616; --text: #ececec;
  --bad: #f2857d; --good: #81c784; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--ground);
  margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { border: 1px solid var(--line); padding: .2rem .6rem;
  text-align: left; vertical-align: top; }
.bad { color: var(--bad); font-weight: 600; }
.good { color: var(--good); font-weight: 600; }
.wanted { background: var(--wanted); border-color: var(--wanted); }
.moved { background: var(--moved); border-color: var(--moved); }
.again { background: var(--again); border-color: var(--again); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; padding: 0; list-style: none; }
.legend span { color: #fff; padding: .1rem .5rem; border-radius: 3px; }
.day { overflow-x: auto; }
.chart { min-width: 60rem; }
.room { display: grid; grid-template-columns: 9rem 1fr; align-items: center;
  border-top: 1px solid var(--line); }
.lane { position: relative; height: 1.6rem; }
.lane span { position: absolute; top: .15rem; bottom: .15rem; overflow: hidden; white-space: nowrap;
  font-size: .75rem; line-height: 1.3rem; padding: 0 .2rem; color: #fff;
  border-radius: 3px; box-sizing: border-box; }
.lane time { display: none; }
.hours { position: relative; height: 1.2rem; font-size: .75rem; }
.hours span { position: absolute; border-left: 1px solid var(--line); padding-left: .2rem; }
details { margin: .5rem 0 1.5rem; }
@media print, (max-width: 50rem) {
  th, td { padding: .15rem .3rem; font-size: .85rem; }
  .chart { min-width: 0; }
  .hours { display: none; }
  .room { display: block; break-inside: avoid; padding: .4rem 0; }
  .room > :first-child { font-weight: 600; }
  .lane { height: auto; }
  .lane span { display: block; position: static; width: auto !important; white-space: normal;
    font-size: .85rem; color: var(--text); background: none; border-radius: 0;
    border-left: 6px solid; margin: .15rem 0; padding-left: .4rem; }
  .lane .wanted { border-color: var(--wanted); }
  .lane .moved { border-color: var(--moved); }
  .lane .again { border-color: var(--again); }
  .lane time { display: inline; font-variant-numeric: tabular-nums; }
}
@media print {
  :root { color-scheme: light; --ground: #fff; --text: #000; --bad: #b3261e; --good: #256b29; }
  body { margin: 0; max-width: none; font-size: 10pt; }
  details { display: none; }
  h2 { break-after: avoid; }
  tr { break-inside: avoid; }
  .legend span, .lane span { print-color-adjust: exact; }
}
"""

# How a booking came about: its class, the mark before its title, what the legend says.
KINDS = (
    ("wanted", "", "booked at the time wanted"),
    ("moved", "\u2192 ", "moved: another talk has the slot that it wanted"),
    ("again", "\u21bb ", "booked at a later attempt, for a hold timed out or a saga was undone"),
)


@dataclass(frozen=True, slots=True)
class Account:
    """All that a run has to tell: the terminal's tables and the report show this."""

    title: str
    figures: Sequence[tuple[str, str]]
    checks: Sequence[Check]
    bookings: Sequence[Booked]
    refused: Sequence[Refused]
    yielded: Sequence[Refused]  # refusals of talks that then took another slot
    malformed: Sequence[Malformed]
    clashes: Sequence[str]
    story: Sequence[tuple[float, str]]  # seconds since the start, what happened
    setbacks: Sequence[tuple[str, str]] = ()  # how many sagas were compensated, and why

    @property
    def moves(self) -> list[tuple[str, str, str]]:
        """(talk, why it was refused, what it took) of each talk that took another slot."""
        at = {
            item.talk.id: f"{item.room}, {item.start:%Y-%m-%d %H:%M} to {item.end:%H:%M} UTC"
            for item in self.bookings
        }
        return [(item.talk.id, item.reason, at.get(item.talk.id, "-")) for item in self.yielded]

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
    if account.yielded:
        parts += ["<h2>Slots that two wanted</h2>"]
        parts += [_table(("talk", "why it was refused", "what it took"), account.moves)]
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
    write_whole(path, "\n".join(parts).encode())


def _timelines(bookings: Sequence[Booked]) -> list[str]:
    names = "".join(
        f"<li><span class={kind}>{mark or 'talk'}</span> {text}</li>" for kind, mark, text in KINDS
    )
    days: dict[date, list[Booked]] = defaultdict(list)
    for booked in bookings:
        days[booked.start.date()].append(booked)
    parts = [f'<h2>The rooms</h2><ul class=legend aria-label="what the colours say">{names}</ul>']
    for day, booked_then in sorted(days.items()):
        first = min(item.start for item in booked_then).replace(minute=0, second=0, microsecond=0)
        last = max(item.end for item in booked_then)
        span = max(last - first, timedelta(hours=1))
        parts.append(f"<h3>{day} (UTC)</h3><div class=day><div class=chart aria-hidden=true>")
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
    kind, mark, _ = KINDS[1 if is_moved(item) else 2 if item.attempt > 1 else 0]
    times = f"{item.start:%H:%M}-{item.end:%H:%M}"
    return (
        f'<span class={kind} style="{place}" title="{times} {title}">'
        f"<time>{times} </time>{mark}{title}</span>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        kind = {"FAILED": " class=bad", "ok": " class=good"}.get(text, "")
        return f"<td{kind}>{escape(text)}</td>"

    body = "".join("<tr>" + "".join(cell(text) for text in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"
