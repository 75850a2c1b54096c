"""What a person sees of a run: a live picture in a terminal, plain lines anywhere else.

Replicas with the same colour and digest hold the same state. A value that differs from what most
replicas hold is marked with `*`, so nothing is said by colour alone; what does not fit into the
terminal is left out, never wrapped.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demos.gossip.story import diverged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType

    from demos.gossip.story import Moment, Outcome

COLOURS = ("green", "yellow", "cyan", "magenta", "blue", "red")
BARS = " ▁▂▃▄▅▆▇█"
DIGEST_SHOWN = 4
COLUMN_MIN = 9
LINE_EVERY_S = 1.0
REMARKS_SHOWN = 5


class Screen:
    """The view of one run; `with` it, and hand `changed` to the story."""

    def __init__(self, console: Console, title: str, keys: str = "") -> None:
        self._console = console
        self._title = title
        self._keys = keys
        self._live: Live | None = None
        self._line_s = -LINE_EVERY_S

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, outcome: Outcome, remark: str) -> None:
        """Show what is new."""
        now_s = outcome.remarks[-1][0] if remark else outcome.curve[-1].at_s
        if remark:
            self._console.print(f"{now_s:5.1f} s  {remark}", markup=False, soft_wrap=True)
        if self._live is not None:
            self._live.update(self._picture(outcome), refresh=True)
        elif not remark and now_s - self._line_s >= LINE_EVERY_S:
            self._line_s = now_s
            self._console.print(f"{now_s:5.1f} s  {told(outcome)}", markup=False, soft_wrap=True)

    def _picture(self, outcome: Outcome) -> RenderableType:
        width = self._console.width
        colours = colour_of(outcome)
        ring = Text(overflow="ellipsis", no_wrap=False)
        for name in outcome.names:
            look = outcome.looks.get(name)
            digest = look.digest[:DIGEST_SHOWN] if look else "down"
            style = colours.get(look.digest, "white") if look else "dim strike"
            ring.append(f"{'●' if look else '○'} {name} {digest}  ", style=style)
        parts: list[RenderableType] = [Text(self._title, style="bold"), ring]
        if outcome.looks:
            parts.append(_by_key(outcome, colours, width))
        if outcome.curve:
            graph = max(8, min(60, width - 30))
            parts.append(
                Text(f"diverged keys {sparkline([m.diverged for m in outcome.curve], graph)}")
            )
            parts.append(Text(f"bytes a look  {sparkline(_gained(outcome.curve), graph)}"))
            parts.append(Text(told(outcome)))
        if self._keys:
            parts.append(Text(self._keys, style="dim"))
        return Group(*parts)


def _by_key(outcome: Outcome, colours: dict[str, str], width: int) -> Table:
    names = [name for name in outcome.names if name in outcome.looks]
    shown = names[: max(1, (width - 14) // COLUMN_MIN)]
    table = Table("key", *shown, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for key in next(iter(outcome.looks.values())).values:
        values = {name: outcome.looks[name].values[key] for name in names}
        most = Counter(values.values()).most_common(1)[0][0]
        cells = [
            Text(
                f"{values[name]}{'' if values[name] == most else ' *'}",
                style="" if values[name] == most else f"bold {colours[outcome.looks[name].digest]}",
                no_wrap=True,
                overflow="ellipsis",
            )
            for name in shown
        ]
        table.add_row(Text(key, no_wrap=True, overflow="ellipsis"), *cells)
    return table


def colour_of(outcome: Outcome) -> dict[str, str]:
    """A colour for each state: the most common first, so that equal ones are green."""
    states = Counter(look.digest for look in outcome.looks.values())
    ordered = sorted(states, key=lambda digest: (-states[digest], digest))
    return {digest: COLOURS[min(i, len(COLOURS) - 1)] for i, digest in enumerate(ordered)}


def told(outcome: Outcome) -> str:
    """The present moment in one line."""
    moment = outcome.curve[-1]
    keys = len(next(iter(outcome.looks.values())).values)
    return (
        f"{len(diverged(outcome.looks))} of {keys} keys diverged, {moment.states} states on"
        f" {len(outcome.looks)} replicas, {moment.bytes_sent / 1024:.1f} KiB sent"
    )


def sparkline(numbers: Sequence[float], width: int) -> str:
    """Numbers as bars: the greatest of each piece, so that no peak is lost."""
    piece = max(1, -(-len(numbers) // width))
    peaks = [max(numbers[i : i + piece]) for i in range(0, len(numbers), piece)]
    top, most = max([*peaks, 1]), len(BARS) - 1
    return "".join(BARS[math.ceil(peak * most / top)] for peak in peaks)


def _gained(curve: Sequence[Moment]) -> list[int]:
    """Bytes between one look and the next; a node that was killed takes none back."""
    return [max(0, b.bytes_sent - a.bytes_sent) for a, b in pairwise(curve)]


def curves(console: Console, outcome: Outcome) -> None:
    """The whole run as two lines of bars."""
    if not outcome.curve:
        return
    width = max(8, min(72, console.width - 18))
    last_s = outcome.curve[-1].at_s
    gained = _gained(outcome.curve) or [0]
    for name, numbers, unit in (
        ("diverged keys", [m.diverged for m in outcome.curve], ""),
        ("states", [m.states for m in outcome.curve], ""),
        ("bytes a look", gained, " B"),
    ):
        console.print(f"{name:13} {sparkline(numbers, width)} {max(numbers)}{unit}", soft_wrap=True)
    console.print(f"{'':13} 0 s to {last_s:.0f} s; each bar shows the greatest of its time")
