"""What the pages say of the command lines is what these know: verb for verb, both ways."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from convoca.cli.main import parser as convoca_parser
from replication.cli.command_line import parser as replication_parser
from transactional.cli.commands import parsed_options
from transactional.cli.commands import parser as transactional_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")]
PARSERS = {
    "convoca": convoca_parser(),
    "python -m replication": replication_parser(),
    "python -m transactional": transactional_parser(),
}
SAID = re.compile(
    r"(?<![\w/-])(convoca|python -m replication|python -m transactional) ([a-z]+)(?: ([a-z]+))?"
)
CODE = re.compile(r"^```console\n.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def test_the_page_of_verbs_is_what_the_command_knows() -> None:
    """`python tools/verbs_page.py` writes it anew."""
    spec = importlib.util.spec_from_file_location("verbs_page", ROOT / "tools" / "verbs_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page()


def choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    groups = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return {} if not groups else dict(groups[0].choices)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_that_a_page_types_is_there(page: Path) -> None:
    """In sessions and in code within a line."""
    for code in CODE.findall(page.read_text(encoding="utf-8")):
        for program, verb, second in SAID.findall(code):
            known = choices(PARSERS[program])
            assert verb in known, f"{program} {verb}"
            inner = choices(known[verb])
            assert not second or not inner or second in inner, f"{program} {verb} {second}"


def leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Every parser of a verb that has no verbs below it."""
    inner = choices(parser)
    return [leaf for below in inner.values() for leaf in leaves(below)] if inner else [parser]


LEAVES = [(program, leaf) for program, top in PARSERS.items() for leaf in leaves(top)]
OF_OTHERS = {"convoca demo"}
"""Whose words are read by somebody else."""
NUMBERS = {"N", "BYTES", "SECONDS", "MINUTES", "REVISION", "VERSION", "POSITION"}


@pytest.mark.parametrize(("program", "leaf"), LEAVES, ids=lambda v: getattr(v, "prog", "of"))
def test_help_says_what_each_word_means(program: str, leaf: argparse.ArgumentParser) -> None:
    """What the verb does, what each word is, in which unit a number, and an example to be typed."""
    if leaf.prog in OF_OTHERS:
        return
    assert leaf.description
    for action in leaf._actions:
        said = re.sub(r"\(default: .*\)", "", action.help or "").strip()
        assert said or action.default is not None, action
        if action.nargs == 0:
            continue
        shown = action.metavar or (action.choices and "|".join(action.choices)) or "NAME"
        assert action.option_strings or action.choices or shown.isupper(), action
        if type(action.default) in {int, float} or action.type in {int, float}:
            assert shown in NUMBERS, action
    assert leaf.epilog, "an example is missing"
    for line in leaf.format_help().partition("example")[2].splitlines()[1:]:
        typed = re.sub(r"^eval \"\$\(|\)\"| \|.*|  +(in|#) .*", "", line.strip())
        words = shlex.split(typed.removeprefix(program))
        assert typed.startswith(leaf.prog), typed
        parsed_options(PARSERS[program], words)
