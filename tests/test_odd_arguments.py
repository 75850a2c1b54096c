"""No argument of a command line ends in a traceback: odd numbers, times, intervals, rules."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crdt import ConvocaError
from replication.cli import run as replication_run
from replication.cli.command_line import parser as replication_parser
from tests.scale import SOAK, seeds
from transactional.cli.commands import parser as transactional_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

# What they do is to wait, to serve or to run a program; their numbers are read like all others.
WAITING = {"serve", "lock", "bench", "up"}
NUMBERS = ["nan", "inf", "-inf", "1e309", "-1", "0", "1e18", "9" * 30, "x"]
TIMES = [
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-05:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2025-01-06T09:00:00",
    "2025-01-06T10:00:00Z",
    "24:00",
    "2025-02-30",
    "",
]
PLAIN = {
    "start": "2025-01-06T09:00:00+00:00",
    "end": "2025-01-06T10:00:00+00:00",
    "rule": "FREQ=DAILY;COUNT=3",
    "zone": "Europe/Berlin",
    "at": "2025-01-06T09:00:00+00:00",
    "not_before": "2025-01-06T09:00:00+00:00",
    "data": "{}",
    "payload": "{}",
    "value": "1",
    "result": "1",
    "peer": "127.0.0.1:9",
    "one": "127.0.0.1:9",
    "other": "127.0.0.1:9",
}
RULES = [
    "FREQ=DAILY;INTERVAL=0",
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=SECONDLY;UNTIL=99991231T235959Z",
    "FREQ=DAILY;COUNT=99999999",
    "FREQ",
    "",
]


def leaves(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command that takes no other command after it."""
    subs = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not subs:
        yield words, parser
    for sub in subs:
        for name, inner in sub.choices.items():
            yield from leaves(inner, (*words, name))


def odd_values(action: argparse.Action) -> list[str]:
    """What to try an argument with: by its type, or by what its name says."""
    if action.choices or action.nargs == 0:
        return []
    if action.type not in {None, Path, str}:
        return NUMBERS
    if action.dest in {"start", "end", "at", "not_before"}:
        return TIMES
    return {"rule": RULES, "zone": ["Mars/Olympus", "../etc/passwd", "", "\0"]}.get(action.dest, [])


def line_of(
    words: tuple[str, ...], parser: argparse.ArgumentParser, odd: dict[str, str], folder: Path
) -> list[str]:
    """A command line with the fewest arguments that it needs, and the odd ones."""
    line = list(words)
    positionals = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        plain = str(folder / action.dest) if action.type is Path else PLAIN.get(action.dest, "a")
        if action.choices:
            plain = next(iter(action.choices))
        value = odd.get(action.dest, plain)
        if not action.option_strings:
            if action.nargs not in {"?", "*"} or action.dest in odd:
                positionals.append(value)
        elif action.dest in odd or action.required:
            number = action.type not in {None, Path, str}
            line.append(f"{action.option_strings[-1]}={'1' if number and value == 'a' else value}")
    return (
        [*line, "--", *positionals] if positionals and words[0] != "queue" else line + positionals
    )


def lines(top: argparse.ArgumentParser, folder: Path) -> list[list[str]]:
    found = []
    for words, parser in leaves(top):
        if words[0] in WAITING:
            continue
        odd = {action.dest: odd_values(action) for action in parser._actions}
        for name, values in odd.items():
            found += [line_of(words, parser, {name: value}, folder) for value in values]
        if {"start", "end"} <= set(odd):
            found += [
                line_of(words, parser, {"start": start, "end": end}, folder)
                for start in TIMES
                for end in TIMES
            ]
    return found


def run(top: argparse.ArgumentParser, coroutine: object, errors: tuple, line: list[str]) -> None:
    """What `main` does, with what it does about errors; one that waits has been understood."""
    out = io.StringIO()
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
        try:
            options = top.parse_args(line)
        except SystemExit:
            return
        with contextlib.suppress(TimeoutError, *errors):
            asyncio.run(asyncio.wait_for(coroutine(options), 0.5))  # type: ignore[operator]


@pytest.mark.processes
@pytest.mark.parametrize("which", ["transactional", "replication"])
def test_no_argument_ends_in_a_traceback(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number, time, rule and zone of every command, with what nobody should write."""
    monkeypatch.setenv("CONVOCA_STORE", f"sqlite:{tmp_path / 'store.db'}")
    monkeypatch.delenv("CONVOCA_SECRET", raising=False)
    if which == "transactional":
        top, errors = transactional_parser(), (ConvocaError, OSError)
        tried = lines(top, tmp_path)
    else:
        top, errors = replication_parser(), (ConvocaError, OSError)
        tried = lines(top, tmp_path)
    (seed,) = seeds(1)
    print(f"CONVOCA_SEED={seed}")
    if not SOAK:
        tried = random.Random(seed).sample(tried, min(len(tried), len(tried) // 10 + 40))
    assert len(tried) > 20

    async def of(options: argparse.Namespace) -> object:
        if which == "transactional":
            return await options.run(options)
        return await replication_run(options)

    for line in tried:
        try:
            run(top, of, errors, line)
        except Exception as error:
            raise AssertionError(f"{which} {' '.join(line)}: {error!r}") from error
