"""A campaign: laws, then many histories of one type, until one fails or the count is reached.

    outcome = fuzz(ORSet, examples=2000, seed=0)
    outcome.complaint or outcome.statistics

What fails is shrunk, drawn, and can be written out as a regression test. The command line, the
tests of planted faults and the soak run are all this one function.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crdt.testing.histories import FAULTS, History, HistoryError, run_histories
from crdt.testing.law import laws
from crdt.testing.operation import is_view, name_of
from crdt.testing.scheduler import dice_of, plan
from crdt.testing.shrinker import shrink

if TYPE_CHECKING:
    from collections.abc import Callable

    from crdt.testing.scheduler import Plan

EXAMPLES = 2000
_BLOCK = 20  # histories between two reports of progress


@dataclass(slots=True)
class Outcome:
    """How a campaign ended; `complaint` is empty if nothing was found."""

    kind: Any
    examples: int = 0
    seconds: float = 0.0
    statistics: Counter[str] = field(default_factory=Counter)
    complaint: str = ""
    check: str = ""  # the kind of check that complained (see crdt.testing.histories)
    replay: str = ""
    script: Plan | None = None  # the shrunk history, if it was one that failed

    def diagram(self) -> str:
        """The shrunk history drawn; empty if a law failed."""
        return self._judged(self.script).diagram() if self.script is not None else ""

    def svg(self) -> str:
        """The same as an SVG document."""
        return self._judged(self.script).svg() if self.script is not None else ""

    def _judged(self, script: Plan) -> History:
        """The history, healed: what is drawn below it is what everybody shows in the end."""
        run = History(self.kind, script)
        run.complaint()
        return run

    def regression_test(self) -> str:
        """The source of a test that fails until the type is right. Needs a failed history."""
        if self.script is None:
            raise ValueError("no history failed: there is nothing to write")
        name = self.kind.__name__
        module = "crdt" if is_view(self.kind) else self.kind.__module__
        story = re.sub(r"\s+", " ", self.complaint).replace('"', "'").replace("\\", "/")[:200]
        steps = "".join(f"        {step!r},\n" for step in self.script.steps)
        return (
            f'"""A counterexample to {name}, found and shrunk by crdt.testing."""\n\n'
            "# ruff: noqa: E501\n\n"
            f"from crdt.testing import Operation, Plan, Step, replay\n"
            f"from {module} import {name}\n\n"
            f"PLAN = Plan(\n"
            f"    {self.script.type_name!r},\n    {self.script.replicas!r},\n"
            f"    {self.script.topology!r},\n    {self.script.skews_ms!r},\n"
            f"    (\n{steps}    ),\n)\n\n\n"
            f"def test_{name.lower()}_is_right_in_a_history_that_went_wrong():\n"
            f'    """{story}."""\n'
            f"    replay({name}, PLAN)\n"
        )


def fuzz(
    kind: Any,
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    replicas: int = 3,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Check the laws and then `examples` histories from `seed` on; stop at the first failure.

    Args:
        kind: a type of ours, or one of yours that `register` was told about.
        examples: how many histories.
        seed: of the first; the others follow.
        replicas: how many take part.
        progress: called with the number of histories done so far.
    """
    outcome, begun = Outcome(kind), time.monotonic()
    try:
        laws(kind, examples=min(60, examples), seed=seed)()
    except FAULTS as error:  # a history that goes wrong as well tells more: look for one
        outcome.complaint = f"{type(error).__name__}: {error}"
        outcome.check = "law" if isinstance(error, AssertionError) else "error"
        outcome.replay = " ".join(getattr(error, "__notes__", ())).removeprefix("replay: ")
    try:
        for first in range(seed, seed + examples, _BLOCK):
            count = min(_BLOCK, seed + examples - first)
            outcome.statistics += run_histories(kind, first, count, replicas=replicas)
            outcome.examples += count
            if progress is not None:
                progress(outcome.examples)
    except HistoryError as error:
        outcome.complaint, outcome.replay = error.text, error.line
        if error.seed is not None:
            outcome.examples = error.seed - seed + 1
            outcome.seconds = time.monotonic() - begun
            _shrink(outcome, error.seed, replicas)
    except FAULTS as error:
        outcome.complaint = outcome.complaint or f"{type(error).__name__}: {error}"
    outcome.seconds = outcome.seconds or time.monotonic() - begun
    return outcome


def _shrink(outcome: Outcome, seed: int, replicas: int) -> None:
    """Replace the failing history by a plain one, and the complaint by that one's."""
    script = plan(name_of(outcome.kind), dice_of(seed), replicas=replicas)
    outcome.script = shrink(outcome.kind, script)
    run = History(outcome.kind, outcome.script)
    outcome.complaint = run.complaint() or outcome.complaint
    outcome.check = run.check
