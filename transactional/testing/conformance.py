"""One pytest test for an engine, with a parameter for each case."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Final

import pytest

from transactional.testing.cases import CASES, Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CASE_S: Final = 120.0
"""How long one case may take; a store that does not answer is a failure, not a wait."""


def conformance(
    make: Callable[[Path], Engine], *, without: Sequence[str] = (), case_s: float = CASE_S
) -> Callable[..., None]:
    """Return a test that an engine is one; bind it to a name that begins with ``test_``.

    ``make`` is called with an empty directory, once for each case, and returns an ``Engine`` with
    no data in it.  It may call ``pytest.skip``.  ``without`` names cases of ``CASES`` that are left
    out; say why where you do so.  A case takes ``case_s`` seconds at the most.

    Raises:
        ValueError: ``without`` names no case.
    """
    if unknown := {*without} - CASES.keys():
        raise ValueError(f"no such cases: {', '.join(sorted(unknown))}")
    chosen = [name for name in CASES if name not in {*without}]

    @pytest.mark.parametrize("case", chosen)
    def test(case: str, tmp_path: Path) -> None:
        asyncio.run(asyncio.wait_for(_run(case, make, tmp_path), case_s))

    test.__doc__ = "The engine does what a store does; the parameter's case says what."
    return test


async def _run(case: str, make: Callable[[Path], Engine], directory: Path) -> None:
    engine = make(directory)
    try:
        await CASES[case](engine)
    except AssertionError as error:
        error.add_note(f"{case}: {inspect.getdoc(CASES[case])}")
        raise
    finally:
        await engine.stop()
