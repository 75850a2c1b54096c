"""Twins in real processes: threads, batches that fail, forks and ends of all kinds, at random."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replication import BlockingAgent
from tests.ports import free_ports
from tests.scale import rounds, seeds

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("twin_worker.py")
NAMES = "abcde"


@pytest.mark.processes
def test_nothing_acknowledged_is_lost_whoever_calls_and_however_it_ends(tmp_path):
    """5 processes, 4 threads each, round after round on the same journals.

    Every end of a process is one of: all done, closed under its threads, left without a close,
    killed. An own log of what was acknowledged is compared with what is there at last; nothing of a
    batch that failed, of a refused call or of a forked child is; every process ends.
    """
    first = seeds(1)[0]
    ports = [f"127.0.0.1:{port}" for port in free_ports(len(NAMES))]
    for number in range(rounds(40)):
        started = [
            subprocess.Popen(
                [
                    sys.executable,
                    str(WORKER),
                    name,
                    str(tmp_path / f"{name}.db"),
                    str(tmp_path / f"{name}.log"),
                    str(first + number),
                    own,
                    *[port for port in ports if port != own],
                ],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name, own in zip(NAMES, ports, strict=True)
        ]
        for process in started:
            _, said = process.communicate(timeout=120)
            assert process.returncode in {0, -signal.SIGKILL}, f"seed {first + number}: {said}"
    for name in NAMES:
        log = tmp_path / f"{name}.log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        with BlockingAgent(name, journal=tmp_path / f"{name}.db", listen="") as agent:
            there = set(agent.orset("all"))
        lost = {element for line in lines for element in json.loads(line)} - there
        assert not lost, f"seed {first}: {name} lost {lost}"
        assert not [element for element in there if element.startswith("never")]
