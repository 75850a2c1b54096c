"""The verb `demo`: run a demo of the checkout that this package lies in."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convoca.cli.verbs import ROOMS
from convoca.errors import NoCheckoutError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def add_verb(verb: str, verbs: Any, words: Sequence[str] | None) -> None:  # noqa: ARG001
    """Add it to the parser of the command."""
    sub = verbs.add_parser(verb, help=ROOMS["demo"][verb], add_help=False)
    sub.add_argument("words", nargs="*", help="as of `python -m demos`; none lists them")


def main(_: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Run what the words name; they are the demo's own from the second one on."""
    try:
        return run(words[1:])
    except NoCheckoutError as error:
        from replication.cli import complain  # noqa: PLC0415 - a demo brings what it needs

        return complain(error, "table")


def run(words: Sequence[str]) -> int:
    """Run it as `python -m demos` does.

    Raises:
        NoCheckoutError: what is installed has no demos.
    """
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / "demos" / "__main__.py").is_file():
        raise NoCheckoutError(f"there are no demos in {root}")
    sys.path.insert(0, str(root))
    sys.argv = ["convoca demo", *words]
    try:
        runpy.run_module("demos", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
