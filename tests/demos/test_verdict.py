"""The closing checks of the meetings demo see a wrong world as wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import icalendar

from demos.meetings import verdict
from demos.meetings.agendas import file_names, write_agendas, write_calendar
from demos.meetings.programme import Malformed, Talk
from demos.meetings.report import Account, write_report

if TYPE_CHECKING:
    from pathlib import Path

NINE = datetime(2025, 2, 1, 9, tzinfo=UTC)


def booked(
    talk_id: str,
    *,
    room: str = "R",
    hour: float = 0,
    hours: float = 1,
    people: tuple[str, ...] = (),
) -> verdict.Booked:
    start = NINE + timedelta(hours=hour)
    end = start + timedelta(hours=hours)
    talk = Talk(talk_id, room, start, end, "track", f"<{talk_id}>", people)
    return verdict.Booked(talk, f"b{talk_id}", room, start, end, 1)


def test_overlaps_are_found_and_touching_is_none() -> None:
    """A long booking clashes with each short one inside it; ends that touch do not clash."""
    long = booked("long", hours=3)
    inside, later, after = booked("in", hour=1), booked("late", hour=2.5), booked("out", hour=3.5)
    other_room = booked("other", room="S", hour=1)
    pairs = verdict.overlapping([after, later, inside, long, other_room])
    names = [(a.talk.id, b.talk.id) for a, b in pairs]
    assert names == [("long", "in"), ("long", "late")]


def test_booking_checks_fail_on_a_lost_talk_a_wrong_room_and_an_overlap() -> None:
    """Each kind of damage turns its own line to failed."""
    one, two = booked("1"), booked("2", hour=1)
    talks = [one.talk, two.talk]

    def failed(*bookings: verdict.Booked, refused: tuple[verdict.Refused, ...] = ()) -> list[int]:
        checks = verdict.booking_checks(talks, bookings, refused)
        return [number for number, check in enumerate(checks) if not check.ok]

    assert failed(one, two) == []
    assert failed(one) == [0]
    assert failed(one, two, refused=(verdict.Refused(two.talk, "taken by 9"),)) == [0, 3]
    assert failed(one, replace(two, room="S")) == [1]
    assert failed(one, replace(two, start=one.start)) == [1, 2]
    copy = replace(one.talk, id="copy")
    for reason, right in (("taken by booking b1", []), ("", [3]), ("taken by booking b2", [3])):
        checks = verdict.booking_checks(
            [one.talk, two.talk, copy], [one, two], [verdict.Refused(copy, reason)]
        )
        assert [number for number, check in enumerate(checks) if not check.ok] == right


def test_only_a_talk_that_was_refused_may_be_booked_at_another_time() -> None:
    """A talk at a time that it did not want counts as wrong, unless its slot was refused to it."""
    seat, loser = booked("1"), booked("2")
    moved = replace(loser, start=loser.end, end=loser.end + timedelta(hours=1))
    why = [verdict.Refused(loser.talk, "taken by booking b1")]
    talks = [seat.talk, loser.talk]

    def failed(*bookings: verdict.Booked, yielded: list[verdict.Refused]) -> list[int]:
        checks = verdict.booking_checks(talks, bookings, (), yielded)
        return [number for number, check in enumerate(checks) if not check.ok]

    assert failed(seat, moved, yielded=why) == []
    assert failed(seat, moved, yielded=[]) == [1]
    assert failed(seat, replace(moved, room="S"), yielded=why) == [1]
    longer = replace(moved, end=moved.end + timedelta(hours=1))
    assert failed(seat, longer, yielded=why) == [1]
    assert failed(seat, moved, yielded=[verdict.Refused(loser.talk, "taken")]) == [3]


def test_a_pair_that_wanted_one_slot_has_one_winner_and_one_that_was_told() -> None:
    """Both at other times, a loser that was never refused, a loser without a room: all are seen."""
    seat, loser = booked("1"), booked("2")
    moved = replace(loser, start=loser.end, end=loser.end + timedelta(hours=1))
    pairs, why = [(seat.talk, loser.talk)], [verdict.Refused(loser.talk, "taken by booking b1")]
    assert verdict.collision_check(pairs, [seat, moved], why).ok
    assert not verdict.collision_check(pairs, [seat, moved], []).ok
    assert not verdict.collision_check(pairs, [seat], why).ok
    away = replace(seat, start=moved.end, end=moved.end + timedelta(hours=1))
    assert not verdict.collision_check(pairs, [away, moved], why).ok


def test_holds_that_did_not_time_out_and_a_kill_at_rest_are_failures() -> None:
    """Fewer expired holds than were abandoned; nobody killed, nothing in flight, a saga open."""
    hold = ("R", NINE, NINE + timedelta(hours=1))
    assert verdict.expiry_check(1, [hold], [booked("1")]).ok
    assert "1 of the times" in verdict.expiry_check(1, [hold], [booked("1")]).found
    assert not verdict.expiry_check(2, [hold], [booked("1")]).ok
    assert verdict.kill_check("bob", 3, 3).ok
    assert not verdict.kill_check("bob", 3, 2).ok
    assert not verdict.kill_check("bob", 0, 0).ok
    assert not verdict.kill_check("", 0, 0).ok


def test_each_room_and_person_has_an_agenda_of_its_own(tmp_path: Path) -> None:
    """Whose file is whose stands in the index; what an earlier run left is gone, nothing else."""
    bookings = [
        booked("1", room="A/1", people=("ada", "Ada")),
        booked("2", room="a 1", hour=1, people=("ada",)),
    ]
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "mine.ics").write_text("keep me")
    assert write_agendas(tmp_path, bookings, NINE) == 4
    rows = [line.split("\t") for line in (tmp_path / "index.tsv").read_text().splitlines()]
    assert {(kind, name): int(count) for kind, _, name, count in rows} == {
        ("rooms", "A/1"): 1,
        ("rooms", "a 1"): 1,
        ("people", "ada"): 2,
        ("people", "Ada"): 1,
    }
    for kind, file, _, count in rows:
        events = icalendar.Calendar.from_ical((tmp_path / kind / file).read_bytes()).walk("VEVENT")
        assert len(events) == int(count)
    write_agendas(tmp_path, bookings[:1], NINE)
    assert len(list((tmp_path / "rooms").iterdir())) == 1
    assert len(list((tmp_path / "people").iterdir())) == 3
    assert (tmp_path / "people" / "mine.ics").read_text() == "keep me"


def test_no_name_makes_a_file_that_a_disk_refuses_or_another_has() -> None:
    """Slashes, dots, lengths and cases that many disks fold are told apart."""
    names = [
        "a",
        "A",
        "../x",
        "a/b",
        "a b",
        "",
        ".hidden",
        "x" * 500,
        "Saal Ü",
        "\N{LATIN SMALL LETTER LONG S}",
        "s",
    ]
    files = file_names(dict.fromkeys(names))
    assert len({file.casefold() for file in files.values()}) == len(names)
    assert all(len(file.encode()) <= 255 and not file.startswith(".") for file in files.values())
    assert not any("/" in file for file in files.values())


def test_calendars_must_hold_each_booking_and_nothing_else() -> None:
    """A missing, a moved and an orphaned entry are seen; a cancelled one counts as absent."""
    bookings = [booked("1", people=("ada", "bob"))]
    right = verdict.implied_calendars(bookings)
    entry = right["ada", "1"]

    def damage(
        changes: dict[tuple[str, str], verdict.CalendarEntry],
    ) -> tuple[int, int]:
        missing, orphaned = verdict.calendar_differences(right, right | changes)
        return len(missing), len(orphaned)

    assert damage({}) == (0, 0)
    assert damage({("ada", "9"): ("cancelled", *entry[1:])}) == (0, 0)
    assert damage({("ada", "9"): entry}) == (0, 1)
    assert damage({("ada", "1"): ("booked", "S", *entry[2:])}) == (1, 0)
    assert damage({("ada", "1"): ("cancelled", *entry[1:])}) == (1, 0)
    dumps = {"a": right, "b": right}
    good = verdict.replica_checks(bookings, dumps, {"a": "d", "b": "d"}, 2)
    assert all(check.ok for check in good)
    assert not verdict.replica_checks(bookings, dumps, {"a": "d", "b": "e"}, 2)[1].ok
    assert not verdict.replica_checks(bookings, {"a": right}, {"a": "d"}, 2)[0].ok


def test_notifications_missing_twice_and_besides_are_failures() -> None:
    """What bookings and cancellations imply is compared as a multiset."""
    standing, gone = booked("1", people=("ada",)), booked("2", people=("bob",))
    implied = verdict.implied_notices([standing], [(gone.talk, 1)])
    assert sum(implied.values()) == 3
    assert verdict.notice_check(implied, implied.copy()).ok
    twice = implied.copy()
    twice["ada", "1", "booked", 1] += 1
    assert not verdict.notice_check(implied, twice).ok
    assert not verdict.notice_check(implied, implied - Counter(list(implied)[:1])).ok
    besides = implied + Counter({("eve", "1", "booked", 1): 1})
    assert not verdict.notice_check(implied, besides).ok


def test_a_person_in_two_rooms_at_once_is_reported() -> None:
    """Only talks that share an instant count."""
    first = booked("1", people=("ada",))
    second = booked("2", room="S", hour=0.5, people=("ada", "bob"))
    third = booked("3", room="S", hour=1.5, people=("ada",))
    clashes = verdict.double_booked_people([third, second, first])
    assert [(person, a.id, b.id) for person, a, b in clashes] == [("ada", "1", "2")]


def test_the_calendar_file_and_the_report_tell_each_booking(tmp_path: Path) -> None:
    """rooms.ics reads back with one VEVENT a booking; the report escapes what it shows."""
    bookings = [booked("1", people=("ada",)), booked("2", room="S", hour=1)]
    write_calendar(tmp_path / "rooms.ics", bookings, NINE)
    read_back = icalendar.Calendar.from_ical((tmp_path / "rooms.ics").read_bytes())
    events = {str(event["LOCATION"]): event for event in read_back.walk("VEVENT")}
    assert {room: event["DTSTART"].dt for room, event in events.items()} == {
        "R": NINE,
        "S": NINE + timedelta(hours=1),
    }
    account = Account(
        title="A run",
        figures=[("bookings per second", "100")],
        checks=[verdict.Check("overlaps", "1", ok=False)],
        bookings=bookings,
        refused=[verdict.Refused(bookings[0].talk, "taken by booking 9")],
        yielded=[],
        malformed=[Malformed(7, "no room")],
        clashes=["ada"],
        story=[(0.5, "heal")],
    )
    write_report(tmp_path / "report.html", account)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;1&gt;" in html
    assert "<1>" not in html
    assert "FAILED" in html
    assert "taken by booking 9" in html
    assert not list(tmp_path.glob("*.part"))
