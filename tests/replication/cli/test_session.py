"""The three terminals of docs/operations.md: exactly the printed commands, in real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[3]
LINE = re.compile(r"^terminal-(\d)\$ (.*)$")


def printed() -> list[tuple[str, str, list[str]]]:
    """(terminal, command, lines that it prints) in the order of the page."""
    session: list[tuple[str, str, list[str]]] = []
    for block in re.findall(
        r"^```console\n(.*?)^```",
        (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    ):
        for line in block.splitlines():
            if match := LINE.match(line):
                session.append((*match.groups(), []))
            elif session:
                session[-1][2].append(line)
    return session


async def run(command: str, where: Path) -> asyncio.subprocess.Process:
    program, *arguments = shlex.split(command)
    assert program == "python"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.processes
async def test_the_three_terminals_work_as_printed(tmp_path):
    """Start two agents, write on one, see it on the other, cut, write on both, heal: as printed.

    Only the two ports are replaced by free ones.
    """
    one, two = free_ports(2)
    agents: list[asyncio.subprocess.Process] = []
    commands = 0
    try:
        for terminal, command, expected in printed():
            real = command.replace("7001", str(one)).replace("7002", str(two))
            process = await run(real, tmp_path)
            if terminal in {"1", "2"}:
                agents.append(process)
                started = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
                assert started["address"].startswith("127.0.0.1:")
                continue
            out, err = await asyncio.wait_for(process.communicate(), 60)
            assert (process.returncode, err.decode()) == (0, ""), command
            assert out.decode().splitlines() == expected, command
            commands += 1
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
        for agent in agents:
            assert await asyncio.wait_for(agent.wait(), 10) == 0
            await agent.communicate()
    finally:
        for agent in agents:
            if agent.returncode is None:
                agent.kill()
                await agent.communicate()
    assert len(agents) == 2
    assert commands >= 10
