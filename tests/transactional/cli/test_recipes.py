"""`python -m transactional log|saga|room`: what people see, and one line when it cannot be done."""

from __future__ import annotations

import asyncio
import json

import pytest

import transactional
from transactional import EventLog, Put, Retry, Saga, Sagas, Step, StepRefused
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


ORDER = Saga("order", [Step("reserve", print), Step("charge", print)])


def test_every_step_of_a_bookings_life(run):
    """Define, hold, extend, confirm, move, release, cancel; each repeat is told or harmless."""
    run("room", "define", "lab", "--capacity", "2", "--after", "15")
    hold = ("room", "hold", "lab", NINE, TEN, "--holder", "ann", "--hold", "60", "--key", "k")
    (held,) = run(*hold)
    assert run(*hold) == [held]  # the same key holds nothing twice
    (longer,) = run("room", "extend", "lab", held["id"], "--hold", "600")
    assert longer["expires"] > held["expires"]
    (made,) = run("room", "confirm", "lab", held["id"])
    assert (made["state"], made["expires"]) == ("confirmed", None)
    assert "no live hold" in run("room", "release", "lab", held["id"])
    noon = ("2025-02-01T12:00:00+01:00", "2025-02-01T13:00:00+01:00")
    (moved,) = run("room", "move", "lab", held["id"], *noon, "--to", "attic")
    assert (moved["resource"], moved["start"]) == ("attic", "2025-02-01T11:00:00+00:00")
    assert run("room", "agenda", "lab") == []
    (other,) = run("room", "hold", "attic", NINE, TEN, "--holder", "bob", "--hold", "60")
    assert run("room", "release", "attic", other["id"])[0]["cancelled"]
    assert run("room", "cancel", "attic", held["id"])[0]["cancelled"]
    assert "was cancelled" in run("room", "confirm", "attic", held["id"])
    assert run("room", "show", held["id"])[0]["state"] == "cancelled"
    assert "no booking" in run("room", "show", "nobody")


def test_a_meeting_that_repeats(run):
    """All occurrences or none, on the zone's clocks; `--each` takes what is free."""
    weekly = ("--rule", "FREQ=WEEKLY;COUNT=3", "--zone", "Europe/Berlin", "--holder", "ann")
    first = ("2025-03-20T09:00", "2025-03-20T10:00")
    made = run("room", "repeat", "turing", *first, *weekly)
    assert [row["start"][11:16] for row in made] == ["08:00", "08:00", "07:00"]  # summer begins
    later = ("2025-04-03T09:00", "2025-04-03T10:00")
    assert "taken" in run("room", "repeat", "turing", *later, *weekly)
    rows = run("room", "repeat", "turing", *later, *weekly, "--each")
    assert [row["state"] for row in rows] == ["refused", "confirmed", "confirmed"]
    endless = ("--rule", "FREQ=WEEKLY", "--zone", "Europe/Berlin", "--holder", "ann")
    assert "no end" in run("room", "repeat", "turing", *later, *endless)


def test_a_series_is_held_and_confirmed_by_hand(run):
    """`repeat --hold` keeps all of it, `confirm` takes all its ids; a booking needs its own key."""
    weekly = ("--rule", "FREQ=WEEKLY;COUNT=3", "--zone", "UTC", "--holder", "ann", "--key", "k")
    first = ("2025-03-20T09:00", "2025-03-20T10:00")
    held = run("room", "repeat", "turing", *first, *weekly, "--hold", "60")
    assert [row["state"] for row in held] == ["held"] * 3
    assert "as a whole" in run(
        "room", "repeat", "turing", *first, *weekly, "--hold", "60", "--each"
    )
    assert "used for an operation" in run("room", "repeat", "turing", *first, *weekly)
    made = run("room", "confirm", "turing", *(row["id"] for row in held))
    assert [row["state"] for row in made] == ["confirmed"] * 3
    assert "one of 'turing'" in run("room", "confirm", "attic", held[0]["id"])


def test_a_log_followed_and_erased(run):
    """What is appended is printed; what is erased is gone and the chain still holds."""
    for name in ("ann", "bob"):
        run("log", "append", "people", "Joined", json.dumps({"name": name}))
    (second,) = run("log", "follow", "--after", "1", "--count", "1")
    assert json.loads(second["data"]) == {"name": "bob"}
    erased = run("log", "erase", "people", "--version", "1")
    assert erased == [{"stream": "people", "erased": 1}]
    assert [row["data"] for row in run("log", "read", "people")] == ["(erased)", second["data"]]
    assert run("log", "verify")[0]["sound"] is True


def test_a_run_is_abandoned_by_hand(run):
    """The definition says whether it may still turn back; a wrong place is one line."""

    async def begin():
        async with transactional.open(run.store) as store:
            await Sagas(store, [ORDER]).start("order", "r1")

    asyncio.run(begin())
    place = ("--definition", f"{__name__}:ORDER")
    (turned,) = run("saga", "abandon", "r1", *place)
    assert turned["state"] == "compensating"
    assert "there is no saga" in run("saga", "abandon", "r2", *place)
    for wrong in ("nowhere:ORDER", f"{__name__}:NINE", f"{__name__}:nothing"):
        assert "hint" in run("saga", "abandon", "r1", "--definition", wrong)


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
        assert "invalid_" in run("room", "book", "turing", start, TEN, "--holder", "ann")


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


def test_a_noted_head_is_checked_by_hand(run):
    """`verify` tells a head; given back, it is looked for in the log."""
    run("log", "append", "s", "Noted", "1")
    (sound,) = run("log", "verify")
    run("log", "append", "s", "Noted", "2")
    assert run("log", "verify", "--noted", sound["head"])[0]["events"] == 2
    position, _, digits = sound["head"].partition(":")
    assert "noted" in run("log", "verify", "--noted", f"{position}:{digits[::-1]}")
    assert "is no head" in run("log", "verify", "--noted", "1:2")


def test_parked_events_are_replayed_by_hand(run):
    """What a group gave up is listed, and comes again."""
    run("log", "append", "s", "Poison", "1")

    async def fail() -> None:
        async with transactional.open(run.store) as store:
            deliveries = EventLog(store).subscribe("group", attempts_max=2)
            for _ in range(2):
                await anext(deliveries)
            waiting = asyncio.create_task(anext(deliveries))
            while not await EventLog(store).parked("group"):  # noqa: ASYNC110 it is its task
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(fail())
    (parked,) = run("log", "parked", "group")
    assert parked == {"position": 1, "stream": "s", "version": 1, "attempts": 2}
    assert run("log", "replay", "group", "--position", "9")[0]["replayed"] == 0
    assert run("log", "replay", "group")[0]["replayed"] == 1
    assert run("log", "parked", "group") == []


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


def test_old_things_are_counted_and_taken_away_by_hand(run, tmp_path, capsys):
    """`stats` says what takes how much; `compact` takes nothing that is younger than a week."""
    run("room", "book", "turing", "2030-01-01T09:00Z", "2030-01-01T10:00Z", "--holder", "ann")
    told = {row["what"]: row["removed"] for row in run("compact")}
    assert told == {"reservations": 0, "sagas": 0, "event log": 0, "engine": 0}
    assert main(["stats", str(tmp_path / "store.db"), "-o", "json"]) == 0
    rows = {row["what"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["keys reservation/of/*/day/"]["rows"] == 1
    assert rows["table operations"]["bytes"] > 0


def test_a_calendar_file_is_booked_and_what_is_not_is_told(run, tmp_path, capsys):
    """A weekly meeting, one that is taken, one without a room, one that names no zone."""
    file = tmp_path / "team.ics"
    utc = "DTSTART:20250201T080000Z\nDURATION:PT1H"
    events = [
        f"UID:weekly\nLOCATION:turing\nSUMMARY:Standup\n{utc}\nRRULE:FREQ=WEEKLY",
        f"UID:late\nLOCATION:turing\n{utc}",
        f"UID:nowhere\n{utc}",
        "UID:floating\nLOCATION:turing\nDTSTART:20250201T080000\nDURATION:PT1H",
    ]
    body = "".join(f"BEGIN:VEVENT\n{event}\nEND:VEVENT\n" for event in events)
    file.write_text(f"BEGIN:VCALENDAR\n{body}END:VCALENDAR\n")
    window = ("--from", "2025-02-01T00:00:00Z", "--until", "2025-02-20T00:00:00Z")
    words = ("room", "import", str(file), "--holder", "ann", *window, "--key", "k")
    status = main([*words, "--store", run.store, "-o", "json"])
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert sorted(row["state"] for row in rows) == ["confirmed"] * 3 + ["refused"]
    assert {row["resource"] for row in rows} == {"turing"}
    assert f"{file}:16: not booked: it has no LOCATION" in err
    assert f"{file}:21: not booked: DTSTART 20250201T080000 is floating" in err
    assert len(run("room", "agenda", "turing")) == 3
    main([*words, "--store", run.store, "-o", "json"])  # the key makes a repeat harmless
    capsys.readouterr()
    assert len(run("room", "agenda", "turing")) == 3
    one = ("room", "import", str(file), "--holder", "bob", "--resource", "lab", *window)
    main([*one, "--zone", "Europe/Berlin", "--store", run.store, "-o", "json"])
    assert "not booked" not in capsys.readouterr().err
    assert "no iCalendar file" in run("room", "import", __file__, "--holder", "ann")
    assert "unknown time zone" in run("room", "import", str(file), "--holder", "a", "--zone", "x")
