"""A process whose threads use one twin at random until it ends in one of four ways.

    python twin_worker.py NAME JOURNAL LOG SEED ADDRESS PEER...

Whatever was acknowledged by `durable` is appended to LOG, one JSON list of elements per line, after
it was acknowledged. What must never be seen starts with `never`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from replication import BlockingAgent, ClosedError, ForkedError, NotYetError, ReentrantCallError

THREADS, STEPS = 4, 12


def main(name: str, journal: str, log: str, seed: str, address: str, *peers: str) -> None:
    """Run to the end that the seed says."""
    dice = random.Random(f"{name} {seed}")
    twin = BlockingAgent(name, journal=journal, listen=address, peers=peers).start()
    acknowledged = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    shared, moment = twin.orset("all"), threading.Event()

    def one(dice: random.Random, label: str) -> list[str]:
        """One use of the twin; what it wrote."""
        match dice.choice(
            ["add", "add", "block", "failing", "function", "reentrant", "fork", "read"]
        ):
            case "add":
                shared.add(label)
            case "block":
                with twin.batch():
                    shared.add(label)
                    shared.add(label + "+")
                return [label, label + "+"]
            case "failing":
                with suppress(ZeroDivisionError), twin.batch():
                    shared.add("never " + label)
                    _ = 1 / 0
                return []
            case "function":
                twin.batch(lambda agent: agent.orset("all").add(label))
            case "reentrant":
                with suppress(ReentrantCallError):
                    twin.batch(lambda _: shared.add("never " + label))
                return []
            case "fork":
                if not (child := os.fork()):
                    with suppress(ForkedError):
                        shared.add("never " + label)
                        os._exit(1)
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                return []
            case _:
                assert all(isinstance(element, str) for element in shared)
                return []
        return [label]

    def work(number: int) -> None:
        own = random.Random(f"{name} {seed} {number}")
        for step in range(STEPS):
            try:
                if wrote := one(own, f"{name}.{seed}.{number}.{step}"):
                    twin.durable(timeout_s=30)
                    os.write(acknowledged, (json.dumps(wrote) + "\n").encode())
            except (ClosedError, NotYetError):
                return
            if number == 0 and step == STEPS // 2:
                moment.set()

    pool = ThreadPoolExecutor(THREADS)
    jobs = [pool.submit(work, number) for number in range(THREADS)]
    end = dice.choice(["finish", "close", "exit", "kill"])
    if end != "finish":
        moment.wait(30)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "exit":
        sys.exit(0)  # without a close, in the middle of everything
    if end == "close":
        twin.close()
    for job in jobs:
        job.result(60)
    twin.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
