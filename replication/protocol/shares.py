"""A table in which every name has a share: nobody's entries can push out another's.

What is remembered of peers - their records, boots, windows, reports - is remembered by ids and
boots, of which whoever speaks may make up as many as he likes; his *name* he has to prove, where
names have keys. So the entries of a name are limited, and at its limit its own oldest goes. All
together are limited, too: where that is reached the oldest entry of whoever has most goes, so that
a share never filled by others is there for whoever comes. With one secret there is one principal,
who may take any name, and the limit of all together is what holds.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, TypeVar

from replication.protocol.policy import agent_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

K = TypeVar("K")
V = TypeVar("V")


class Shares(MutableMapping[K, V]):
    """A dict with limits; the oldest entry is the one that was put there first.

    Args:
        share_max: entries of one name.
        entries_max: of all of them.
        name_of: whose a key is; by default the agent of a replica id.
    """

    __slots__ = ("_by_name", "_entries", "_entries_max", "_name_of", "_share_max")

    def __init__(
        self,
        share_max: int,
        entries_max: int,
        name_of: Callable[[K], str] = agent_of,  # type: ignore[assignment]  # of a str
    ) -> None:
        self._share_max = share_max
        self._entries_max = entries_max
        self._name_of = name_of
        self._entries: dict[K, V] = {}
        self._by_name: dict[str, dict[K, None]] = {}

    def __getitem__(self, key: K) -> V:
        return self._entries[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __setitem__(self, key: K, value: V) -> None:
        if key in self._entries:
            self._entries[key] = value
            return
        name = self._name_of(key)
        own = self._by_name.get(name, {})
        if len(own) >= self._share_max:
            del self[next(iter(own))]
        elif len(self._entries) >= self._entries_max:
            most = max(self._by_name.values(), key=len)
            del self[next(iter(most))]
        self._entries[key] = value
        self._by_name.setdefault(name, {})[key] = None

    def __delitem__(self, key: K) -> None:
        del self._entries[key]
        name = self._name_of(key)
        own = self._by_name[name]
        del own[key]
        if not own:
            del self._by_name[name]

    def of(self, name: str) -> int:
        """How many entries a name has."""
        return len(self._by_name.get(name, {}))
