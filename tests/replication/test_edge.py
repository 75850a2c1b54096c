"""Agents that are treated badly in five processes at once: nothing acknowledged is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

import pytest

from replication import Agent
from replication.testing import equal
from tests.ports import free_ports
from tests.replication.processes import ROOT
from tests.scale import rounds, seeds

NAMES = ["ada", "bob", "cyd", "dan", "eve"]


@pytest.mark.processes
async def test_five_processes_that_treat_their_agents_badly_lose_nothing(tmp_path):
    """Tasks fail inside of batches, threads call, loops end, children are forked, at random.

    200 lives, 40 in each of five processes that gossip with each other (a twentieth by default).
    Each life begins with a look whether everything acknowledged so far is there; in the end all
    journals are opened here, hold the same, and every log is in it.
    """
    seed, ports = seeds(1)[0], free_ports(len(NAMES))
    print(f"CONVOCA_SEED={seed}")
    addresses = [f"127.0.0.1:{port}" for port in ports]
    processes = []
    for name, address in zip(NAMES, addresses, strict=True):
        options = {
            "name": name,
            "listen": address,
            "peers": [other for other in addresses if other != address],
            "journal": str(tmp_path / f"{name}.db"),
        }
        given = {"options": options, "seed": f"{seed} {name}", "lives": rounds(200) // 5}
        command = [sys.executable, "-m", "tests.replication.edge_worker", json.dumps(given)]
        pipe = asyncio.subprocess.PIPE
        processes.append(await asyncio.create_subprocess_exec(*command, stdout=pipe, cwd=ROOT))
    told = [json.loads((await process.communicate())[0]) for process in processes]
    for name, story in zip(NAMES, told, strict=True):
        print(name, len(story["acknowledged"]), story["counts"])
        assert story["wrong"] == [], name
    async with contextlib.AsyncExitStack() as stack:
        agents: list[Agent] = []
        for name in NAMES:
            peers = [agents[0].address] if agents else []
            agent = Agent(name, journal=tmp_path / f"{name}.db", peers=peers)
            agents.append(await stack.enter_async_context(agent))
        for agent, story in zip(agents, told, strict=True):
            assert set(story["acknowledged"]) <= set(agent.orset("done"))
        await equal(*agents, timeout_s=120)
        held = set(agents[0].orset("done"))
        for story in told:
            assert set(story["acknowledged"]) <= held
            assert not set(story["ghosts"]) & held
