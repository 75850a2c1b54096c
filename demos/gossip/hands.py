"""A person at the keys: one key, one step. Only in a real terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import TYPE_CHECKING, Any, Self

from demos.gossip.script import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HELP = "keys: p partition, a alone, s slow link, h heal, k kill, r return, q end"


class Hands:
    """Reads single keys without waiting for them; the terminal is as before when it ends."""

    def __init__(self, names: Sequence[str], down: Callable[[], set[str]]) -> None:
        self._names = names
        self._down = down
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def step(self, now_s: float) -> Step | None:
        """What the key that was pressed asks for, if one was and it can be done now."""
        if not select.select([sys.stdin], [], [], 0)[0]:
            return None
        key = os.read(sys.stdin.fileno(), 1).decode(errors="replace").lower()
        return step_of(key, now_s, self._names, self._down())


def step_of(key: str, now_s: float, names: Sequence[str], down: set[str]) -> Step | None:
    """The step of a key; None for one that means nothing now."""
    living = [name for name in names if name not in down]
    middle = (len(names) + 1) // 2
    steps = {
        "p": Step(now_s, "partition", (tuple(names[:middle]), tuple(names[middle:]))),
        "a": Step(now_s, "partition", tuple((name,) for name in names)),
        "s": Step(now_s, "slow", ((names[0],), tuple(names[1:])), 0.4),
        "h": Step(now_s, "heal"),
        "q": Step(now_s, "end"),
    }
    if len(living) > 1:
        steps["k"] = Step(now_s, "kill", ((living[-1],),))
    if down:
        steps["r"] = Step(now_s, "return", ((min(down),),))
    return steps.get(key)
