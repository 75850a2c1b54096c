"""Planted faults: what the fuzzing kit and the tests catch, after how long.

Each fault is one statement changed in a copy of `crdt`; the kit is the shipped command with its
default settings (`python -m crdt.testing fuzz TYPE`, seed 0) on that copy.  Seconds are those of
one core, for the laws, the search and the shrinking together.  Caught means also that the
regression test which the command wrote fails on the faulty copy and passes on the real code.

Noticed by says which kind of check complained about the shrunk history: a law (a restart changes
nothing, a refusal leaves no trace, changes are announced, ...), the oracle (what visibility demands
of the value, or of a write), convergence, or an invariant that the kernel asserts of itself.

The faults of the second table are in the kernel and out of sight of whoever looks at values only.
Of each, the one test that is for it fails on the faulty copy, or the kit finds it, as above.

    python benchmarks/mutants.py
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutants.md"
sys.path.insert(0, str(ROOT))


def main() -> int:
    """Hunt them all; print and write the table; 1 if one got away."""
    from tests.crdt.testing.kernel_mutants import KERNEL_MUTANTS, killed
    from tests.crdt.testing.mutants import MUTANTS, STEPS_MAX, Catch, hunt

    catches: list[Catch] = []
    for number, mutant in enumerate(MUTANTS, 1):
        with tempfile.TemporaryDirectory() as folder:
            catches.append(hunt(mutant, Path(folder)))
        print(number, row(catches[-1]), flush=True)
    caught = [
        catch
        for catch in catches
        if catch.complaint
        and catch.steps <= STEPS_MAX
        and (catch.on_mutant, catch.on_real_code) == ("fails", "passes")
    ]
    total = sum(catch.seconds for catch in catches)
    summary = (
        f"{len(caught)} of {len(MUTANTS)} caught, shrunk to at most "
        f"{max(catch.steps for catch in catches)} steps, {total:.0f} s of one core together, "
        f"the slowest {max(catch.seconds for catch in catches):.1f} s "
        f"(CPython {platform.python_version()}, {platform.machine()})."
    )
    print(summary)
    noticed: list[str] = []
    for number, mutant in enumerate(KERNEL_MUTANTS, 1):
        with tempfile.TemporaryDirectory() as folder:
            check = killed(mutant, Path(folder))
        where = f"the kit on {mutant.killer}" if mutant.by_kit else mutant.killer.partition("::")[2]
        noticed.append(f"| {mutant.name} | {check or '-'} | {where.replace('_', ' ')} |")
        print(number, noticed[-1], flush=True)
    by_tests = sum(" | - | " not in line for line in noticed)
    kernel = f"{by_tests} of {len(KERNEL_MUTANTS)} faults of the kernel caught."
    print(kernel)
    RESULTS.write_text(page(summary, catches, [kernel, *noticed]), encoding="utf-8")
    return 0 if (len(caught), by_tests) == (len(MUTANTS), len(KERNEL_MUTANTS)) else 1


def row(catch: object) -> str:
    """One line of the table."""
    mutant = catch.mutant
    found = f"{catch.check} | {catch.examples} | {catch.steps}" if catch.complaint else "- | - | -"
    return f"| {mutant.name} | {mutant.type_name} | {found} | {catch.seconds:.1f} |"


def page(summary: str, catches: list[object], kernel: list[str]) -> str:
    """The tables, and every shrunk history as it is drawn."""
    lines = ["# Planted faults", "", *__doc__.split("\n\n", 1)[1].strip().splitlines()[:-2]]
    lines += [
        "",
        summary,
        "",
        "| fault | type | noticed by | histories | shrunk to steps | seconds |",
    ]
    lines += ["|---|---|---|---:|---:|---:|", *map(row, catches), "", kernel[0], ""]
    lines += ["| fault | noticed by | which |", "|---|---|---|", *kernel[1:], ""]
    lines += ["## As they are drawn", ""]
    for catch in catches:
        lines += [f"{catch.mutant.name} ({catch.mutant.type_name}):", ""]
        lines += ["```text", catch.diagram, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
