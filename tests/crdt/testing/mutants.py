"""Planted faults: what the kit has to catch, for its own claims to be worth something.

A mutant is one faulty statement in the real code. `hunt` copies the package, plants it, and runs
the command that a user would run - `python -m crdt.testing fuzz TYPE`, default settings - in a
process of its own, on the copy. A caught mutant leaves the regression test that the command wrote;
the fault is counted as caught only if that file fails on the copy and passes on the real code.

A place is named by its text and not by a line number. If it is not there exactly once the mutant is
void, and that is an error (`AnchorError`): a kernel that was rewritten needs its mutants rewritten.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SECONDS_MAX = 60.0
STEPS_MAX = 12
_REPLAY = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("regression", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
(test,) = [value for name, value in vars(module).items() if name.startswith("test_")]
from crdt.testing import HistoryError
try:
    test()
except HistoryError:
    print("fails")
else:
    print("passes")
"""


class AnchorError(AssertionError):
    """The code that a mutant changes is not there, or not once: the mutant tests nothing."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: in the code that a run of `type_name` reaches, `old` becomes `new`."""

    name: str
    type_name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Catch:
    """What a hunt brought home; `complaint` is empty if nothing."""

    mutant: Mutant
    complaint: str
    diagram: str
    check: str  # the kind of check that noticed: law, oracle, convergence, invariant, error
    examples: int
    steps: int
    seconds: float  # of one core, for finding and shrinking
    on_mutant: str = ""  # the regression test "fails" or "passes"
    on_real_code: str = ""


# The first sixteen are those of the design; the others came up while the kernel was built.
MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a truncated delta claims the full context",
        "ORSet",
        "            run = Run(origin, after + 1, end, tuple(events), batches, admitted=True)",
        "            run = Run(origin, after + 1, last, tuple(events), batches)",
    ),
    Mutant(
        "the context is a maximum: gaps count as seen",
        "ORSet",
        "        if first > reached + 1:\n            if cloud is None:",
        "        if first > last:\n            if cloud is None:",
    ),
    Mutant(
        "the contexts are joined before the entries",
        "ORSet",
        "    if span.first > state.context.last_seq(span.origin) and not state.doomed:\n"
        "        _take",
        "    state.cover_range(span.origin, span.first, span.last)\n"
        "    if span.first > state.context.last_seq(span.origin) and not state.doomed:\n"
        "        _take",
    ),
    Mutant(
        "one clock dominates: nothing new from the sender itself is nothing new",
        "ORSet",
        "    if not differ and not theirs.doomed and theirs.context <= mine.applied:",
        "    if theirs.context.last_seq(theirs.replica) <= mine.context.last_seq(theirs.replica):",
    ),
    Mutant(
        "an event whose dot was seen is skipped, kills and all",
        "ORSet",
        "        if seq <= reached:\n",
        "        if seq <= reached or (taken is not None and seq not in taken):\n",
    ),
    Mutant(
        "a reset forgets the nested paths",
        "ORMap",
        "            for place in child.subtree()\n",
        "            for place in [child]\n",
    ),
    Mutant(
        "a counter replaces its own dot: a concurrent reset loses or revives the sum",
        "ResettableCounter",
        "step, before = writer.last + 1, self._written_in_batch()",
        "step, before = writer.last + 1, next((s for s, r in container.rows.items()"
        " if type(s) is int and type(r) is tuple and r[0] == writer.log.base + s), None)",
    ),
    Mutant(
        "one of two concurrent adds survives their removal, alive everywhere though dead",
        "ORSet",
        "            if row:\n                found.append((container, step, row))\n",
        "            if row and seen is None:\n                row = next(iter(entries_of(row)))\n"
        "            if row:\n                found.append((container, step, row))\n",
    ),
    Mutant(
        "a remove takes no dot",
        "ORSet",
        "        if entry is not None:\n            container, step, stamp, value = entry",
        "        if entry is None:\n            return NOTHING\n"
        "        if entry is not None:\n            container, step, stamp, value = entry",
    ),
    Mutant(
        "a stamp from the far future is clamped",
        "LWWRegister",
        "        insert(container, step, (base + seq, stamp, value))",
        "        far = stamp if state.now_ms is None else state.now_ms() + 60_000 << 16\n"
        "        insert(container, step, (base + seq, min(stamp, far), value))",
    ),
    Mutant(
        "a tie is broken by the value",
        "LWWRegister",
        "return entry[1], self.names[entry[0] >> SEQ_BITS], entry[0] & SEQ_MAX",
        "return entry[1], repr(entry[2]), entry[0] & SEQ_MAX",
    ),
    Mutant(
        "an identity is used again after a restart",
        "ORSet",
        "        self.last = self.state.context.last_seq(self.state.replica)",
        "        self.last = 0",
    ),
    Mutant(
        "a delta says less than the state: its kills are missing",
        "MVRegister",
        "event = (seq, container.path, step, stamp, value, kills)",
        "event = (seq, container.path, step, stamp, value, ())",
    ),
    Mutant(
        "a stale full state removes what a newer delta brought",
        "ORSet",
        "list(log.slots(span.first, span.last)):\n        if seq not in theirs",
        "list(log.slots(span.first, 1 << 62)):\n        if seq not in theirs",
    ),
    Mutant(
        "the winner's value is kept with the loser's stamp",
        "LWWMap",
        "            rows[step] = {present[0]: present, entry[0]: entry}",
        "            entry = (entry[0], min(entry[1], present[1]), entry[2])\n"
        "            rows[step] = {present[0]: present, entry[0]: entry}",
    ),
    Mutant(
        "adding what is present is a no-op, on both sides",
        "ORSet",
        '        """Add an element; takes a dot also if it is present. O(1)."""\n',
        "        if element in self:\n            return self._writer.write(())\n",
    ),
    Mutant(
        "equal concurrent writes collapse into one",
        "MVRegister",
        "        elif type(present) is tuple:\n            rows[step] = {",
        "        elif type(present) is tuple and present[2] == entry[2]:\n            pass\n"
        "        elif type(present) is tuple:\n            rows[step] = {",
    ),
    Mutant(
        "a dot that is killed before it came is not remembered",
        "ORSet",
        "                self.doom(base, first, first, owner)\n",
        "                pass\n",
    ),
    Mutant(
        "doomed dots are lost in a restart",
        "ORSet",
        "    doomed = pack_ranges(doomed_ranges(state), names)\n    clock",
        "    doomed = pack_ranges((), names)\n    clock",
    ),
    Mutant(
        "killed dots count as seen",
        "ORSet",
        "                kill(*killed, touched, owner)\n",
        "                kill(*killed, touched, owner)\n"
        "                state.cover_range(*killed)\n",
    ),
    Mutant(
        "a concurrent add wins over a remove that should win",
        "RWSet",
        "return row is not None and all(entry[2] for entry in entries_of(row))\n\n    def __iter__",
        "return row is not None and any(entry[2] for entry in entries_of(row))\n\n    def __iter__",
    ),
    Mutant(
        "a read context is ignored: what was not looked at dies as well",
        "LWWRegister",
        "entry for entry in entries_of(row) if seen.covers(*live.dot(entry[0]))",
        "entry for entry in entries_of(row) if seen",
    ),
    Mutant(
        "a bounded counter spends rights that it does not hold",
        "BoundedCounter",
        "        if amount > local:\n",
        "        if amount > local + 1:\n",
    ),
    Mutant(
        "a batch that failed leaves its context behind",
        "PNCounter",
        "        state.applied.take_back(state.replica, first - 1)\n",
        "",
    ),
    Mutant(
        "a removal that comes from elsewhere is not announced",
        "ORSet",
        "                touched.mark(*place)\n                live.kill(*place, base + first)",
        "                live.kill(*place, base + first)",
    ),
    Mutant(
        "equal values are one value to whoever waits for a change",
        "ResettableCounter",
        '            _INT_OR_MEMORY,\n            "every_value",\n',
        '            _INT_OR_MEMORY,\n            "values",\n',
    ),
    Mutant(
        "a delta is checked run by run: what came before the refused one stays",
        "ORSet",
        "    _refuse_conflicts(state, runs)\n"
        "    touched, before = Touched(state.live), state.moment([run.origin for run in runs])\n"
        "    try:\n        for run in runs:\n",
        "    touched, before = Touched(state.live), state.moment(())\n    for run in runs:\n"
        "        _refuse_conflicts(state, (run,))\n        _apply_run(state, run, touched)\n"
        "    try:\n        for run in ():\n",
    ),
    Mutant(
        "a set of chunks counts as known before it is checked",
        "ORSet",
        "    news = _refuse(state, [chunk], contradicted)\n",
        "    if complete:\n        state.know_set(chunk.set_id)\n"
        "    news = _refuse(state, [chunk], contradicted)\n",
    ),
    Mutant(
        "the kills of a delta are skipped if its dot came with a state before",
        "ORSet",
        "    reached = state.applied.seqs.get(origin, 0)\n    taken",
        "    reached = state.context.seqs.get(origin, 0)\n    taken",
    ),
)


def place_of(name: str, old: str, folder: Path = ROOT) -> Path:
    """The file of a package below `folder` that has the code a fault changes, once.

    Raises:
        AnchorError: there is no such code, or there is more of it.
    """
    package = folder / "crdt"
    found = [
        (path, text.count(old))
        for path in sorted([*package.glob("*.py"), *(package / "kernel").glob("*.py")])
        if old in (text := path.read_text(encoding="utf-8"))
    ]
    if [count for _, count in found] != [1]:
        places = ", ".join(f"{path.name} x{count}" for path, count in found) or "nowhere"
        raise AnchorError(f"anchor not found once but {places}: {name!r}\n{old}")
    return found[0][0]


def plant(mutant: Mutant, folder: Path) -> Path:
    """A copy of the package in `folder` with the fault in it; returns the file that has it."""
    shutil.copytree(ROOT / "crdt", folder / "crdt")
    path = place_of(mutant.name, mutant.old, folder)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return path


def hunt(mutant: Mutant, folder: Path) -> Catch:
    """Plant a fault in a copy, run the shipped command on it, and try what it wrote."""
    plant(mutant, folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = _python(folder, "-m", "crdt.testing", "fuzz", mutant.type_name, "--out", str(folder))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    head = re.search(r"wrong after (\d+) histories", run.stdout)
    if run.returncode not in {0, 1} or (run.returncode == 1) is not bool(head):
        raise AssertionError(f"{mutant.name}: {run.stdout}{run.stderr}")
    if head is None:
        return Catch(mutant, "", "", "", 0, 0, seconds)
    shrunk = re.search(r"shrunk to (\d+) steps:\n(.*)\n\n", run.stdout, re.DOTALL)
    written = folder / f"test_{mutant.type_name.lower()}_counterexample.py"
    if shrunk is None or not written.exists():
        raise AssertionError(f"{mutant.name}: caught, but not shrunk:\n{run.stdout}{run.stderr}")
    return Catch(
        mutant,
        run.stdout.splitlines()[1],
        shrunk[2],
        re.findall(r"^noticed by: (\w+)$", run.stdout, re.MULTILINE)[0],
        int(head[1]),
        int(shrunk[1]),
        seconds,
        _python(folder, "-c", _REPLAY, str(written)).stdout.strip(),
        _python(ROOT, "-c", _REPLAY, str(written)).stdout.strip(),
    )


def _python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder: the package that it imports is the one that lies there."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=20 * SECONDS_MAX,
        check=False,
    )
