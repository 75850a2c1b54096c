"""The verb `demo`: run a demo of the checkout that this package lies in."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convoca.errors import NoCheckoutError

if TYPE_CHECKING:
    import argparse


def add_verb(verbs: Any) -> None:
    """Add it to the parser of the command."""
    sub = verbs.add_parser("demo", help="run a demo, from a checkout", add_help=False)
    sub.add_argument("words", nargs="*", help="as of `python -m demos`; none lists them")
    sub.set_defaults(runs_alone=run)


def run(options: argparse.Namespace) -> int:
    """Run it as `python -m demos` does.

    Raises:
        NoCheckoutError: what is installed has no demos.
    """
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / "demos" / "__main__.py").is_file():
        raise NoCheckoutError(f"there are no demos in {root}")
    sys.path.insert(0, str(root))
    sys.argv = ["convoca demo", *options.words]
    try:
        runpy.run_module("demos", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
