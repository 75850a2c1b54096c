"""What a page draws: all replicas at one moment, how they differ, and what may be ordered. Pure.

Theory of operation. A picture says for each replica its digest and its values, as texts. Replicas
with equal digests hold the same state, and have one letter (and colour) for it. Letters follow the
order of the replicas, not of the digests, which change with every write: so under a partition one
side stays A and the other B, however much both write.

A value that differs from what most replicas hold is marked. Texts are short; what is cut carries
the length and a checksum of the whole, so that two values never look alike that are not.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TEXT_CHARACTERS_MAX = 48
"""Longer values are cut where they are shown."""
DOCUMENTS_MAX = 200
"""So many documents are shown: those that differ first, then in the order of names."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Refused(Exception):  # noqa: N818 - an answer, as it is said
    """An order that was not carried out, and why; nothing changed."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as it is seen.

    `status` is alive, suspect, dead, left or down; `digest` is "" if it could not be asked;
    `heard_s` is seconds since its last word, `lag` how many events of ours it may lack.
    """

    name: str
    status: str
    digest: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    bytes_sent: int = 0
    id: str = ""
    address: str = ""
    heard_s: float | None = None
    lag: int | None = None
    journalled: bool | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """The way between two replicas: `open`, `cut` or `slow`, and how often it was used by now."""

    one: str
    other: str
    state: str = "open"
    used: int = 0
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """All replicas and links at one moment; `types` is the type of each document.

    `remarks` is everything that happened by now, as (seconds since 1970, text): what was shown
    before is not shown again.
    """

    replicas: Sequence[Replica]
    links: Sequence[Link] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[tuple[float, str]] = ()


class Replicas(Protocol):
    """The port: where pictures come from, and what may be done to the replicas.

    `orders` are the verbs that may be given: of `burst`, `partition`, `kill`, `slow`, `heal` and
    `book`.
    """

    @property
    def orders(self) -> Sequence[str]:
        """Verbs of `execute`."""

    async def look(self) -> Picture:
        """The present moment."""

    async def explain(self, replica: str, name: str) -> Sequence[Mapping[str, Any]]:
        """Every known write of a document on a replica: type, place, value, writer, and its fate.

        A line with `missing` has no value: it says why, or where what is known ends.

        Raises:
            Refused: that replica cannot be asked, or has no such document.
        """

    async def execute(self, verb: str) -> str:
        """Carry out an order; what was done, in words.

        Raises:
            Refused: it cannot be done now.
        """


def text_of(value: Any) -> str:
    """A value as it is shown: JSON without its outer quotes, cut if it is long."""
    if value is None:
        return "\N{EN DASH}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= TEXT_CHARACTERS_MAX:
        return text
    count = f"{len(value)} items" if isinstance(value, list | dict) else f"{len(text)} characters"
    check = zlib.crc32(text.encode(errors="replace")) & 0xFFFFF
    return f"{text[: TEXT_CHARACTERS_MAX - 24]}\N{HORIZONTAL ELLIPSIS} {count} #{check:05x}"


def letters_of(replicas: Iterable[Replica]) -> dict[str, str]:
    """Digest -> the letter of that state, in the order of the replicas."""
    found: dict[str, str] = {}
    for replica in replicas:
        if replica.digest and replica.digest not in found:
            number = len(found)
            found[replica.digest] = LETTERS[number] if number < len(LETTERS) else f"#{number + 1}"
    return found


def drawn(picture: Picture) -> dict[str, Any]:
    """The picture as JSON. O(replicas x documents)."""
    letters = letters_of(picture.replicas)
    seen = [replica for replica in picture.replicas if replica.digest]
    names = sorted({name for replica in seen for name in replica.values})
    rows = [_row(name, picture.types.get(name, ""), seen) for name in names]
    rows.sort(key=lambda row: not row["differs"])
    diverged = sum(bool(row["differs"]) for row in rows)
    return {
        "replicas": [
            {
                "name": replica.name,
                "status": replica.status,
                "state": letters.get(replica.digest, ""),
                "digest": replica.digest,
                "bytes": replica.bytes_sent,
                "id": replica.id,
                "address": replica.address,
                "heard_s": replica.heard_s,
                "lag": replica.lag,
                "journalled": replica.journalled,
            }
            for replica in picture.replicas
        ],
        "links": [
            {
                "one": link.one,
                "other": link.other,
                "state": link.state,
                "used": link.used,
                "delay_ms": link.delay_ms,
            }
            for link in picture.links
        ],
        "documents": sorted(rows[:DOCUMENTS_MAX], key=lambda row: str(row["name"])),
        "left_out": max(0, len(rows) - DOCUMENTS_MAX),
        "diverged": diverged,
        "states": len(letters),
        "bytes": sum(replica.bytes_sent for replica in picture.replicas),
    }


def _row(name: str, type_name: str, seen: Sequence[Replica]) -> dict[str, Any]:
    values = {replica.name: replica.values.get(name, text_of(None)) for replica in seen}
    (most, _), *_ = Counter(values.values()).most_common(1)
    return {
        "name": name,
        "type": type_name,
        "values": values,
        "differs": [who for who, value in values.items() if value != most],
    }
