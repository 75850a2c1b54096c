"""Calendar files of a few lines each, and what they mean, worked out by hand.

A case is a name, the lines of its events, and what is expected: starts in UTC (with an end where
the length is the point), a piece of what is told of what is left out, a piece of a note.  `B` and
`E` are a meeting from 9 to 10 in Berlin on Monday, 6 January 2025: 8 to 9 UTC, and in summer 7 to 8.
"""

from __future__ import annotations

from dataclasses import dataclass

B = "DTSTART;TZID=Europe/Berlin:20250106T090000"
E = "DTEND;TZID=Europe/Berlin:20250106T100000"
Z = "DTSTART:20250106T080000Z\nDTEND:20250106T090000Z"

# A Berlin under a name that nobody knows, as Outlook writes it, and an island without summer time.
VTIMEZONE = """BEGIN:VTIMEZONE
TZID:{name}
BEGIN:STANDARD
DTSTART:16010101T030000
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10
END:STANDARD
BEGIN:DAYLIGHT
DTSTART:16010101T020000
TZOFFSETFROM:+0100
TZOFFSETTO:+0200
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=3
END:DAYLIGHT
END:VTIMEZONE"""
ISLAND = """BEGIN:VTIMEZONE
TZID:Island
BEGIN:STANDARD
DTSTART:19700101T000000
TZOFFSETFROM:-0330
TZOFFSETTO:-0330
END:STANDARD
END:VTIMEZONE"""


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    starts: list[str]
    left_out: str = ""
    note: str = ""
    zone: str | None = None


def event(*lines: str, uid: str = "u") -> str:
    """One VEVENT."""
    return "\n".join(["BEGIN:VEVENT", f"UID:{uid}", "LOCATION:Room", *lines, "END:VEVENT"])


def calendar(*parts: str, head: str = "") -> str:
    """One VCALENDAR."""
    top = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//corpus//EN", *([head] if head else [])]
    return "\n".join([*top, *parts, "END:VCALENDAR"]) + "\n"


def case(
    name: str,
    starts: str,
    *parts: str,
    head: str = "",
    left_out: str = "",
    note: str = "",
    zone: str | None = None,
) -> Case:
    """A case of one calendar, with CR LF."""
    data = calendar(*parts, head=head).replace("\n", "\r\n").encode()
    return Case(name, data, starts.split(), left_out, note, zone)


def days(*dates: str, at: str = "08:00") -> str:
    """Starts in 2025 at one time of day: 01-06 01-13."""
    return " ".join(f"2025-{date}T{at}" for date in dates)


FOUR = days("01-06", "01-13", "01-20", "01-27")
WEEKLY = "RRULE:FREQ=WEEKLY;COUNT=4"
ONE = days("01-06")


def one_meeting() -> list[Case]:
    """A VEVENT that is alone: lengths, kinds of times, what a reader does not need."""
    d = "DTSTART:20250106T080000Z"
    whole = "DTSTART;VALUE=DATE:20250106"
    return [
        case("plain", ONE, event(B, E)),
        case("utc", ONE, event(Z)),
        case("lower case names", ONE, event(Z).replace("DTSTART", "dtstart").replace("END:V", "end:v")),
        case("lower case t and z", ONE, event(Z.lower().replace("dtstart", "DTSTART").replace("dtend", "DTEND"))),
        case("no seconds", ONE, event("DTSTART:20250106T0800Z", "DTEND:20250106T0900Z")),
        case("space around a name", ONE, event(Z.replace("DTSTART:", "DTSTART :"))),
        case("quoted TZID", ONE, event(B.replace("Europe/Berlin", '"Europe/Berlin"'), E)),
        case("empty TZID", ONE, event("DTSTART;TZID=:20250106T080000", "DURATION:PT1H"), head="X-WR-TIMEZONE:UTC"),
        case("duration", "2025-01-06T08:00/2025-01-06T09:30", event(d, "DURATION:PT1H30M")),
        case("duration of weeks", "2025-01-06T08:00/2025-01-20T08:00", event(d, "DURATION:P2W")),
        case("duration with sign", "2025-01-06T08:00/2025-01-06T09:00", event(d, "DURATION:+PT1H")),
        case("duration in seconds", "2025-01-06T08:00/2025-01-06T09:00", event(d, "DURATION:PT3600S")),
        case("a day of the calendar", "2025-03-29T08:00/2025-03-30T07:00", event("DTSTART;TZID=Europe/Berlin:20250329T090000", "DURATION:P1D")),
        case("24 hours", "2025-03-29T08:00/2025-03-30T08:00", event("DTSTART;TZID=Europe/Berlin:20250329T090000", "DURATION:PT24H")),
        case("end and duration that agree", ONE, event(Z, "DURATION:PT1H")),
        case("end and duration that differ", "", event(Z, "DURATION:PT2H"), left_out="DTEND and DURATION differ"),
        case("two zones", "2025-01-06T08:00/2025-01-06T10:00", event(B, "DTEND;TZID=Europe/London:20250106T100000")),
        case("no end", "", event(d), left_out="neither DTEND nor DURATION"),
        case("zero length", "", event(d, "DTEND:20250106T080000Z"), left_out="takes no time"),
        case("zero duration", "", event(d, "DURATION:PT0S"), left_out="takes no time"),
        case("end before start", "", event(d, "DTEND:20250106T070000Z"), left_out="not after its start"),
        case("negative duration", "", event(d, "DURATION:-PT1H"), left_out="not after its start"),
        case("no duration", "", event(d, "DURATION:soon"), left_out="DURATION 'soon' is none"),
        case("duration beyond all time", "", event(d, "DURATION:P9999999D"), left_out="beyond all time"),
        case("duration of hours beyond all time", "", event(d, "DURATION:PT999999999999H"), left_out="beyond all time"),
        case("no start", "", event("DTEND:20250106T080000Z"), left_out="no DTSTART"),
        case("no uid", "", event(Z).replace("UID:u\n", ""), left_out="no UID"),
        case("start that is none", "", event("DTSTART:tomorrow", "DURATION:PT1H"), left_out="neither a date nor a time"),
        case("30 February", "", event("DTSTART:20250230T080000Z", "DURATION:PT1H"), left_out="neither a date nor a time"),
        case("hour 24", "", event("DTSTART:20250106T240000Z", "DURATION:PT1H"), left_out="neither a date nor a time"),
        case("year 1", "", event("DTSTART;TZID=Europe/Berlin:00010101T000000", "DURATION:PT1H"), left_out="beyond the years"),
        case("year 9999", "", event("DTSTART;TZID=America/New_York:99991231T230000", "DURATION:PT1H"), left_out="beyond the years"),
        case("two starts alike", ONE, event(Z, d)),
        case("two starts", "", event(Z, "DTSTART:20250107T080000Z"), left_out="2 times DTSTART"),
        case("two locations", "", event(Z, "LOCATION:Other"), left_out="2 times LOCATION"),
        case("two locations alike", ONE, event(Z, "LOCATION:Room")),
        case("created in year 0", ONE, event(Z, "CREATED:00000000T000000Z", "LAST-MODIFIED:00001231T000000Z")),
        case("geo that is none", ONE, event(Z, "GEO:here", "PRIORITY:high", "ATTACH;FMTTYPE=x:y")),
        case("line without a colon", ONE, event(Z, "DESCRIPTION", "=20quoted printable")),
        case("sequence that is none", ONE, event(Z, "SEQUENCE:first"), note="SEQUENCE 'FIRST' is no number"),
        case("status", "", event(Z, "STATUS:CANCELLED")),
        case("status tentative", ONE, event(Z, "STATUS:TENTATIVE")),
        case("alarm inside", ONE, event(Z, "BEGIN:VALARM\nTRIGGER:-PT10M\nDURATION:PT5M\nSUMMARY:no\nUID:a\nEND:VALARM")),
        case("tzid on utc", ONE, event("DTSTART;TZID=Europe/Berlin:20250106T080000Z", "DURATION:PT1H"), note="the TZID is not looked at"),
        case("whole day", "2025-01-05T23:00/2025-01-06T23:00", event(whole), head="X-WR-TIMEZONE:Europe/Berlin", note="X-WR-TIMEZONE"),
        case("whole days", "2025-01-05T23:00/2025-01-07T23:00", event(whole, "DTEND;VALUE=DATE:20250108"), zone="Europe/Berlin", note="zone that was given"),
        case("whole day of 23 hours", "2025-03-29T23:00/2025-03-30T22:00", event("DTSTART;VALUE=DATE:20250330"), zone="Europe/Berlin"),
        case("whole day without a zone", "", event(whole), left_out="a whole day: it names no zone"),
        case("whole day by duration", "2025-01-06T00:00/2025-01-08T00:00", event(whole, "DURATION:P2D"), zone="UTC"),
        case("whole day of 24 hours", "2025-03-29T23:00/2025-03-30T22:00", event("DTSTART;VALUE=DATE:20250330", "DURATION:PT24H"), zone="Europe/Berlin"),
        case("whole day of hours", "", event(whole, "DURATION:PT5H"), zone="UTC", left_out="ends at a time of day"),
        case("whole day that ends as it begins", "2025-01-06T00:00/2025-01-07T00:00", event(whole, "DTEND;VALUE=DATE:20250106"), zone="UTC", note="one day is meant"),
        case("date without VALUE", "2025-01-06T00:00/2025-01-07T00:00", event("DTSTART:20250106"), zone="UTC"),
        case("date with midnight", "2025-01-06T00:00/2025-01-07T00:00", event("DTSTART;VALUE=DATE:20250106T000000"), zone="UTC"),
        case("date with a time", "", event("DTSTART;VALUE=DATE:20250106T090000"), zone="UTC", left_out="says that it is a date"),
        case("date to time", "", event(whole, "DTEND:20250107T000000Z"), zone="UTC", left_out="one is a whole day"),
        case("floating", "", event("DTSTART:20250106T090000", "DURATION:PT1H"), left_out="is floating: it names no zone"),
        case("floating, zone given", ONE, event("DTSTART:20250106T090000", "DTEND:20250106T100000"), zone="Europe/Berlin", note="zone that was given"),
        case("gap", "2025-03-30T01:30", event("DTSTART;TZID=Europe/Berlin:20250330T023000", "DURATION:PT1H")),
        case("fold", "2025-10-26T00:30", event("DTSTART;TZID=Europe/Berlin:20251026T023000", "DURATION:PT1H")),
    ]  # fmt: skip


def series() -> list[Case]:
    """Rules, what is added to them and taken away."""
    v = "DTSTART;TZID=Europe/Berlin:20250317T090000\nDTEND;TZID=Europe/Berlin:20250317T100000"
    whole = "DTSTART;VALUE=DATE:20250106"
    period = "RDATE;VALUE=PERIOD:20250107T090000Z/"
    wednesday = "DTSTART:20250108T080000Z\nDTEND:20250108T090000Z"
    return [
        case("weekly", FOUR, event(B, E, WEEKLY)),
        case("across spring", days("03-17", "03-24") + " " + days("03-31", at="07:00"), event(v, "RRULE:FREQ=WEEKLY;COUNT=3")),
        case("in utc across spring", days("03-17", "03-24", "03-31"), event("DTSTART:20250317T080000Z", "DURATION:PT1H", "RRULE:FREQ=WEEKLY;COUNT=3")),
        case("until in utc", days("01-06", "01-13"), event(B, E, "RRULE:FREQ=WEEKLY;UNTIL=20250113T080000Z")),
        case("until a second before", ONE, event(B, E, "RRULE:FREQ=WEEKLY;UNTIL=20250113T075959Z")),
        case("until local", days("01-06", "01-13"), event(B, E, "RRULE:FREQ=WEEKLY;UNTIL=20250113T090000")),
        case("until a date", days("01-06", "01-13"), event(B, E, "RRULE:FREQ=WEEKLY;UNTIL=20250113")),
        case("until before the start", "", event(B, E, "RRULE:FREQ=WEEKLY;UNTIL=20240101T000000Z"), left_out="ends before it starts"),
        case("until the end of time", "", event(B, E, "RRULE:FREQ=DAILY;UNTIL=99991231T235959Z"), left_out="more than 2000 occurrences"),
        case("count beyond reason", "", event(B, E, "RRULE:FREQ=DAILY;COUNT=99999999"), left_out="more than 2000 occurrences"),
        case("seconds without end", "", event(B, E, "RRULE:FREQ=SECONDLY"), left_out="more than 2000 occurrences"),
        case("never", "", event(B, E, "RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"), left_out="never matches"),
        case("interval 0", "", event(B, E, "RRULE:FREQ=WEEKLY;INTERVAL=0"), left_out="at least 1"),
        case("interval -1", "", event(B, E, "RRULE:FREQ=WEEKLY;INTERVAL=-1"), left_out="at least 1"),
        case("no freq", "", event(B, E, "RRULE:INTERVAL=1;COUNT=3"), left_out="has no FREQ"),
        case("two untils", "", event(B, E, "RRULE:FREQ=DAILY;UNTIL=20250110T000000Z,20250112T000000Z"), left_out="cannot read the rule"),
        case("rule of vCalendar 1.0", "", event(B, E, "RRULE:W1 MO #4"), left_out="is not NAME=VALUE"),
        case("semicolon at the end", FOUR, event(B, E, WEEKLY + ";")),
        case("outlook's rule", FOUR, event(B, E, "RRULE:FREQ=WEEKLY;UNTIL=20250127T080000Z;INTERVAL=1;BYDAY=MO;WKST=SU")),
        case("first monday", days("01-06", "02-03", "03-03"), event(B, E, "RRULE:FREQ=MONTHLY;BYDAY=1MO;COUNT=3")),
        case("two rules", FOUR, event(B, E, "RRULE:FREQ=WEEKLY;INTERVAL=2;COUNT=2", "RRULE:FREQ=WEEKLY;COUNT=4")),
        case("the same rule twice", FOUR, event(B, E, WEEKLY, WEEKLY)),
        case("start off its rule", days("01-08", "01-13", "01-20"), event(wednesday, "RRULE:FREQ=WEEKLY;BYDAY=MO;COUNT=3"), note="read as the first one"),
        case("start off its rule, count 1", days("01-08"), event(wednesday, "RRULE:FREQ=WEEKLY;BYDAY=MO;COUNT=1"), note="read as the first one"),
        case("start off its rule, until", days("01-08", "01-13"), event(wednesday, "RRULE:FREQ=WEEKLY;BYDAY=MO;UNTIL=20250115"), note="read as the first one"),
        case("endless and an end", FOUR, event(B, E, "RRULE:FREQ=WEEKLY"), event("DTSTART:20250131T080000Z", "DURATION:PT1H", "STATUS:CANCELLED", uid="x"), event("DTSTART:20250127T080000Z", "DURATION:PT1H", "LOCATION:Room", uid="v").replace("BEGIN:VEVENT", "BEGIN:VTODO").replace("END:VEVENT", "END:VTODO"), event("DTSTART:20250128T000000Z", "DURATION:PT1M", "RRULE:FREQ=DAILY;COUNT=1", "EXDATE:20250128T000000Z", uid="w"), note="without an end"),
        case("exrule", days("01-06", "01-07", "01-08", "01-09", "01-10"), event(Z, "RRULE:FREQ=DAILY;COUNT=7", "EXRULE:FREQ=WEEKLY;BYDAY=SA,SU")),
        case("exrule with count", days("01-08", "01-09"), event(Z, "RRULE:FREQ=DAILY;COUNT=4", "EXRULE:FREQ=DAILY;COUNT=2")),
        case("exrule that is none", "", event(Z, "RRULE:FREQ=DAILY;COUNT=4", "EXRULE:FREQ=NEVER"), left_out="cannot read the rule"),
        case("exdate", days("01-06", "01-20", "01-27"), event(B, E, WEEKLY, "EXDATE;TZID=Europe/Berlin:20250113T090000")),
        case("exdate in utc", days("01-06", "01-20", "01-27"), event(B, E, WEEKLY, "EXDATE:20250113T080000Z")),
        case("exdate in another zone", days("01-06", "01-20", "01-27"), event(B, E, WEEKLY, "EXDATE;TZID=Europe/London:20250113T080000")),
        case("exdate floating", days("01-06", "01-20", "01-27"), event(B, E, WEEKLY, "EXDATE:20250113T090000")),
        case("exdate of a date", days("01-06", "01-20", "01-27"), event(B, E, WEEKLY, "EXDATE;VALUE=DATE:20250113")),
        case("exdates in a list", days("01-06", "01-27"), event(B, E, WEEKLY, "EXDATE;TZID=Europe/Berlin:20250113T090000,20250120T090000")),
        case("exdates in lines", days("01-06", "01-27"), event(B, E, WEEKLY, "EXDATE:20250113T080000Z", "EXDATE;VALUE=DATE:20250120")),
        case("exdate at midnight", days("01-06", "01-20", "01-27"), event(B, E, WEEKLY, "EXDATE;TZID=Europe/Berlin:20250113T000000"), note="read as the one on that day"),
        case("exdate that is no occurrence", FOUR, event(B, E, WEEKLY, "EXDATE:20250113T093000Z"), note="takes none away"),
        case("exdate in year 1", FOUR, event(B, E, WEEKLY, "EXDATE;TZID=Europe/Berlin:00010101T000000"), note="takes none away"),
        case("exdate of no date", FOUR, event(B, E, WEEKLY, "EXDATE:00010101T000000Z"), note="takes none away"),
        case("rdate in year 1", "", event(B, E, "RDATE;TZID=Europe/Berlin:00010101T000000"), left_out="beyond the years"),
        case("exdate that is none", "", event(B, E, WEEKLY, "EXDATE:never"), left_out="EXDATE: 'never' is neither"),
        case("exdate that is empty", FOUR, event(B, E, WEEKLY, "EXDATE:")),
        case("exdate of the first", days("01-13", "01-20", "01-27"), event(B, E, WEEKLY, "EXDATE:20250106T080000Z")),
        case("all of it excluded", "", event(B, E, "RRULE:FREQ=WEEKLY;COUNT=1", "EXDATE:20250106T080000Z")),
        case("rdate", days("01-06", "01-08"), event(B, E, "RDATE;TZID=Europe/Berlin:20250108T090000")),
        case("rdate twice", days("01-06", "01-08"), event(B, E, "RDATE:20250108T080000Z,20250108T080000Z")),
        case("rdate of a period", "2025-01-06T08:00/2025-01-06T09:00 2025-01-07T09:00/2025-01-07T12:00", event(Z, period + "20250107T120000Z")),
        case("rdate of a length", "2025-01-06T08:00/2025-01-06T09:00 2025-01-07T09:00/2025-01-07T10:30", event(Z, period + "PT1H30M")),
        case("rdate of a period backwards", "", event(Z, period + "20250107T080000Z"), left_out="a period ends not after its start"),
        case("rdate of a date", days("01-06", "01-08"), event(B, E, "RDATE;VALUE=DATE:20250108"), note="read on that day"),
        case("rdate that is none", "", event(Z, "RDATE:later"), left_out="neither a date nor a time"),
        case("rdate and exdate", ONE, event(Z, "RDATE:20250108T080000Z", "EXDATE:20250108T080000Z")),
        case("whole days in a series", "2025-03-28T23:00/2025-03-29T23:00 2025-03-29T23:00/2025-03-30T22:00 2025-03-30T22:00/2025-03-31T22:00", event("DTSTART;VALUE=DATE:20250329", "RRULE:FREQ=DAILY;COUNT=3"), zone="Europe/Berlin"),
        case("midnight to midnight", "2025-03-28T23:00/2025-03-29T23:00 2025-03-29T23:00/2025-03-30T22:00", event("DTSTART;TZID=Europe/Berlin:20250329T000000", "DTEND;TZID=Europe/Berlin:20250330T000000", "RRULE:FREQ=DAILY;COUNT=2")),
        case("a day that is no whole one", "2025-03-29T08:00/2025-03-30T08:00 2025-03-30T07:00/2025-03-31T07:00", event("DTSTART;TZID=Europe/Berlin:20250329T090000", "DTEND;TZID=Europe/Berlin:20250330T100000", "RRULE:FREQ=DAILY;COUNT=2")),
        case("whole days until a date", days("01-06", "01-07", at="00:00"), event(whole, "RRULE:FREQ=DAILY;UNTIL=20250107"), zone="UTC"),
        case("whole days until midnight", "2025-01-06T05:00 2025-01-07T05:00", event(whole, "RRULE:FREQ=DAILY;UNTIL=20250107T000000Z"), zone="America/New_York"),
        case("whole days until an instant", "2025-01-06T05:00 2025-01-07T05:00", event(whole, "RRULE:FREQ=DAILY;UNTIL=20250108T045959Z"), zone="America/New_York"),
        case("whole days, exdate of a date", days("01-06", "01-08", at="00:00"), event(whole, "RRULE:FREQ=DAILY;COUNT=3", "EXDATE;VALUE=DATE:20250107"), zone="UTC"),
        case("whole days, exdate of a time", days("01-06", "01-08", at="00:00"), event(whole, "RRULE:FREQ=DAILY;COUNT=3", "EXDATE:20250107T000000"), zone="UTC"),
        case("whole days, exdate as instant", "2025-01-05T23:00 2025-01-07T23:00", event(whole, "RRULE:FREQ=DAILY;COUNT=3", "EXDATE:20250106T230000Z"), zone="Europe/Berlin"),
    ]  # fmt: skip


def changes() -> list[Case]:
    """Overrides, ranges, revisions, cancellations."""
    at = "RECURRENCE-ID;TZID=Europe/Berlin:20250113T090000"
    later = "DTSTART;TZID=Europe/Berlin:20250113T140000\nDTEND;TZID=Europe/Berlin:20250113T150000"
    moved = "2025-01-06T08:00 2025-01-13T13:00 2025-01-20T08:00 2025-01-27T08:00"
    less = days("01-06", "01-20", "01-27")
    base = event(B, E, WEEKLY)
    future = at.replace("RECURRENCE-ID;", "RECURRENCE-ID;RANGE=THISANDFUTURE;")
    new = "DTSTART:20250107T080000Z\nDTEND:20250107T090000Z"
    other = "2025-01-07T08:00"
    z = Z
    return [
        case("one is moved", moved, base, event(at, later)),
        case("the change comes first", moved, event(at, later), base),
        case("named in utc", moved, base, event("RECURRENCE-ID:20250113T080000Z", later)),
        case("named by its date", moved, base, event("RECURRENCE-ID;VALUE=DATE:20250113", later)),
        case("named at midnight", moved, base, event("RECURRENCE-ID;TZID=Europe/Berlin:20250113T000000", later), note="read as the one on that day"),
        case("named without a zone", moved, base, event("RECURRENCE-ID:20250113T090000", later)),
        case("longer", "2025-01-06T08:00/2025-01-06T09:00 2025-01-13T08:00/2025-01-13T10:00", event(B, E, "RRULE:FREQ=WEEKLY;COUNT=2"), event(at, "DTSTART;TZID=Europe/Berlin:20250113T090000", "DURATION:PT2H")),
        case("cancelled", less, base, event(at, later, "STATUS:CANCELLED")),
        case("cancelled without an end", less, base, event(at, "DTSTART;TZID=Europe/Berlin:20250113T090000", "STATUS:CANCELLED")),
        case("cancelled without a start", less, base, event(at, "STATUS:CANCELLED")),
        case("cancelled by method", less, base, "END:VCALENDAR\nBEGIN:VCALENDAR\nMETHOD:CANCEL", event(at, later, "SEQUENCE:1")),
        case("the change cannot be read", less, base, event(at, "DTSTART:soon", "DURATION:PT1H"), left_out="neither a date nor a time"),
        case("the change takes no time", less, base, event(at, "DTSTART;TZID=Europe/Berlin:20250113T140000"), left_out="neither DTEND nor DURATION"),
        case("which one cannot be read", "", base, event("RECURRENCE-ID:soon", later), left_out="RECURRENCE-ID: 'soon'"),
        case("the change repeats", less, base, event(at, later, "RRULE:FREQ=DAILY;COUNT=2"), left_out="RRULE of its own"),
        case("none of its series", FOUR + " 2025-01-15T13:00", base, event("RECURRENCE-ID:20250115T080000Z", "DTSTART:20250115T130000Z", "DURATION:PT1H"), note="a meeting alone"),
        case("excluded and changed", moved, event(B, E, WEEKLY, "EXDATE:20250113T080000Z"), event(at, later), note="a meeting alone"),
        case("alone", "2025-01-13T13:00", event(at, later)),
        case("alone and cancelled", "", event(at, later, "STATUS:CANCELLED")),
        case("alone, to be followed", "", event(future, later), left_out="the series is not there"),
        case("this and future", "2025-01-06T08:00 2025-01-13T13:00 2025-01-20T13:00 2025-01-27T13:00", base, event(future, later)),
        case("this and future, longer", "2025-01-06T08:00/2025-01-06T09:00 2025-01-13T08:00/2025-01-13T10:00 2025-01-20T08:00/2025-01-20T10:00", event(B, E, "RRULE:FREQ=WEEKLY;COUNT=3"), event(future, "DTSTART;TZID=Europe/Berlin:20250113T090000", "DURATION:PT2H")),
        case("this and future, then one", "2025-01-06T08:00 2025-01-13T13:00 2025-01-20T10:00 2025-01-27T13:00", base, event(future, later), event("RECURRENCE-ID:20250120T080000Z", "DTSTART:20250120T100000Z", "DURATION:PT1H")),
        case("this and future, twice", "2025-01-06T08:00 2025-01-13T13:00 2025-01-20T10:00 2025-01-27T10:00", base, event(future, later), event("RECURRENCE-ID;RANGE=THISANDFUTURE:20250120T080000Z", "DTSTART:20250120T100000Z", "DURATION:PT1H")),
        case("this and future, cancelled", ONE, base, event(future, later, "STATUS:CANCELLED")),
        case("this and future across spring", "2025-03-24T08:00 2025-03-31T12:00 2025-04-07T12:00", event("DTSTART;TZID=Europe/Berlin:20250324T090000", "DURATION:PT1H", "RRULE:FREQ=WEEKLY;COUNT=3"), event("RECURRENCE-ID;RANGE=THISANDFUTURE;TZID=Europe/Berlin:20250331T090000", "DTSTART;TZID=Europe/Berlin:20250331T140000", "DURATION:PT1H")),
        case("an unknown range", FOUR, base, event(future.replace("THISANDFUTURE", "THISANDPRIOR"), later), left_out="RANGE=THISANDPRIOR is not read"),
        case("a later revision", other, event(z), event(new, "SEQUENCE:1"), note="older revision"),
        case("an earlier revision after it", other, event(new, "SEQUENCE:1"), event(z), note="older revision"),
        case("a later stamp", other, event(z, "DTSTAMP:20250101T000000Z"), event(new, "DTSTAMP:20250102T000000Z"), note="older revision"),
        case("sequence before stamp", other, event(z, "DTSTAMP:20250109T000000Z"), event(new, "DTSTAMP:20250102T000000Z", "SEQUENCE:3"), note="older revision"),
        case("the latest is broken", "", event(z), event("DTSTART:soon", "SEQUENCE:1", "DURATION:PT1H"), left_out="neither a date nor a time"),
        case("twice the same", ONE, event(z), event(z), note="stands more than once"),
        case("twice the same, stamps differ", ONE, event(z, "DTSTAMP:20250101T000000Z"), event(z, "DTSTAMP:20250102T000000Z"), note="stands more than once"),
        case("twice and not alike", "", event(z), event(new), left_out="stands twice"),
        case("a series is replaced", days("01-07", "01-14"), base, event(new, "RRULE:FREQ=WEEKLY;COUNT=2", "SEQUENCE:2"), note="older revision"),
        case("a change of a replaced series", days("01-07", "01-14"), base, event(at, later), event(new, "RRULE:FREQ=WEEKLY;COUNT=2", "SEQUENCE:2"), note="a changed occurrence of an older revision"),
        case("a change is revised", "2025-01-06T08:00 2025-01-13T10:00 2025-01-20T08:00 2025-01-27T08:00", base, event(at, later), event(at, "DTSTART:20250113T100000Z", "DURATION:PT1H", "SEQUENCE:1"), note="older revision"),
        case("a series is cancelled", "", event(B, E, WEEKLY, "STATUS:CANCELLED"), event(at, later)),
        case("cancelled by a later revision", "", event(z), event(z, "SEQUENCE:1", "STATUS:CANCELLED"), note="older revision"),
        case("method cancel", "", event(z), head="METHOD:CANCEL"),
        case("request, then cancel", "", event(z), "END:VCALENDAR\nBEGIN:VCALENDAR\nMETHOD:CANCEL", event(z, "SEQUENCE:1"), note="older revision"),
        case("cancel of equal rank", "", event(z), "END:VCALENDAR\nBEGIN:VCALENDAR\nMETHOD:CANCEL", event(new), note="older revision"),
        case("method request", ONE, event(z), head="METHOD:REQUEST"),
        case("method reply", "", event(z), head="METHOD:REPLY", left_out="METHOD:REPLY schedules nothing"),
        case("method counter", "", event(z), head="METHOD:COUNTER", left_out="METHOD:COUNTER schedules nothing"),
        case("whole day moved", "2025-01-06T00:00 2025-01-09T00:00 2025-01-08T00:00", event("DTSTART;VALUE=DATE:20250106", "RRULE:FREQ=DAILY;COUNT=3"), event("RECURRENCE-ID;VALUE=DATE:20250107", "DTSTART;VALUE=DATE:20250109"), zone="UTC"),
    ]  # fmt: skip


def zones() -> list[Case]:
    """Names of zones, in winter and in summer, and zones of the file."""

    def at(name: str, starts: str, **more: str) -> Case:
        summer = f"DTSTART;TZID={name}:20250707T090000"
        return case(f"zone {name}", starts, event(B.replace("Europe/Berlin", name), "DURATION:PT1H"), event(summer, "DURATION:PT1H", uid="s"), **more)  # type: ignore[arg-type] # fmt: skip

    berlin = "2025-01-06T08:00 2025-07-07T07:00"
    london = "2025-01-06T09:00 2025-07-07T08:00"
    york = "2025-01-06T14:00 2025-07-07T13:00"
    own = VTIMEZONE.format(name="Customized Time Zone")
    known = VTIMEZONE.format(name="Europe/London")
    spring = "DTSTART;TZID=Customized Time Zone:20250330T023000"
    autumn = "DTSTART;TZID=Customized Time Zone:20251026T023000"
    broken = own.replace("TZOFFSETTO:+0100", "TZOFFSETTO:none")
    custom = B.replace("Europe/Berlin", "Customized Time Zone")
    return [
        at("Europe/Berlin", berlin),
        at("europe/berlin", berlin),
        at("/Europe/Vienna", berlin),
        at("W. Europe Standard Time", berlin),
        at("GMT Standard Time", london),
        at("GMT Standard Time 1", london, note="is read as Europe/London"),
        at("Eastern Standard Time", york),
        at('"(UTC+01:00) Amsterdam, Berlin, Bern, Rome, Stockholm, Vienna"', berlin, note="is read as Europe/Berlin"),
        at('"(GMT+01.00) Sarajevo/Warsaw/Zagreb"', berlin, note="is read as Europe/Warsaw"),
        at('"Amsterdam, Berlin, Bern, Rome, Stockholm, Vienna"', berlin),
        at('"(UTC-05:00) Eastern Time (US & Canada)"', york, note="is read as America/New_York"),
        at("Eastern Time (US & Canada)", york),
        at("/freeassociation.sourceforge.net/Europe/Berlin", berlin, note="is read as Europe/Berlin"),
        at("/mozilla.org/20050126_1/America/New_York", york),
        at("/softwarestudio.org/Olson_20011030_5/America/New_York", york),
        at("UTC+2", "2025-01-06T07:00 2025-07-07T07:00", note="the offset +2:00"),
        at("GMT-0330", "2025-01-06T12:30 2025-07-07T12:30"),
        at("Etc/UTC", "2025-01-06T09:00 2025-07-07T09:00"),
        at("Customized Time Zone", "", left_out="the zone 'Customized Time Zone' is unknown"),
        at("Mars/Olympus", "", left_out="give the zone"),
        at("../../etc/passwd", "", left_out="is unknown"),
        case("zone given for an unknown one", ONE, event(custom, "DURATION:PT1H"), zone="Europe/Berlin", note="zone that was given"),
        case("zone of the calendar for an unknown one", ONE, event(custom, "DURATION:PT1H"), head="X-WR-TIMEZONE:Europe/Berlin", note="X-WR-TIMEZONE"),
        case("zone of the calendar is unknown", "", event("DTSTART:20250106T090000", "DURATION:PT1H"), head="X-WR-TIMEZONE:Nowhere", left_out="floating", note="X-WR-TIMEZONE names a zone that is unknown"),
        case("the zone given goes before the calendar's", ONE, event("DTSTART:20250106T090000", "DURATION:PT1H"), head="X-WR-TIMEZONE:Asia/Tokyo", zone="Europe/Berlin"),
        case("own zone", ONE, own, event(custom, "DURATION:PT1H")),
        case("own zone after its use", ONE, event(custom, "DURATION:PT1H"), own),
        case("own zone in summer", "2025-07-07T07:00", own, event(custom.replace("0106", "0707"), "DURATION:PT1H")),
        case("own zone, gap", "2025-03-30T01:30", own, event(spring, "DURATION:PT1H")),
        case("own zone, fold", "2025-10-26T00:30", own, event(autumn, "DURATION:PT1H")),
        case("own zone across spring", "2025-03-24T08:00 2025-03-31T07:00", own, event(custom.replace("0106", "0324"), "DURATION:PT1H", "RRULE:FREQ=WEEKLY;COUNT=2")),
        case("own island", "2025-01-06T12:30 2025-07-07T12:30", ISLAND, event("DTSTART;TZID=Island:20250106T090000", "DURATION:PT1H"), event("DTSTART;TZID=Island:20250707T090000", "DURATION:PT1H", uid="s")),
        case("own zone that was in force until 2000", ONE.replace("08:00", "09:00"), own.replace("BYMONTH=10", "BYMONTH=10;UNTIL=20000101T000000Z").replace("BYMONTH=3", "BYMONTH=3;UNTIL=19990101T000000Z").replace("TZOFFSETTO:+0100", "TZOFFSETTO:+0000"), event(custom, "DURATION:PT1H")),
        case("own zone by dates", "2025-06-02T07:00", own.replace("RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10", "RDATE:20241027T030000").replace("RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=3", "RDATE:20250330T020000"), event(custom.replace("0106", "0602"), "DURATION:PT1H")),
        case("iana goes before the file's own", "2025-01-06T09:00", known, event(B.replace("Berlin", "London"), "DURATION:PT1H")),
        case("own zone broken", "", broken, event(custom, "DURATION:PT1H"), left_out="its VTIMEZONE cannot be read: STANDARD has no TZOFFSETTO"),
        case("own zone without observances", "", "BEGIN:VTIMEZONE\nTZID:Customized Time Zone\nEND:VTIMEZONE", event(custom, "DURATION:PT1H"), left_out="neither STANDARD nor DAYLIGHT"),
        case("own zone with two names", ONE, own.replace("TZID:", "TZID:Europe/Berlin\nTZID:"), event(B, E)),
        case("own zone of a known broken name", ONE, broken.replace("Customized Time Zone", "W. Europe Standard Time"), event(B.replace("Europe/Berlin", "W. Europe Standard Time"), "DURATION:PT1H")),
        case("windows name, own zone", "2025-01-06T12:30", ISLAND.replace("Island", "W. Europe Standard Time"), event(B.replace("Europe/Berlin", "W. Europe Standard Time"), "DURATION:PT1H")),
    ]  # fmt: skip


def bytes_as_they_come() -> list[Case]:
    """Line breaks, folds, marks, encodings, structures."""
    plain = calendar(event(Z))
    crlf = plain.replace("\n", "\r\n")
    two = calendar(event(Z)) + calendar(event(Z.replace("0106", "0107"), uid="v"))
    both = [ONE, "2025-01-07T08:00"]
    text = calendar(event(Z, "DESCRIPTION:x" + "ö" * 60)).replace("\n", "\r\n").encode()
    at = text.index("ö".encode()) + 41  # inside of an ö
    folded = text[:at] + b"\r\n " + text[at:]
    assert b"\xc3\r\n \xb6" in folded
    start = crlf.replace("20250106T080000Z", "20250106T\r\n 080000Z", 1)
    cut = crlf.partition("END:VEVENT")[0]
    return [
        Case("lf", plain.encode(), [ONE]),
        Case("bare cr", plain.replace("\n", "\r").encode(), [ONE]),
        Case("cr cr lf", plain.replace("\n", "\r\r\n").encode(), [ONE]),
        Case("empty lines", crlf.replace("\r\n", "\r\n\r\n").encode(), [ONE]),
        Case("byte-order mark", b"\xef\xbb\xbf" + crlf.encode(), [ONE]),
        Case("utf-16", crlf.encode("utf-16"), [ONE]),
        Case("fold in a character", folded, [ONE]),
        Case("fold in a value", start.encode(), [ONE]),
        Case("fold with a tab", start.replace("\r\n 08", "\r\n\t08").encode(), [ONE]),
        Case("fold of bare cr", start.replace("\r\n", "\r").encode(), [ONE]),
        Case("latin-1", calendar(event(Z, "SUMMARY:Grüße")).encode("latin-1"), [ONE], note="Windows-1252"),
        Case("a line that is no text", crlf.replace("VERSION:2.0", "X:\udc81").encode(errors="surrogateescape"), [ONE], note="Windows-1252"),
        Case("several calendars", two.encode(), both),
        Case("several calendars, one line break", two.replace("\n", "\r\n").rstrip().encode(), both),
        Case("uid in both calendars", (calendar(event(Z)) * 2).encode(), [ONE], note="stands more than once"),
        Case("text before and after", ("Content-Type: text/calendar\n\n" + plain + "-- \nme\n").encode(), [ONE]),
        Case("files put together with their marks", ("\ufeff" + calendar(event(Z)) + "\ufeff" + calendar(event(Z.replace("0106", "0107"), uid="v"))).encode(), both),
        Case("an event behind the calendar", (plain + event(Z.replace("0106", "0107"), uid="v") + "\n").encode(), both),
        Case("cut off", cut.encode(), [], left_out="before its END:VEVENT"),
        Case("cut off after a whole one", calendar(event(Z), event(Z, uid="v")).rpartition("END:VEVENT")[0].encode(), [ONE], left_out="before its END:VEVENT"),
        Case("no end of the calendar", plain.replace("END:VCALENDAR\n", "").encode(), [ONE]),
        Case("an end too many", plain.replace("END:VCALENDAR", "END:VALARM\nEND:VCALENDAR").encode(), [ONE]),
        Case("an event in an event", calendar(event(Z, event(Z.replace("0106", "0107"), uid="v"))).encode(), ["2025-01-07T08:00"], left_out="before its END:VEVENT"),
        Case("a calendar in a calendar", two.replace("END:VCALENDAR\n", "", 1).encode(), both),
        Case("a todo without an end", plain.replace("BEGIN:VEVENT", "BEGIN:VTODO\nBEGIN:VEVENT").encode(), [ONE]),
        Case("nothing but todos", calendar(event(Z).replace("VEVENT", "VTODO")).encode(), []),
        Case("control characters", calendar(event(Z, "SUMMARY:a\x00b\x07c", "DESCRIPTION:\x0b")).encode(), [ONE]),
        Case("deep", calendar("\n".join(["BEGIN:X"] * 3000 + ["END:X"] * 3000), event(Z)).encode(), [ONE]),
    ]  # fmt: skip


def by_hand() -> list[Case]:
    """All of them."""
    return [*one_meeting(), *series(), *changes(), *zones(), *bytes_as_they_come()]
