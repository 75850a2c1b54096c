"""The page without a browser: who may look and who may order, what pictures and stores show."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import convoca
from convoca.page import Page, Picture, Refused, Replica, TeamReplicas, text_of
from convoca.page.decisions import Decisions
from convoca.page.picture import DOCUMENTS_MAX, drawn
from convoca.page.server import FOLLOWERS_MAX
from crdt import Kernel
from replication import Agent
from replication.transport.admin import LOG_LINES_PER_S
from transactional import (
    Interval,
    Reservations,
    Saga,
    Sagas,
    Step,
    StepRefused,
    StoreClosedError,
    WorkQueue,
    connect,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WITHIN_S = 20.0


# -- pictures


def picture(*states: tuple[str, str]) -> Picture:
    """Replicas a, b, c ... with these digests and values of `x`."""
    replicas = [
        Replica(chr(97 + n), "alive", digest, {"x": value, "y": "1"})
        for n, (digest, value) in enumerate(states)
    ]
    return Picture(replicas, types={"x": "PNCounter"})


def test_equal_states_have_one_letter_in_the_order_of_replicas() -> None:
    """Whatever the digests are: they change with each write, the letters of two sides do not."""
    for digests in (("9", "9", "1"), ("1", "1", "9")):
        states = drawn(picture(*((digest, digest) for digest in digests)))
        assert [replica["state"] for replica in states["replicas"]] == ["A", "A", "B"]
        assert states["states"] == 2


def test_what_differs_from_most_is_marked() -> None:
    """One of three; nothing if all are equal; a replica that was not asked differs from nobody."""
    row = drawn(picture(("0", "5"), ("1", "6"), ("0", "5")))["documents"][0]
    assert row["differs"] == ["b"]
    assert row["type"] == "PNCounter"
    assert drawn(picture(("0", "5"), ("0", "5")))["diverged"] == 0
    unknown = Picture([Replica("a", "alive", "0", {"x": "1"}), Replica("b", "suspect")])
    assert drawn(unknown)["documents"][0]["differs"] == []
    assert drawn(unknown)["replicas"][1]["state"] == ""


def test_of_many_documents_those_that_differ_are_shown() -> None:
    """The bound leaves out what is equal first, and says how many."""
    names = [f"n{number:04}" for number in range(DOCUMENTS_MAX + 50)]
    here, there = dict.fromkeys(names, "1"), dict.fromkeys(names, "1") | {names[-1]: "2"}
    found = drawn(Picture([Replica("a", "alive", "0", here), Replica("b", "alive", "1", there)]))
    assert len(found["documents"]) == DOCUMENTS_MAX
    assert found["left_out"] == 50
    assert found["documents"][-1]["name"] == names[-1]


def test_texts_that_are_cut_never_look_alike() -> None:
    """Values that differ behind the cut carry different checksums."""
    texts = {text_of(["x" * 100, number]) for number in range(100)}
    assert len(texts) == 100
    assert all(len(text) < 60 for text in texts)
    assert text_of(None) == "\N{EN DASH}"
    assert text_of("short") == "short"


# -- the door


class Two:
    """A source that tells of two replicas, and does what it is told: the port at its least."""

    orders = ("heal",)

    def __init__(self) -> None:
        self.done: list[str] = []

    async def look(self) -> Picture:
        """Always the same, and a remark."""
        return Picture(picture(("0", "5"), ("1", "6")).replicas, remarks=[(1.0, "it began")])

    async def explain(self, replica: str, name: str) -> list[dict[str, Any]]:
        """One line, of replica `a`."""
        if replica != "a":
            raise Refused("only a tells")
        return [{"value": name, "fate": "shown"}]

    async def execute(self, verb: str) -> str:
        """Remember it."""
        if self.done:
            raise Refused("once is enough")
        self.done.append(verb)
        return "healed"


@asynccontextmanager
async def page(**options: Any) -> AsyncIterator[tuple[Page, aiohttp.ClientSession, dict[str, str]]]:
    """A page, a session, and the headers of who followed the link."""
    async with Page("t", replicas=Two(), **options) as served, aiohttp.ClientSession() as session:
        token = served.url.partition("#token=")[2]
        yield served, session, {"Authorization": f"Bearer {token}"}


def base(served: Page) -> str:
    return served.address.removesuffix("/ui")


async def order(
    served: Page, session: aiohttp.ClientSession, headers: dict[str, str], body: Any = None
) -> int:
    data = json.dumps({"verb": "heal"} if body is None else body)
    given = {"Content-Type": "application/json", **headers}
    async with session.post(f"{base(served)}/ui/orders", data=data, headers=given) as answer:
        return answer.status


async def one_look(served: Page, session: aiohttp.ClientSession, headers: dict[str, str]) -> Any:
    """The first picture of a stream; the status if there is none."""
    async with session.get(f"{base(served)}/ui/stream", headers=headers) as answer:
        if answer.status != 200:
            return answer.status
        assert answer.content_type == "text/event-stream"
        async with asyncio.timeout(WITHIN_S):
            async for line in answer.content:
                if line.startswith(b"data: "):
                    return json.loads(line[6:])
    return None


async def test_an_order_needs_the_token_of_this_start() -> None:
    """Neither none, nor a wrong one, nor that of another page; nothing was done."""
    async with page() as (served, session, right), page() as (_, _, other):
        wrong = {"Authorization": "Bearer \xe4"}
        for headers in ({}, other, wrong, {"Authorization": right["Authorization"][:-1]}):
            assert await order(served, session, headers) == 403
        assert served._replicas.done == []
        assert await order(served, session, right) == 200
        assert served._replicas.done == ["heal"]
        assert await order(served, session, right) == 409, "refused by the source, in its words"


async def test_an_order_is_one_that_the_source_offers() -> None:
    """Another verb, no verb, no JSON, too large, another content type: refused, and not passed."""
    async with page() as (served, session, right):
        for body in ({"verb": "kill"}, {}, [], "x", 0):
            assert await order(served, session, right, body) == 400
        assert await order(served, session, right, {"verb": "heal", "pad": "x" * 5000}) == 413
        plain = {**right, "Content-Type": "text/plain"}
        assert await order(served, session, plain) == 415
        assert served._replicas.done == []


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example"},
    {"Host": "evil.example:80"},
    {"Host": "127.0.0.1.evil.example"},
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
async def test_no_other_web_page_sees_or_orders_anything(foreign: dict[str, str]) -> None:
    """Even with the token: a page of somebody else, or under a name that was rebound."""
    async with page() as (served, session, right):
        headers = {**right, **foreign}
        assert await one_look(served, session, headers) == 403
        assert await order(served, session, headers) == 403
        url = f"{base(served)}/ui/explain?replica=a&name=x"
        async with session.get(url, headers=headers) as answer:
            assert answer.status == 403
        assert served._replicas.done == []
        if "Host" in foreign:
            async with session.get(f"{base(served)}/ui", headers=foreign) as answer:
                assert answer.status == 403


async def test_looking_needs_the_token_where_the_agent_has_a_secret() -> None:
    """Without one this machine may look, and may not order."""
    async with page() as (served, session, right):
        seen = await one_look(served, session, {})
        assert seen["may_order"] is False
        assert (await one_look(served, session, right))["may_order"] is True
        assert seen["diverged"] == 1
        assert [remark["text"] for remark in seen["remarks"]] == ["it began"]
    async with page(guarded=True) as (served, session, right):
        assert await one_look(served, session, {}) == 403
        async with session.get(f"{base(served)}/ui/explain?replica=a&name=x") as answer:
            assert answer.status == 403
        assert (await one_look(served, session, right))["title"] == "t"


async def test_nothing_comes_from_elsewhere_and_every_answer_says_so() -> None:
    """The policy stands on every path, refusals included; the files name no other host."""
    async with page() as (served, session, _):
        paths = ["/ui", "/ui/page.css", "/ui/page.js", "/ui/charts.js", "/ui/icon.svg", "/none"]
        for path in [*paths, "/ui/stream", "/ui/orders"]:
            async with session.get(f"{base(served)}{path}") as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'self'; ")
                assert "unsafe" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
    for file in files("convoca.page").joinpath("static").iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]|@import|\beval\b|innerHTML", text), file.name
        assert " style=" not in text
        assert not re.search(r"\son[a-z]+=", text), file.name


async def test_a_token_is_in_no_log_and_orders_are(caplog: pytest.LogCaptureFixture) -> None:
    """Each order is a line, and each token that does not fit, so many in a second."""
    async with page() as (served, session, right):
        await order(served, session, right)
        for _ in range(LOG_LINES_PER_S + 5):
            await order(served, session, {"Authorization": "Bearer guess"})
        lines = [record for record in caplog.records if record.name == "convoca.page"]
        assert lines[0].message == "order"
        assert "token-refused" in [line.message for line in lines]
        assert len(lines) <= 2 * LOG_LINES_PER_S
        shown = " ".join(f"{line.message} {line.__dict__.get('facts')}" for line in lines)
        assert served.url.partition("#token=")[2] not in shown
        assert "guess" not in shown


async def test_so_many_may_follow_and_one_more_is_told_to_come_back() -> None:
    """A place is free again when somebody goes."""
    async with page() as (served, session, right), AsyncExitStack() as stack:
        for _ in range(FOLLOWERS_MAX):
            url = f"{base(served)}/ui/stream"
            answer = await stack.enter_async_context(session.get(url, headers=right))
            assert answer.status == 200
        assert await one_look(served, session, right) == 503
        await stack.aclose()
        async with asyncio.timeout(WITHIN_S):
            while await one_look(served, session, right) == 503:  # noqa: ASYNC110 - it asks
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:80", "example.org:80", "nonsense"])
async def test_it_is_served_on_loopback_only(listen: str) -> None:
    """Elsewhere a tunnel authenticates and encrypts; this does not."""
    with pytest.raises(convoca.PageError) as refused:
        Page("t", listen=listen)
    assert refused.value.hint


async def test_a_busy_port_is_said() -> None:
    """And nothing is left open."""
    async with page() as (served, _, _):
        port = base(served).rpartition(":")[2]
        with pytest.raises(convoca.PageError, match="in use"):
            await Page("t", listen=f"127.0.0.1:{port}").start()


async def test_a_source_that_fails_ends_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and looked at again."""

    class Failing(Two):
        looks = 0

        async def look(self) -> Picture:
            self.looks += 1
            if self.looks == 1:
                raise ValueError("not yet")
            return await super().look()

    async with Page("t", replicas=Failing()) as served, aiohttp.ClientSession() as session:
        assert (await one_look(served, session, {}))["states"] == 2
    assert "look-failed" in [record.message for record in caplog.records]


# -- a team


async def until_seen(source: TeamReplicas, holds: Any) -> Picture:
    async with asyncio.timeout(WITHIN_S):
        while not holds(seen := await source.look()):  # noqa: ASYNC110 - it asks
            await asyncio.sleep(0.05)
    return seen


@pytest.mark.processes
@pytest.mark.parametrize("secret", [None, "s" * 32])
async def test_an_agent_shows_what_the_others_hold_and_cuts_itself_off(secret: str | None) -> None:
    """Two agents: equal, then cut and different, then healed and equal; who wrote what."""
    async with (
        Agent("ann", secret=secret) as ann,
        Agent("bob", peers=[ann.address], secret=secret) as bob,
    ):
        source = TeamReplicas(ann)
        ann.register("plan").set("first")
        await until_seen(source, lambda p: drawn(p)["states"] == 1 and len(p.replicas) == 2)
        assert await source.execute("partition") == "ann is cut off from 1 others"
        await source.execute("burst")
        bob.register("plan").set("second")
        seen = await until_seen(source, lambda p: drawn(p)["diverged"] == 2)
        assert [replica.name for replica in seen.replicas] == ["ann", "bob"]
        assert seen.links[0].state == "cut"
        rows = {row["name"]: row["values"] for row in drawn(seen)["documents"]}
        assert rows["plan"] == {"ann": "first", "bob": "second"}
        (line,) = [x for x in await source.explain("bob", "plan") if x["fate"] == "shown"]
        assert (line["value"], line["writer"]) == ("second", bob.id)
        (gone,) = [x for x in await source.explain("bob", "plan") if x["fate"] == "replaced"]
        assert (gone["value"], gone["writer"], gone["missing"]) == ("first", ann.id, "")
        await source.execute("heal")
        seen = await until_seen(source, lambda p: drawn(p)["states"] == 1)
        assert seen.links[0].state == "open"
        assert any("cut off from nobody" in text for _, text in seen.remarks)
        for refused in (source.explain("eve", "plan"), source.execute("kill")):
            with pytest.raises(Refused):
                await refused


@pytest.mark.processes
async def test_who_holds_another_secret_is_shown_without_a_state() -> None:
    """A member whose door refuses us is not guessed at."""
    async with (
        Agent("ann", secret="a" * 32) as ann,
        Agent("bob", peers=[ann.address], secret=("a" * 32)) as bob,
    ):
        source = TeamReplicas(ann)
        await until_seen(source, lambda p: len([r for r in p.replicas if r.digest]) == 2)
        await bob.close()
        seen = await until_seen(source, lambda p: not p.replicas[1].digest)
        assert drawn(seen)["replicas"][1]["state"] == ""


@pytest.mark.processes
async def test_a_member_serves_its_page_while_it_lives() -> None:
    """`ui=True`: the URL carries a token; with the member the page ends."""
    async with convoca.join("ann", team="paged", peers=[], store="memory:", ui=True) as ann:
        assert "/ui#token=" in ann.page
        ann.counter("stock").increment(3)
        slot = Interval(*(datetime(2030, 1, 1, hour, tzinfo=UTC) for hour in (9, 10)))
        await ann.rooms.book("turing", slot, holder="ann")
        url, _, token = ann.page.partition("#token=")
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as session,
            asyncio.timeout(WITHIN_S),
            session.get(f"{url}/stream", headers=headers) as answer,
        ):
            async for line in answer.content:
                seen = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if seen.get("store", {}).get("rooms"):
                    break
        assert seen["documents"][0]["values"] == {"ann": "3"}
        assert seen["store"]["rooms"][0]["bookings"][0]["holder"] == "ann"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(url)


def test_what_a_page_asks_for_values_is_of_one_state() -> None:
    """`/documents?values=all` names type and value of each, and the digest that they are of."""
    from replication.agent.admin import AdminHandlers

    class Shell:
        bytes_sent = 7

        def __init__(self) -> None:
            self.kernel = Kernel("here~1")

        def digest(self) -> bytes:
            return self.kernel.digest()

    shell = Shell()
    from crdt import ORSet, PNCounter

    shell.kernel.document("n", PNCounter).increment(2)
    shell.kernel.document("s", ORSet).add("b")
    render = AdminHandlers(shell).endpoints()["/documents"].render  # type: ignore[arg-type]
    told = json.loads(render({"values": "all"}))
    assert told["documents"] == [["n", "PNCounter", 2], ["s", "ORSet", ["b"]]]
    assert told["digest"] == shell.kernel.digest().hex()
    assert json.loads(render({})) == ["n", "s"]


# -- a store


async def test_bookings_sagas_and_queues_are_shown_as_they_stand() -> None:
    """Held, confirmed, given back; a saga that was undone; a queue with a claimed job."""
    store = await connect("memory:")
    rooms = Reservations(store)
    begin = datetime(2030, 1, 7, 9, tzinfo=UTC)
    slots = [Interval(begin + timedelta(hours=n), begin + timedelta(hours=n + 1)) for n in range(3)]
    await rooms.book("a/b", slots[0], holder="ann")
    await rooms.hold("a/b", slots[1], holder="bob", ttl_s=60)
    await rooms.release(await rooms.hold("turing", slots[2], holder="cyd", ttl_s=60))

    def refuse(_: Any) -> None:
        raise StepRefused("no")

    saga = Saga("trip", [Step("hotel", lambda _: 1, lambda _: None), Step("flight", refuse)])
    async with Sagas(store, [saga]) as sagas:
        await sagas.execute("trip", "trip-1")
    queue = WorkQueue(store, "mail", worker="ann")
    await queue.put("m1", {})
    await queue.put("m2", {})
    (job, *_) = await queue.claim(n=1)
    decisions = Decisions(lambda: store)
    before = (await store.scan("")).revision
    seen = {part: (await decisions.look(part))[part] for part in decisions.parts}
    assert (await store.scan("")).revision == before, "whoever looks writes nothing"
    assert {room["name"]: [b["state"] for b in room["bookings"]] for room in seen["rooms"]} == {
        "a/b": ["confirmed", "held"],
        "turing": ["released"],
    }
    (run,) = seen["sagas"]
    assert (run["id"], run["state"], run["error"]) == (
        "trip-1",
        "compensated",
        "StepRefused: no",
    )
    assert [(step["name"], step["state"]) for step in run["steps"]] == [
        ("hotel", "undone"),
        ("flight", "refused"),
    ]
    (mail,) = seen["queues"]
    assert (mail["depths"]["ready"], mail["depths"]["claimed"]) == ("1", "1")
    assert mail["jobs"][0]["id"] == job.id
    await queue.close()
    await store.close()


async def test_the_store_is_sent_only_where_something_of_it_changed() -> None:
    """Most looks come without it; a booking brings it again, whole."""
    store = await connect("memory:")
    begin = datetime(2030, 1, 7, 9, tzinfo=UTC)
    slots = [Interval(begin + timedelta(hours=n), begin + timedelta(hours=n + 1)) for n in range(2)]
    await Reservations(store).book("turing", slots[0], holder="ann")
    without, booked = 0, False
    async with (
        page(store=lambda: store) as (served, session, right),
        asyncio.timeout(WITHIN_S),
        session.get(f"{base(served)}/ui/stream", headers=right) as answer,
    ):
        async for line in answer.content:
            if not line.startswith(b"data: "):
                continue
            seen = json.loads(line[6:])
            without += "store" not in seen
            rooms = seen.get("store", {}).get("rooms", [])
            count = sum(len(room["bookings"]) for room in rooms)
            if without >= 3 and not booked:
                booked = True
                await Reservations(store).book("turing", slots[1], holder="bob")
            if count == 2:
                break
    assert booked
    await store.close()


async def test_a_store_out_of_reach_is_said_and_the_page_goes_on() -> None:
    """Its error stands where its panels would be."""

    def away() -> Any:
        raise StoreClosedError("it is closed")

    decisions = Decisions(away)
    for part in decisions.parts:
        seen = await decisions.look(part)
        assert seen[part] == [], "nothing is shown that is not known now"
        assert "it is closed" in seen[f"{part}_error"]


async def test_names_are_listed_once_however_much_lies_below_them() -> None:
    """Names that are prefixes of others, or sort around the slash, each once and in order."""
    store = await connect("memory:")
    rooms = Reservations(store)
    begin = datetime(2030, 1, 7, 9, tzinfo=UTC)
    names = ["a", "a b", "a!", "a-b", "a/b", "a0", "ab", "\N{GREEK SMALL LETTER OMEGA}"]
    for name in names:
        for hour in range(3):
            slot = Interval(begin + timedelta(hours=hour), begin + timedelta(hours=hour + 1))
            await rooms.book(name, slot, holder="ann")
    found = await rooms.resources()
    assert sorted(found) == sorted(names)
    assert len(found) == len(set(found))
    await store.close()


# -- colours


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    lin = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_what_it_stands_on(mode: int) -> None:
    """4.5 : 1 for text (WCAG 1.4.3), 3 : 1 for what is drawn beside a letter (1.4.11)."""
    css = files("convoca.page").joinpath("static", "page.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\n\s*\}", css, re.DOTALL)[mode]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    texts = [(ink, on) for ink in ("ink", "quiet") for on in ("ground", "card", "soft")]
    texts += [("ink", "mark"), ("accent-ink", "accent")]
    texts += [(ink, "card") for ink in ("good", "bad", "warn")]
    texts += [("state-ink", f"state-{number}") for number in range(6)]
    for ink, on in texts:
        assert contrast(colours[ink], colours[on]) >= 4.5, (ink, on)
    for drawn_colour in ("mark-line", "accent", "focus"):
        assert contrast(colours[drawn_colour], colours["card"]) >= 3, drawn_colour
