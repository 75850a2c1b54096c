"""One root for all errors: what each of them says, and the page that lists them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crdt import ConvocaError
from crdt.errors import STATES
from transactional.wire import dump_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("errors_page", ROOT / "tools" / "errors_page.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


PAGE = tool()
PAGE.load()


def kinds(kind: type[ConvocaError] = ConvocaError) -> Iterator[type[ConvocaError]]:
    """All of ours, each once."""
    found = {kind}
    waiting = [kind]
    while waiting:
        for each in waiting.pop().__subclasses__():
            if each not in found and each.__module__.partition(".")[0] in PAGE.PACKAGES:
                found.add(each)
                waiting.append(each)
                yield each


@pytest.mark.parametrize("package", PAGE.PACKAGES)
def test_a_package_has_one_tree_and_each_code_once(package: str) -> None:
    """What it raises on purpose has one root, and a word stands for one class."""
    ours = [kind for kind in kinds() if kind.__module__.partition(".")[0] == package]
    roots = {kind for kind in ours if kind.__bases__ == (ConvocaError,)}
    assert len(roots) == 1, roots
    codes = [vars(kind)["code"] for kind in ours if "code" in vars(kind)]
    assert len(codes) == len(set(codes))


def test_codes_are_written_in_one_style() -> None:
    """Whoever compares codes of several packages need not know whose hyphen is whose."""
    codes = {vars(kind)["code"] for kind in kinds() if "code" in vars(kind)}
    assert {code for code in codes if not re.fullmatch("[a-z]+(_[a-z]+)*", code)} == set()


def test_each_error_says_what_became_of_the_state_and_what_to_do() -> None:
    """A word of the list, and a hint that is not empty, whatever class it is."""
    found = {kind.__name__: (kind.state, bool(kind.hint), bool(kind.__doc__)) for kind in kinds()}
    assert len(found) > 100
    assert {name for name, said in found.items() if said[0] not in STATES} == set()
    assert {name for name, said in found.items() if not (said[1] and said[2])} == set()


def test_no_error_of_ours_stands_outside_of_the_trees() -> None:
    """A public class called Error is a ConvocaError; answers that travel as exceptions are not."""
    outside = {
        f"{module.__name__}.{name}"
        for module in [m for n, m in sys.modules.items() if n.partition(".")[0] in PAGE.PACKAGES]
        for name, item in vars(module).items()
        if name.endswith("Error")
        and not name.startswith("_")
        and isinstance(item, type)
        and item.__module__ == module.__name__
        and not issubclass(item, ConvocaError)
    }
    inside = {  # caught where they are raised
        "crdt.testing.network.RollBackError",
        "transactional.stores.sqlite_scrub.HeldUpError",
        "transactional.stores.sqlite_scrub.NotUnderstoodError",
    }
    assert outside <= inside


def test_states_statuses_and_what_the_wire_says_agree() -> None:
    """Exit statuses follow from the state, and so does `applied` of the HTTP authority."""
    for kind in kinds():
        error = kind.__new__(kind)
        status = {"unknown": {4}, "stands": {5}, "unchanged": {1, 3}}[kind.state]
        assert error.exit_status in status, kind
        assert (error.exit_status == 3) == (kind.out_of_reach and kind.state == "unchanged")
    import transactional as t

    unknown = dump_error(t.OutcomeUnknownError("op", "lost"))
    assert (unknown["applied"], unknown["code"]) == (None, "outcome_unknown")
    assert dump_error(t.UnavailableError("gone"))["applied"] is False


def test_a_traceback_shows_the_hint() -> None:
    """As a note, so that whoever only sees the traceback is told, too."""
    import convoca
    import crdt
    import replication
    import transactional

    for error in (
        crdt.InvalidReplicaError("x"),
        replication.ClosedError("x"),
        transactional.UnavailableError("x"),
        convoca.NoStoreError("x"),
    ):
        assert f"hint: {error.hint}" in error.__notes__


def test_the_page_of_errors_is_that_of_the_classes() -> None:
    """`python tools/errors_page.py` writes it anew."""
    assert PAGE.PAGE.read_text(encoding="utf-8") == PAGE.page()
