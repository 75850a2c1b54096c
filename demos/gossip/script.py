"""What happens to the network of a run, and when: a script, read from a file or rolled from a seed.

One step per line, `SECOND VERB WHO`, in the order of time; `#` begins a comment:

    2    partition ada bob | rest      cut every link between the groups; `rest`: whoever is left
    2    partition alone               everybody is alone
    8    heal                          end all cuts and delays
    12   slow ada bob 400ms            each frame between them takes so long; `rest`: all others
    18   kill cyd                      SIGKILL: nothing is flushed, nobody is told
    21   return cyd                    on what its journal holds, on another port
    28   end                           the last write; without it, six seconds after the last step

A script is checked as a whole before anything starts. Pure.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS_MAX = 1000
SECOND_MAX = 600.0
DELAY_MS_MAX = 5000
LAST_WRITES_S = 6.0
VERBS = ("partition", "heal", "slow", "kill", "return", "end")
FIRST_NAMES = ("ada", "bob", "cyd", "dee", "eve", "fay", "gus", "hal", "ida", "jon")


class ScriptError(Exception):
    """A script that cannot be carried out; nothing was started.

    Attributes:
        hint: what the line should look like.
    """

    code = "bad-script"

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done to the cluster.

    `groups` are those of a partition, or the two ends of a slow link, or the one that is meant.
    """

    at_s: float
    verb: str
    groups: tuple[tuple[str, ...], ...] = ()
    delay_s: float = 0.0

    def __str__(self) -> str:
        sides = " | ".join(_some(group) for group in self.groups)
        if self.verb == "slow":
            return f"slow link {sides.replace(' | ', ' - ')}: {self.delay_s * 1000:.0f} ms a frame"
        said = {"kill": "SIGKILL to", "return": "back:"}.get(self.verb, self.verb)
        return f"{said} {sides}".strip()


def _some(names: Sequence[str]) -> str:
    return " ".join(names) if len(names) <= 6 else f"{' '.join(names[:4])} ... ({len(names)})"


def names_of(count: int) -> tuple[str, ...]:
    """What so many nodes are called."""
    return (*FIRST_NAMES, *(f"n{number}" for number in range(11, count + 1)))[:count]


def rolled(names: Sequence[str], seed: int) -> list[Step]:
    """The script of a seed: halves, a slow link, a kill and its return."""
    dice = random.Random(f"script {seed}")
    mixed = dice.sample(list(names), len(names))
    left, right = mixed[: (len(mixed) + 1) // 2], mixed[(len(mixed) + 1) // 2 :]
    slow, victim = dice.choice(left), dice.choice(right)
    return [
        Step(2.0, "partition", (tuple(sorted(left)), tuple(sorted(right)))),
        Step(10.0, "heal"),
        Step(15.0, "slow", ((slow,), tuple(name for name in names if name != slow)), 0.4),
        Step(19.0, "heal"),
        Step(21.0, "kill", ((victim,),)),
        Step(25.0, "return", ((victim,),)),
        Step(29.0, "end"),
    ]


def read(text: str, names: Sequence[str], source: str = "script") -> list[Step]:
    """The steps of a script for these nodes, its end included.

    Raises:
        ScriptError: a line is not understood, or asks for what cannot be.
    """
    steps: list[Step] = []
    down: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        try:
            step = _step(line, names)
            if steps and step.at_s < steps[-1].at_s:
                raise ScriptError(f"second {step.at_s:g} is before {steps[-1].at_s:g}", _FORM)
            if steps and steps[-1].verb == "end":
                raise ScriptError("a step after the end", "`end` is the last line")
            if len(steps) >= STEPS_MAX:
                raise ScriptError(f"more than {STEPS_MAX} steps", "write a shorter one")
            _follow(step, down, names)
        except ScriptError as error:
            raise ScriptError(f"{source}:{number}: {error}", error.hint) from None
        steps.append(step)
    if not steps:
        raise ScriptError(f"{source}: no step in it", _FORM)
    if steps[-1].verb != "end":
        steps.append(Step(steps[-1].at_s + LAST_WRITES_S, "end"))
    return steps


_FORM = f"SECOND VERB WHO, e.g. `2 partition ada bob | rest`; verbs: {', '.join(VERBS)}"


def _follow(step: Step, down: set[str], names: Sequence[str]) -> None:
    """Who is down after this step; it has to be possible."""
    (who,) = step.groups[0] if step.verb in {"kill", "return"} else ("",)
    if step.verb == "kill":
        if who in down:
            raise ScriptError(f"{who} was killed already", f"`return {who}` comes first")
        if len(down) + 1 == len(names):
            raise ScriptError(f"{who} is the last one that runs", "let somebody return first")
        down.add(who)
    if step.verb == "return":
        if who not in down:
            raise ScriptError(f"{who} runs", f"only who was killed returns: `kill {who}` first")
        down.discard(who)


def _step(line: str, names: Sequence[str]) -> Step:
    second, *words = line.split()
    if not re.fullmatch(r"\d+(\.\d+)?", second) or float(second) > SECOND_MAX:
        raise ScriptError(f"{second!r} is no second from 0 to {SECOND_MAX:g}", _FORM)
    if not words or words[0] not in VERBS:
        raise ScriptError(f"no verb is called {' '.join(words[:1])!r}", _FORM)
    verb, *who = words
    at_s = float(second)
    if verb == "partition":
        return Step(at_s, verb, _sides(second, who, names))
    if verb == "slow":
        return _slow(second, who, names)
    if verb in {"kill", "return"}:
        if len(who) != 1:
            raise ScriptError(f"{verb} is of one node", f"write `{second} {verb} {names[0]}`")
        return Step(at_s, verb, (tuple(_known(who, names)),))
    if who:
        raise ScriptError(f"{verb} takes no names", f"write `{second} {verb}`")
    return Step(at_s, verb)


def _slow(second: str, who: Sequence[str], names: Sequence[str]) -> Step:
    form = f"write `{second} slow {names[0]} {names[1]} 400ms`"
    if len(who) != 3 or not re.fullmatch(r"\d{1,4}ms", who[2]):
        raise ScriptError("a slow link has two ends and a delay", form)
    delay_ms = int(who[2][:-2])
    if not 1 <= delay_ms <= DELAY_MS_MAX:
        raise ScriptError(f"a delay is 1 to {DELAY_MS_MAX} ms, not {who[2]}", form)
    return Step(float(second), "slow", _groups([[who[0]], [who[1]]], names), delay_ms / 1000)


def _sides(second: str, who: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    if who == ["alone"]:
        return tuple((name,) for name in names)
    sides = [side.split() for side in " ".join(who).split("|")]
    if len(sides) < 2 or not all(sides):
        form = f"write `{second} partition {names[0]} | rest`, or `partition alone`"
        raise ScriptError("a partition has two sides or more", form)
    return _groups(sides, names)


def _groups(sides: list[list[str]], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    named = [name for side in sides for name in _known(side, names, "rest") if name != "rest"]
    rest = tuple(name for name in names if name not in named)
    groups = [tuple(dict.fromkeys(side)) if side != ["rest"] else rest for side in sides]
    if len(set(named)) != len(named):
        raise ScriptError("a node is on two sides", _FORM)
    if ("rest",) in groups or any("rest" in group or not group for group in groups):
        raise ScriptError("`rest` is a side of its own, and not empty", _FORM)
    return tuple(groups)


def _known(who: Sequence[str], names: Sequence[str], *more: str) -> Sequence[str]:
    for name in who:
        if name not in names and name not in more:
            raise ScriptError(f"no node is called {name!r}", f"there are: {_some(names)}")
    return who
