"""`python -m replication`: run an agent, or look into a running cluster.

    python -m replication up ada --listen 127.0.0.1:7001 --journal ada.db
    python -m replication members --peer 127.0.0.1:7001
    python -m replication set order/42/status paid --peer 127.0.0.1:7001

Theory of operation. `up` is an agent until SIGTERM. `status`, `members`, `diff` and `metrics` read
the pages of a running agent. Everything that touches documents joins the cluster as a short-lived
agent of its own that does not listen: it catches up with the peer, reads or writes, waits until the
peer has the write on its disk, and leaves. Such a writer is a new origin in every vector for ever,
so these verbs are for people, not for loops. `backup`, `restore` and `doctor` work on files.

Exit codes: 0 ok, 1 failed, 2 usage, 3 timeout. Errors are one line on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from replication import commands
from replication.errors import NotYetError, ReplicationError

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCUMENT_VERBS = {
    "get": ("show a document", ["name"]),
    "set": ("write a register", ["name", "value"]),
    "add": ("add an element to a set", ["name", "value"]),
    "remove": ("remove an element from a set", ["name", "value"]),
    "inc": ("increment a counter", ["name", "value"]),
    "watch": ("print changes of documents until interrupted", ["name"]),
    "explain": ("who wrote what is alive in a document, and when", ["name"]),
}
PAGE_VERBS = {
    "status": "one agent's view of the cluster",
    "members": "who is in the cluster, and how far behind",
    "stats": "the size of an agent's state and what it counted",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m replication", description=__doc__.split("\n")[0])
    verbs = top.add_subparsers(dest="verb", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--secret-file", type=Path, help="file that holds the cluster secret")
    shared.add_argument("--cluster", default="convoca")
    shared.add_argument("--namespace", default="default")
    shared.add_argument("--timeout", type=float, default=10.0, metavar="S")
    shared.add_argument("-o", "--output", choices=["table", "json", "plain"], default="table")
    up = verbs.add_parser("up", parents=[shared], help="run an agent until SIGTERM")
    up.add_argument("name")
    up.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    up.add_argument("--peer", action="append", default=[], metavar="HOST:PORT")
    up.add_argument("--journal", type=Path)
    for verb, (text, arguments) in DOCUMENT_VERBS.items():
        sub = verbs.add_parser(verb, parents=[shared], help=text)
        for argument in arguments:
            if verb == "watch":
                sub.add_argument(argument, nargs="?", default="")
            else:
                sub.add_argument(argument)
        sub.add_argument("--peer", required=True, metavar="HOST:PORT")
    for verb, text in PAGE_VERBS.items():
        sub = verbs.add_parser(verb, parents=[shared], help=text)
        sub.add_argument("--peer", required=True, metavar="HOST:PORT")
    diff = verbs.add_parser("diff", parents=[shared], help="compare the states of two agents")
    diff.add_argument("peer", metavar="HOST:PORT")
    diff.add_argument("other", metavar="HOST:PORT")
    backup = verbs.add_parser("backup", parents=[shared], help="copy a journal, without identity")
    backup.add_argument("journal", type=Path)
    backup.add_argument("target", type=Path)
    restore = verbs.add_parser("restore", parents=[shared], help="put a backup in place")
    restore.add_argument("backup", type=Path)
    restore.add_argument("target", type=Path)
    doctor = verbs.add_parser("doctor", parents=[shared], help="check a journal that is not open")
    doctor.add_argument("journal", type=Path)
    return top


def shown(answer: object, output: str) -> str:
    """An answer as the user asked to see it."""
    if output == "json":
        return json.dumps(answer, default=str, ensure_ascii=False)
    if isinstance(answer, dict):
        width = max((len(str(key)) for key in answer), default=0) if output == "table" else 0
        return "\n".join(f"{key!s:<{width}} {value}" for key, value in answer.items())
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        columns = list(answer[0])
        rows = [[str(row[column]) for column in columns] for row in answer]
        if output == "plain":
            return "\n".join("\t".join(row) for row in rows)
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        lines = [columns, *rows]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
    if isinstance(answer, list):
        return "\n".join(map(str, answer))
    return str(answer)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = parser().parse_args(arguments)
    try:
        answer = asyncio.run(commands.run(options))
    except NotYetError as error:
        print(f"error: {error} (hint: {error.hint})", file=sys.stderr)
        return 3
    except ReplicationError as error:
        print(f"error: {error} (hint: {error.hint})", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error} (hint: check the path)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    if answer is not None:
        print(shown(answer, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
