"""docs/architecture.md and docs/reading-order.md are held to the code that they describe."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
READING = (ROOT / "docs" / "reading-order.md").read_text(encoding="utf-8")
SOURCES = sorted(
    path
    for package in ("convoca", "crdt", "replication", "transactional")
    for path in (ROOT / package).rglob("*.py")
)


def section(title: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    _, _, rest = PAGE.partition(f"## {title}\n")
    assert rest, f"no section {title!r}"
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows() -> list[tuple[str, list[str], str]]:
    """(what, rooms, pattern) of each row of the table."""
    found = []
    for line in section("Where does a line live?").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and cells[2].startswith("`"):
            pattern = cells[2].strip("`").replace("\\|", "|")
            found.append((cells[0], re.findall(r"`([^`]+)`", cells[1]), pattern))
    return found


@pytest.mark.parametrize(("what", "rooms", "pattern"), rows(), ids=lambda value: str(value)[:40])
def test_a_line_lives_where_the_page_says(what: str, rooms: list[str], pattern: str) -> None:
    """The pattern is found in each room that the row names, and nowhere else."""
    hits = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    claimed = {
        hit
        for hit in hits
        for room in rooms
        if (hit.startswith(room) if room.endswith("/") else fnmatchcase(hit, room))
        and (room.endswith("/") or hit.count("/") == room.count("/"))
    }
    assert hits == claimed, f"{what}: also in {sorted(hits - claimed)}"
    for room in rooms:
        stem = room.rstrip("*.py")
        assert any(hit.startswith(stem) for hit in hits), f"{what}: nothing of it in {room}"


def definitions(path: Path) -> set[str]:
    """Names and qualified names of classes and functions of a module; a subclass has its bases'."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return names


def test_the_four_walks_name_what_is_there() -> None:
    """Each function of a walk stands in the file named last before it."""
    walked = 0
    for line in section("Four walks").splitlines():
        path: Path | None = None
        for name in re.findall(r"`([^`]+)`", line):
            if name.endswith(".py"):
                path = ROOT / name
                assert path.exists(), name
            elif path is not None:
                assert name in definitions(path), f"{name} is not in {path.relative_to(ROOT)}"
                walked += 1
    assert walked > 25


def test_a_walk_is_read_in_its_files() -> None:
    """There are four walks, and each names at least three files."""
    walks = section("Four walks").split("\n### ")[1:]
    assert len(walks) == 4
    for walk in walks:
        assert len(set(re.findall(r"`([a-z_/]+\.py)`", walk))) >= 3, walk.splitlines()[0]


def test_the_pictures_name_modules_that_exist() -> None:
    """A word of a picture that looks like a module is one, in the folder of its line."""
    for package, picture in re.findall(
        r"```\n(crdt|replication|transactional)/ (.*?)```",
        section("One picture per package"),
        re.DOTALL,
    ):
        here = {p.stem for p in (ROOT / package).rglob("*.py")}
        wings = set(re.findall(r"([a-z_]+)/", picture))
        assert wings <= {p.name for p in (ROOT / package).iterdir()} | {package}, wings
        named = set(re.findall(r"\b[a-z]+_[a-z_]+\b", picture))
        assert named <= here, named - here


def test_the_reading_order_is_ten_files_that_exist() -> None:
    """Ten numbered entries, each led by a file."""
    named = re.findall(r"^\d+\. `([^`]+)`", READING, re.MULTILINE)
    assert len(named) == 10
    named = re.findall(r"`([a-z_/]+\.py)`", READING)
    assert all((ROOT / name).is_file() for name in named), named


@pytest.mark.parametrize("package", ["crdt", "replication", "transactional"])
def test_every_wing_is_drawn(package: str) -> None:
    """A sub-package that the picture leaves out is one that nobody finds."""
    wings = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    (picture,) = re.findall(rf"```\n{package}/ (.*?)```", PAGE, re.DOTALL)
    assert wings <= set(re.findall(r"([a-z_]+)/", picture))
