"""The picture: no arrow crosses a label, rows are the ones that labels name, any width fits."""

from __future__ import annotations

import re
from unicodedata import combining, east_asian_width
from xml.etree import ElementTree as ET

import pytest

from crdt import ORSet
from crdt.testing import History, Operation, Plan, Step, draw_text, history
from crdt.testing.operation import name_of
from tests.crdt.testing.planted_types import Labels

SVG = "{http://www.w3.org/2000/svg}"
LONG = "é́ 漢字かな交じり文 " * 9


def add(replica, text, peer=0):
    return Step("write", replica, peer, 0, (Operation("add", (text,)),), (False,))


def drawn(*steps, replicas=3, kind=ORSet):
    run = History(kind, Plan(name_of(kind), replicas, "mesh", (None,) * replicas, steps))
    assert run.complaint() is None
    return run


def cells(text):
    """How many cells of a terminal a text takes."""
    return sum(1 + (east_asian_width(char) in "WF") for char in text if not combining(char))


def numbers(element, *names):
    return [float(element.get(name)) for name in names]


def pictures():
    yield from (history(ORSet, seed) for seed in range(6))
    yield from (history(Labels, seed, replicas=5) for seed in range(3))
    yield drawn(add(0, LONG), Step("deliver", 1, 0), add(1, "x"), Step("merge", 2, 1))
    yield drawn(*(add(n, f"w{n}") for n in range(16)), Step("merge", 0, 15), replicas=16)


def test_no_arrow_crosses_a_label_and_none_leaves_the_picture():
    """Labels stand to the right of all lines, row numbers to the left; both inside of the SVG."""
    for run in pictures():
        run.complaint()
        picture = ET.fromstring(run.svg())  # noqa: S314 - our own bytes
        (width,) = numbers(picture, "width")
        lines = [x for line in picture.iter(f"{SVG}line") for x in numbers(line, "x1", "x2")]
        bottom = max(y for line in picture.iter(f"{SVG}line") for y in numbers(line, "y1", "y2"))
        for text in picture.iter(f"{SVG}text"):
            x, y = numbers(text, "x", "y")
            end = x + 7.2 * cells(text.text)
            assert end <= width, text.text
            above_or_below = y < 50 or y > bottom
            assert above_or_below or end <= min(lines) or x > max(lines), text.text


@pytest.mark.parametrize("seed", range(8))
def test_a_label_names_the_row_in_which_its_delta_was_published(seed):
    """In the text, and in the SVG by number and by where the arrow starts."""
    run = history(Labels, seed)
    rows = draw_text(run, cells_max=0).splitlines()[1:]
    assert [int(row[:3]) for row in rows[: len(run.trace)]] == list(range(len(run.trace)))
    named = [re.search(r"(\w) to \w: delta (\d+)", row) for row in rows[: len(run.trace)]]
    for found in filter(None, named):
        published = rows[int(found[2])]
        writers, _, call = published[3:].partition(" .")
        assert call
        assert found[1] in writers.split()[-1] or f"{found[1]}, " in published
    picture = ET.fromstring(run.svg())  # noqa: S314 - our own bytes
    heights = {t.text.strip(): float(t.get("y")) for t in picture.iter(f"{SVG}text")}
    starts = {float(line.get("y1")) + 4 for line in picture.iter(f"{SVG}line")}
    assert any(named)
    assert {heights[found[2]] for found in named if found} <= starts


@pytest.mark.parametrize("text", ["x", LONG, "漢字", "a\nb\tc", "é" * 3])
@pytest.mark.parametrize("cells_max", [0, 80, 200])
def test_the_lines_of_the_text_stay_below_each_other(text, cells_max):
    """Wide characters take two cells and combining ones none, between the lines and beside them."""
    run = drawn(add(0, text), Step("deliver", 1, 0), add(2, text), Step("merge", 0, 2))
    rows = draw_text(run, cells_max=cells_max).splitlines()
    heads = [rows[0].index(name) for name in "abc"]
    for row in rows[1:5]:
        laid_out = "".join(
            char + " " * (east_asian_width(char) in "WF") for char in row if not combining(char)
        )
        for head in heads:
            assert laid_out[head : head + 1] in set("│●◀├┤┼"), row
    assert cells_max == 0 or cells(rows[1]) <= max(cells_max, 200)


def test_labels_lie_beside_the_lines_where_there_is_no_room_between_them():
    """Three replicas with short labels fit; sixteen do not, and are still told in one row each."""
    few = drawn(add(0, "x"), Step("deliver", 1, 0))
    assert "● .add('x')" in few.diagram()
    many = drawn(*(add(n, f"w{n}") for n in range(16)), Step("cut", 3, 9), replicas=16)
    rows = many.diagram().splitlines()
    assert max(map(len, rows[:18])) <= 120
    assert rows[4].endswith("d .add('w3')")
    assert rows[17].endswith("d and j: cut")


def test_what_a_writer_hears_first_has_a_row_of_its_own():
    """The row says so, and what is written then is called by the row after it."""
    steps = (add(0, "x"), Step("exchange", 1, 0), add(1, "y"), Step("overtake", 2, 1))
    run = drawn(*steps, add(2, "z"), Step("overtake", 0, 2), kind=Labels)
    rows = run.diagram().splitlines()
    assert "· gets what came before" in rows[5]
    assert "● .add('z')" in rows[6]
    assert "delta 5" in rows[7]
