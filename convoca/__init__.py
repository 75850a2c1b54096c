"""One handle on both halves: a replica that never waits, and a store that decides.

    async with convoca.join("ann", team="orders", store="http://127.0.0.1:7700") as ann:
        ann.counter("stock/widget").increment(5)
        await ann.rooms.book("turing", slot, holder="ann")

Theory of operation. This package is the face of three others and no engine of its own: a `Member`
holds a `replication.Agent` and a `transactional.Store` and hands out what they make. Whoever needs
one half alone imports that half. With this folder deleted the others are whole.

The names of the three are also those of unrelated distributions, which an installer lets overwrite
ours. So an import looks first whether what it finds is of this distribution (`distribution`).

Importing costs next to nothing: a name is looked up when it is first asked for, and sockets are
loaded when something is opened.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convoca.distribution import check_packages

__version__ = "0.1.0"
check_packages(__version__)

if TYPE_CHECKING:
    from convoca.errors import (
        MemberError,
        NameTakenError,
        NoStoreError,
        PageError,
        RuntimeDirectoryError,
        WrongSecretError,
    )
    from convoca.joining import join, join_sync
    from convoca.member import Member
    from convoca.sync_member import BlockingMember
    from crdt import ConvocaError

ROOMS = {
    "BlockingMember": "convoca.sync_member",
    "ConvocaError": "crdt",
    "Member": "convoca.member",
    "MemberError": "convoca.errors",
    "NameTakenError": "convoca.errors",
    "NoStoreError": "convoca.errors",
    "PageError": "convoca.errors",
    "RuntimeDirectoryError": "convoca.errors",
    "WrongSecretError": "convoca.errors",
    "join": "convoca.joining",
    "join_sync": "convoca.joining",
}

__all__ = [
    "BlockingMember",
    "ConvocaError",
    "Member",
    "MemberError",
    "NameTakenError",
    "NoStoreError",
    "PageError",
    "RuntimeDirectoryError",
    "WrongSecretError",
    "join",
    "join_sync",
]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(ROOMS[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
