"""Calendars: from rules and files that people write to the instants that they mean.

recurrence   `Recurrence` and `occurrences`: all of RFC 5545's RECUR, on the clocks of a zone
zones        which clocks a name means, and the zones that files bring along
"""

from transactional.calendars.recurrence import Frequency, Recurrence, occurrences

__all__ = ["Frequency", "Recurrence", "occurrences"]
