"""The lines of a calendar file: bytes become components, and each knows on which line it stands.

What real files do to RFC 5545, section 3.1, and how it is read:

* a fold inside a UTF-8 sequence: lines are unfolded as bytes, then decoded;
* a byte-order mark; UTF-16 with one; a line that is no UTF-8, which is read as Windows-1252, and
  told;
* CR LF, LF, bare CR, CR CR LF; empty lines; space around names;
* several calendars in one stream (section 3.4); components that end without having begun; a file
  that ends in the midst of one: that one is not complete, the rest is.

Names, parameters and values of a line are split by the icalendar package, and only of properties
that somebody reads: a value that is wrong where nobody looks costs nothing.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from transactional.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_PROPERTIES: Final = frozenset({
    "ATTENDEE", "CATEGORIES", "DTEND", "DTSTAMP", "DTSTART", "DURATION", "EXDATE", "EXRULE",
    "LAST-MODIFIED", "LOCATION", "METHOD", "RDATE", "RECURRENCE-ID", "RRULE", "SEQUENCE", "STATUS",
    "SUMMARY", "TZID", "TZOFFSETFROM", "TZOFFSETTO", "UID", "X-WR-TIMEZONE",
})  # fmt: skip
_BREAK: Final = re.compile(rb"\r*\n|\r")
_SIMPLE: Final = re.compile(r"[A-Za-z0-9-]+:(.*)", re.DOTALL)  # no parameters, nothing to split
_NAME: Final = re.compile(r"\s*([A-Za-z0-9-]+)\s*[;:]")


@dataclass(frozen=True, slots=True)
class Property:
    """One content line, unfolded and split; `params` by upper-case name."""

    name: str
    params: Mapping[str, str]
    value: str


@dataclass(slots=True)
class Component:
    """What stands between BEGIN and END; `line` is that of its BEGIN.

    `broken` says of a property what kept it from being split; `complete` whether its END came.
    """

    name: str
    line: int
    properties: list[Property] = field(default_factory=list)
    parts: list[Component] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def all(self, name: str) -> list[Property]:
        """Every property of that name, in the order of the file.

        Raises:
            InvalidRequestError: one of them could not be split into its parts.
        """
        if name in self.broken:
            raise InvalidRequestError(f"{name}: {self.broken[name]}")
        return [prop for prop in self.properties if prop.name == name]

    def one(self, name: str) -> Property | None:
        """The property of that name, or None.

        Raises:
            InvalidRequestError: there are several that differ.
        """
        found = self.all(name)
        if any((p.value, p.params) != (found[0].value, found[0].params) for p in found[1:]):
            values = " and ".join(repr(prop.value) for prop in found[:3])
            raise InvalidRequestError(f"{len(found)} times {name}: {values}")
        return found[0] if found else None


@dataclass(slots=True)
class Content:
    """The calendars of a file, and what had to be read in another way than it is written."""

    calendars: list[Component] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)


def components(data: bytes) -> Content:
    """The calendars of a file.

    Raises:
        InvalidRequestError: the data is no calendar file, or the icalendar package is missing.
    """
    try:
        from icalendar.parser import Contentline  # noqa: PLC0415 - the extra `calendar`
    except ImportError as error:
        raise InvalidRequestError(
            "reading calendar files needs the icalendar package: pip install 'convoca[calendar]'"
        ) from error
    content = Content()
    open_: list[Component] = []
    for line, raw in _unfolded(_as_utf_8(data)):
        text = _decoded(line, raw, content)
        named = _NAME.match(text)
        name = named[1].upper() if named else ""
        if name == "BEGIN":
            _begin(content, open_, Component(text.partition(":")[2].strip().upper(), line))
        elif name == "END":
            _end(open_, text.partition(":")[2].strip().upper())
        elif name in _PROPERTIES and open_:
            try:
                open_[-1].properties.append(_property(name, text, Contentline))
            except (ValueError, AssertionError, IndexError, KeyError):
                open_[-1].broken[name] = "not a content line"
    if not content.calendars:
        raise InvalidRequestError("no iCalendar file: there is no BEGIN:VCALENDAR")
    return content


def _begin(content: Content, open_: list[Component], begun: Component) -> None:
    """Put a component where it stands: in an open one, or by itself.

    A calendar is in nothing, and an event in nothing but a calendar: what is open is not complete.
    """
    if begun.name == "VCALENDAR":
        open_.clear()
    elif begun.name == "VEVENT":
        del open_[1:]
    if open_:
        open_[-1].parts.append(begun)
    elif begun.name == "VCALENDAR":
        content.calendars.append(begun)
    elif content.calendars:  # what stands behind a calendar is of it
        content.calendars[-1].parts.append(begun)
    open_.append(begun)


def _property(name: str, text: str, split: Callable[[str], Any]) -> Property:
    if simple := _SIMPLE.fullmatch(text):
        return Property(name, {}, simple[1].strip())
    _, params, value = split(text).raw_parts()
    plain = {key.upper(): _param(found) for key, found in params.items()}
    return Property(name, plain, value.strip())


def _param(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _end(open_: list[Component], name: str) -> None:
    """Close the component of that name; what is still open inside it has no end of its own."""
    if any(component.name == name for component in open_):
        while (closed := open_.pop()).name != name:
            pass
        closed.complete = True


def _as_utf_8(data: bytes) -> bytes:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            rest = data[len(mark) :]
            if encoding == "utf-8":
                return rest
            return rest.decode(encoding, errors="replace").encode(errors="replace")
    return data


def _unfolded(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of each line; a line that begins with space goes on with the one before."""
    first, parts = 0, list[bytes]()
    for number, line in enumerate(_BREAK.split(data), start=1):
        if line[:1] in {b" ", b"\t"} and parts:
            parts.append(line[1:])
        elif line.strip():
            if parts:
                yield first, b"".join(parts)
            first, parts = number, [line]
    if parts:
        yield first, b"".join(parts)


def _decoded(line: int, raw: bytes, content: Content) -> str:
    try:
        return raw.decode().lstrip("\ufeff")  # of a file that was put behind another one
    except UnicodeDecodeError:
        content.notes.append((line, "the line is not UTF-8; it is read as Windows-1252"))
        return raw.decode("cp1252", errors="replace")
