"""Writes docs/verbs.md from the parser: `python tools/verbs_page.py`; a test compares the two."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from convoca.cli.main import parser

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).resolve().parent.parent / "docs" / "verbs.md"
HEAD = """# Every verb

<!-- written by tools/verbs_page.py from the parser; change that, and run it again -->

What `convoca VERB` takes, as `convoca VERB --help` tells it; options that all of a group take are
left out. What the groups are for, whom they ask and what an exit status means is in [the
command](command.md). `python -m replication` and `python -m transactional` have the same verbs of
their halves; there the verbs of `journal` and `store` stand without that word.

| verb | does | options |
|---|---|---|
"""
COMMON = {"help", "output", "timeout", "peer", "team", "secret_file", "store", "token_file"}
COMMON |= {"tls_cert", "tls_key", "tls_ca", "insecure", "namespace", "quiet"}


def verbs(
    found: argparse.ArgumentParser, words: tuple[str, ...] = (), said: str = ""
) -> Iterator[tuple[tuple[str, ...], str, argparse.ArgumentParser]]:
    """Each verb with what it does and its parser; those that are not told of are left out."""
    groups = [one for one in found._actions if isinstance(one, argparse._SubParsersAction)]  # noqa: SLF001 - argparse shows it nowhere else
    if not groups:
        yield words, said, found
    for group in groups:
        helps = {choice.dest: choice.help or "" for choice in group._choices_actions}  # noqa: SLF001 - as above
        for name, inner in group.choices.items():
            if name in helps and helps[name] != argparse.SUPPRESS:
                yield from verbs(inner, (*words, name), helps[name])


def row(words: tuple[str, ...], said: str, found: argparse.ArgumentParser) -> str:
    """One line of the table."""
    places, options = [], []
    for action in found._actions:  # noqa: SLF001 - as above
        if action.option_strings:
            if action.dest not in COMMON and action.help != argparse.SUPPRESS:
                options.append(f"`{action.option_strings[-1]}`")
            continue
        name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        many = action.nargs in {"*", "+", argparse.REMAINDER}
        text = f"{name} ..." if many else name
        places.append(f"[{text}]" if action.nargs in {"?", "*", argparse.REMAINDER} else text)
    usage = " ".join([*words, *places]).replace("|", "/")
    return f"| `{usage}` | {said.replace('|', '/')} | {' '.join(options)} |"


def page() -> str:
    """The page as a whole."""
    return HEAD + "\n".join(row(*found) for found in verbs(parser())) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
