"""The tree of errors keeps its word: a leaf says what happened, and whether to repeat."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest

import transactional
from transactional import (
    ConflictError,
    NotNowError,
    OutcomeUnknownError,
    RefusedError,
    TransactionalError,
    UnavailableError,
    WrongRequestError,
)
from transactional.wire import dump_error, load_error

BRANCHES = (ConflictError, UnavailableError, WrongRequestError, NotNowError, OutcomeUnknownError)


def kinds():
    """Every error class of the package, private ones too."""
    found, stack = [], [TransactionalError]
    while stack:
        kind = stack.pop()
        found.append(kind)
        stack += kind.__subclasses__()
    return [kind for kind in found if kind.__module__.startswith("transactional")]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_each_error_stands_on_one_branch(kind):
    """So 'will it help to repeat' has one answer; only the two roots themselves have none."""
    branches = [branch for branch in BRANCHES if issubclass(kind, branch)]
    assert len(branches) == (0 if kind in {TransactionalError, RefusedError} else 1)
    assert kind.__doc__


def test_what_may_be_granted_later_does_not_say_that_repeating_is_vain():
    """A lock that is busy and a room that is taken are not wrong requests."""
    for kind in (
        transactional.LockBusyError,
        transactional.BookingConflict,
        transactional.HoldExpired,
        transactional.NotFoundError,
        transactional.LeaseExpiredError,
        transactional.SagaStateError,
    ):
        assert issubclass(kind, NotNowError)
        assert not issubclass(kind, WrongRequestError)


@pytest.mark.parametrize("kind", [WrongRequestError, NotNowError, RefusedError])
def test_a_branch_crosses_the_wire(kind):
    """What is known only by its branch is still told apart behind an authority."""
    assert issubclass(type(load_error(dump_error(kind("no")))), kind)


def test_a_star_import_leaves_the_builtins_alone(tmp_path):
    """`from transactional import *` does not take `open` away; `transactional.open` is there."""
    program = "import builtins\nfrom transactional import *\nassert open is builtins.open\n"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    assert set(transactional.__all__).isdisjoint(dir(builtins))
    assert callable(transactional.open)
