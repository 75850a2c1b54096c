"""How long an engine remembers: three floors, each with a limit of its own.

    what                                    who needs it                    limit
    values of the past (history)            watches that resume             bytes, and commits
    which keys changed in which commit      `Unchanged` on a state that     time: 15 minutes
                                            was read a while ago
    what became of an op_id                 repeats, and `resolve`          time: an hour (minted),
                                                                            7 days (a caller's own)

They are three because they cost different things: a value of the past costs its bytes, so a busy
store drops it within seconds; which key it was costs a few bytes, and without it a decision on what
was read a minute ago can only be refused; and an op_id whose record is gone leaves its caller with
no answer at all, so records stay for as long as anybody can still be waiting.

A floor in time becomes a revision by `Moments`: now and then the engine writes down when which
revision was the last, and so knows which ones are old enough.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from transactional.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROW_BYTES: Final = 128
"""What a row of the history is taken to cost beside its value."""
MOMENTS_MAX: Final = 512
"""About how many moments are remembered for the longest floor in time."""


@dataclass(frozen=True, slots=True)
class Retention:
    """The limits of an engine's memory; at each limit the oldest goes first.

    Raises:
        InvalidRequestError: a limit is below what it may be.
    """

    history_bytes_max: int = 256 << 20
    """Values of the past, each with 128 bytes more; a watch from before is told `Compacted`."""
    history_commits_max: int = 1_000_000
    """Commits whose values are remembered."""
    index_retention_s: float = 900.0
    """How long it is known which keys a commit changed, values or not; at least 15 minutes."""
    minted_retention_s: float = 3600.0
    """How long a minted op_id is good for, from its minting; at least an hour."""
    op_id_retention_s: float = 7 * 86_400.0
    """How long callers' own op_ids are remembered; after that the same one is a new operation."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            given = getattr(self, name)
            if not least <= given <= 1 << 53:  # NaN is refused as well
                raise InvalidRequestError(f"{name} is {least} or more, not {given!r}")

    def but(self, limits: Mapping[str, float]) -> Retention:
        """Return the same with other limits by their names.

        Raises:
            InvalidRequestError: a name is none of these, or a limit below what it may be.
        """
        _refuse_unknown(limits)
        return replace(self, **limits)  # type: ignore[arg-type]  # checked just now, and there

    @staticmethod
    def parse(options: Mapping[str, str], besides: Sequence[str] = ()) -> dict[str, float]:
        """Return the numbers of a URL's options, for ``but``; ``besides``: what others there are.

        Raises:
            InvalidRequestError: there is no such option, or a value is no number.
        """
        _refuse_unknown(options, besides)
        return {name: Retention.number(name, text) for name, text in options.items()}

    @staticmethod
    def number(name: str, text: str) -> float:
        """Return the value of a URL's option; InvalidRequestError if it is no number."""
        try:
            return float(text) if name.endswith("_s") else int(text)
        except ValueError:
            # Not what was given instead: with the wrong scheme it is a token.
            raise InvalidRequestError(f"the URL's option {name} is a number") from None


def _refuse_unknown(options: Mapping[str, object], besides: Sequence[str] = ()) -> None:
    if unknown := options.keys() - _LEAST.keys():
        known = ", ".join(sorted({*_LEAST, *besides}))
        raise InvalidRequestError(
            f"{', '.join(sorted(unknown))}: no such option; there are {known}"
        )


_LEAST: Final = {
    "history_bytes_max": 0,
    "history_commits_max": 1,
    "index_retention_s": 900,
    "minted_retention_s": 3600,
    "op_id_retention_s": 1,
}


@dataclass(frozen=True, slots=True)
class Share:
    """What one kind of things takes in a file: how many there are, and their bytes."""

    what: str
    rows: int
    bytes: int


class Moments:
    """When which revision was the last, now and then; oldest first."""

    def __init__(self, retention: Retention, known: Iterable[tuple[int, int]] = ()) -> None:
        self._keep_us = int(max(retention.index_retention_s, retention.minted_retention_s) * 1e6)
        self._moments: deque[tuple[int, int]] = deque(known)

    def due(self, time_us: int) -> bool:
        """Say whether it is time to note another one."""
        return not self._moments or time_us - self._moments[-1][1] >= self._keep_us // MOMENTS_MAX

    def note(self, revision: int, time_us: int) -> None:
        """Note that `revision` was the last at `time_us`."""
        self._moments.append((revision, time_us))

    def forget(self, now_us: int) -> int:
        """Drop what no floor needs any more; return the oldest revision that is still here."""
        while len(self._moments) > 1 and self._moments[1][1] <= now_us - self._keep_us:
            self._moments.popleft()
        return self._moments[0][0] if self._moments else 0

    def before(self, time_us: int) -> int:
        """Return the newest revision that is known to be as old as `time_us`, or 0."""
        place = bisect_right(self._moments, time_us, key=itemgetter(1))
        return self._moments[place - 1][0] if place else 0
