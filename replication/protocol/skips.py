"""Events that operators gave up: the skip of a quarantine, recorded and gossiped like any write.

Theory of operation. A quarantine ends when somebody fixes the cause and the event applies, or when
an operator gives the event up. The latter is a decision for the whole cluster, so it is state: an
element (origin, first, last) of a grow-only set, which is journalled, gossiped and merged by the
machinery that carries everything else. Each replica that has that very range in quarantine, now or
later, covers it as if it had said nothing, and goes on with what follows. A replica that could
apply the event keeps what it said: giving up is for those that cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crdt import Delta, GSet, Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from crdt import Kernel

DOCUMENT = "_convoca/skipped"
"""The set's name; a rule for the prefix `_convoca/` says who may skip."""


def record(kernel: Kernel, origin: str, first: int, last: int) -> None:
    """Write the decision down; it spreads like any local write."""
    kernel.document(DOCUMENT, GSet).add((origin, first, last))


def decided(kernel: Kernel, quarantine: Mapping[str, tuple[int, int, str]]) -> Iterable[Delta]:
    """Deltas that cover the quarantined ranges which were given up; O(quarantine)."""
    if not quarantine:
        return
    given_up = kernel.document(DOCUMENT, GSet)
    for origin, (first, last, _) in list(quarantine.items()):
        if (origin, first, last) in given_up:
            yield Delta((Run(origin, first, last, ()),))
