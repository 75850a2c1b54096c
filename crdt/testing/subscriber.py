"""A reader that trusts change events: it looks again only where one says that something changed.

So does every screen that is kept up to date by `Kernel.on_delta` and by what `apply`, `merge` and
`apply_chunk` return. What it kept and what the document shows must stay the same; where they part,
something changed that nobody was told of. Looking is put off until `check`: an event only names
what to look at, and looking later sees no less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crdt.errors import InvariantError
from crdt.kernel import decode_value
from crdt.testing.oracle import shown

if TYPE_CHECKING:
    from crdt.kernel import Change

_WHOLE = object()  # the one part of a value that has no keys


class Subscriber:
    """Keeps the parts of one document as they were last looked at."""

    def __init__(self, view: Any) -> None:
        self._parts = _parts(view)
        self._keys: set[Any] = set()  # named by an event, and not looked at since

    def hear(self, change: Change) -> None:
        """Note what an event names. O(its keys)."""
        for document in change.documents:
            self._keys.update({_WHOLE} if document.keys is None else document.keys)

    def check(self, view: Any) -> None:
        """Look at what was named; nothing else may differ from what is kept. O(value)."""
        now, before = _parts(view), self._parts
        if now != before:
            for part in now.keys() | before.keys():
                key, differs = _key_of(part), now.get(part) != before.get(part)
                if differs and key not in self._keys:
                    what = "the value" if key is _WHOLE else repr(key)
                    raise InvariantError(f"no event said that {what} changed")
        self._parts = now
        self._keys.clear()


def _parts(view: Any) -> dict[Any, Any]:
    """A value by the parts that an event may name: elements, keys, children, or the whole."""
    value, kind = shown(view), view.type_name
    if kind == "ORMap":
        return dict(value)
    if kind in {"GSet", "ORSet", "RWSet"}:
        return dict.fromkeys(value, True)
    return dict(value) if kind == "LWWMap" else {_WHOLE: value}


def _key_of(part: Any) -> Any:
    """The key by which an event names a part: the name of a child, an element, a key of a map."""
    if part is _WHOLE:
        return part
    return part[0] if type(part) is tuple else decode_value(part)
