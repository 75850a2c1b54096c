"""Space-time diagrams: what a history did, for the eye.

Replicas are vertical lines, time goes down, a row per step that did something, numbered as the
labels say: `delta 0` is what row 0 published.

     a                  b                  c
  0  ● .add('x')        │                  │
  1  │                  ◀──── merge ───────┤
  2  ├──── delta 0 ─────┼─────────────────▶│

As text an arrow lies in the row in which it arrives, and its label interrupts it. With so many
replicas or such long labels that this is wider than a terminal, the lines stand close together and
what happened is written to the right of them:

     a   b   c
  0  ●   │   │    a .add('x')
  1  │   ◀───┤    c to b: merge
  2  ├───┼──▶│    a to c: delta 0

So it always is in the SVG, where an arrow starts in the row in which it was published and may cross
many others: nothing is written where arrows go, and a label may be of any width. Widths are counted
in cells of a terminal: a character of East Asia takes two, one that combines with another none.

All forms are made from the same marks, and all end with what every replica shows.
"""

from __future__ import annotations

from html import escape
from itertools import repeat
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crdt.kernel import Dot
    from crdt.testing.operation import Operation
    from crdt.testing.oracle import Oracle
    from crdt.testing.scheduler import Happened, Plan

_NAMES = "abcdefghijklmnopqrstuvwxyz"
CELLS_MAX = 120  # of a text with its labels between the lines
_MARGIN, _NARROW = 5, 4  # cells left of the first line, and from one to the next if they are close
_TEXT_MAX, _LABEL_MAX = 34, 160  # of a label between and beside the lines, in cells
_VERDICT_CELLS = 120  # of a line below the SVG
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


def _label(row: Sequence[Mark]) -> str:
    """What a row says, to be written beside it."""
    mark = row[0]
    here, text = _NAMES[mark.replica], _shortened(mark.text, _LABEL_MAX)
    if mark.source < 0:
        return f"{', '.join(_NAMES[each.replica] for each in row)} {text}"
    other = _NAMES[mark.source]
    return f"{here} and {other}: {text}" if mark.style == "cut" else f"{other} to {here}: {text}"


def _shortened(text: str, cells_max: int) -> str:
    cells = _cells(text)
    return text if len(cells) <= cells_max else "".join(cells[: cells_max - 1]) + "…"


def _cells(text: str) -> list[str]:
    """A text by the cells of a terminal that it takes: the second one of a wide character is empty.

    What combines with a character is in that one's cell. Newlines and tabs are shown as spaces.
    """
    cells: list[str] = []
    for char in text:
        if combining(char) and cells:
            cells[-1 - (not cells[-1])] += char
        else:
            cells.append(char if char.isprintable() else " ")
            if east_asian_width(char) in "WF":
                cells.append("")
    return cells


# ---------------------------------------------------------------------------------------- text


def draw_text(run: Drawable, *, cells_max: int = CELLS_MAX) -> str:
    """The diagram as text; labels lie beside the lines if it would be wider than `cells_max`."""
    rows, count = list(marks_of(run.trace)), run.script.replicas
    longest = max((len(_cells(mark.text)) for row in rows for mark in row), default=0)
    width = max(16, min(longest, _TEXT_MAX) + 6)
    beside = _MARGIN + width * count > cells_max
    if beside:
        width = _NARROW
    lines = [" " * _MARGIN + "".join(name.ljust(width) for name in _NAMES[:count]).rstrip()]
    for number, row in enumerate(rows):
        canvas = list(("│" + " " * (width - 1)) * count)
        for mark in row:
            _draw(canvas, mark, width)
            if not beside:
                _write(canvas, mark, width)
        label = f" {_label(row)}" if beside else ""
        lines.append(f"{number:{_MARGIN - 2}d}  {''.join(canvas)}{label}".rstrip())
    return "\n".join([*lines, *(f"{' ' * _MARGIN}{line}" for line in _verdict(run))])


def _draw(canvas: list[str], mark: Mark, width: int) -> None:
    """Put the sign of a mark, or its arrow, into a row of cells."""
    start = mark.replica * width
    if mark.source < 0:
        canvas[start] = "●" if mark.style == "write" else "·"
        return
    first, last = sorted((start, mark.source * width))
    line = "╌" if mark.style == "cut" else "─"
    for place in range(first + 1, last):
        canvas[place] = "┼" if canvas[place] == "│" else line
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


def _write(canvas: list[str], mark: Mark, width: int) -> None:
    """Put the text of a mark into a row of cells: behind its sign, or into its arrow."""
    cells = _cells(_shortened(mark.text, _TEXT_MAX))
    if mark.source < 0:
        start = mark.replica * width + 2
    else:
        start = min(mark.replica, mark.source) * width + 2 + (width - 4 - len(cells)) // 2
        cells = [" ", *cells, " "]
    canvas[start : start + len(cells)] = cells


# ----------------------------------------------------------------------------------------- svg

_COLUMN, _ROW, _LEFT, _TOP, _CELL = 72, 28, 56, 50, 7.3  # pixels; a cell is as wide as a digit
_COLORS = {"write": "#0969da", "event": "#57606a", "arrow": "#1a7f37", "lost": "#cf222e"}
_INK = "#24292f"


def draw_svg(run: Drawable) -> str:
    """The diagram as a stand-alone SVG document, as wide as its longest label."""
    rows, count = list(marks_of(run.trace)), run.script.replicas
    verdict = [line for text in _verdict(run) for line in wrap(text, _VERDICT_CELLS) or [""]]
    labels, beside = list(map(_label, rows)), _x(count) - _COLUMN // 2
    bottom = _TOP + _ROW * (len(rows) + 1)
    width = max(
        [beside + _CELL * len(_cells(label)) for label in labels]
        + [_LEFT + _CELL * len(_cells(line)) for line in verdict]
    )
    size = f'width="{width + _LEFT:.0f}" height="{bottom + _ROW * (len(verdict) + 1)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="monospace" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" orient="auto">',
        f'<path d="M0 0L8 4L0 8z" fill="{_COLORS["arrow"]}"/></marker>',
    ]
    for index in range(count):
        x = _x(index)
        parts.append(f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}" stroke="#8c959f"/>')
        parts.append(_text(x - 4, _TOP - 12, _NAMES[index], _INK, bold=True))
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        color = _COLORS.get(row[0].style, _COLORS["lost"])
        parts += [_shape(mark, number) for mark in row]
        parts.append(_text(8, _y(number) + 4, f"{number:3d}", "#57606a"))
        parts.append(_text(beside, _y(number) + 4, label, color))
    for number, line in enumerate(verdict):
        parts.append(_text(_LEFT, bottom + _ROW * (number + 1), line, _INK))
    return "\n".join([*parts, "</svg>"])


def _x(replica: int) -> int:
    return _LEFT + replica * _COLUMN


def _y(row: int) -> int:
    return _TOP + _ROW * row + _ROW // 2


def _text(x: float, y: float, text: str, color: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{color}"{weight}>{escape(text)}</text>'


def _shape(mark: Mark, row: int) -> str:
    """The SVG element of one mark."""
    x, y = _x(mark.replica), _y(row)
    color = _COLORS.get(mark.style, _COLORS["lost"])
    if mark.source < 0:
        return f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"/>'
    from_x, from_y = _x(mark.source), _y(mark.sent)
    if mark.style == "lost":  # it ends half-way
        x, y = (x + from_x) // 2, (y + from_y) // 2
    dashed = "" if mark.style == "arrow" else ' stroke-dasharray="5 4"'
    head = ' marker-end="url(#head)"' if mark.style == "arrow" else ""
    return f'<line x1="{from_x}" y1="{from_y}" x2="{x}" y2="{y}" stroke="{color}"{dashed}{head}/>'
