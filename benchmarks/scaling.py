"""How far one namespace of gossip goes: rounds, bytes and memory for 10 to 1,000 agents.

Counted in the simulation, on the machine that agents run, so nothing depends on the computer but
the memory, which is CPython's.  The cluster meets, is left alone for a while (idle), then every
agent writes once in ten seconds (busy).  Memory is what a replica adds to the process that
simulates them all, everybody knowing everybody, with one entry of each.  Each size has a process.

A busy second of 300 agents takes a minute and a half of a processor, and the effort grows faster
than the square of their number.  So of more than `BUSY_SIZE_MAX` that is left out: they all write
once at the same time, and run until everybody has everything, which costs a tenth and leaves the
same state.

    python benchmarks/scaling.py [SIZE ...]
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from gossip import rounds_to_all, summary  # noqa: E402

from crdt import LWWRegister  # noqa: E402
from replication import Simulation  # noqa: E402

SIZES = (10, 30, 100, 300, 1000)
RESULTS = ROOT / "benchmarks" / "results" / "scaling.md"
MEETS_S, IDLE_S, BUSY_S = 20.0, 5.0, 10.0
SAMPLES = 40
BUSY_SIZE_MAX = 100


class Row(NamedTuple):
    """One line of the table."""

    size: int
    mean: float
    p99: int
    idle: float
    busy: float | None
    kilobytes: float


def measured(size: int) -> Row:
    """Meet, idle, write; in this order, in one cluster."""
    before_kb = resident_kb()
    names = [f"n{number}" for number in range(size)]
    sim = Simulation(names, size)
    sim.run(MEETS_S)
    before = sim.bytes_sent
    sim.run(IDLE_S)
    idle = (sim.bytes_sent - before) / IDLE_S / size
    busy = None
    if size <= BUSY_SIZE_MAX:
        busy = write_for_a_while(sim, names) / BUSY_S / size
    else:
        for name in names:
            sim[name].document(f"x/{name}", LWWRegister).set(0)
    sim.run(5.0)
    while any(len(sim[name].vector) < size for name in names):
        sim.run(1.0)
    gc.collect()
    kilobytes = (resident_kb() - before_kb) / size
    mean, p99 = summary(rounds_to_all(size, min(SAMPLES, 4 * size), 2, 0.0))
    return Row(size, mean, p99, idle, busy, kilobytes)


def write_for_a_while(sim: Simulation, names: list[str]) -> int:
    """Every agent writes once in ten seconds; how many bytes all sent."""
    before = sim.bytes_sent
    steps = int(BUSY_S * 2)
    for step in range(steps):
        for number in range(step % 20, len(names), 20):
            sim[names[number]].document(f"x/{names[number]}", LWWRegister).set(step)
        sim.run(BUSY_S / steps)
    return sim.bytes_sent - before


def resident_kb() -> int:
    """What this process holds in memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0])


def report(rows: list[Row]) -> str:
    """The table."""
    return "\n".join(
        [
            "# How far gossip scales",
            "",
            "`python benchmarks/scaling.py`; one namespace, default configuration. Rounds: of one",
            "second, until all have a write, by exchanges alone (eager pushes are faster). Idle:",
            "bytes that an agent sends a second when nothing happens; busy: when everybody writes",
            "once in ten seconds. Memory: what an agent adds to the process that simulates them.",
            "",
            "| agents | rounds, mean / p99 | idle, bytes/s | busy, bytes/s | memory, kB |",
            "|---:|---:|---:|---:|---:|",
            *(
                f"| {r.size:,} | {r.mean:.1f} / {r.p99} | {r.idle:,.0f} | "
                f"{'not measured' if r.busy is None else f'{r.busy:,.0f}'} | {r.kilobytes:,.0f} |"
                for r in rows
            ),
            "",
        ]
    )


def main() -> None:
    """Measure the sizes that are asked for, and write the table after each."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(int(sys.argv[2]))))
        return
    rows: list[Row] = []
    for size in [int(word) for word in sys.argv[1:]] or SIZES:
        told = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], check=True, capture_output=True
        )
        rows.append(Row(*json.loads(told.stdout)))
        print(rows[-1], flush=True)
        RESULTS.write_text(report(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
