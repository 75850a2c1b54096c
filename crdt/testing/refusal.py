"""Deltas that must be refused, made from sound ones; a refusal has to leave no trace.

A receiver that notes an event as seen before it has taken it in, or that checks a delta piece by
piece, loses data for ever as soon as one is refused: the sound one that follows says nothing new.
So a sound delta is first spoiled in one of the ways below. It has to be refused, with the state as
it was, byte for byte; whoever calls then lets the sound one arrive, which must work as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crdt.errors import (
    BatchOpenError,
    CRDTError,
    DecodeError,
    DoomedFullError,
    IdentityReusedError,
    require,
)
from crdt.kernel import DOOMED_MAX, LEAF, Delta, Kernel, Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from crdt.kernel import ChunkSet


def refuse(kernel: Kernel, data: bytes, pick: int) -> None:
    """Hand a replica a spoiled form of a delta's bytes, and assert that nothing came of it. O(n).

    Raises:
        InvariantError: it was accepted, or it left a trace.
    """
    receive, expected = _WAYS[pick % len(_WAYS)]
    before = kernel.to_bytes()
    try:
        receive(kernel, data, pick)
    except expected:
        require(kernel.to_bytes() == before, "a refused delta left a trace")
    else:
        require(condition=False, text="a delta was accepted that has to be refused")


def relearn(whole: ChunkSet, replica: str) -> Kernel:
    """A lost disk: an empty replica under an old name, and then, refused, under a new one.

    What peers know of its old life is not to be taken while it goes by that name, and all of it as
    soon as it goes by another, though these very chunks were refused before.

    Raises:
        InvariantError: they were accepted, or left a trace.
    """
    kernel = Kernel(replica)
    before = kernel.to_bytes()
    for chunk in whole.chunks:
        try:
            kernel.apply_chunk(chunk)
        except IdentityReusedError:
            require(kernel.to_bytes() == before, "a refused chunk left a trace")
        else:
            require(condition=False, text="a chunk about a life not lived was accepted")
    kernel.reincarnate(f"{replica}'")
    for chunk in whole.chunks:
        kernel.apply_chunk(chunk)
    return kernel


def _damaged(kernel: Kernel, data: bytes, pick: int) -> None:
    """One bit is another."""
    bits = bytearray(data)
    bits[pick // len(_WAYS) % len(bits)] ^= 1 << pick % 8
    kernel.apply(Delta.decode(bytes(bits)))


def _misnamed(kernel: Kernel, data: bytes, _pick: int) -> None:
    """The last run speaks of events that the receiver never made."""
    following = kernel.vector.get(kernel.replica, 0) + 1
    run = Run(kernel.replica, following, following)
    kernel.apply(Delta((*Delta.decode(data).runs, run)))


def _overwhelming(kernel: Kernel, data: bytes, _pick: int) -> None:
    """The last run kills more dots that nobody has seen than anybody may have to remember."""
    kills = (("nobody", 1, DOOMED_MAX + 1),)
    run = Run("somebody", 1, 1, ((1, None, LEAF, 0, None, kills),))
    kernel.apply(Delta((*Delta.decode(data).runs, run)))


def _untimely(kernel: Kernel, data: bytes, _pick: int) -> None:
    """A batch is open."""
    with kernel.batch():
        kernel.apply(Delta.decode(data))


_WAYS: tuple[tuple[Callable[[Kernel, bytes, int], None], type[CRDTError]], ...] = (
    (_damaged, DecodeError),
    (_misnamed, IdentityReusedError),
    (_overwhelming, DoomedFullError),
    (_untimely, BatchOpenError),
)
WAYS = len(_WAYS)
