r"""What a command line prints: to whomever it may go, and whatever others wrote into it.

A key, a value, a member's name or an address may hold an escape sequence that renames the window,
a line break that forges a line, a tab that forges a column, or a mark that turns the direction of
writing.  In everything that is printed or logged such a character stands as its escape (``\x1b``,
``\n``, ``\u202e``), and in JSON as JSON's own, which a reader of JSON turns back.

What is wrong with a command line is told in the form that was asked for, as every error is
(`Parser`).

An output may be one that has no bytes for some characters (another locale than UTF-8): they stand
as JSON writes them. It may be closed before all is said (``| head -1``), or full.

This module is the same text in `convoca`, `replication` and `transactional`; a test holds them
together.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import json
import os
import re
import stat
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_STEERING: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""C0, DEL and C1, line and paragraph ends, marks of direction, and halves of characters."""
EXAMPLE: Final = "example:\n  %(prog)s "
"""How the help of a verb ends: words follow that can be typed."""
CLOSED: Final = 141
"""The exit status of a command whose output was closed; a shell's for one that SIGPIPE ended."""


class Parser(argparse.ArgumentParser):
    """One that keeps the lines of its texts, and complains in the form that answers have.

    Whoever parses words with it shows them to `heed` first: words that make no sense as a whole
    still say whether a program reads the complaint.
    """

    as_json: ClassVar[bool] = False
    option_first: ClassVar[bool] = False
    """Whether an option stands where a verb is looked for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **options)

    @classmethod
    def heed(cls, words: Sequence[str]) -> None:
        """Take note of the form in which these words ask for answers."""
        cls.option_first = words[0].startswith("-") and words[0] != "--" if words else False
        cls.as_json = any(
            word in {"-ojson", "--output=json"}
            or (word in {"-o", "--output"} and list(words[at + 1 : at + 2]) == ["json"])
            for at, word in enumerate(words)
        )

    def error(self, message: str) -> NoReturn:
        """Say it, and end with status 2."""
        if self.option_first:
            message += f"; options stand behind the verb: {self.prog} VERB -o json"
        if not self.as_json:
            super().error(message)
        self.color = False  # from Python 3.14 on a terminal gets colours, and this is JSON
        usage = " ".join(self.format_usage().split())
        self.exit(2, json_line(complaint("usage", message, hint=usage)) + "\n")


def complaint(
    code: str, message: str, *, hint: str, state: str = "unchanged", details: Any = None
) -> dict[str, Any]:
    """Return an error as programs read it: the same fields, whatever went wrong."""
    return {
        "code": code,
        "message": message,
        "state": state,
        "hint": hint,
        "details": details or {},
    }


def printable(text: object) -> str:
    """Return the text on one line, without anything that a terminal would obey."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def json_line(doc: Any) -> str:
    """Return JSON on one line, readable and without anything that a terminal would obey."""
    text = json.dumps(doc, default=str, ensure_ascii=False)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def note_readers(path: Path) -> None:
    """Say on stderr that others on this machine can read a file that holds a secret."""
    if os.name == "posix" and path.stat().st_mode & stat.S_IROTH:
        sys.stderr.write(f"note: everybody here can read {printable(path)} (chmod 600 it)\n")


def to_the_end(command: Callable[[], int]) -> int:
    """Run a command until all that it printed is out; its exit status, or `CLOSED`.

    Whoever closes the output early has seen what he wanted: that is no error.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is a test's
            stream.reconfigure(errors="as-json")  # type: ignore[union-attr]  # as above
    status = 0
    try:
        try:
            status = command()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _speak_no_more()
        return CLOSED
    except OSError as error:  # of the flush
        _speak_no_more()
        if status == 0:  # else it was told already
            sys.stderr.write(f"error: {error}\n")
        return status or 1
    return status


def _speak_no_more() -> None:
    """Let what is left to say go nowhere, so that the interpreter ends without complaint."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _as_json(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("as-json", _as_json)
