"""Run a program under something that can be lost: a lock, or the claim of a job.

The program must not work on when another may have what it works under.  So it is ended when that is
lost, and when we are told to end ourselves: first asked (SIGTERM), and after `TERMINATED_S` not
asked any more.  With what it started, if it can be told apart: as a group of its own, unless it
shares a terminal with us, where a group of its own could not read.  If we are stopped, so is it.
(Nobody can do that for it if we are killed with SIGKILL.)
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TERMINATED_S: Final = 10.0
"""How long a program is given to end when it is asked to."""
ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)
)
"""Signals by which we are told to end; the program is ended first."""
KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows asks nobody: its SIGTERM kills


async def run_program(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    lost: asyncio.Event,
    stdin: IO[bytes] | None = None,
) -> int:
    """Run it to its end, or until `lost`; its exit status as a shell tells it (128 + signal).

    `stdin` is what it reads; None: what we would.

    Raises:
        OSError: there is no such program, or it cannot be run.
        ValueError: a word or a value of the environment holds what none can hold (a null byte).
        SystemExit: a signal told us to end; the program has ended.
    """
    grouped = hasattr(os, "killpg") and (stdin is not None or not os.isatty(0))
    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()
    group: asyncio.Future[int] = loop.create_future()
    # Before it begins: a signal that came right behind its start ended us alone.
    heard = _listen(told, group if grouped else None)
    try:
        child = await asyncio.create_subprocess_exec(
            *words, stdin=stdin, env=environment, process_group=0 if grouped else None
        )
    except BaseException:
        _restore(heard)
        raise
    group.set_result(child.pid)
    ended = asyncio.create_task(child.wait())
    gone = asyncio.create_task(lost.wait())
    try:
        until: list[asyncio.Future[Any]] = [ended, gone, told]
        await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not ended.done():
            _send(child, signal.SIGTERM, grouped=grouped)
            _, late = await asyncio.wait([ended], timeout=TERMINATED_S)
            if late:
                _send(child, KILL, grouped=grouped)
            await ended
        _restore(heard)
    if told.done():
        raise SystemExit(128 + told.result())
    status = ended.result()
    return status if status >= 0 else 128 - status


def _send(child: asyncio.subprocess.Process, number: signal.Signals, *, grouped: bool) -> None:
    with suppress(ProcessLookupError):
        if grouped:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)


def _listen(told: asyncio.Future[int], group: asyncio.Future[int] | None) -> list[signal.Signals]:
    """Hear of signals that end or stop us; which of them are heard now.

    `group` is known once the program runs; None: it has none of its own.
    """
    loop = asyncio.get_running_loop()

    def end(number: int) -> None:
        if not told.done():
            told.set_result(number)

    def stop(group: asyncio.Future[int]) -> None:
        """The terminal stops us alone, for the group is not ours: stop both, and go on together."""
        if not group.done():  # it is about to begin
            group.add_done_callback(stop)
            return
        with suppress(ProcessLookupError):
            os.killpg(group.result(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        with suppress(ProcessLookupError):
            os.killpg(group.result(), signal.SIGCONT)

    heard: list[signal.Signals] = []
    with suppress(RuntimeError, ValueError):  # not in the main thread: nobody signals us there
        for number in ENDING:
            loop.add_signal_handler(number, end, int(number))
            heard.append(number)
        if group is not None:
            loop.add_signal_handler(signal.SIGTSTP, stop, group)
            heard.append(signal.SIGTSTP)
    return heard


def _restore(heard: list[signal.Signals]) -> None:
    loop = asyncio.get_running_loop()
    for number in heard:
        loop.remove_signal_handler(number)
