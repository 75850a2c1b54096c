"""When something under a prefix changed last, without a look at all that changed since.

Whether a range is unchanged since a revision is decided by the only writer, while everybody waits.
A search through the changes since then is as long as there are changes, wherever they are: 80 ms
for a million.  So the last change of each *folder* is remembered, a prefix that ends with a slash:
recipes lay out their keys in folders.  A folder that is not here was not changed since ``floor``.

Both forget their oldest for each new one.  They are ordered dicts for that: a plain one walks over
the places of all that went before until it finds its first.

A prefix that ends elsewhere is looked for among the keys that changed since, each once however
often it did, from the last one back.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDERS_MAX: Final = 100_000
"""So many are remembered, those that changed last."""
KEYS_MAX: Final = 50_000
"""The same of keys; to look through them all takes some milliseconds."""


class LastChanges:
    """Folders and their last revisions, the oldest first; O(slashes in the key) for a change."""

    def __init__(self, revision: int) -> None:
        self.floor = revision
        """Of what happened to folders up to this revision nothing is known."""
        self._keys_floor = revision
        self._revisions: OrderedDict[str, int] = OrderedDict()
        self._keys: OrderedDict[str, int] = OrderedDict()

    def note(self, revision: int, keys: Iterable[str]) -> None:
        """Take in what a commit changed; commits come in their order."""
        revisions = self._revisions
        innermost: set[str] = set()
        for key in keys:
            self._keys[key] = revision
            self._keys.move_to_end(key)
            inner = key[: key.rfind("/") + 1]
            if inner in innermost:  # a neighbour has told all of them
                continue
            innermost.add(inner)
            end = key.find("/") + 1
            while end:
                folder = key[:end]
                revisions[folder] = revision
                revisions.move_to_end(folder)
                end = key.find("/", end) + 1
        while len(revisions) > FOLDERS_MAX:
            _, self.floor = revisions.popitem(last=False)
        while len(self._keys) > KEYS_MAX:
            _, self._keys_floor = self._keys.popitem(last=False)

    def changed(self, prefix: str, since: int) -> bool | None:
        """Say whether anything under ``prefix`` changed after ``since``; None: it is not known."""
        folder = prefix[: prefix.rfind("/") + 1]
        if folder and since >= self.floor:
            if self._revisions.get(folder, 0) <= since:
                return False
            if folder == prefix:
                return True
        return self._changed_key(prefix, since)

    def _changed_key(self, prefix: str, since: int) -> bool | None:
        """Look through the keys that changed after ``since``."""
        for key in reversed(self._keys):
            if self._keys[key] <= since:
                return False
            if key.startswith(prefix):
                return True
        return False if since >= self._keys_floor else None
