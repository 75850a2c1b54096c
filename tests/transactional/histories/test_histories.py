"""Eight real processes in real trouble write down what they see: an order explains all of it.

Clients, the authority and the lines between them are killed with -9, stopped and cut, all in one
history; the records of the processes are put together by the machine's monotonic time.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.scale import SOAK, rounds, seeds
from tests.transactional.histories.faults import FAULTS
from tests.transactional.histories.fork_server import ForkServer
from tests.transactional.histories.programs import merged
from tests.transactional.histories.trouble import CLIENTS, record_history
from tests.transactional.workloads import WORKLOADS, anomaly

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = "tests.transactional.histories.programs"


@pytest.mark.processes
@pytest.mark.parametrize("workload", WORKLOADS)
async def test_eight_processes_in_trouble_are_linearizable(workload: str, tmp_path: Path) -> None:
    """Killed, stopped and cut off, clients and authority: every history has an order."""
    done: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    async with ForkServer(PROGRAMS) as server:
        for seed in seeds(rounds(40, 2)):
            print(f"replay: CONVOCA_SEED={seed}")
            where = tmp_path / str(seed)
            history, deeds = await record_history(server, where, workload, seed)
            (where / "history.jsonl").write_text("".join(json.dumps(e) + "\n" for e in history))
            assert anomaly(workload, history) is None, f"CONVOCA_SEED={seed}, {where}"
            assert len({event["process"] for event in history}) >= CLIENTS
            done += deeds
            kinds.update(
                "away" if event.get("result") == "unavailable" else event["type"]
                for event in history
            )
    print(workload, dict(done), dict(kinds))
    assert kinds["ok"] > kinds["away"], "the trouble was too much: little was tested"
    if SOAK:
        assert len(done) == 6, f"some trouble never came: {done}"


SHOWN = [
    ("DropsWrites", "register"),
    ("TwoHold", "lock"),
    ("NoPhantoms", "reservation"),
    ("ForgetsOperations", "register"),
    ("OldStart", "log"),
]


@pytest.mark.processes
@pytest.mark.parametrize(("fault", "workload"), SHOWN, ids=[fault for fault, _ in SHOWN])
async def test_a_fault_of_an_authority_shows_in_the_records(
    fault: str, workload: str, tmp_path: Path
) -> None:
    """Five authorities, each wrong in one way: within twenty histories the checker says so."""
    assert fault in FAULTS
    async with ForkServer(PROGRAMS) as server:
        for seed in range(1, 21):
            history, _ = await record_history(server, tmp_path / str(seed), workload, seed, fault)
            if anomaly(workload, history) is not None:
                return
    pytest.fail(f"{fault} was not seen")


def test_records_are_put_together_by_time_and_half_a_line_is_left_out(tmp_path: Path) -> None:
    """At one and the same time a call is before an answer; what kill -9 cut off is no event."""
    one, other = tmp_path / "1", tmp_path / "2"
    one.write_text('{"type": "invoke", "time_ns": 1}\n{"type": "ok", "time_ns": 5}\n{"type": "inv')
    other.write_text('{"type": "invoke", "time_ns": 5}\n')
    assert [(e["index"], e["type"], e["time_ns"]) for e in merged([one, other])] == [
        (0, "invoke", 1),
        (1, "invoke", 5),
        (2, "ok", 5),
    ]
