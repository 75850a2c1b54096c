"""The verbs that work on files of agents that do not run: `backup`, `restore`, `doctor JOURNAL`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replication.errors import UnhealthyError
from replication.journal import HOW_TO_GO_ON, KeptOut, back_up, look, rebuild

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


async def _backup(options: argparse.Namespace) -> str:
    kept_out: list[KeptOut] = []
    moved = back_up(options.journal, options.target, kept_out)
    said = f"{options.target}: a copy without identity, that opens{_aside(moved)}"
    return said + _without(kept_out)


async def _restore(options: argparse.Namespace) -> str:
    kept_out: list[KeptOut] = []
    moved = back_up(options.backup, options.target, kept_out)
    said = f"{options.target}: restored, and opens; its agent takes a new incarnation"
    return said + _aside(moved) + _without(kept_out)


def _without(kept_out: list[KeptOut]) -> str:
    """What a journal lacks that claims to have it, and how to go on."""
    if not kept_out:
        return ""
    return f"; damaged: {'; '.join(map(str, kept_out[:10]))}; {HOW_TO_GO_ON}"


def _aside(moved: list[Path]) -> str:
    return "".join(f"; left of an older one, now {path}" for path in moved)


def of_journal(path: Path) -> dict[str, object]:
    """What a journal holds, and what a start on it would find; nothing is written.

    Raises:
        JournalHeldError: its agent runs.
        JournalUnreadableError: nothing can be read of it.
        UnhealthyError: some origins do not add up; it says which, and how to go on.
    """
    recovered = look(path)
    kept_out: list[KeptOut] = []
    kernel = rebuild(recovered, recovered.replica or "nobody~0", None, kept_out)
    if kept_out:
        raise UnhealthyError("; ".join(map(str, kept_out)), hint=HOW_TO_GO_ON)
    return {
        "id": recovered.replica or "(never started)",
        "continuous": recovered.continuous,
        "boots": recovered.boots,
        "rows": len(recovered.rows),
        "snapshot bytes": len(recovered.snapshot),
        "lease": recovered.lease,
        "origins": len(recovered.vector),
        "entries": kernel.entries,
        "verdict": "adds up",
    }


VERBS = {"backup": _backup, "restore": _restore}
