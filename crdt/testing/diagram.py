"""Space-time diagrams: what a history did, for the eye.

Replicas are vertical lines, time goes down, a row per step that did something. An arrow is
knowledge on its way; in the SVG it starts where it was published, in the text it names that row.

     a                  b                  c
  0  ● .add('x')        │                  │
  1  │                  ◀──── merge ───────┤
  2  ├──── delta 0 ─────┼─────────────────▶│

Both forms are made from the same marks, and both end with what every replica shows.
"""

from __future__ import annotations

from html import escape
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crdt.kernel import Dot
    from crdt.testing.operation import Operation
    from crdt.testing.oracle import Oracle
    from crdt.testing.scheduler import Happened, Plan

_NAMES = "abcdefghijklmnopqrstuvwxyz"
_TEXT_MAX = 34  # of a label, in characters
_EVENTS = {
    "stash": "■ state put aside",
    "stale": "◆ old state merged",
    "restart": "↻ restart",
    "rebirth": "↻ reborn from an old state",
    "relearn": "a lost disk relearns this",
    "forget": "drops removal records",
    "void": "leaves out numbers",
    "look": "looks",
    "catch_up": "gets what came before",
    "jump": "clock jumps",
    "rollback": "rolls back",
    "crash": "✗ crashes",
    "start": "↻ starts again",
    "backup": "■ disk copied",
    "restore": "↻ runs on the copied disk",
    "clone": "↻ runs on a copy of another's disk",
    "isolate": "cut off from everybody",
    "mend": "all links heal",
}
_MANNERS = {"repeat": " (again later)", "lose": " lost", "refused": ", first refused"}
_ARROWS = {"truncated": "delta, cut short", "chunks": "some chunks"}


class Drawable(Protocol):
    """What a run has to offer to be drawn."""

    @property
    def script(self) -> Plan:
        """Says how many replicas there are."""

    @property
    def trace(self) -> list[Happened]:
        """What happened, in order."""

    @property
    def values(self) -> list[Any]:
        """What the replicas show."""

    @property
    def known(self) -> set[Dot]:
        """What anybody of them knows."""

    @property
    def expected(self) -> Oracle:
        """Says what they have to show, if it can."""

    @property
    def path(self) -> tuple[str, ...]:
        """The document that is shown."""

    @property
    def failure(self) -> Exception | None:
        """What ended the run early."""

    @property
    def healed(self) -> bool:
        """Whether the steps are over and everybody was told everything."""

    def describe(self, value: object) -> str:
        """A value for people."""


class Mark(NamedTuple):
    """One thing to draw in a row: at a replica, or from `source` (since row `sent`) to it."""

    replica: int
    text: str
    style: Literal["write", "event", "arrow", "lost", "cut"]
    source: int = -1
    sent: int = -1


def marks_of(trace: Sequence[Happened]) -> Iterator[list[Mark]]:
    """The marks of every row."""
    cut: set[frozenset[int]] = set()
    for row, happened in enumerate(trace):
        step, here, source = happened.step, happened.replica, happened.source
        if step.kind == "mend":
            cut.clear()
        text = " ".join(map(_call, step.operations, step.seen or repeat(False)))
        if step.kind == "equal":
            yield [Mark(each, text, "write") for each in (step.replica, step.peer)]
        elif step.kind in {"write", "batch"}:
            yield [Mark(here, f"[{text}]" if step.kind == "batch" else text, "write")]
        elif step.kind == "cut":
            cut ^= {frozenset((step.replica, step.peer))}
            is_cut = frozenset((step.replica, step.peer)) in cut
            yield [Mark(here, "cut" if is_cut else "link heals", "cut", step.peer, row)]
        elif happened.sent is not None and source is not None:
            again = _MANNERS.get(step.kind, "")
            style: Literal["lost", "arrow"] = "lost" if step.kind == "lose" else "arrow"
            yield [Mark(here, f"delta {happened.sent}{again}", style, source, happened.sent)]
        elif source is not None:
            yield [Mark(here, _ARROWS.get(step.kind, step.kind), "arrow", source, row)]
        else:
            yield [Mark(here, _EVENTS.get(step.kind, step.kind), "event")]


def _call(operation: Operation, seen: bool) -> str:  # noqa: FBT001
    return f"{operation} as of the look" if seen else str(operation)


def _verdict(run: Drawable) -> list[str]:
    """The last lines: what everybody shows, and what visibility demands."""
    if run.failure is not None:
        where = "while healing" if run.healed else "here"
        return [f"{where}: {type(run.failure).__name__}: {run.failure}"]
    lines = ["after healing:"] if run.healed else []
    lines += [
        f"{name} shows {run.describe(value)}"
        for name, value in zip(_NAMES, run.values, strict=False)
    ]
    if run.expected.knows(run.path):
        lines.append(f"has to show {run.describe(run.expected.value(run.path, run.known))}")
    return lines


# ---------------------------------------------------------------------------------------- text


def draw_text(run: Drawable) -> str:
    """The diagram as text, 5 + replicas * about 20 characters wide."""
    rows = list(marks_of(run.trace))
    longest = max((len(mark.text) for row in rows for mark in row), default=0)
    width, count = max(16, min(longest, _TEXT_MAX) + 6), run.script.replicas
    lines = ["     " + "".join(name.ljust(width) for name in _NAMES[:count]).rstrip()]
    for number, row in enumerate(rows):
        canvas = list(("│" + " " * (width - 1)) * count)
        for mark in row:
            _draw(canvas, mark, width)
        lines.append(f"{number:3d}  " + "".join(canvas).rstrip())
    return "\n".join([*lines, *(f"     {line}" for line in _verdict(run))])


def _draw(canvas: list[str], mark: Mark, width: int) -> None:
    """Put a mark into a row of characters."""
    start, text = mark.replica * width, mark.text
    if len(text) > _TEXT_MAX:
        text = text[: _TEXT_MAX - 1] + "…"
    if mark.source < 0:
        sign = "● " if mark.style == "write" else "· "
        canvas[start : start + 2 + len(text)] = sign + text
        return
    low, high = sorted((mark.replica, mark.source))
    first, last = low * width, high * width
    line = "╌" if mark.style == "cut" else "─"
    for place in range(first + 1, last):
        canvas[place] = "┼" if canvas[place] == "│" else line
    middle = first + 2 + (width - 4 - len(text)) // 2
    canvas[middle : middle + len(text) + 2] = f" {text} "
    rightward = mark.replica > mark.source
    if mark.style == "cut":
        canvas[first], canvas[last] = "╪", "╪"
        return
    canvas[mark.source * width] = "├" if rightward else "┤"
    if mark.style == "lost":
        canvas[start + (-1 if rightward else 1)] = "✗"
    elif rightward:
        canvas[start - 1] = "▶"
    else:
        canvas[start] = "◀"


# ----------------------------------------------------------------------------------------- svg

_COLUMN, _ROW, _LEFT, _TOP = 230, 28, 40, 50  # pixels
_COLORS = {"write": "#0969da", "event": "#57606a", "arrow": "#1a7f37", "lost": "#cf222e"}


def draw_svg(run: Drawable) -> str:
    """The diagram as a stand-alone SVG document."""
    rows, count = list(marks_of(run.trace)), run.script.replicas
    verdict = _verdict(run)
    bottom = _TOP + _ROW * (len(rows) + 1)
    size = f'width="{_LEFT + _COLUMN * count}" height="{bottom + _ROW * (len(verdict) + 1)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="monospace" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" orient="auto">',
        f'<path d="M0 0L8 4L0 8z" fill="{_COLORS["arrow"]}"/></marker>',
    ]
    for index in range(count):
        x = _x(index)
        parts.append(f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}" stroke="#8c959f"/>')
        parts.append(_text(x, _TOP - 12, _NAMES[index], "#24292f", bold=True))
    for number, row in enumerate(rows):
        for mark in row:
            parts += _shapes(mark, number)
    for number, line in enumerate(verdict):
        parts.append(_text(_LEFT, bottom + _ROW * (number + 1), line, "#24292f"))
    return "\n".join([*parts, "</svg>"])


def _x(replica: int) -> int:
    return _LEFT + replica * _COLUMN


def _y(row: int) -> int:
    return _TOP + _ROW * row + _ROW // 2


def _text(x: float, y: float, text: str, color: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{color}"{weight}>{escape(text)}</text>'


def _shapes(mark: Mark, row: int) -> list[str]:
    """The SVG elements of one mark."""
    x, y = _x(mark.replica), _y(row)
    color = _COLORS.get(mark.style, "#cf222e")
    if mark.source < 0:
        dot = f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"/>'
        return [dot, _text(x + 8, y + 4, mark.text[:_TEXT_MAX], color)]
    from_x, from_y = _x(mark.source), _y(mark.sent)
    if mark.style == "lost":  # it ends half-way
        x, y = (x + from_x) // 2, (y + from_y) // 2
    dashed = "" if mark.style == "arrow" else ' stroke-dasharray="5 4"'
    head = ' marker-end="url(#head)"' if mark.style == "arrow" else ""
    line = f'<line x1="{from_x}" y1="{from_y}" x2="{x}" y2="{y}" stroke="{color}"{dashed}{head}/>'
    return [line, _text((x + from_x) / 2 + 4, (y + from_y) / 2 - 4, mark.text, color)]
