"""Whose are the three packages? Asked of real wheels, in environments of their own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("convoca", "crdt", "replication", "transactional")


def foreign_wheel(folder: Path, top: str, name: str) -> Path:
    """A wheel of somebody else with a package of that name."""
    info = f"{name}-9.9.dist-info"
    files = {
        f"{top}/__init__.py": "raise SystemExit('code of a stranger ran')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{place},,\n" for place in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-9.9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for place, text in files.items():
            wheel.writestr(place, text)
    return path


class Installed:
    """Packages in a folder, and who runs a program that finds them there first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [sys.executable]
        self.environment = os.environ | {"PYTHONPATH": str(folder)}

    def run(self, program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, "-c", program],
            cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, as a user gets it."""
    build = importlib.import_module("hatchling.builders.wheel")
    (path,) = build.WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))
    return Path(path)


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Installed:
    """Ours, unpacked; and it works."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
    made = Installed(tmp_path / "site")
    done = made.run("import convoca; print(convoca.__version__, convoca.__file__)", tmp_path)
    place = tmp_path / "site" / "convoca" / "__init__.py"
    assert (done.stdout.strip(), done.stderr) == (f"{version()} {place}", "")
    return made


def version() -> str:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert isinstance(found, str)
    return found


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of an ImportError."""
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("ImportError: convoca needs its own package"), done.stderr
    return line


def test_the_version_is_said_once_in_each_package() -> None:
    """`__version__` is that of the project, in all four."""
    assert {importlib.import_module(each).__version__ for each in PACKAGES} == {version()}


@pytest.mark.processes
def test_a_foreign_package_installed_over_ours_is_named(wheel: Path, tmp_path: Path) -> None:
    """[agents 20] By pip, in an environment of its own: the culprit, its version, what to do.

    No line of it was executed. After the first half of the remedy, uninstalling it, ours lacks what
    was overwritten, and says so; the second half mends it. Its own name is another than that of its
    package, for once.
    """
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = str(tmp_path / "env" / "bin" / "python")

    def pip(*words: str | Path) -> None:
        command = [sys.executable, "-m", "pip", "--python", python, *map(str, words)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    def imported() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-c", "import convoca"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    both = [wheel, foreign_wheel(tmp_path, "replication", "rkit")]
    for each in both:
        pip("install", "-q", "--no-deps", "--no-index", each)
    line = refused(imported())
    assert "`replication`" in line
    assert "rkit 9.9 ships the same name" in line
    assert "pip uninstall rkit; pip install --force-reinstall --no-deps convoca" in line
    pip("uninstall", "-q", "-y", "rkit")
    assert "is missing" in refused(imported())
    pip("install", "-q", "--force-reinstall", "--no-deps", "--no-index", wheel)
    assert imported().returncode == 0


@pytest.mark.processes
@pytest.mark.parametrize("what", ["folder", "module"])
def test_a_folder_of_the_programs_own_is_named(
    installed: Installed, tmp_path: Path, what: str
) -> None:
    """It stands before ours on the path, as a script's directory does."""
    if what == "folder":
        (tmp_path / "crdt").mkdir()
        place = tmp_path / "crdt" / "__init__.py"
    else:
        place = tmp_path / "crdt.py"
    place.write_text("raise SystemExit('ran')")
    line = refused(installed.run("import convoca", tmp_path))
    assert str(place) in line
    assert "rename" in line


@pytest.mark.processes
def test_packages_of_two_versions_are_told(installed: Installed, tmp_path: Path) -> None:
    """A copy that was not replaced as a whole: half of it is another release."""
    found = installed.run("import crdt; print(crdt.__file__)", tmp_path).stdout.strip()
    text = Path(found).read_text()
    Path(found).write_text(text.replace(f'"{version()}"', '"0.0.1"'))
    line = refused(installed.run("import convoca", tmp_path))
    assert f"version 0.0.1, and convoca of {version()}" in line


@pytest.mark.processes
def test_the_error_tells_programs_who_it_was(installed: Installed, tmp_path: Path) -> None:
    """`name` and `path` of the ImportError are the culprit's."""
    (tmp_path / "crdt.py").write_text("")
    program = """
try:
    import convoca
except ImportError as error:
    print(error.name, error.path)
"""
    done = installed.run(program, tmp_path)
    assert done.stdout.split() == ["crdt", str(tmp_path / "crdt.py")]


@pytest.mark.processes
def test_importing_the_face_loads_no_sockets_and_no_loops() -> None:
    """Nothing beyond the standard library, and of that nothing that takes long."""
    heavy = ["aiohttp", "asyncio", "msgpack", "rich", "ssl", "crdt", "replication", "transactional"]
    heavy += ["email", "importlib.metadata", "subprocess", "logging"]
    program = f"import sys, convoca; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.processes
def test_naming_join_loads_no_sockets() -> None:
    """They are loaded when something is opened, not when `convoca.join` is looked up."""
    program = "import sys, convoca; convoca.join; print('aiohttp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]
