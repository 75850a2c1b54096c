"""Rules of the house that a reader may rely on, run as tests: circles, names, words, the wheel."""

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
PACKAGES = ("convoca", "crdt", "replication", "transactional")
SOURCES = sorted(
    path for package in (*PACKAGES, "demos") for path in (ROOT / package).rglob("*.py")
)
DOORS = {
    *PACKAGES,
    "convoca.page",
    "crdt.testing",
    "replication.testing",
    "replication.testing.simulation",
}

FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager", "core"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_opens_with_its_theory(path: Path) -> None:
    """Every module says first what it is for. No rule counts its lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name_of(path)} does not say what it is for"


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


# Each entry is a base class of ours that others inherit from -> the reason.
BASES_FOR_A_REASON: dict[str, str] = {
    "View": "owning a kernel or sharing one is the same for fifteen types, and no part of a type",
    "ReadsAsNumber": "what shows a number computes, compares and formats like one, view or not",
    "CounterView": "four counters read like the number that they show, and take `+=`",
    "SetView": "three sets read alike; they differ in what a remove does",
    "RemovableView": "two sets can remove, with the same names and operators",
    "RegisterView": "four registers are one row, and forget it alike",
    "ExtremeView": "MaxRegister and MinRegister differ in a direction",
    "FlagView": "two flags read like a bool; they differ in what an off is",
    "argparse.ArgumentParser": "`error` is its one place to say what could not be parsed",
    "tzinfo": "a zone that a calendar file brings along is one of Python's to whoever converts",
    "Store": "a protocol that asks for more than another one names it (PEP 544)",
}


def test_inheritance_has_a_named_reason() -> None:
    """A base class is an interface (Protocol, ABC), an error, a kind of value, or a named one.

    Composition is the rule: behaviour that is inherited is behaviour that the reader does not see.
    """
    allowed = re.compile(
        r"(Error|Exception|Warning|Protocol|Enum|Flag|NamedTuple|TypedDict|Generic|Conflict|Expired"
        r"|RuleBasedStateMachine|Mapping|MutableMapping|Set|MutableSet|Sequence|ABC)$"
    )
    bad, used = [], set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    text = ast.unparse(base).partition("[")[0]
                    if text in BASES_FOR_A_REASON:
                        used.add(text)
                    elif not allowed.search(text):
                        bad.append(f"{name_of(path)}: class {node.name}({text})")
    assert not bad, bad
    assert used == set(BASES_FOR_A_REASON), "an exception that nobody needs any more"


def names_imported_by(path: Path) -> list[str]:
    """Absolute names of all that a module imports, for its types alone too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return names


def module_of(path: Path) -> str:
    """The dotted name of a source file; a package goes by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(package: str) -> dict[str, set[str]]:
    """Who names whom inside a package: imports that run, those for types, and those in functions.

    A name that a face hands on counts as an import of the face, and `from a import b` of a module
    `a.b` as one of that module.
    """
    modules = {module_of(path): path for path in SOURCES if module_of(path).startswith(package)}
    found: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & set(modules)
            elif isinstance(node, ast.ImportFrom) and node.module in modules:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= inner & set(modules)
                if inner - set(modules):
                    found[name].add(node.module)
        found[name].discard(name)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Kosaraju: two searches)."""
    order: list[str] = []
    seen: set[str] = set()

    def search(name: str, edges: dict[str, set[str]], out: list[str]) -> None:
        seen.add(name)
        for other in sorted(edges[name]):
            if other not in seen:
                search(other, edges, out)
        out.append(name)

    for name in sorted(graph):
        if name not in seen:
            search(name, graph, order)
    backwards: dict[str, set[str]] = {name: set() for name in graph}
    for name, others in graph.items():
        for other in others:
            backwards[other].add(name)
    seen.clear()
    found = []
    for name in reversed(order):
        if name not in seen:
            component: list[str] = []
            search(name, backwards, component)
            found.append(sorted(component))
    return [component for component in found if len(component) > 1]


@pytest.mark.parametrize("package", [*PACKAGES, "demos"])
def test_no_import_circle(package: str) -> None:
    """No module needs itself to be understood: imports for types alone and late ones count too."""
    assert circles(arrows(package)) == []


def test_the_search_for_circles_finds_one() -> None:
    """Three that import each other are found; a fourth that only looks at them is not."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(graph) == [["a", "b", "c"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_private_room_is_entered_from_its_own_wing_alone(package: str) -> None:
    """Who is outside a wing imports from its face; tests look where they like."""
    faces = {module_of(path) for path in SOURCES if path.name == "__init__.py"}
    bad = []
    for path in SOURCES:
        here = module_of(path)
        if not here.startswith(package):
            continue
        for name in names_imported_by(path):
            wing = ".".join(name.split(".")[:2])
            inside = here == wing or here.startswith(wing + ".")
            if wing in faces - {name} and not inside and name not in DOORS:
                bad.append(f"{name_of(path)}: {name}")
    assert not bad, bad


def test_a_type_crosses_no_floor_either() -> None:
    """The contracts order what runs; an import that only names a type stays below its floor too."""
    floors = {
        "crdt": (),
        "replication": ("crdt",),
        "transactional": ("crdt",),
        "convoca": ("crdt", "replication", "transactional"),
    }
    bad = [
        f"{name_of(path)}: {name}"
        for path in SOURCES
        for name in names_imported_by(path)
        for package in [path.relative_to(ROOT).parts[0]]
        if package in floors
        and name.partition(".")[0] in {*PACKAGES, "demos", "tests"} - {package, *floors[package]}
    ]
    assert not bad, bad


def test_the_store_knows_of_values_that_merge_the_root_of_errors_alone() -> None:
    """`transactional` stands on `crdt` for one class, so that one `except` catches both halves."""
    found = {
        (name_of(path), ast.unparse(node))
        for path in SOURCES
        if path.is_relative_to(ROOT / "transactional")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and "crdt" in ast.unparse(node)
    }
    assert found == {("transactional/errors.py", "from crdt import ConvocaError")}


def test_demos_use_front_doors_only() -> None:
    """A demo imports from the packages themselves and their public kits, as a user would."""
    bad = [
        f"{name_of(path)}: {name}"
        for path in sorted((ROOT / "demos").rglob("*.py"))
        for name in names_imported_by(path)
        if name.partition(".")[0] in PACKAGES and name not in DOORS
    ]
    assert not bad, bad


def test_no_name_that_is_looked_up_late_is_also_a_module() -> None:
    """Whoever imports the module would put it in the place of what the face hands out."""
    faces = {
        path.parent: set(importlib.import_module(face_of(path)).ROOMS)
        for path in SOURCES
        if path.name == "__init__.py" and "\nROOMS = {" in path.read_text(encoding="utf-8")
    }
    assert len(faces) > 5
    bad = [
        f"{name_of(f)}: {name}"
        for f, names in faces.items()
        for name in names
        if list(f.glob(f"{name}.py"))
    ]
    assert not bad


def face_of(path: Path) -> str:
    return ".".join(path.parent.relative_to(ROOT).parts)


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
def test_the_wheel_holds_the_four_packages_and_nothing_else(tmp_path: Path) -> None:
    """Tests and demos stay out of the wheel; each package ships py.typed."""
    build = importlib.import_module("hatchling.builders.wheel")
    (artifact,) = build.WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(artifact) as wheel:
        names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    page = (ROOT / "convoca" / "page" / "static").iterdir()
    assert {name_of(file) for file in page} <= set(names), "the page is served from the wheel"


# A twin's original -> (the twin, names that it lacks on purpose, and why).
TWINS = {
    "convoca.Member": (
        "convoca.BlockingMember",
        {"page"},  # is served in the loop of its member
    ),
    "replication.Agent": (
        "replication.BlockingAgent",
        {"mount", "operator"},  # are for the application, and the sessions, of a loop
    ),
    "replication.Bounded": ("replication.BlockingBounded", set()),
    "replication.agent.watch.Watch": (
        "replication.BlockingWatch",
        {"aclose", "offer", "end", "queued"},  # `close`; and what the agent itself calls
    ),
    "transactional.Store": ("transactional.BlockingStore", set()),
    "transactional.Register": ("transactional.BlockingRegister", set()),
    "transactional.Lock": ("transactional.BlockingLock", set()),
    "transactional.Grant": ("transactional.BlockingGrant", set()),
    "transactional.EventLog": ("transactional.BlockingEventLog", set()),
    "transactional.Delivery": (
        "transactional.BlockingDelivery",
        {"__eq__", "__repr__", "__replace__"},  # data's
    ),
    "transactional.Sagas": ("transactional.BlockingSagas", {"clock"}),  # the worker's own
    "transactional.Reservations": ("transactional.BlockingReservations", set()),
    "transactional.WorkQueue": (
        "transactional.BlockingWorkQueue",
        {"act", "fence_of", "leave"},  # what its jobs call
    ),
    "transactional.Job": ("transactional.BlockingJob", set()),
    "transactional.Transaction": ("transactional.BlockingTransaction", {"decision"}),
}
OTHER_ARGUMENTS = {"replication.Agent.batch"}  # its function may be given the agent
ASYNC_ONLY = {"__aenter__", "__aexit__", "__aiter__", "__anext__", "__init__", "__subclasshook__"}


def named(place: str) -> type:
    """The class of that dotted name."""
    module, _, name = place.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def parameters(method: object) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults; not annotations, which say how a result is waited for."""
    return [
        (p.name, p.kind, "a function" if inspect.isfunction(p.default) else p.default)
        for p in inspect.signature(method).parameters.values()  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("original", TWINS)
def test_a_synchronous_twin_offers_all_that_its_original_does(original: str) -> None:
    """Every public method and property, and operator, under the same signature; no coroutine.

    Add a method to the twin as `name = awaited(Original.name)`, `called(...)` or `iterated(...)`.
    """
    kind, (place, lacks) = named(original), TWINS[original]
    twin = named(place)
    for name in dir(kind):
        wanted = inspect.getattr_static(kind, name)
        special = name.startswith("__") and inspect.isfunction(wanted) and name not in ASYNC_ONLY
        if name in lacks or (name.startswith("_") and not special):
            continue
        if inspect.ismemberdescriptor(wanted):
            continue  # a field, which is set where the object is made
        found = inspect.getattr_static(twin, name, None)
        assert found is not None, f"{place} lacks {name}"
        assert type(wanted) is type(found), name
        if inspect.isfunction(wanted):
            assert not inspect.iscoroutinefunction(found), name
            assert special or inspect.getdoc(found), name
            if f"{original}.{name}" not in OTHER_ARGUMENTS and name != "bounded":
                assert parameters(wanted) == parameters(found), name
    if original == "replication.Agent":
        assert parameters(kind.__init__) == parameters(twin.__init__)  # type: ignore[misc]


@pytest.mark.parametrize(
    "places",
    [
        ("replication/agent/loop_thread.py", "transactional/blocking/loop_thread.py"),
        ("replication/file_locks.py", "transactional/file_locks.py"),
        ("replication/listener.py", "transactional/listener.py"),
        ("replication/cli/screen.py", "transactional/cli/screen.py", "convoca/cli/screen.py"),
    ],
    ids=["loop_thread", "file_locks", "listener", "screen"],
)
def test_what_both_halves_need_is_one_text(places: tuple[str, ...]) -> None:
    """Mechanisms that lie in two packages, which know nothing of each other, are the same."""
    assert len({(ROOT / place).read_text(encoding="utf-8") for place in places}) == 1
