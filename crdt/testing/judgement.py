"""What may go wrong in a history, and which kind of check noticed.

`law`          one that holds in any history at any time: a restart changes nothing, a refused delta
               leaves no trace, a change is announced, a replica has seen what it was told
`oracle`       what visibility demands: of the value in the end, and of whether a write takes a dot
`convergence`  in the end all hold the same
`invariant`    an assertion inside the type itself
`error`        it raised something else
"""

from __future__ import annotations

from crdt.errors import CRDTError, InvariantError

# What a wrong type may raise in the middle of a history.
FAULTS = (
    CRDTError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class HistoryError(CRDTError, AssertionError):
    """A history went wrong; `seed` (if one is known) and the replay line lead back to it."""

    code = "history"
    hint = "replay the line in the message"

    def __init__(self, text: str, *, line: str = "", seed: int | None = None) -> None:
        super().__init__(f"{text}\n  replay: {line}" if line else text)
        self.text = text
        self.line = line
        self.seed = seed


def check_of(failure: Exception) -> str:
    """Which kind of check raised this in the middle of a history. O(its traceback)."""
    if isinstance(failure, HistoryError):
        return "oracle"
    if not isinstance(failure, AssertionError | InvariantError):
        return "error"
    modules, trace = list[str](), failure.__traceback__
    while trace is not None:
        modules.append(trace.tb_frame.f_globals["__name__"])
        trace = trace.tb_next
    where = [module for module in modules if module != InvariantError.__module__]  # not `require`
    return "law" if where[-1].startswith(__name__.rpartition(".")[0]) else "invariant"
