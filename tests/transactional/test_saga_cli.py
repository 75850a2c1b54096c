"""`python -m transactional log|saga|room`: what people see, and one line when it cannot be done."""

from __future__ import annotations

import asyncio
import json

import pytest

import transactional
from transactional import Put, Retry, Saga, Sagas, Step, StepRefused
from transactional.__main__ import main

NINE, TEN = "2025-02-01T09:00:00+01:00", "2025-02-01T10:00:00+01:00"


@pytest.fixture
def run(tmp_path, capsys):
    """Run a command on a fresh file; its rows, or the line on stderr."""
    store = f"sqlite:{tmp_path / 'store.db'}"

    def call(*words: str):
        status = main([*words, "--store", store, "-o", "json"])
        out, err = capsys.readouterr()
        if status:
            assert len(err.splitlines()) == 1
            return err
        return [json.loads(line) for line in out.splitlines()]

    call.store = store
    return call


def test_rooms_by_hand(run):
    """Book, be refused, hold, look, cancel."""
    (made,) = run("room", "book", "turing", NINE, TEN, "--holder", "ann")
    assert made["state"] == "confirmed"
    assert "taken" in run("room", "book", "turing", NINE, TEN, "--holder", "bob")
    (held,) = run(
        "room",
        "book",
        "turing",
        TEN,
        "2025-02-01T11:00:00+01:00",
        "--holder",
        "bob",
        "--hold",
        "60",
    )
    assert held["expires"] is not None
    assert [row["holder"] for row in run("room", "agenda", "turing")] == ["ann", "bob"]
    (slot, *_) = run("room", "free", "turing", NINE, "2025-02-01T18:00:00+01:00")
    assert slot["start"] == "2025-02-01T10:00:00+00:00"
    assert run("room", "cancel", "turing", made["id"]) == [{"id": made["id"], "cancelled": True}]
    assert "no live booking" in run("room", "cancel", "turing", made["id"])
    (ended,) = run("room", "agenda", "turing", "--ended")
    assert ended["state"] == "cancelled"
    for start in ("yesterday", "2025-02-01T09:00:00"):
        assert "error: " in run("room", "book", "turing", start, TEN, "--holder", "ann")


def test_logs_by_hand(run):
    """Append, repeat, read at a time, verify, and see what was altered."""
    run("log", "append", "s", "Added", '{"n": 1}', "--op-id", "x", "--expected", "0")
    assert run("log", "append", "s", "Added", '{"n": 1}', "--op-id", "x")[0]["repeated"]
    (first,) = run("log", "read", "s")
    run("log", "append", "t", "Added", "2", "--actor", "ann")
    assert [row["stream"] for row in run("log", "read")] == ["s", "t"]
    assert run("log", "read", "--at", first["at"]) == [first]
    assert "version 1, expected 0" in run("log", "append", "s", "A", "1", "--expected", "0")
    assert "not JSON" in run("log", "append", "s", "A", "{")
    assert run("log", "verify")[0]["sound"]

    async def tamper() -> None:
        async with transactional.open(run.store) as store:
            page = await store.scan("log/at/", limit=1)
            (entry,) = page.items.values()
            await store.commit([], [Put(entry.key, entry.value.replace(b'{"n":1}', b'{"n":9}'))])

    asyncio.run(tamper())
    assert "s@1 (position 1): the event was altered" in run("log", "verify")


def test_sagas_by_hand(run):
    """List what waits for a person, look at it, retry it, skip what cannot be undone."""

    def no(_) -> None:
        raise StepRefused("out of stock")

    def broken(_) -> None:
        raise OSError("printer on fire")

    steps = [
        Step("print", lambda _: 1, broken, undo_retry=Retry(base_s=0.001, attempts_max=2)),
        Step("ship", no),
    ]

    async def work(starts: bool) -> str:
        async with (
            transactional.open(run.store) as store,
            Sagas(store, [Saga("order", steps)]) as sagas,
        ):
            if starts:
                await sagas.start("order", "o1", {"n": 1})
            await sagas.resume_unfinished()
            return (await sagas.wait("o1")).state.value

    assert asyncio.run(work(True)) == "stuck"
    (row,) = run("saga", "list")
    assert (row["state"], row["step"]) == ("stuck", "print")
    assert "printer on fire" in row["error"]
    assert run("saga", "retry", "o1")[0]["state"] == "compensating"
    assert "not stopped" in run("saga", "skip", "o1")
    assert asyncio.run(work(False)) == "stuck"
    run("saga", "skip", "o1")
    assert asyncio.run(work(False)) == "compensated"
    assert run("saga", "list") == []
    assert run("saga", "list", "--finished")[0]["id"] == "o1"
    history = run("saga", "show", "o1")
    assert [row["what"] for row in history][-2:] == ["skip", "compensated"]
    assert "no saga" in run("saga", "show", "o2")
    assert "no saga" in run("saga", "signal", "o2", "go")
