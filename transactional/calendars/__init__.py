"""Calendars: from rules and files that people write to the instants that they mean.

reader       `read_calendar`: revisions, sets, overrides; what is left out, and what is told
moments      times as a file writes them, and the clocks on which they are read
content      the lines of a file, and the components that they make
recurrence   `Recurrence` and `occurrences`: all of RFC 5545's RECUR, on the clocks of a zone
zones        which clocks a name means, and the zones that files bring along
"""

from transactional.calendars.reader import CalendarFile, Meeting, Remark, read_calendar
from transactional.calendars.recurrence import Frequency, Recurrence, occurrences

__all__ = [
    "CalendarFile",
    "Frequency",
    "Meeting",
    "Recurrence",
    "Remark",
    "occurrences",
    "read_calendar",
]
