"""What must hold when the conference is scheduled, recomputed by code of its own.

Nothing here calls a recipe: bookings come as records of the store, calendars as dumps of the five
replicas, and notifications as the events of the inboxes. The checks are pure, so that a test can
hand them a wrong world and see them fail.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from demos.meetings.programme import Talk

DIGEST_SHOWN = 16  # characters that a person compares; the check compares all of them
CalendarEntry = tuple[str, str, str, str]  # state, room, start, end as a replica holds them
# person, talk id, change ("booked" or "cancelled"), attempt at that talk
Notice = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Booked:
    """One confirmed booking, as a record of the store."""

    talk: Talk
    booking: str
    room: str
    start: datetime
    end: datetime
    attempt: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A talk that did not get the slot that it wanted, and the booking that stood in its way."""

    talk: Talk
    reason: str


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the closing table: what was checked, what was found, whether that is right."""

    name: str
    found: str
    ok: bool


def overlapping(bookings: Iterable[Booked]) -> list[tuple[Booked, Booked]]:
    """Pairs of bookings that share an instant of one room; a sweep, O(n log n + pairs)."""
    pairs: list[tuple[Booked, Booked]] = []
    by_room: dict[str, list[Booked]] = defaultdict(list)
    for booked in bookings:
        by_room[booked.room].append(booked)
    for booked_there in by_room.values():
        running: list[Booked] = []
        for booked in sorted(booked_there, key=lambda item: item.start):
            running = [earlier for earlier in running if earlier.end > booked.start]
            pairs += [(earlier, booked) for earlier in running]
            running.append(booked)
    return pairs


def double_booked_people(bookings: Iterable[Booked]) -> list[tuple[str, Talk, Talk]]:
    """Persons who appear in two booked talks at once: a fact to report, not a reason to refuse."""
    by_person: dict[str, list[Talk]] = defaultdict(list)
    for booked in bookings:
        for person in booked.talk.people:
            by_person[person].append(booked.talk)
    clashes = []
    for person, talks in sorted(by_person.items()):
        ordered = sorted(talks, key=lambda talk: (talk.start, talk.id))
        for index, earlier in enumerate(ordered):
            for later in ordered[index + 1 :]:
                if later.start >= earlier.end:
                    break
                clashes.append((person, earlier, later))
    return clashes


def implied_calendars(bookings: Iterable[Booked]) -> dict[tuple[str, str], CalendarEntry]:
    """What every replica's calendars must say, and nothing else: (person, talk id) -> entry."""
    return {
        (person, booked.talk.id): (
            "booked",
            booked.room,
            booked.start.isoformat(),
            booked.end.isoformat(),
        )
        for booked in bookings
        for person in booked.talk.people
    }


def calendar_differences(
    implied: Mapping[tuple[str, str], CalendarEntry],
    dump: Mapping[tuple[str, str], CalendarEntry],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(missing or wrong, orphaned) entries of one replica; `cancelled` counts as absent."""
    standing = {key: entry for key, entry in dump.items() if entry[0] != "cancelled"}
    missing = [key for key, entry in implied.items() if standing.get(key) != entry]
    orphaned = [key for key in standing if key not in implied]
    return sorted(missing), sorted(orphaned)


def implied_notices(
    bookings: Iterable[Booked], cancelled: Iterable[tuple[Talk, int]]
) -> Counter[Notice]:
    """One `booked` per person of a booked talk, `booked` and `cancelled` of a cancelled one."""
    notices: Counter[Notice] = Counter()
    for booked in bookings:
        for person in booked.talk.people:
            notices[person, booked.talk.id, "booked", booked.attempt] += 1
    for talk, attempt in cancelled:
        for person in talk.people:
            notices[person, talk.id, "booked", attempt] += 1
            notices[person, talk.id, "cancelled", attempt] += 1
    return notices


def notice_check(implied: Counter[Notice], sent: Counter[Notice]) -> Check:
    """Every implied notification is in an inbox, none twice, none besides."""
    twice = sum(count - 1 for count in sent.values() if count > 1)
    missing = sum((implied - sent).values())
    besides = len([notice for notice in sent if notice not in implied])
    found = f"{sum(sent.values())} of {sum(implied.values())}"
    found += f"; {missing} missing, {twice} twice, {besides} besides"
    return Check("notifications in the inboxes", found, sent == implied)


def names_its_obstacle(refused: Refused, bookings: Iterable[Booked]) -> bool:
    """Whether the reason gives the id of a booking that does share an instant of the room."""
    wanted = refused.talk
    return any(
        booked.booking in refused.reason
        and booked.room == wanted.room
        and booked.start < wanted.end
        and wanted.start < booked.end
        for booked in bookings
    )


def booking_checks(
    talks: Sequence[Talk],
    bookings: Sequence[Booked],
    refused: Sequence[Refused],
    yielded: Sequence[Refused] = (),
) -> list[Check]:
    """Each talk has exactly one end, each booking is the talk's own wish, and no two overlap.

    `refused` got no room at all; `yielded` are the refusals of talks that then took another slot,
    which only one that was made to collide may do, and only in the room that it wanted.
    """
    booked_ids = Counter(booked.talk.id for booked in bookings)
    refused_ids = Counter(item.talk.id for item in refused)
    lost = [talk.id for talk in talks if booked_ids[talk.id] + refused_ids[talk.id] != 1]
    turned_away = {item.talk.id for item in yielded}
    moved = [booked for booked in bookings if is_moved(booked) and booked.talk.id in turned_away]
    wrong = [
        booked
        for booked in bookings
        if booked.room != booked.talk.room
        or (is_moved(booked) and booked not in moved)
        or booked.end - booked.start != booked.talk.end - booked.talk.start
    ]
    pairs = overlapping(bookings)
    named = [item for item in (*refused, *yielded) if names_its_obstacle(item, bookings)]
    told = len(refused) + len(yielded)
    return [
        Check(
            "talks booked or refused, each once",
            f"{len(talks) - len(lost)} of {len(talks)}",
            not lost,
        ),
        Check(
            "bookings in the room and at the time wanted",
            f"{len(bookings) - len(wrong) - len(moved)}"
            + (f"; {len(moved)} more at a free time, after a refusal" if moved else ""),
            not wrong,
        ),
        Check("overlapping bookings", str(len(pairs)), not pairs),
        Check(
            "refusals that name the booking in the way",
            f"{len(named)} of {told}",
            len(named) == told,
        ),
    ]


def is_moved(booked: Booked) -> bool:
    """Whether it is booked at another time than the talk wanted."""
    return (booked.start, booked.end) != (booked.talk.start, booked.talk.end)


def collision_check(
    pairs: Sequence[tuple[Talk, Talk]], bookings: Sequence[Booked], yielded: Sequence[Refused]
) -> Check:
    """Of each pair that wanted one slot, one has it; the other was refused and has another."""
    by_talk = {booked.talk.id: booked for booked in bookings}
    turned_away = {item.talk.id for item in yielded}
    right = 0
    for pair in pairs:
        seated = [by_talk[talk.id] for talk in pair if talk.id in by_talk]
        moved = [booked for booked in seated if is_moved(booked)]
        right += len(seated) == 2 and len(moved) == 1 and moved[0].talk.id in turned_away
    found = f"{right} of {len(pairs)}: one got it, the other took what was free"
    return Check("pairs of talks that wanted one slot", found, right == len(pairs))


def expiry_check(
    abandoned: int, expired: Sequence[tuple[str, datetime, datetime]], bookings: Sequence[Booked]
) -> Check:
    """Every hold that rivals abandoned timed out; who wanted the time got it nevertheless."""
    after = sum(
        any(b.room == room and b.start < end and start < b.end for b in bookings)
        for room, start, end in expired
    )
    found = f"{len(expired)}, {abandoned} of them rivals'; {after} of the times were booked after"
    return Check("holds that timed out", found, len(expired) >= abandoned)


def kill_check(killed: str, in_flight: int, ended: int) -> Check:
    """The organizer that was killed had sagas in flight, and each of them came to an end."""
    found = f"{in_flight} of {killed}, {ended} of them ended" if killed else "nobody was killed"
    return Check("sagas in flight at the kill", found, 0 < in_flight == ended)


def replica_checks(
    bookings: Sequence[Booked],
    dumps: Mapping[str, Mapping[tuple[str, str], CalendarEntry]],
    digests: Mapping[str, str],
    replicas: int,
) -> list[Check]:
    """Every replica reported, all digests are equal, and each calendar equals the bookings."""
    implied = implied_calendars(bookings)
    differences = {name: calendar_differences(implied, dump) for name, dump in dumps.items()}
    missing = sum(len(lost) for lost, _ in differences.values())
    orphaned = sum(len(extra) for _, extra in differences.values())
    equal = len(digests) == replicas and len(set(digests.values())) == 1
    return [
        Check(
            "calendars on every replica equal the bookings",
            f"{len(implied)} entries on {len(dumps)} replicas;"
            f" {missing} missing, {orphaned} orphaned",
            len(dumps) == replicas and not missing and not orphaned,
        ),
        Check(
            "replicas equal by digest",
            f"{len(digests)} of {replicas}: "
            + ", ".join(sorted({digest[:DIGEST_SHOWN] for digest in digests.values()})),
            equal,
        ),
    ]
