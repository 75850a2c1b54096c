"""Rules of the house that a reader may rely on, run as tests: sizes, names, words, the wheel."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("crdt", "replication", "transactional")
SOURCES = sorted(
    path for package in (*PACKAGES, "demos") for path in (ROOT / package).rglob("*.py")
)
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# Each entry is (path or path::function) -> the reason why it may be longer.
LONGER_FOR_A_REASON: dict[str, str] = {}

FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager", "core"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_opens_with_its_theory_and_stays_readable(path: Path) -> None:
    """Every module has a docstring, at most 400 lines, and no function over 70."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{name_of(path)} does not say what it is for"
    lines = text.count("\n")
    if name_of(path) not in LONGER_FOR_A_REASON:
        assert lines <= MODULE_LINES_MAX, f"{name_of(path)} has {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            span = (node.end_lineno or node.lineno) - node.lineno + 1
            if f"{name_of(path)}::{node.name}" not in LONGER_FOR_A_REASON:
                assert span <= FUNCTION_LINES_MAX, f"{name_of(path)}::{node.name}: {span} lines"


def test_every_exception_to_the_size_rule_is_still_needed() -> None:
    """An allow-list entry whose module or function shrank again is removed."""
    for entry in LONGER_FOR_A_REASON:
        path, _, function = entry.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        if not function:
            assert text.count("\n") > MODULE_LINES_MAX, entry
            continue
        spans = [
            (node.end_lineno or node.lineno) - node.lineno + 1
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
        ]
        assert max(spans) > FUNCTION_LINES_MAX, entry


def test_no_room_without_an_idea() -> None:
    """No module or folder is called utils, helpers, common, misc, manager or core."""
    bad = [
        name_of(path)
        for path in SOURCES
        if FORBIDDEN_NAMES & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    ]
    assert not bad


def test_the_tree_is_at_most_two_levels_deep() -> None:
    """package/sub-package/module.py is the deepest that code lies."""
    assert not [name_of(path) for path in SOURCES if len(path.relative_to(ROOT).parts) > 3]


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_behind_the_front_door_is_documented(package: str) -> None:
    """Each name in __all__ exists, stands once, and carries a docstring, its methods too."""
    module = importlib.import_module(package)
    names = module.__all__
    assert len(names) == len(set(names)), f"{package}.__all__ names something twice"
    undocumented = []
    for name in names:
        item = getattr(module, name)
        if not (inspect.isclass(item) or inspect.isfunction(item)):
            continue
        if not item.__doc__:
            undocumented.append(name)
        for attribute, value in vars(item).items() if inspect.isclass(item) else ():
            if inspect.isfunction(value) and not attribute.startswith("_") and not value.__doc__:
                undocumented.append(f"{name}.{attribute}")
    assert not undocumented, undocumented


def test_only_protocols_and_errors_inherit() -> None:
    """A base class is a Protocol, an exception, an enum, a tuple type or a collections ABC."""
    allowed = re.compile(
        r"(Error|Exception|Warning|Protocol|Enum|Flag|NamedTuple|TypedDict|Generic|Conflict|Expired"
        r"|RuleBasedStateMachine|Mapping|MutableMapping|Set|MutableSet|Sequence|ABC)$"
    )
    bad = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    text = ast.unparse(base).partition("[")[0]
                    if not allowed.search(text):
                        bad.append(f"{name_of(path)}: class {node.name}({text})")
    assert not bad, bad


def names_imported_by(path: Path) -> list[str]:
    """Absolute names of all that a module imports, for its types alone too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return names


def test_a_type_crosses_no_floor_either() -> None:
    """The contracts order what runs; an import that only names a type stays below its floor too."""
    floors = {"crdt": (), "replication": ("crdt",), "transactional": ("crdt",)}
    bad = [
        f"{name_of(path)}: {name}"
        for path in SOURCES
        for name in names_imported_by(path)
        for package in [path.relative_to(ROOT).parts[0]]
        if package in floors
        and name.partition(".")[0] in {*PACKAGES, "demos", "tests"} - {package, *floors[package]}
    ]
    assert not bad, bad


DOORS = {*PACKAGES, "crdt.testing", "replication.testing.simulation", "replication.testing"}


def test_demos_use_front_doors_only() -> None:
    """A demo imports from the packages themselves and their public kits, as a user would."""
    bad = [
        f"{name_of(path)}: {name}"
        for path in sorted((ROOT / "demos").rglob("*.py"))
        for name in names_imported_by(path)
        if name.partition(".")[0] in PACKAGES and name not in DOORS
    ]
    assert not bad, bad


def test_every_package_orders_its_modules() -> None:
    """Each package and sub-package has an exhaustive layer contract in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    ordered = {
        container
        for contract in contracts
        if contract.get("exhaustive")
        for container in contract["containers"]
    }
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in SOURCES
        if path.name != "__init__.py"
    }
    assert ordered == packages


def test_the_repository_speaks_of_the_project_alone() -> None:
    """No machine's path, no unfinished mark, in any tracked text."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    ).stdout.decode()
    if not tracked:
        pytest.skip("not a git checkout")
    forbidden = re.compile(r"/(?:work|root|home)/[a-z]+/|\b(?:TODO|FIXME|XXX)\b")
    bad = []
    for name in filter(None, tracked.split("\0")):
        path = ROOT / name
        if (
            path == Path(__file__)
            or path.suffix in {".csv", ".sqlite", ".bin"}
            or not path.exists()
        ):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        bad += [f"{name}: {match.group()}" for match in forbidden.finditer(text)]
    assert not bad, bad


@pytest.mark.processes
def test_the_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    """Tests and demos stay out of the wheel; each package ships py.typed."""
    build = importlib.import_module("hatchling.builders.wheel")
    (artifact,) = build.WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(artifact) as wheel:
        names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
