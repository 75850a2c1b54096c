"""Whose are `crdt`, `replication` and `transactional`? Asked before any of them is imported.

Theory of operation. An installer lets one distribution overwrite the files of another, and a folder
of the program's own may stand before ours on the path. Either way code of somebody else would run
under our names, and fail far from the cause, or not at all. So each of the three is found as an
import would find it, and is ours if it lies beside this package and says in its first file whose
it is and of which version. Nothing of it is executed for that: three small files are read.

Who wrote over ours is asked only when something is wrong, because that reads every list of files
that is installed.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

PACKAGES = ("crdt", "replication", "transactional")
DISTRIBUTION = "convoca"
HEAD_BYTES = 1 << 16
"""More than any of the three files has."""
_SAID = re.compile(rb'^__(distribution|version)__ = "([^"\n]*)"$', re.MULTILINE)


def check_packages(version: str) -> None:
    """Raise ImportError if one of the three is not this distribution's own, of this version.

    The error's `name` and `path` are those of the culprit.
    """
    here = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        spec = _found(package)
        place = Path(spec.origin) if spec is not None and spec.origin else None
        if place is None:
            raise _error(
                package, None, here, "is missing, or what is left of it has no __init__.py"
            )
        if place.resolve().parent.parent != here:
            raise _error(package, place, here, "is not this distribution's own")
        said = _said(place)
        if said.get("distribution") != DISTRIBUTION:
            raise _error(package, place, here, "was overwritten by another distribution")
        if said.get("version") != version:
            other = said.get("version", "no version at all")
            raise _error(package, place, here, f"is of version {other}, and convoca of {version}")


def _found(package: str) -> ModuleSpec | None:
    try:
        return find_spec(package)
    except (ImportError, ValueError):  # a stand-in in sys.modules that has no spec
        return None


def _said(place: Path) -> dict[str, str]:
    """What the first file of a package says of itself."""
    try:
        with place.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return {}
    return {name.decode(): value.decode(errors="replace") for name, value in _SAID.findall(head)}


def _error(package: str, place: Path | None, here: Path, what: str) -> ImportError:
    culprits = _culprits(package)
    again = f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
    text = f"convoca needs its own package `{package}` in {here}: it {what}"
    if place is not None:
        text += f" (found: {place})"
    if culprits:
        named = ", ".join(culprits)
        remove = " ".join(name for name, *_ in (culprit.split() for culprit in culprits))
        text += f"; {named} ships the same name. Remedy: pip uninstall {remove}; {again}"
    elif place is not None and place.resolve().parent.parent != here:
        text += f". Remedy: rename {place.parent}, or take {place.parent.parent} off sys.path"
    else:
        text += f". Remedy: {again}"
    return ImportError(text, name=package, path=str(place) if place is not None else None)


def _culprits(package: str) -> list[str]:
    """The other distributions that ship files of that name, as `NAME VERSION`."""
    from importlib import metadata  # noqa: PLC0415 - it loads parsers of mail and archives

    found = set()
    for each in metadata.distributions():
        name = each.metadata["Name"] or "?"
        if name.lower() == DISTRIBUTION:
            continue
        files = each.files or ()
        if any(file.parts[:1] == (package,) or file.parts == (f"{package}.py",) for file in files):
            found.add(f"{name} {each.version}")
    return sorted(found)
