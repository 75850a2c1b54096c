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

from crdt.testing.histories import FAULTS, History, HistoryError, replay, run_histories
from crdt.testing.law import laws
from crdt.testing.operation import name_of
from crdt.testing.scheduler import Plan, dice_of, plan
from crdt.testing.seed import seed_of_the_run
from crdt.testing.shrinker import shrink
from crdt.testing.source import Source, UnwritableError

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = 2000
_BLOCK = 20  # histories between two reports of progress


@dataclass(slots=True)
class Outcome:
    """How a campaign ended; `complaint` is empty if nothing was found."""

    kind: Any
    seed: int = 0  # of the first history; of the one that failed, if one did
    replicas: int = 3
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
        """The source of a test that fails until the type is right. Needs a failed history.

        It holds the shrunk history; or, if an argument of it cannot be written as source, the seed.

        Raises:
            ValueError: there is no failed history, or the type cannot be imported.
        """
        if self.script is None:
            raise ValueError("no history failed: there is nothing to write")
        try:
            return self._test_of(self.script)
        except UnwritableError as error:
            return self._test_of_the_seed(str(error))

    def _test_of(self, script: Plan) -> str:
        source = Source()
        steps = "".join(f"        {source.write(step)},\n" for step in script.steps)
        plan_name, replay_name = source.name(Plan), source.name(replay)
        setting = "".join(f"    {source.write(part)},\n" for part in script[:-1])
        plan_source = f"PLAN = {plan_name}(\n{setting}    (\n{steps}    ),\n)\n\n\n"
        return self._test(source, plan_source, f"{replay_name}({{}}, PLAN)")

    def _test_of_the_seed(self, why: str) -> str:
        source = Source()
        call = f"{source.name(run_histories)}({{}}, seed={self.seed}, count=1, "
        note = f"# The seed, and not the shrunk history, because {_plain(why)}.\n\n\n"
        return self._test(source, note, f"{call}replicas={self.replicas})")

    def _test(self, source: Source, above: str, call: str) -> str:
        name = self.kind.__name__
        called = call.format(source.name(self.kind))
        source.use_home(self.kind)
        return (
            f'"""A counterexample to {name}, found and shrunk by crdt.testing."""\n\n'
            f"# ruff: noqa: E501, S301, S403\n\n{source.imports()}\n\n{above}"
            f"def test_{name.lower()}_is_right_in_a_history_that_went_wrong():\n"
            f'    """{_plain(self.complaint)}."""\n'
            f"    {called}\n"
        )


def _plain(text: str) -> str:
    """Text that may stand in a comment or a docstring."""
    return re.sub(r"\s+", " ", text).replace('"', "'").replace("\\", "/")[:200]


def fuzz(
    kind: Any,
    *,
    examples: int = EXAMPLES,
    seed: int | None = None,
    replicas: int = 3,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Check the laws and then `examples` histories from `seed` on; stop at the first failure.

    Args:
        kind: a type of ours, or one of yours that `register` was told about.
        examples: how many histories.
        seed: of the first; the others follow. By default Hypothesis chooses (`crdt.testing.seed`).
        replicas: how many take part.
        progress: called with the number of histories done so far.
    """
    seed = seed_of_the_run() if seed is None else seed
    outcome, begun = Outcome(kind, seed=seed, replicas=replicas), time.monotonic()
    try:
        laws(kind, examples=min(60, examples), seed=seed)()
    except FAULTS as error:  # a history that goes wrong as well tells more: look for one
        outcome.complaint = f"{type(error).__name__}: {error}"
        outcome.check = "law" if isinstance(error, AssertionError) else "error"
        notes = [str(note) for note in getattr(error, "__notes__", ())]
        outcome.replay = "".join(
            note.removeprefix("replay: ") for note in notes if note.startswith("replay: ")
        )
        outcome.seed = int(re.findall(r"seed=(\d+)", f"seed={seed} {outcome.replay}")[-1])
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
            outcome.examples, outcome.seed = error.seed - seed + 1, error.seed
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
