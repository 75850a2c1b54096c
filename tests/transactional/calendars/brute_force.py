"""What a rule means, the slow way: look at each second, minute, hour and day there is, and ask.

Nothing here is shared with what it checks, nor with any library of rules.  A candidate is looked at
by itself: does RFC 5545, section 3.3.10, let it through?  Ordinals are counted by walking, the
number of a week by where its fourth day lies.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]
DAY = timedelta(days=1)


@cache
def places(day: date, *, in_month: bool) -> set[int]:
    """Which one of its weekdays the day is in its month or year, from the front and the back."""
    same = [
        other
        for other in (day + 7 * n * DAY for n in range(-53, 54))
        if other.year == day.year and (not in_month or other.month == day.month)
    ]
    return {same.index(day) + 1, same.index(day) - len(same)}


@cache
def week_numbers(day: date, wkst: int) -> set[int]:
    """The number of the day's week, from the front and from the back of the year of its 4th day."""
    fourth = day - ((day.weekday() - wkst) % 7 - 3) * DAY
    in_year = [w for w in (fourth + 7 * n * DAY for n in range(-54, 55)) if w.year == fourth.year]
    return {in_year.index(fourth) + 1, in_year.index(fourth) - len(in_year)}


@cache
def day_numbers(day: date) -> tuple[set[int], set[int]]:
    """Its number in month and year, from the front and from the back."""
    year_end, month_end = date(day.year, 12, 31), day
    while (month_end + DAY).month == day.month and month_end != year_end:
        month_end += DAY
    in_year = (day - date(day.year, 1, 1)).days + 1
    return (
        {day.day, day.day - month_end.day - 1},
        {in_year, in_year - (year_end - date(day.year, 1, 1)).days - 2},
    )


def parts_of(rule: str) -> dict[str, list[str]]:
    return {name: value.split(",") for name, value in (p.split("=") for p in rule.split(";"))}


def day_passes(day: date, parts: dict[str, list[str]], start: datetime) -> bool:
    """Whether the day may hold an occurrence, whatever the interval."""
    freq, wkst = parts["FREQ"][0], DAYS.index(parts.get("WKST", ["MO"])[0])
    by = {
        name: set(map(int, parts[name])) for name in parts if name[:2] == "BY" and name != "BYDAY"
    }
    weekdays = list(parts.get("BYDAY", []))
    if not weekdays and not {"BYMONTHDAY", "BYYEARDAY", "BYWEEKNO"} & set(parts):
        if freq in {"YEARLY", "MONTHLY"}:
            by["BYMONTHDAY"] = {start.day}
        if freq == "YEARLY" and "BYMONTH" not in by:
            by["BYMONTH"] = {start.month}
        if freq == "WEEKLY":
            weekdays = [DAYS[start.weekday()]]
    if set(parts) & {"BYWEEKNO"} and not weekdays and not {"BYMONTHDAY", "BYYEARDAY"} & set(parts):
        weekdays = [DAYS[start.weekday()]]
    in_month, in_year = day_numbers(day)
    if "BYMONTH" in by and day.month not in by["BYMONTH"]:
        return False
    if "BYMONTHDAY" in by and not in_month & by["BYMONTHDAY"]:
        return False
    if "BYYEARDAY" in by and not in_year & by["BYYEARDAY"]:
        return False
    if "BYWEEKNO" in by and not week_numbers(day, wkst) & by["BYWEEKNO"]:
        return False
    if not weekdays:
        return True
    name = DAYS[day.weekday()]
    counted = places(day, in_month=freq == "MONTHLY" or "BYMONTH" in parts)
    return any(
        wanted[-2:] == name and (len(wanted) == 2 or int(wanted[:-2]) in counted)
        for wanted in weekdays
    )


LENGTHS = {
    "WEEKLY": 7 * DAY,
    "DAILY": DAY,
    "HOURLY": timedelta(hours=1),
    "MINUTELY": timedelta(minutes=1),
    "SECONDLY": timedelta(seconds=1),
}


def period(moment: datetime, freq: str, wkst: int) -> int:
    """Which year, month, ..., second it lies in, counted from anywhere."""
    if freq == "YEARLY":
        return moment.year
    if freq == "MONTHLY":
        return 12 * moment.year + moment.month
    monday = datetime(1900, 1, 1)  # noqa: DTZ001
    since = monday + wkst * DAY if freq == "WEEKLY" else monday
    return (moment - since) // LENGTHS[freq]


def candidates(day: date, parts: dict[str, list[str]], start: datetime) -> Iterator[datetime]:
    """Every time of the day that the time parts let through, each second looked at if need be."""
    freq = parts["FREQ"][0]
    finer = {"SECONDLY": 3, "MINUTELY": 2, "HOURLY": 1}.get(freq, 0)
    wanted = []
    for number, (name, size) in enumerate((("BYHOUR", 24), ("BYMINUTE", 60), ("BYSECOND", 60)), 1):
        given = {int(value) for value in parts.get(name, [])}
        own = (start.hour, start.minute, start.second)[number - 1]
        wanted.append(
            [v for v in range(size) if (v in given if given else finer >= number or v == own)]
        )
    for hour in wanted[0]:
        for minute in wanted[1]:
            for second in wanted[2]:
                yield datetime(day.year, day.month, day.day, hour, minute, second)  # noqa: DTZ001


def enumerated(rule: str, start: datetime, days: int) -> list[datetime]:
    """All occurrences on the `days` days from the start's on, by looking at each moment."""
    parts = parts_of(rule)
    freq, wkst = parts["FREQ"][0], DAYS.index(parts.get("WKST", ["MO"])[0])
    interval = int(parts.get("INTERVAL", ["1"])[0])
    first = period(start, freq, wkst)
    passed = []
    # A year before the start and after the end: BYSETPOS counts whole periods.
    for number in range(-366, days + 366):
        day = start.date() + number * DAY
        if not day_passes(day, parts, start):
            continue
        if freq in {"YEARLY", "MONTHLY", "WEEKLY", "DAILY"}:
            noon = datetime(day.year, day.month, day.day, 12)  # noqa: DTZ001
            if (period(noon, freq, wkst) - first) % interval:
                continue
        elif not 0 <= number < days:
            continue  # a period of these never reaches into another day
        passed += [
            moment
            for moment in candidates(day, parts, start)
            if (period(moment, freq, wkst) - first) % interval == 0
        ]
    if "BYSETPOS" in parts:
        groups: dict[int, list[datetime]] = {}
        for moment in passed:
            groups.setdefault(period(moment, freq, wkst), []).append(moment)
        passed = []
        for group in groups.values():
            for position in map(int, parts["BYSETPOS"]):
                at = position - 1 if position > 0 else len(group) + position
                if 0 <= at < len(group) and group[at] not in passed:
                    passed.append(group[at])
        passed.sort()
    passed = [moment for moment in passed if moment >= start]
    if "UNTIL" in parts:
        text = parts["UNTIL"][0]
        until = (
            datetime.strptime(text, "%Y%m%dT%H%M%S")  # noqa: DTZ007
            if "T" in text
            else datetime.strptime(text + "T235959", "%Y%m%dT%H%M%S")  # noqa: DTZ007
        )
        passed = [moment for moment in passed if moment <= until]
    if "COUNT" in parts:
        passed = passed[: int(parts["COUNT"][0])]
    end = datetime(start.year, start.month, start.day) + days * DAY  # noqa: DTZ001
    return [moment for moment in passed if moment < end]
