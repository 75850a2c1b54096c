"""Flags: one bit, and a rule for concurrent on and off.

EWFlag (enable wins): on is an entry, off is the absence of one; a concurrent on survives an off.
DWFlag (disable wins): both are entries; the flag is on if an on is alive and no off is. Its off
stays as one live dot until a later on, a reset or causal stability takes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crdt.errors import InvalidValueTypeError
from crdt.kernel import LEAF, Seen, entries_of
from crdt.view import View

if TYPE_CHECKING:
    from crdt.kernel import Delta


class FlagView(View):
    """What both flags share: they read like a bool, and are given plain data by a switch."""

    __slots__ = ()

    _instead = "use `enable()` or `disable()`"

    def enable(self, *, seen: Seen | None = None) -> Delta:
        """Turn it on."""
        raise NotImplementedError

    def disable(self, *, seen: Seen | None = None) -> Delta:
        """Turn it off."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        return bool(self.value)

    def _import(self, value: Any) -> None:
        if type(value) is not bool:
            raise InvalidValueTypeError(f"a flag is a bool, not {value!r}")
        if value is not self.value:
            self.enable() if value else self.disable()


class EWFlag(FlagView):
    """A flag that is on if any on was not seen by an off. Starts off."""

    __slots__ = ()

    @property
    def value(self) -> bool:
        """Whether it is on. O(1)."""
        if self._writer.open_batch is not None:
            self._writer.admit()
        return LEAF in self._rows

    def enable(self, *, seen: Seen | None = None) -> Delta:
        """Turn it on. O(1)."""
        return self._replace(LEAF, 0, None, seen)

    def disable(self, *, seen: Seen | None = None) -> Delta:
        """Turn it off for every on that was observed. O(1)."""
        return self._reset(self._place, seen)


class DWFlag(FlagView):
    """A flag that is off if any off was not seen by an on. Starts off."""

    __slots__ = ()

    @property
    def value(self) -> bool:
        """Whether it is on. O(concurrent writes)."""
        if self._writer.open_batch is not None:
            self._writer.admit()
        row = self._rows.get(LEAF)
        return row is not None and all(entry[2] for entry in entries_of(row))

    def enable(self, *, seen: Seen | None = None) -> Delta:
        """Turn it on, over every off that was observed. O(1)."""
        return self._replace(LEAF, 0, True, seen)

    def disable(self, *, seen: Seen | None = None) -> Delta:
        """Turn it off, also against concurrent ons. O(1)."""
        return self._replace(LEAF, 0, False, seen)

    def reset(self, *, seen: Seen | None = None) -> Delta:
        """Back to never touched, as far as observed: leaves no entry."""
        return self._reset(self._place, seen)
