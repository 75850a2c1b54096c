"""What a forked child must not keep of its parent: descriptors that hold files, locks and ports.

Theory of operation. A fork shares open files. A `flock` lives as long as one of the two has it, and
a port is bound as long as one of them listens. So whoever opens such a thing says so here
(`kept_from_children`), and a child closes its copies before it does anything else.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from replication.file_locks import OPEN_FLAGS, on_fork

if TYPE_CHECKING:
    from collections.abc import Iterable


class Holder(Protocol):
    """Something with descriptors."""

    def forget(self) -> None:
        """Called in a forked child: close what it was handed. It must not take a lock."""


_holders: WeakSet[Holder] = WeakSet()


def kept_from_children(holder: Holder) -> None:
    """From now on a forked child calls `holder.forget()`; the holder is not kept alive by that."""
    _holders.add(holder)


def blind(descriptors: Iterable[int]) -> None:
    """Close descriptors and keep their numbers: nothing can be written to, or locked at, them.

    Whatever object still believes to own one may close it later and does no harm.
    """
    nothing = os.open(os.devnull, os.O_RDONLY | OPEN_FLAGS)
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _forget_in_child() -> None:
    for holder in list(_holders):
        holder.forget()


on_fork(_forget_in_child)
