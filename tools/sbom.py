"""Write the bill of materials of what a user installs: convoca, its dependencies and extras.

CycloneDX 1.6, JSON, from the metadata of the installed packages; `make sbom` writes it to
`out/sbom.cdx.json`.  Tools of development are no part of it, nor is the time: equal installations
give equal bytes.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

OUT = Path(__file__).resolve().parent.parent / "out" / "sbom.cdx.json"
EXTRAS = ("calendar",)
"""Extras that a program may need when it runs."""


def _needed(package: Distribution, extras: tuple[str, ...]) -> list[str]:
    names = []
    for line in package.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": each}) for each in ("", *extras)):
            names.append(requirement.name.lower().replace("_", "-"))
    return sorted(set(names))


def _purl(package: Distribution) -> str:
    return f"pkg:pypi/{package.metadata['Name'].lower().replace('_', '-')}@{package.version}"


def _component(package: Distribution, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": kind,
        "bom-ref": _purl(package),
        "name": package.metadata["Name"],
        "version": package.version,
        "purl": _purl(package),
    }
    licence = package.metadata.get("License-Expression")
    if licence:
        found["licenses"] = [{"expression": licence}]
    return found


def bill() -> dict[str, Any]:
    """The bill, as JSON's types."""
    root = distribution("convoca")
    packages, edges = {"convoca": root}, {}
    waiting = [("convoca", EXTRAS)]
    while waiting:
        name, extras = waiting.pop()
        needed = _needed(packages[name], extras)
        edges[name] = needed
        for each in needed:
            if each not in packages:
                packages[each] = distribution(each)
                waiting.append((each, ()))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(root, "library")},
        "components": [
            _component(packages[name], "library") for name in sorted(packages) if name != "convoca"
        ],
        "dependencies": [
            {"ref": _purl(packages[name]), "dependsOn": [_purl(packages[n]) for n in edges[name]]}
            for name in sorted(packages)
        ],
    }


def main() -> None:
    """Write it, and say where."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bill(), indent=1) + "\n", encoding="utf-8")
    print(target)  # noqa: T201 a tool prints


if __name__ == "__main__":
    main()
