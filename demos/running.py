"""How a demo runs: in a folder of its own, under a bar of progress, and never into a traceback.

Whatever ends it - its checks, a process that fell silent, Ctrl-C - the folder is gone afterwards
and what could not go on is told in one line with a hint.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demos.stage import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

USAGE, BROKEN = 2, 5
"""Exit statuses: what was asked for cannot be run; the run could not be carried out."""


class Hinted(Protocol):
    """An error that says what to do next."""

    hint: str


def aside(text: str) -> None:
    """Print one line on standard error, whatever stands in it."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def complain(why: Hinted | str, hint: str = "") -> None:
    """Print on standard error what went wrong, and what to do about it."""
    hint = hint or getattr(why, "hint", "")
    aside(f"error: {why} (hint: {hint})" if hint else f"error: {why}")


def run(name: str, play: Callable[[Path], Coroutine[object, object, int]]) -> int:
    """Play a demo in a new folder, which is removed; its exit status, or `BROKEN`."""
    folder = Path(tempfile.mkdtemp(prefix=f"convoca-{name}-"))
    try:
        return asyncio.run(play(folder))
    except StageError as error:
        complain(error)
        return BROKEN
    except (KeyboardInterrupt, asyncio.CancelledError):
        aside("interrupted: every process was stopped")
        return BROKEN
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar while it is open; call what it gives with how many are over and a remark, or ""."""
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        shown = bar.add_task(what, total=total)

        def remark(over: int, text: str) -> None:
            bar.update(shown, completed=over)
            if text:
                bar.console.print(f"  {over:4}  {text}", markup=False, soft_wrap=True)

        yield remark
