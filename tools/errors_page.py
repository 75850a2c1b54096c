"""Writes docs/errors.md from the classes: `python tools/errors_page.py`; a test compares the two."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crdt import ConvocaError

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = {
    "crdt": "values that merge",
    "replication": "agents",
    "transactional": "the store and its recipes",
    "convoca": "members",
}
HEAD = """\
# Errors

<!-- written by tools/errors_page.py from the classes; change those, and run it again -->

Every error that convoca raises on purpose is a `ConvocaError` (`from crdt import ConvocaError`, or `convoca.ConvocaError`), and one
of the tree of its package. Each says three things, so that a program need not read its text:

* `code`: a word that stays the same across releases, and is used once in a package: lower-case letters, with `_` between words, also
  in refusals on the wire, in counts and in JSON. A class without one of its own has that of its base, and differs from it in the
  built-in exception that it also is.
* `state`: what became of the state.
* `hint`: what to do next, for a person. A case may have a better one than its class; a traceback shows it as a note.

What else an error knows (`key`, `holder`, `expected`, `missing`, ...) it has as attributes.

| `state` | meaning | exit status of a command |
|---|---|---|
| `unchanged` | {unchanged} | 1; 3 if nobody could be asked: the same command may be repeated |
| `stands` | {stands} | 5 |
| `unknown` | {unknown} | 4 |

Exit status 0 is success, 2 a command line that makes no sense, and 130 a command that was interrupted. They mean the same in
`convoca`, `python -m replication` and `python -m transactional`; `room book`, a lock's program and the like end as they say.

In the trees below an indented class is a kind of the one above it: `except` catches it, too.
"""


def load() -> None:
    """Import every module, so that every class is known."""
    for package in PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if module.name.rpartition(".")[2] not in {"__main__", "pytest_plugin"}:
                importlib.import_module(module.name)


def tree(kind: type[ConvocaError], package: str, depth: int = 0) -> Iterator[tuple[int, type]]:
    """The public classes of a package under one, with their depth; a private one counts as none."""
    for each in sorted(kind.__subclasses__(), key=lambda each: each.__name__):
        if each.__module__.partition(".")[0] != package:
            continue
        private = each.__name__.startswith("_")
        if not private:
            yield depth, each
        yield from tree(each, package, depth + (not private))


def row(depth: int, kind: type) -> str:
    """A line of the table."""
    text = re.sub(r"\s+", " ", (inspect.getdoc(kind) or "").partition("\n\n")[0]).strip()
    hint = getattr(kind, "hint", "")
    code = f"`{kind.__dict__['code']}`" if "code" in kind.__dict__ else ""
    state = getattr(kind, "state", "")
    cells = [f"{'&emsp;' * depth}`{kind.__name__}`", code, state, text, hint]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    """The whole text."""
    load()
    from crdt import ConvocaError  # noqa: PLC0415 - after `load`, which says what is missing
    from crdt.errors import STATES  # noqa: PLC0415

    parts = [HEAD.format(**STATES)]
    for package, what in PACKAGES.items():
        parts.append(f"\n## `{package}`: {what}\n")
        parts.append("| error | code | state | meaning | hint |\n|---|---|---|---|---|")
        parts += [row(depth, kind) for depth, kind in tree(ConvocaError, package)]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
