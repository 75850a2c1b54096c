"""From a failing history to the few steps that matter.

Every subsequence of a plan is a plan, so leaving steps out is always allowed (delta debugging,
Zeller and Hildebrandt 2002). Then what is left is made plainer - a repeated delivery becomes an
exchange, big arguments small ones, a fourth replica goes, clocks go - because a plainer step often
lets others go; and both are repeated until nothing changes or the attempts are used up.

Any complaint counts as the same complaint: a shrunk history that goes wrong in another way is still
a history that goes wrong. Only where a check complained, an exception is not a substitute: plainer
arguments may be nonsense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crdt.testing.histories import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crdt.testing.operation import Operation
    from crdt.testing.scheduler import Plan, Step

ATTEMPTS_MAX = 6_000  # executions; those of short plans take less than a millisecond each

_PLAINER = {
    "truncated": ("exchange",),
    "chunks": ("merge",),
    "stale": ("merge",),
    "repeat": ("deliver", "exchange", "merge"),
    "deliver": ("exchange", "merge"),
    "refused": ("deliver",),
    "overtake": ("exchange", "merge"),
    "exchange": ("merge",),
    "rebirth": ("restart",),
}
_OF_MAPS = frozenset({"clear", "remove_child"})  # what an ORMap itself is asked
_PLAIN_ARGUMENTS: tuple[Any, ...] = ("x", 1, "y", 2)


class _Search:
    """The shortest failing plan so far, and how many attempts are left."""

    def __init__(self, best: Plan, fails: Callable[[Plan], bool], attempts_max: int) -> None:
        self.best = best
        self.attempts = attempts_max
        self._fails = fails
        self._tried: set[str] = set()  # arguments need not be hashable, but they show what they are

    def take(self, candidate: Plan) -> bool:
        """Try a plan; keep it if it fails as well."""
        shown = repr(candidate)
        if self.attempts <= 0 or candidate == self.best or shown in self._tried:
            return False
        self.attempts -= 1
        self._tried.add(shown)
        if not self._fails(candidate):
            return False
        self.best = candidate
        return True

    def take_step(self, index: int, step: Step) -> bool:
        """`take` with one step replaced."""
        steps = self.best.steps
        return self.take(self.best._replace(steps=(*steps[:index], step, *steps[index + 1 :])))


def shrink(kind: Any, script: Plan, *, attempts_max: int = ATTEMPTS_MAX) -> Plan:
    """The plainest plan found that still goes wrong. At most `attempts_max` executions."""
    raises = _complaint_of(kind, script) == "error"

    def fails(candidate: Plan) -> bool:
        check = _complaint_of(kind, candidate)
        return bool(check) and (raises or check != "error")

    return shrink_by(script, fails, attempts_max=attempts_max)


def shrink_by(
    script: Plan, fails: Callable[[Plan], bool], *, attempts_max: int = ATTEMPTS_MAX
) -> Plan:
    """`shrink` with a judgement of your own."""
    search = _Search(script, fails, attempts_max)
    before = None
    while search.best != before and search.attempts > 0:
        before = search.best
        _cut_the_end(search)
        _leave_out_kinds(search)
        _plainer_setting(search)
        _leave_out_steps(search)
        for index in range(len(search.best.steps)):
            _plainer_step(search, index)
        _plainer_universe(search)
    return search.best


def _complaint_of(kind: Any, script: Plan) -> str:
    """Which kind of check complains about a plan; empty if none does."""
    run = History(kind, script)
    run.complaint()
    return run.check


def _cut_the_end(search: _Search) -> None:
    """The shortest failing beginning, by bisection: what comes after the mistake costs the most."""
    steps, low, high = search.best.steps, 0, len(search.best.steps)
    while low < high:
        middle = (low + high) // 2
        if search.take(search.best._replace(steps=steps[:middle])):
            high = middle
        else:
            low = middle + 1


def _leave_out_kinds(search: _Search) -> None:
    """All steps of one kind at once, and then all that one replica does."""
    for kind in sorted({step.kind for step in search.best.steps}):
        rest = tuple(step for step in search.best.steps if step.kind != kind)
        search.take(search.best._replace(steps=rest))
    for replica in range(search.best.replicas):
        rest = tuple(step for step in search.best.steps if step.replica != replica)
        search.take(search.best._replace(steps=rest))


def _leave_out_steps(search: _Search) -> None:
    """Remove runs of steps, long ones first, then pairs of steps that only go together."""
    size = max(1, len(search.best.steps) // 2)
    while size:
        start = len(search.best.steps) - size
        while start > -size:
            steps, low = search.best.steps, max(start, 0)
            search.take(search.best._replace(steps=steps[:low] + steps[low + size :]))
            start -= size
        size //= 2
    if len(search.best.steps) > 40:
        return
    low = 0
    while low < len(search.best.steps):
        for high in range(low + 1, len(search.best.steps)):
            rest = [s for n, s in enumerate(search.best.steps) if n not in {low, high}]
            if search.take(search.best._replace(steps=tuple(rest))):
                break
        else:
            low += 1


def _plainer_setting(search: _Search) -> None:
    """No clocks, everybody linked, as few replicas as the steps name."""
    plan = search.best
    search.take(plan._replace(topology="mesh"))
    search.take(search.best._replace(skews_ms=(None,) * plan.replicas))
    while search.best.replicas > 2:
        plan, last = search.best, search.best.replicas - 1
        folded = tuple(
            step._replace(replica=min(step.replica, last - 1), peer=min(step.peer, last - 1))
            for step in plan.steps
            if {step.replica, step.peer} != {last - 1, last}
        )
        candidate = plan._replace(replicas=last, skews_ms=plan.skews_ms[:last], steps=folded)
        if not search.take(candidate):
            return


def _plainer_universe(search: _Search) -> None:
    """A plainer argument in place of another, in every step at once: a remove must fit its add."""
    operations = [each for step in search.best.steps for each in step.operations]
    used = {repr(argument): argument for each in operations for argument in _free(each)}
    for argument in used.values():
        for plain in _PLAIN_ARGUMENTS:
            if type(plain) is not type(argument):
                continue
            if plain == argument or search.take(_renamed(search.best, argument, plain)):
                break


def _free(operation: Operation) -> tuple[Any, ...]:
    """The arguments that may be others; names of types may not."""
    return operation.args if operation.action != "remove_child" else ()


def _renamed(plan: Plan, argument: Any, plain: Any) -> Plan:
    def rename(operation: Operation) -> Operation:
        args = tuple(
            plain if type(each) is type(argument) and each == argument else each
            for each in _free(operation)
        )
        return operation._replace(args=args or operation.args)

    steps = [step._replace(operations=tuple(map(rename, step.operations))) for step in plan.steps]
    return plan._replace(steps=tuple(steps))


def _plainer_step(search: _Search, index: int) -> None:
    """One step: another kind, a smaller choice, fewer and smaller operations."""
    for kind in _PLAINER.get(search.best.steps[index].kind, ()):
        step = search.best.steps[index]
        search.take_step(index, step._replace(kind=kind))
    for pick in range(min(4, search.best.steps[index].pick)):  # smaller ones only, or it never ends
        if search.take_step(index, search.best.steps[index]._replace(pick=pick)):
            break
    step = search.best.steps[index]
    if any(step.seen):
        search.take_step(index, step._replace(seen=(False,) * len(step.seen)))
    if step.kind == "batch" and len(step.operations) == 1:
        search.take_step(index, step._replace(kind="write"))
    elif step.kind == "equal":
        search.take_step(index, step._replace(kind="write", seen=(False,)))
    _plainer_operations(search, index)


def _plainer_operations(search: _Search, index: int) -> None:
    position = 0
    while position < len(search.best.steps[index].operations):
        step = search.best.steps[index]
        fewer = [n for n in range(len(step.operations)) if n != position]
        if fewer and search.take_step(
            index,
            step._replace(
                operations=tuple(step.operations[n] for n in fewer),
                seen=tuple(step.seen[n] for n in fewer),
            ),
        ):
            continue
        for operation in _plainer_arguments(step.operations[position]):
            operations = list(search.best.steps[index].operations)
            operations[position] = operation
            changed = search.best.steps[index]._replace(operations=tuple(operations))
            if search.take_step(index, changed):
                break
        position += 1


def _plainer_arguments(operation: Operation) -> Iterator[Operation]:
    """The same call with plainer arguments of the same types, plainest first."""
    for place, argument in enumerate(_free(operation)):
        for plain in _PLAIN_ARGUMENTS:
            if plain == argument and type(plain) is type(argument):
                break
            if type(plain) is type(argument):
                args = (*operation.args[:place], plain, *operation.args[place + 1 :])
                yield operation._replace(args=args)
    if len(operation.below) > 1 or (operation.below and operation.action in _OF_MAPS):
        yield operation._replace(below=operation.below[1:])
