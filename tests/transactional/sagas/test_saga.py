"""Definitions of sagas: what cannot work is refused where it is written."""

from __future__ import annotations

import pytest

from tests.transactional.sagas.actions import Actions
from transactional import (
    InvalidRequestError,
    Saga,
    Step,
    StepKind,
)


def test_definitions_that_cannot_work_are_refused():
    """The order of kinds, names and limits are checked where the saga is written."""
    actions = Actions()
    for steps in (
        [],
        [actions.step("a"), actions.step("a")],
        [actions.step("r", StepKind.RETRIABLE), actions.step("a")],
        [actions.step("p", StepKind.PIVOT), actions.step("q", StepKind.PIVOT)],
        [Step("r", actions.action("r"), actions.action("-r"), StepKind.RETRIABLE)],
        [actions.step("a/b")],
        [actions.step(str(n)) for n in range(33)],
    ):
        with pytest.raises(InvalidRequestError):
            Saga("work", steps)
