"""Which clocks does a name mean?  Calendars write far more than the names of the IANA database.

    Europe/Berlin, europe/berlin, /Europe/Vienna    IANA, whatever the case, a slash before it
    W. Europe Standard Time, GMT Standard Time 1    Windows (the table of the Unicode CLDR)
    (UTC+01:00) Amsterdam, Berlin, ...              what Windows and Exchange show for one of those
    /freeassociation.sourceforge.net/Europe/Berlin  a vendor's prefix before an IANA name
    UTC+2, GMT-03:30                                an offset, the same all year

A name is looked up, never guessed: what none of these rules reads is unknown.  Whether reading it
took more than a table is told (`Zone.reading`), so that whoever reads a file can say so.

A calendar file may bring its own zone (VTIMEZONE, RFC 5545, section 3.6.5): observances, each with
the local times at which it begins, and the offsets before and after.  `FileZone` makes a tzinfo of
them that treats gap and fold as Python's own does (PEP 495), so that one conversion serves both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from heapq import merge
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Zone:
    """The clocks that a name means; `reading` says how it was read if that was no plain name."""

    clocks: tzinfo
    reading: str = ""


def zone_named(name: str) -> tzinfo | None:
    """The clocks that a name means, or None."""
    found = zone_of(name)
    return None if found is None else found.clocks


@lru_cache(maxsize=1024)
def zone_of(name: str) -> Zone | None:
    """The clocks that a name means, and how it was read; None if it is unknown.

    Names of the IANA database are looked up in the system's copy, or in the package tzdata where
    the system has none.
    """
    name = " ".join(name.split())
    plain = iana(name) or iana(name.strip("/"))
    if plain is not None:
        return Zone(plain)
    windows = _windows().get(name.casefold())
    if windows is not None and (clocks := iana(windows)):
        return Zone(clocks)
    return _read(name)


def _read(name: str) -> Zone | None:
    """A name that is written around another one."""
    numbered = re.sub(r" [0-9]+$", "", name)  # Exchange numbers a zone of its own that differs
    windows = _windows().get(numbered.casefold())
    if windows is not None and (clocks := iana(windows)):
        return Zone(clocks, windows)
    shown = _shown().get(_places(name))
    if shown is not None and (clocks := iana(shown)):
        return Zone(clocks, shown)
    parts = [part for part in name.split("/") if part]
    for first in range(1, len(parts)) if name.startswith("/") or "://" in name else ():
        tail = "/".join(parts[first:])
        if clocks := iana(tail) or iana(_windows().get(tail.casefold(), "")):
            return Zone(clocks, tail)
    offset = _OFFSET.fullmatch(name)
    if offset and int(offset[2]) <= 14 and int(offset[3] or 0) < 60:
        shift = timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0))
        shift = -shift if offset[1] == "-" else shift
        return Zone(timezone(shift), f"the offset {offset[1]}{offset[2]}:{offset[3] or '00'}")
    return None


@lru_cache(maxsize=1024)
def iana(name: str) -> ZoneInfo | None:
    """The zone of the IANA database of that name, whatever its case."""
    if not name or name in {"localtime", "Factory", "posixrules"}:  # this machine's, and none
        return None
    for spelling in (name, _spellings().get(name.casefold())):
        try:
            if spelling is not None:
                return ZoneInfo(spelling)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return None


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    return {name.casefold(): name for name in sorted(available_timezones())}


@lru_cache(maxsize=1)
def _windows() -> dict[str, str]:
    try:
        from icalendar.timezone.windows_to_olson import (  # noqa: PLC0415 - an extra
            WINDOWS_TO_OLSON,
        )
    except ImportError:
        return {}
    return {name.casefold(): olson for name, olson in WINDOWS_TO_OLSON.items()}


_OFFSET: Final = re.compile(
    r"\(?(?:UTC|GMT)?\s*([+-])([0-9]{1,2})[:.]?([0-9]{2})?\)?", re.IGNORECASE
)

# --- what Windows and Exchange show ---------------------------------------------------------------

# The places of a display name, without the offset before them, and one zone of theirs.
_SHOWN: Final = """
Amsterdam, Berlin, Bern, Rome, Stockholm, Vienna = Europe/Berlin
Amsterdam, Berlin, Bern, Rom, Stockholm, Wien = Europe/Berlin
Amsterdam, Belgrade, Berlin, Brussels, Budapest, Madrid, Paris, Prague, Stockholm = Europe/Berlin
Belgrade, Bratislava, Budapest, Ljubljana, Prague = Europe/Budapest
Belgrad, Bratislava, Budapest, Ljubljana, Prag = Europe/Budapest
Prague, Central Europe = Europe/Prague
Brussels, Copenhagen, Madrid, Paris = Europe/Paris
Brüssel, Kopenhagen, Madrid, Paris = Europe/Paris
Bruxelles, Copenhague, Madrid, Paris = Europe/Paris
Brussels, Copenhagen, Madrid, Paris, Vilnius = Europe/Paris
Sarajevo, Skopje, Warsaw, Zagreb = Europe/Warsaw
Sarajevo, Skopje, Sofija, Vilnius, Warsaw, Zagreb = Europe/Warsaw
Sarajevo, Warsaw, Zagreb = Europe/Warsaw
Sarajevo, Skopje, Warschau, Zagreb = Europe/Warsaw
West Central Africa = Africa/Lagos
Dublin, Edinburgh, Lisbon, London = Europe/London
Dublin, Edinburgh, Lissabon, London = Europe/London
Greenwich Mean Time : Dublin, Edinburgh, Lisbon, London = Europe/London
Greenwich Mean Time; Dublin, Edinburgh, London = Europe/London
Monrovia, Reykjavik = Atlantic/Reykjavik
Casablanca = Africa/Casablanca
Athens, Bucharest = Europe/Bucharest
Athens, Bucharest, Istanbul = Europe/Bucharest
Athens, Istanbul, Minsk = Europe/Bucharest
Helsinki, Kyiv, Riga, Sofia, Tallinn, Vilnius = Europe/Kyiv
Helsinki, Kiev, Riga, Sofia, Tallinn, Vilnius = Europe/Kyiv
Helsinki, Riga, Tallinn = Europe/Kyiv
Bucharest = Europe/Bucharest
Chisinau = Europe/Chisinau
Istanbul = Europe/Istanbul
Minsk = Europe/Minsk
Kaliningrad = Europe/Kaliningrad
Cairo = Africa/Cairo
Jerusalem = Asia/Jerusalem
Beirut = Asia/Beirut
Amman = Asia/Amman
Damascus = Asia/Damascus
Harare, Pretoria = Africa/Johannesburg
Nairobi = Africa/Nairobi
Baghdad = Asia/Baghdad
Kuwait, Riyadh = Asia/Riyadh
Moscow, St. Petersburg = Europe/Moscow
Moscow, St. Petersburg, Volgograd = Europe/Moscow
Tehran = Asia/Tehran
Abu Dhabi, Muscat = Asia/Dubai
Baku = Asia/Baku
Tbilisi = Asia/Tbilisi
Yerevan = Asia/Yerevan
Port Louis = Indian/Mauritius
Kabul = Asia/Kabul
Ekaterinburg = Asia/Yekaterinburg
Islamabad, Karachi = Asia/Karachi
Ashgabat, Tashkent = Asia/Tashkent
Chennai, Kolkata, Mumbai, New Delhi = Asia/Kolkata
Bombay, Calcutta, Madras, New Delhi = Asia/Kolkata
Sri Jayawardenepura = Asia/Colombo
Kathmandu = Asia/Kathmandu
Astana = Asia/Almaty
Dhaka = Asia/Dhaka
Yangon (Rangoon) = Asia/Yangon
Bangkok, Hanoi, Jakarta = Asia/Bangkok
Krasnoyarsk = Asia/Krasnoyarsk
Novosibirsk = Asia/Novosibirsk
Beijing, Chongqing, Hong Kong, Urumqi = Asia/Shanghai
Beijing, Chongqing, Hong Kong SAR, Urumqi = Asia/Shanghai
Kuala Lumpur, Singapore = Asia/Singapore
Perth = Australia/Perth
Taipei = Asia/Taipei
Ulaanbaatar = Asia/Ulaanbaatar
Irkutsk = Asia/Irkutsk
Osaka, Sapporo, Tokyo = Asia/Tokyo
Seoul = Asia/Seoul
Yakutsk = Asia/Yakutsk
Adelaide = Australia/Adelaide
Darwin = Australia/Darwin
Brisbane = Australia/Brisbane
Canberra, Melbourne, Sydney = Australia/Sydney
Canberra, Melbourne, Sydney, Hobart = Australia/Sydney
Hobart = Australia/Hobart
Guam, Port Moresby = Pacific/Port_Moresby
Vladivostok = Asia/Vladivostok
Solomon Is., New Caledonia = Pacific/Guadalcanal
Auckland, Wellington = Pacific/Auckland
Fiji = Pacific/Fiji
Nuku'alofa = Pacific/Tongatapu
Samoa = Pacific/Apia
Azores = Atlantic/Azores
Cabo Verde Is. = Atlantic/Cape_Verde
Brasilia = America/Sao_Paulo
City of Buenos Aires = America/Argentina/Buenos_Aires
Buenos Aires = America/Argentina/Buenos_Aires
Cayenne, Fortaleza = America/Cayenne
Greenland = America/Nuuk
Montevideo = America/Montevideo
Salvador = America/Bahia
Santiago = America/Santiago
Newfoundland = America/St_Johns
Atlantic Time (Canada) = America/Halifax
Caracas = America/Caracas
Caracas, La Paz = America/Caracas
Asuncion = America/Asuncion
Cuiaba = America/Cuiaba
Georgetown, La Paz, Manaus, San Juan = America/La_Paz
Bogota, Lima, Quito, Rio Branco = America/Bogota
Bogota, Lima, Quito = America/Bogota
Eastern Time (US & Canada) = America/New_York
Eastern Time (US and Canada) = America/New_York
Indiana (East) = America/Indiana/Indianapolis
Havana = America/Havana
Chetumal = America/Cancun
Central America = America/Guatemala
Central Time (US & Canada) = America/Chicago
Central Time (US and Canada) = America/Chicago
Guadalajara, Mexico City, Monterrey = America/Mexico_City
Saskatchewan = America/Regina
Mountain Time (US & Canada) = America/Denver
Mountain Time (US and Canada) = America/Denver
Arizona = America/Phoenix
Chihuahua, La Paz, Mazatlan = America/Mazatlan
La Paz, Mazatlan = America/Mazatlan
Pacific Time (US & Canada) = America/Los_Angeles
Pacific Time (US and Canada) = America/Los_Angeles
Pacific Time (US & Canada); Tijuana = America/Los_Angeles
Baja California = America/Tijuana
Alaska = America/Anchorage
Hawaii = Pacific/Honolulu
Coordinated Universal Time = Etc/UTC
"""


def _places(name: str) -> str:
    """A display name without its offset, in one spelling: (GMT+01.00) Paris/Rome, for one."""
    text = re.sub(r"^\((?:UTC|GMT)?\s*[+-]?[0-9:. ]*\)\s*", "", name, flags=re.IGNORECASE)
    return ", ".join(part.strip() for part in re.split(r"[,/]", text)).casefold()


@lru_cache(maxsize=1)
def _shown() -> dict[str, str]:
    pairs = (line.split(" = ") for line in _SHOWN.strip().splitlines())
    return {_places(places): zone for places, zone in pairs}


# --- a zone that a file brings along --------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Onset:
    """An observance begins: at which instant (UTC, naive), and the offsets before and from then."""

    at: datetime
    before: timedelta
    after: timedelta


class FileZone(tzinfo):
    """The zone of a VTIMEZONE: its onsets, taken from their rules as far as somebody asks.

    Before the first onset its offset from before it is in force.
    """

    def __init__(self, name: str, onsets: Sequence[Iterator[Onset]]) -> None:
        self._name = name
        self._coming = merge(*onsets)
        self._known: list[Onset] = []

    def _until(self, moment: datetime) -> list[Onset]:
        """All onsets before `moment`, and a day and more after it."""
        while not self._known or self._known[-1].at < moment:
            try:
                self._known.append(next(self._coming))
            except StopIteration:
                break
        return self._known

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """The offset of a wall-clock time; `fold` chooses where a gap or a fold leaves a choice."""
        if moment is None:
            return None
        wall = moment.replace(tzinfo=None, fold=0)
        known = self._until(wall + _TWO_DAYS if wall.year < date.max.year else wall)
        offset = known[0].before if known else timedelta(0)
        for onset in known:
            # In a gap and in a fold alike, the first reading is the one with the offset before.
            bound = min if moment.fold else max
            if wall < onset.at + bound(onset.before, onset.after):
                break
            offset = onset.after
        return offset

    def fromutc(self, moment: datetime) -> datetime:
        """The wall-clock time of an instant."""
        at = moment.replace(tzinfo=None)
        known = self._until(at)
        offset = known[0].before if known else timedelta(0)
        for onset in known:
            if at < onset.at:
                break
            offset = onset.after
        return (at + offset).replace(tzinfo=self)

    def dst(self, _moment: datetime | None) -> timedelta | None:
        """Not known: a file may say what it likes of it."""
        return None

    def tzname(self, _moment: datetime | None) -> str:
        """The name that the file gives it."""
        return self._name


_TWO_DAYS: Final = timedelta(days=2)
