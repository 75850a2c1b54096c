"""A coordinator that dies at every record boundary, in this process and with a real kill -9."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys

import pytest

import transactional
from tests.scale import SOAK, rounds, seeds
from tests.transactional.engines import HTTPEngine
from tests.transactional.sagas.order_saga import STEPS, effects, order_saga
from tests.transactional.sagas.patient_saga import ENDS, patient_sagas, place
from tests.transactional.sagas.victims import LEASE_TTL_S, live, outside_saga
from transactional import Put, Sagas, SagaState
from transactional.stores.memory import MemoryStore


class Killed(BaseException):
    """The process is gone: nothing of it runs on, no `except Exception` sees it."""


class Mortal:
    """A store in the hands of a worker that dies at its n-th commit, before or after it is made."""

    def __init__(self, store, commits: int, *, after: bool) -> None:
        self._store = store
        self._left = commits
        self._after = after
        self.dead = False

    def __getattr__(self, name):
        if self.dead:
            raise Killed
        return getattr(self._store, name)

    async def commit(self, compares, writes, otherwise=(), *, op_id=None):
        if self.dead:
            raise Killed
        self._left -= 1
        if self._left == 0 and not self._after:
            self.dead = True
            raise Killed
        made = await self._store.commit(compares, writes, otherwise, op_id=op_id)
        if self._left == 0:
            self.dead = True
            raise Killed
        return made


async def assert_whole(store, run) -> None:
    """Completed with every effect, or compensated with every effect undone, by their keys."""
    done, undone = await effects(store, run.id)
    if run.state is SagaState.COMPLETED:
        assert (done, undone) == (set(STEPS), set())
    else:
        assert run.state is SagaState.COMPENSATED, run
        assert done <= undone <= set(STEPS[:3])


async def run_until_it_dies(mortal, saga, run_id: str) -> None:
    sagas = Sagas(mortal, [saga], worker="mortal", recover_every_s=60)
    try:
        await sagas.__aenter__()
        await sagas.execute(saga.name, run_id)
    except Killed:
        pass
    tasks = [*sagas._duties, *sagas._driving.values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("refuse", ["", "label", "ship"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_crash_at_every_record_boundary(timed_store, hand_clock, refuse, after):
    """[transactional 32] Another worker ends what was begun; each effect is once, by its key."""
    stride = 1 if SOAK else 3  # a third of the boundaries, another one each day
    for commits in range(1 + seeds(1)[0] % stride, 40, stride):
        mortal = Mortal(timed_store, commits, after=after)
        run_id = f"r{commits}"
        await run_until_it_dies(mortal, order_saga(mortal, refuse=refuse), run_id)
        hand_clock.forward(11)
        await timed_store.commit([], [Put("nudge", b"")])
        saga = order_saga(timed_store, refuse=refuse)
        async with Sagas(timed_store, [saga], recover_every_s=60) as heir:
            if await heir.get(run_id) is None:
                assert commits <= 2  # it died before the run was on record
                continue
            await heir.resume_unfinished()
            run = await heir.wait(run_id)
        await assert_whole(timed_store, run)
        expected = SagaState.COMPENSATED if refuse else SagaState.COMPLETED
        assert run.state is expected
        if not mortal.dead:
            break  # it lived to the end: every boundary was tried
    else:
        pytest.fail("the saga never came to its end alive")


async def boundaries(tmp_path) -> list[tuple[str, int, bool]]:
    """Each record boundary of sagas that complete, turn early and turn late."""
    found = []
    for refuse in ("", "label", "ship"):
        store, ledger = MemoryStore(), tmp_path / f"rehearsal{refuse}"
        ledger.mkdir()
        commits = await live(store, ledger, refuse, 0, after=False)
        await store.close()
        found += [(refuse, n, after) for n in range(1, commits + 1) for after in (False, True)]
    return found


async def resumed(directory, refuse: str):
    """The victim's run as another worker ends it; None if it was never on record."""
    async with transactional.open(f"sqlite:{directory / 'store.db'}") as store:
        saga = outside_saga(directory / "ledger", refuse=refuse)
        sagas = Sagas(store, [saga], lease_ttl_s=5, recover_every_s=LEASE_TTL_S / 4)
        if await sagas.get("run") is None:
            return None
        async with sagas, asyncio.timeout(60):
            return await sagas.wait("run")


@pytest.mark.processes
async def test_kill_minus_nine_at_each_record_boundary(tmp_path):
    """[transactional 32] A real process dies right before or after each commit of its saga.

    Completed or compensated, and what happened outside of the store happened once by its key.
    """
    dice = random.Random(seed := seeds(1)[0])
    print(f"replay: CONVOCA_SEED={seed}")
    known = await boundaries(tmp_path)
    assert len(known) > 40
    chosen = dice.sample(known, rounds(len(known), 6))
    cases = {f"case{n}": case for n, case in enumerate(chosen)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.transactional.sagas.victims",
        str(tmp_path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    lines = "".join(json.dumps([name, *case]) + "\n" for name, case in cases.items())
    said, _ = await process.communicate(lines.encode())
    exits = dict(json.loads(line) for line in said.splitlines())
    assert exits == dict.fromkeys(cases, -signal.SIGKILL)
    for name, (refuse, commits, after) in cases.items():
        run = await resumed(tmp_path / name, refuse)
        outside = sorted(path.name for path in (tmp_path / name / "ledger").iterdir())
        if run is None:
            assert (commits, after) <= (2, False), "the run is on record once it is begun"
            assert outside == []
        elif not refuse:
            assert run.state is SagaState.COMPLETED
            assert outside == sorted(f"run:{step}" for step in STEPS)
        else:
            assert run.state is SagaState.COMPENSATED
            done = STEPS[: STEPS.index(refuse)]
            undone = [f"run:{step}:undo" for step in done]
            assert outside == sorted([*(f"run:{step}" for step in done), *undone])


@pytest.mark.processes
async def test_kill_minus_nine_in_mid_saga(tmp_path):
    """[transactional 32] Real processes, killed at random; the survivors' books are whole."""
    dice = random.Random(seed := seeds(1)[0])
    print(f"replay: CONVOCA_SEED={seed}")
    engine = HTTPEngine(tmp_path)
    store = await engine.client()
    url = engine.authority.url
    begun = taken = 0
    for number in range(rounds(100)):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.transactional.sagas.order_saga",
            url,
            f"v{number}",
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(dice.randrange(2, 12)):
            await process.stdout.readline()
        await asyncio.sleep(dice.uniform(0, 0.01))  # the dice, not a wait
        process.send_signal(signal.SIGKILL)
        await process.communicate()
    sagas = [order_saga(store), order_saga(store, refuse="label")]
    async with Sagas(store, sagas, recover_every_s=0.05) as heir:
        taken = len([run async for run in heir.unfinished()])
        async with asyncio.timeout(60):
            while [run async for run in heir.unfinished()]:  # noqa: ASYNC110 a condition of the store
                await asyncio.sleep(0.02)
        async for run in heir.finished():
            await assert_whole(store, run)
            refused = run.saga != "order"
            assert run.state is (SagaState.COMPENSATED if refused else SagaState.COMPLETED)
            begun += 1
    await engine.stop()
    assert begun >= rounds(100) * 2
    assert taken > 0, "no process was killed in mid-saga"


async def fall(url: str, ledger, name: str, life_s: float) -> None:
    """One worker process's life, ended with SIGKILL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.transactional.sagas.patient_saga",
        url,
        str(ledger),
        name,
        stdout=asyncio.subprocess.PIPE,
    )
    assert await process.stdout.readline() == b"ready\n"
    await asyncio.sleep(life_s)  # the dice, not a wait
    process.send_signal(signal.SIGKILL)
    await process.communicate()


def happened(ledger, run_id: str, step: str) -> bool:
    return place(ledger, f"{run_id}/{step}").exists()


def assert_books_are_whole(ledger, run) -> None:
    """What happened outside is what the run says."""
    charged = happened(ledger, run.id, "charge")
    own = [step for step in ("reserve", "later") if happened(ledger, run.id, step)]
    undone = [step for step in own if happened(ledger, run.id, f"{step}/undo")]
    if run.state is SagaState.COMPLETED:
        assert (own, undone, charged) == (["reserve", "later"], [], True), run
        assert happened(ledger, run.id, "ship")
        assert run.results["word"] == run.id
    elif run.state is SagaState.COMPENSATED:
        assert not charged, f"charged and compensated: {run}"
        assert own == undone, run
        if happened(ledger, f"{run.id}.part", "pack"):
            assert happened(ledger, f"{run.id}.part", "pack/undo") or happened(
                ledger, run.id, "part/undo"
            ), run
    else:
        assert run.stopped, run


@pytest.mark.processes
async def test_kill_minus_nine_of_workers_whose_runs_wait(tmp_path):
    """Two rival workers at a time fall while runs sleep, wait for signals and children, and decide.

    Each run ends as it must or is visibly stopped; each step has one key, whoever called it; a
    pivot's effect and "compensated" never stand together.
    """
    dice = random.Random(seed := seeds(1)[0])
    print(f"replay: CONVOCA_SEED={seed}")
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    engine = HTTPEngine(tmp_path)
    store = await engine.client()
    falls = rounds(110, 6)
    for number in range(0, falls, 2):
        names = [f"v{number}", f"v{number + 1}"]
        await asyncio.gather(
            *(fall(engine.authority.url, ledger, name, dice.uniform(0.05, 2.0)) for name in names)
        )
    sagas = Sagas(store, patient_sagas(ledger), recover_every_s=0.2)
    ends: dict[str, int] = {}
    async with sagas as heir, asyncio.timeout(120):
        taken = [run.id async for run in heir.unfinished() if not run.stopped]
        for run_id in taken:
            await heir.signal(run_id, "go", run_id, key="go")
        for run_id in taken:
            await heir.wait(run_id)
        over = [run async for run in heir.finished()]
        stopped = [run async for run in heir.unfinished()]
    for run in (*over, *stopped):
        if run.saga != "patient":
            assert run.over, run
            continue
        assert_books_are_whole(ledger, run)
        assert run.state in (ENDS[run.input], SagaState.DEAD_LETTER), run
        ends[run.state.value] = ends.get(run.state.value, 0) + 1
    keys: dict[tuple[str, str, bool], set[str]] = {}
    calls = (ledger / "calls").read_text().splitlines()
    for call in calls:
        run_id, step, key = call.split("\t")
        keys.setdefault((run_id, step, key.endswith("/undo")), set()).add(key)
    await engine.stop()
    print(f"{falls} kills, {ends}, {len(taken)} in mid-air, {len(calls)} calls of {len(keys)} keys")
    assert all(len(of_step) == 1 for of_step in keys.values())
    assert taken or falls < 100, "no process was killed in mid-saga"  # six kills may all miss
    assert ends.get("dead_letter", 0) <= falls
    assert ends
    all_ends = {"completed", "compensated", "stuck"}  # of those that begin before a kill comes
    assert all_ends <= set(ends) or falls < 100
