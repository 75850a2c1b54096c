"""What the disk changes under an open store is found, and nothing that the store does looks so."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from contextlib import closing, suppress
from time import monotonic
from typing import TYPE_CHECKING

import aiohttp
import pytest

import transactional as t
from tests.scale import rounds, seeds
from transactional import rules
from transactional.caller import OWNER
from transactional.clock import BusinessTime
from transactional.server.admission import Listen
from transactional.server.server import Authority
from transactional.stores import sqlite_file
from transactional.stores import sqlite_schema as schema
from transactional.stores.http import HTTPStore
from transactional.stores.sqlite import SQLiteStore, State
from transactional.stores.sqlite_patrol import AGAIN_S, Patrol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.transactional.conftest import HandClock

LIMITS = t.Retention(history_commits_max=20, history_bytes_max=200_000, op_id_retention_s=300)


class Writer:
    """A store's only writer, without a thread: groups, and steps of one row between them."""

    def __init__(self, file: sqlite_file.OpenFile, hand: HandClock) -> None:
        self.patrol = Patrol(file.patrol, every_s=1, step_s=0)
        self.state = State(file.writer, hand.clock(), BusinessTime(), LIMITS, self.patrol)
        self.hand = hand
        self.leases: list[str] = []
        self.minted: list[str] = []

    def group(self, dice: random.Random) -> None:
        """Do a few things in one transaction, which may fail as a whole."""
        self.hand.forward(dice.choice([0.001, 1, 60, 400]))
        self.state.begin()
        granted: list[str] = []
        for _ in range(dice.randint(1, 4)):
            self._one(dice, granted)
        if dice.random() < 0.1:
            self.state.abandon()
            return
        self.state.finish()
        self.leases += granted

    def _one(self, dice: random.Random, granted: list[str]) -> None:
        state = self.state
        kinds = "put put delete forget forget own lease lease end old"
        what = dice.choice(kinds.split())
        key = f"k/{dice.randrange(20):02}"
        writes: list[t.Write] = [t.Put(key, dice.randbytes(dice.choice([3, 900, 9000])))]
        op_id = self._minted()
        match what:
            case "delete":
                writes = [dice.choice([t.Delete(key), t.DeletePrefix(key[:3])])]
            case "forget":
                writes = [t.Delete(key, forget=True)]
            case "own":
                op_id = f"invoice-{dice.randrange(20)}-{int(self.hand.elapsed_s) // 600}"
            case "lease":
                granted.append(state.grant(dice.choice([50, 50_000]), OWNER, remote=True).id)
                writes.append(t.Put(f"l/{granted[-1]}", b"", granted[-1]))
            case "end" if self.leases:
                state.revoke(self.leases.pop(dice.randrange(len(self.leases))))
                return
            case "old":
                state.resolve(self._minted(), OWNER)
                state.compact()
                return
        asked = t.CommitRequest((), tuple(writes))
        content = rules.fingerprint([], writes, [])
        with suppress(t.OperationIdReusedError):  # with another payload: not what is tried here
            state.commit(asked, op_id, content, "me", OWNER)

    def _minted(self) -> str:
        self.minted.append(f"op:{self.state.epoch}:{self.state.revision}:{len(self.minted):016x}")
        return self.minted[-1]


@pytest.fixture
def writer(tmp_path: Path, hand_clock: HandClock) -> Iterator[Writer]:
    wall = hand_clock.clock().wall_us
    file = sqlite_file.OpenFile.open(tmp_path / "s.db", wall, accept_clock=False, check_s_max=5)
    with closing(file):
        yield Writer(file, hand_clock)


def test_whatever_is_written_between_two_steps_the_count_holds(writer: Writer) -> None:
    """Puts, deletions, forgetting, op_ids, leases, compaction, groups that fail: none is damage."""
    seed = seeds(1)[0]
    dice = random.Random(seed)
    whole = 0
    tables = set()
    for _ in range(rounds(8000, 400)):
        writer.group(dice)
        for _ in range(dice.randint(0, 12)):
            whole += writer.state.look_again()
            if writer.patrol._last is not None:
                tables.add(writer.patrol._todo[0])
    assert not writer.patrol.recounted, f"CONVOCA_SEED={seed}"
    assert whole > 2
    assert tables == set(schema.PLACES)
    (busy, *_) = writer.state._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy  # no step has kept its snapshot


# --- what the disk does under it -----------------------------------------------------------------


async def filled(path: Path) -> None:
    store = await SQLiteStore.open(path)
    for start in range(0, 400, 100):
        some = [t.Put(f"k/{number:04}", b"v" * 60) for number in range(start, start + 100)]
        await store.commit([], some)
    await store.close()


def count_of_a_page(content: bytes) -> tuple[int, str]:
    """Where a page of `keys` says how many rows it has, an odd number; and the key of the last."""
    size = 4096
    for page in range(size, len(content), size):
        kind, count = content[page], int.from_bytes(content[page + 3 : page + 5])
        if kind != 0x0A or not count & 1:  # a leaf of a table without rowid, of an odd count
            continue
        last = page + 8 + 2 * (count - 1)
        cell = page + int.from_bytes(content[last : last + 2])
        if (at := content.find(b"k/", cell, cell + 20)) > 0 and content[at + 6 : at + 8] == b"vv":
            return page + 4, content[at : at + 6].decode()
    raise AssertionError("no such page")


def turn_a_bit(path: Path, at: int) -> None:
    with path.open("r+b", buffering=0) as file:
        (byte,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 it comes true in another thread
        await asyncio.sleep(0.001)


async def refused(ask: Callable[[], Awaitable[object]]) -> t.CorruptStoreError:
    """Ask until it is refused; what it is refused with."""
    while True:
        try:
            await ask()
        except t.CorruptStoreError as error:
            return error
        await asyncio.sleep(0.001)


async def test_a_key_that_a_turned_bit_hides_stops_the_store(tmp_path: Path, caplog) -> None:
    """Counterexample: it was said to be absent, until somebody ran `verify`."""
    path = tmp_path / "s.db"
    await filled(path)
    at, key = count_of_a_page(path.read_bytes())
    store = await SQLiteStore.open(path, check_every_s=0)
    turn_a_bit(path, at)
    assert await store.get(key) is None  # nothing else could tell
    await store.close()
    turn_a_bit(path, at)
    store = await SQLiteStore.open(path, check_every_s=0.02)
    lease = await store.lease(0.05)
    events = store.watch("", after=None)
    watching = asyncio.create_task(anext(events))
    rounds_made = store._state.patrol
    before = rounds_made._whole_s
    await until(lambda: rounds_made._whole_s > before)  # and it finds nothing
    turn_a_bit(path, at)
    with caplog.at_level(logging.CRITICAL):
        error = await refused(lambda: store.get("another"))
    assert "rows of keys are lost" in str(error)
    assert error.code == "corrupt"
    assert any("has stopped" in line for line in caplog.messages)
    for ask in (
        lambda: store.scan("k/"),
        lambda: store.commit([], [t.Put("new", b"")]),
        lambda: store.renew(lease.id),
    ):
        with pytest.raises(t.CorruptStoreError, match="rows of keys are lost"):
            await ask()
    with pytest.raises(t.CorruptStoreError):  # nobody waits for what cannot come
        await watching
    assert store.figures()["damaged"] == 1
    await store.close()
    with pytest.raises(t.CorruptStoreError):
        await SQLiteStore.open(path)


@pytest.mark.processes
async def test_whoever_is_far_away_is_told_as_well(tmp_path: Path) -> None:
    """Counterexample: a watch behind an authority waited for ever, for what could not come."""
    path = tmp_path / "s.db"
    await filled(path)
    at, _ = count_of_a_page(path.read_bytes())
    store = await SQLiteStore.open(path, check_every_s=0.05)
    authority = Authority(store, Listen(port=0))
    await authority.start()
    client = await HTTPStore.open(authority.url)
    watching = asyncio.create_task(anext(client.watch("k/")))
    await until(lambda: store.figures()["watches"] == 1)
    turn_a_bit(path, at)
    await refused(lambda: client.get("k/0001"))
    with pytest.raises(t.CorruptStoreError, match="rows of keys are lost"):
        await watching
    with pytest.raises(t.CorruptStoreError):
        await anext(client.watch("k/", after=1))
    async with aiohttp.ClientSession() as web, web.get(f"{authority.url}/v1/keys/k") as answer:
        assert answer.status == 500  # not the caller's fault
        assert (await answer.json())["code"] == "corrupt"
    with pytest.raises(t.CorruptStoreError):
        await t.Lock(client, "turing", owner="ann").acquire(wait_s=5)
    await client.close()
    await authority.stop()
    await store.close()


async def test_a_row_that_nobody_reads_is_looked_at(tmp_path: Path) -> None:
    """And at once, if there was no time for that when the file was opened."""
    path = tmp_path / "s.db"
    await filled(path)
    content = path.read_bytes()
    at = content.index(b"k/0234") + 20
    path.write_bytes(content[:at] + b"V" + content[at + 1 :])
    store = await SQLiteStore.open(path, check_s_max=0)
    error = await refused(lambda: store.get("k/0000"))
    assert "k/0234" in str(error)
    await store.close()


@pytest.mark.parametrize("given", [-1, float("nan"), float("inf"), 1e10])
async def test_how_often_is_a_number_of_seconds(tmp_path: Path, given: float) -> None:
    with pytest.raises(t.InvalidRequestError, match="check_every_s"):
        await SQLiteStore.open(tmp_path / "s.db", check_every_s=given)
    with pytest.raises(t.InvalidRequestError, match="check_every_s is 0 to"):
        await t.connect(f"sqlite:{tmp_path}/s.db?check_every_s={given}")


@pytest.mark.parametrize(("given", "looks"), [("0", False), ("0.05", True)])
async def test_a_url_says_how_often(tmp_path: Path, given: str, looks: bool) -> None:
    """Counterexample: the option was refused as unknown, together with those that are."""
    url = f"sqlite:{tmp_path}/s.db?check_every_s={given}&history_bytes_max=4096"
    async with t.open(url) as store:
        await store.commit([], [t.Put("a", b"")])
        assert isinstance(store, SQLiteStore)
        assert (store._state.patrol.due_s is not None) == looks
    with pytest.raises(t.InvalidRequestError, match="check_every_s, history_bytes_max"):
        await t.connect(f"sqlite:{tmp_path}/s.db?check_often=1")
    with pytest.raises(t.InvalidRequestError, match="check_every_s is a number"):
        await t.connect(f"sqlite:{tmp_path}/s.db?check_every_s=often")


def test_a_step_ends_with_the_first_row_after_its_time(writer: Writer) -> None:
    """So the next group waits for one step, however many rows there are."""
    state = writer.state
    state.begin()
    for number in range(50):
        asked = t.CommitRequest((), (t.Put(f"k/{number}", b""),))
        state.commit(asked, f"own-{number}", bytes(16), "me", OWNER)
    state.finish()
    rows = sum(schema.Meta.read(state._db).totals[table][0] for table in schema.PLACES)
    steps = 1
    while not state.look_again():
        steps += 1
    assert steps >= rows > 100


def test_what_the_writer_does_not_know_of_is_not_looked_at(writer: Writer) -> None:
    """Another's commit, or one whose outcome is unknown: that is the writer's to tell, in time."""
    state = writer.state
    begun_s = monotonic()
    assert not writer.patrol.step({**state._totals, "keys": (1, 1, 1)})
    assert writer.patrol._last is None
    assert writer.patrol.due_s is not None
    assert writer.patrol.due_s >= begun_s + AGAIN_S
