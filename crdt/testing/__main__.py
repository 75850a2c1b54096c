"""`python -m crdt.testing fuzz TYPE`: is this type right?

TYPE is a type of this library (`ORSet`) or `module:Class`, where importing the module registers the
class. Exit codes: 0 nothing found, 1 a counterexample was found (shrunk, drawn, and written as a
regression test), 2 the command line makes no sense.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

import crdt
from crdt.kernel import KINDS
from crdt.testing.campaign import EXAMPLES, Outcome, fuzz
from crdt.testing.operation import MENUS, is_view, name_of, reading_of

_EXAMPLES_MAX = 10_000_000
_REPLICAS_MAX = 16


class _UsageError(Exception):
    """Something on the command line makes no sense; the text ends as one line on stderr."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        kind = find_type(options.type)
        _check(options)
    except _UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    outcome = _fuzz_with_a_bar(kind, options)
    if outcome.complaint:
        return _report_failure(outcome, options)
    steps = ", ".join(
        f"{name} {count}"
        for name, count in sorted(outcome.statistics.items())
        if name not in {"histories", "idle"}
    )
    print(f"{kind.__name__}: {outcome.examples} histories in {outcome.seconds:.1f} s, no complaint")
    print(f"steps: {steps}")
    if not is_view(kind) and reading_of(kind) is None:
        print("no oracle is registered: tested for laws and convergence only")
    return 0


def find_type(text: str) -> Any:
    """The type that `ORSet` or `module:Class` names."""
    module, colon, name = text.partition(":")
    if not colon:
        if text not in KINDS:
            raise _UsageError(
                f"no type {text!r} (hint: one of {', '.join(KINDS)}, or module:Class)"
            )
        return getattr(crdt, text)
    sys.path.insert(0, "")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, SyntaxError) as error:
        raise _UsageError(f"cannot import {module!r}: {error}") from error
    except AttributeError:
        raise _UsageError(f"{module!r} has no {name!r}") from None
    finally:
        sys.path.remove("")
    if not isinstance(kind, type) or (name_of(kind) not in MENUS and not is_view(kind)):
        raise _UsageError(f"{text} is not registered (hint: crdt.testing.register({name}, ...))")
    return kind


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crdt.testing", description="Search for histories that a type gets wrong."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fuzz", help="laws and random histories of one type")
    command.add_argument("type", metavar="TYPE", help="ORSet, ... or module:Class")
    command.add_argument("--examples", type=int, default=EXAMPLES, metavar="N")
    command.add_argument("--seed", type=int, default=0, metavar="S")
    command.add_argument("--replicas", type=int, default=3, metavar="R")
    command.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="for the regression test; is made"
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    if not 1 <= options.examples <= _EXAMPLES_MAX:
        raise _UsageError(f"--examples {options.examples} (hint: 1 to {_EXAMPLES_MAX})")
    if not 2 <= options.replicas <= _REPLICAS_MAX:
        raise _UsageError(f"--replicas {options.replicas} (hint: 2 to {_REPLICAS_MAX})")
    if options.seed < 0:
        raise _UsageError(f"--seed {options.seed} (hint: a natural number)")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _UsageError(f"--out {options.out} cannot be made: {error.strerror}") from error


def _fuzz_with_a_bar(kind: Any, options: argparse.Namespace) -> Outcome:
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = not console.is_terminal
    with Progress(kind.__name__, *columns, console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task("", total=options.examples)
        return fuzz(
            kind,
            examples=options.examples,
            seed=options.seed,
            replicas=options.replicas,
            progress=lambda done: bar.update(task, completed=done),
        )


def _report_failure(outcome: Outcome, options: argparse.Namespace) -> int:
    name = outcome.kind.__name__
    print(f"{name}: wrong after {outcome.examples} histories, {outcome.seconds:.1f} s")
    print(outcome.complaint)
    print(f"noticed by: {outcome.check}")
    if outcome.replay:
        print(f"replay: {outcome.replay}")
        print(
            f"or: python -m crdt.testing fuzz {options.type} --examples 1 --seed "
            f"{outcome.seed} --replicas {options.replicas}"
        )
    if outcome.script is None:
        return 1
    print(f"\nshrunk to {len(outcome.script.steps)} steps:\n{outcome.diagram()}\n")
    path = options.out / f"test_{name.lower()}_counterexample.py"
    try:
        path.write_text(outcome.regression_test(), encoding="utf-8")
        path.with_suffix(".svg").write_text(outcome.svg(), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"error: {path} cannot be written: {error}", file=sys.stderr)
    else:
        print(f"written: {path} and {path.with_suffix('.svg').name}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
