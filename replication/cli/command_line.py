"""Reads the arguments of `python -m replication`, and shows what came of them."""

from __future__ import annotations

import argparse
import math
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from replication.cli.screen import EXAMPLE, Parser, complaint, json_line, printable, to_the_end
from replication.cli.verbs import ASKING, DOCTOR, EXAMPLES, OF_FILES, UP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crdt import ConvocaError

DESCRIPTION = "Run an agent, or look into a running one and give it orders."
WAIT_S_MAX: Final = 86_400.0
ELSEWHERE = {"up": "running", "doctor": "doctor", "backup": "copies", "restore": "copies"}
"""Verbs that ask no agent, or more than one -> their room; all others are in `commands`."""
WRITING = {"set", "add", "remove", "inc"}
PEER: Final = "--peer 127.0.0.1:7001"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(prog="python -m replication", description=DESCRIPTION)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    shared = shared_options()
    example = f"{EXAMPLE}ada --listen 127.0.0.1:7001 --journal ada.db"
    running = [running_options()]
    _add_up(verbs.add_parser("up", parents=running, help=UP, description=UP, epilog=example))
    for verb in ASKING:
        words = EXAMPLES[verb] if verb == "diff" else f"{EXAMPLES[verb]} {PEER}".strip()
        peer = _add_nobody if verb == "diff" else _add_peer
        add_verb(verb, verbs, shared, peer, example=words)
    add_verbs_of_files(verbs, output_options())
    add_doctor(verbs, shared, _add_doctors_peer, PEER)
    return top


def _add_nobody(_: argparse.ArgumentParser) -> None:
    """Both are named already."""


def _add_peer(sub: argparse.ArgumentParser) -> None:
    given = os.environ.get("CONVOCA_PEER")
    sub.add_argument(
        "--peer",
        required=not given,
        default=given,
        metavar="HOST:PORT",
        help="the agent to ask (default: $CONVOCA_PEER)",
    )


def output_options() -> Parser:
    """The option that every verb has, as a parent of their parsers."""
    shared = Parser(add_help=False)
    shared.set_defaults(answered=None)
    shared.add_argument(
        "-o",
        "--output",
        choices=["table", "json", "plain"],
        default="table",
        help="form of the answer and of errors: for people, programs, or shells (default: table)",
    )
    return shared


def running_options() -> Parser:
    """The options of who speaks with agents, as a parent of parsers."""
    shared = Parser(add_help=False, parents=[output_options()])
    shared.add_argument(
        "--secret-file",
        type=Path,
        metavar="FILE",
        default=os.environ.get("CONVOCA_SECRET_FILE") or None,
        help="the team's secret; on a second line the previous one"
        " (default: $CONVOCA_SECRET_FILE, or the secret itself in $CONVOCA_SECRET)",
    )
    shared.add_argument("--tls-cert", type=Path, metavar="PEM", help="this side's certificate")
    shared.add_argument("--tls-key", type=Path, metavar="PEM", help="its key, if not in there")
    shared.add_argument("--tls-ca", type=Path, metavar="PEM", help="whom to trust (mutual TLS)")
    return shared


def shared_options() -> Parser:
    """The options of verbs that ask a running agent, as a parent of their parsers."""
    shared = Parser(add_help=False, parents=[running_options()])
    shared.add_argument(
        "--insecure", action="store_true", help="let values and orders leave here without TLS"
    )
    shared.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long an answer is waited for (default: %(default)g)",
    )
    return shared


def add_verb(
    verb: str,
    verbs: Any,
    shared: argparse.ArgumentParser,
    add_peer: Callable[[argparse.ArgumentParser], None],
    *,
    example: str,
    whom: str = "HOST:PORT",
) -> None:
    """Add a verb that asks a running agent; `add_peer` lets it know which one.

    `example` is what may stand behind it, and `whom` how an agent is named.
    """
    text = ASKING[verb]
    sub = verbs.add_parser(
        verb, parents=[shared], help=text, description=text, epilog=f"{EXAMPLE}{example}"
    )
    if verb == "diff":
        sub.add_argument("one", metavar=whom, help="one of the two")
        sub.add_argument("other", metavar=whom, help="the other one")
    add_peer(sub)
    if verb == "get":
        sub.add_argument("name", nargs="?", metavar="NAME", help="of the document")
    elif verb == "watch":
        help_ = "of the documents' names; none: all"
        sub.add_argument("name", nargs="?", default="", metavar="PREFIX", help=help_)
    elif verb == "explain" or verb in WRITING:
        sub.add_argument("name", metavar="NAME", help="of the document")
    elif verb in {"cut", "heal", "retire"}:
        sub.add_argument("other", metavar="MEMBER", help="a name, id or address")
    elif verb == "skip":
        sub.add_argument("other", metavar="ORIGIN", help="as `status` shows it in quarantine")
    if verb in WRITING:
        if verb == "inc":
            help_ = "a whole number (default: %(default)s)"
            sub.add_argument("value", nargs="?", default="1", metavar="VALUE", help=help_)
        else:
            sub.add_argument("value", metavar="VALUE", help="text, or JSON with --json")
            sub.add_argument("--json", action="store_true", help="the value is JSON, not text")
        help_ = "wait until N others have it on disk (default: %(default)s)"
        sub.add_argument("--copies", type=int, default=0, metavar="N", help=help_)


def add_verbs_of_files(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add the verbs that work on files of agents that do not run."""
    places = {
        "backup": (("journal", "of an agent that does not run"), ("target", "the new file")),
        "restore": (("backup", "as `backup` made it"), ("target", "where a start looks for it")),
    }
    for verb, text in OF_FILES.items():
        sub = verbs.add_parser(
            verb,
            parents=[shared],
            help=text,
            description=text,
            epilog=f"{EXAMPLE}{EXAMPLES[verb]}",
        )
        for name, what in places[verb]:
            sub.add_argument(name, type=Path, metavar=name.upper(), help=what)


def add_doctor(
    verbs: Any,
    shared: argparse.ArgumentParser,
    add_peer: Callable[[argparse.ArgumentParser], None],
    example: str,
) -> None:
    """Add the verb that asks an agent and all that it knows, or a file."""
    doctor = verbs.add_parser(
        "doctor", parents=[shared], help=DOCTOR, description=DOCTOR, epilog=f"{EXAMPLE}{example}"
    )
    doctor.add_argument(
        "journal", type=Path, nargs="?", metavar="JOURNAL", help="of an agent that does not run"
    )
    add_peer(doctor)


def _add_doctors_peer(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--peer", metavar="HOST:PORT", help="an agent, and all that it knows")


def _seconds(text: str) -> float:
    """A time to wait: above 0 and up to a day, which infinity and NaN are not."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= WAIT_S_MAX:
        raise argparse.ArgumentTypeError(f"seconds above 0 and up to {WAIT_S_MAX:g}, not {text!r}")
    return number


def _add_up(up: argparse.ArgumentParser) -> None:
    up.add_argument("name", metavar="NAME", help="of the agent; with its life its id")
    up.add_argument(
        "--listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="port 0 is a free one (default: %(default)s)",
    )
    up.add_argument(
        "--address", default="", metavar="HOST:PORT", help="where peers reach it, if elsewhere"
    )
    up.add_argument(
        "--peer", action="append", default=[], metavar="HOST:PORT", help="an agent to join"
    )
    up.add_argument(
        "--hub", action="append", default=[], metavar="HOST:PORT", help="keep a WebSocket to it"
    )
    up.add_argument("--journal", type=Path, metavar="FILE", help="remembers what it knows")
    up.add_argument(
        "--cluster", default="convoca", help="who shares state with whom (default: %(default)s)"
    )
    up.add_argument(
        "--namespace", default="default", help="of documents in it (default: %(default)s)"
    )
    up.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="warning",
        help="the least that is logged, to stderr (default: %(default)s)",
    )
    up.add_argument(
        "--log-format", choices=["text", "json"], default="text", help="(default: %(default)s)"
    )


def shown(answer: object, output: str) -> str:
    """An answer as the user asked to see it; a cell is on one line, whatever is in it."""
    if output == "json":
        return json_line(answer)
    if isinstance(answer, dict):
        pairs = [(printable(key), _cell(value)) for key, value in answer.items()]
        width = max((len(key) for key, _ in pairs), default=0) if output == "table" else 0
        return "\n".join(f"{key:<{width}} {value}" for key, value in pairs)
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        columns = list(answer[0])
        rows = [[_cell(row[column]) for column in columns] for row in answer]
        if output == "plain":
            return "\n".join("\t".join(row) for row in rows)
        lines = [[printable(column) for column in columns], *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
    if isinstance(answer, list):
        return "\n".join(map(printable, answer))
    return printable(answer)


def _cell(value: object) -> str:
    return "-" if value is None else printable(value)


async def run(options: argparse.Namespace) -> Any:
    """Carry out one command; what to print, or None. Its room is loaded for it."""
    room = import_module(f"replication.cli.{ELSEWHERE.get(options.verb, 'commands')}")
    return await room.VERBS[options.verb](options)


def complain(error: ConvocaError | OSError, output: str) -> int:
    """Print an error on one line of stderr, as JSON if answers are; the exit status."""
    from crdt import ConvocaError  # noqa: PLC0415 - where one was raised they are loaded
    from replication.errors import NotYetError  # noqa: PLC0415 - as above

    if isinstance(error, BrokenPipeError):
        raise error  # nobody is left to complain to
    code, state, hint = "os", "unchanged", "check the path, your rights, and what room is left"
    if isinstance(error, ConvocaError):
        code, state, hint = error.code, error.state, error.hint
    details = {}
    if isinstance(error, NotYetError):
        details = {fact: getattr(error, fact) for fact in ("reached", "wanted", "in_memory")}
    words = f"error: {printable(error)} (hint: {printable(hint)})"
    if output == "json":
        words = json_line(complaint(code, str(error), hint=hint, state=state, details=details))
    print(words, file=sys.stderr)  # noqa: T201 - a command line prints
    return error.exit_status if isinstance(error, ConvocaError) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    return to_the_end(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    Parser.heed(words)
    options = parser().parse_args(words)
    import asyncio  # noqa: PLC0415 - help and usage need none of these

    from crdt import ConvocaError  # noqa: PLC0415

    try:
        answer = asyncio.run(run(options))
    except (ConvocaError, OSError) as error:
        return complain(error, options.output)
    except KeyboardInterrupt:
        return 130
    if answer is not None:
        print(shown(answer, options.output))  # noqa: T201 - a command line prints
    return 0
