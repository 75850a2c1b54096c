"""Who may look into an agent and give it orders: by proof, once, to one agent, and on record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
import subprocess
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from replication import AccessPolicy, Agent
from replication.cli.command_line import main
from replication.cli.doctor import of_cluster
from replication.credentials import keys_of, page_token, tls_contexts
from replication.errors import OrderRefusedError, ReplicationError, UnhealthyError
from replication.transport import AdminClient
from replication.transport import admin as door
from replication.transport import challenge as proofs
from replication.transport.challenge import ORDER, PAGE, Asked, Challenges, hash_of, target_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "a secret of the cluster"
KEYS = keys_of(SECRET)
PATHS = ("/status", "/metrics", "/documents", "/explain?name=k", "/changes", "/challenge?nonce=1")


@contextlib.asynccontextmanager
async def recorder() -> AsyncIterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A listener of an attacker: answers nonsense, and keeps (path, headers) of what it is told."""
    told: list[tuple[str, dict[str, str]]] = []

    async def take(request: web.Request) -> web.Response:
        told.append((request.path, dict(request.headers)))
        return web.json_response({"challenge": "x", "proofs": ["00"]})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}", told
    await runner.cleanup()


async def ask(agent: Agent, path: str, **headers: str | bytes) -> int:
    """The status of a raw GET (or POST to /orders) with these headers."""
    host, _, port = agent.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port.partition("/")[0]))
    fields = {b"Host": agent.address.encode(), b"Connection": b"close"}
    body = b'{"verb":"set","name":"k","value":1}' if path == "/orders" else b""
    if body:
        fields |= {b"Content-Type": b"application/json", b"Content-Length": b"%d" % len(body)}
    for name, value in headers.items():
        encoded = value if isinstance(value, bytes) else value.encode()
        fields[name.replace("_", "-").encode()] = encoded
    head = b"".join(b"%b: %b\r\n" % field for field in fields.items())
    method = b"POST" if body else b"GET"
    writer.write(method + b" " + path.encode() + b" HTTP/1.1\r\n" + head + b"\r\n" + body)
    line = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    return int(line.split()[1])


# --- proofs --------------------------------------------------------------------------------------


def meet(challenges: Challenges, asked: Asked, secret: bytes = KEYS[0]) -> str:
    challenge, _ = challenges.give("n")
    return asked.header(secret, challenge)


def request(**changed: object) -> Asked:
    words = {
        "scope": ORDER,
        "method": "POST",
        "target": target_of("/orders", []),
        "host": "h:1",
        "body_hash": hash_of(b"{}"),
        "insecure": False,
    }
    return Asked(**(words | changed))  # type: ignore[arg-type]


def test_a_proof_holds_once_for_one_request_and_not_for_long() -> None:
    """Repeated, late, of another boot, of another secret or for anything else it proves nothing."""
    now = [100.0]
    challenges = Challenges(KEYS, lambda: now[0])
    asked = request()
    header = meet(challenges, asked)
    place = (asked.method, asked.target, asked.host)
    proven = challenges.judge(header, *place)
    assert proven is not None
    assert (proven.scope, proven.body_hash, proven.insecure) == (ORDER, asked.body_hash, False)
    assert challenges.judge(header, *place) is None
    late = meet(challenges, asked)
    now[0] += proofs.CHALLENGE_S
    assert challenges.judge(late, *place) is None
    assert challenges.judge(meet(Challenges(KEYS, lambda: now[0]), asked), *place) is None
    assert challenges.judge(meet(challenges, asked, b"another secret!!"), *place) is None
    for method, target, host in (
        ("GET", asked.target, asked.host),
        (asked.method, target_of("/orders", [("a", "b")]), asked.host),
        (asked.method, asked.target, "h:2"),
    ):
        assert challenges.judge(meet(challenges, asked), method, target, host) is None
    forged = meet(challenges, request(scope=PAGE)).replace("page:", "order:")
    assert challenges.judge(forged, *place) is None
    words = meet(challenges, asked).split(":")
    for number, other in ((2, hash_of(b"other")), (3, "1"), (4, "\udcff"), (1, "1.2.3")):
        changed = ":".join([*words[:number], other, *words[number + 1 :]])
        assert challenges.judge(changed, *place) is None
    assert challenges.judge(":".join(words), *place) is not None


def test_strangers_fill_nothing_by_asking_for_challenges() -> None:
    """Nothing is kept for one that is given; one that was met is kept until it is too old."""
    now = [0.0]
    challenges = Challenges(KEYS, lambda: now[0])
    for _ in range(10_000):
        challenges.give("n")
    assert not challenges._met
    asked = request()
    place = (asked.method, asked.target, asked.host)
    first = meet(challenges, asked)
    assert challenges.judge(first, *place)
    for _ in range(20):
        challenges.judge("Convoca order:1.2.3:x:0:y", *place)
    assert len(challenges._met) == 1
    for _ in range(proofs.MET_MAX - 1):
        assert challenges.judge(meet(challenges, asked), *place)
    assert challenges.judge(meet(challenges, asked), *place) is None  # full, for the moment
    assert challenges.judge(first, *place) is None  # and none is pushed out
    now[0] += proofs.CHALLENGE_S
    assert challenges.judge(meet(challenges, asked), *place)
    assert len(challenges._met) == 1


async def test_an_operator_sends_nothing_to_an_impostor() -> None:
    """Whoever answers without the secret hears a question that is worth nothing."""
    async with recorder() as (address, told):
        client = AdminClient(address, KEYS, 5)
        for attempt in (client.order("set", name="k", value="payload"), client.get("/status")):
            with pytest.raises(OrderRefusedError, match="nothing was sent"):
                await attempt
        assert {path for path, _ in told} == {"/challenge"}
        assert all("Authorization" not in headers for _, headers in told)


async def test_what_was_heard_on_the_way_opens_nothing() -> None:
    """The very bytes of an order, again, at the same agent and at another of the cluster: 403."""
    async with (
        Agent("ada", secret=SECRET) as ada,
        Agent("bob", secret=SECRET, peers=[ada.address]) as bob,
        aiohttp.ClientSession() as session,
    ):
        client = AdminClient(ada.address, KEYS, 5)
        body = json.dumps({"verb": "inc", "name": "n", "value": 1}).encode()
        headers = await client._headers(session, "POST", "/orders", {}, body)
        statuses = []
        for address in (ada.address, ada.address, bob.address):
            url = f"http://{address}/orders"
            async with session.post(url, data=body, headers=headers) as response:
                statuses.append(response.status)
        other = body.replace(b"1", b"7")
        headers = await client._headers(session, "POST", "/orders", {}, body)
        async with session.post(
            f"http://{ada.address}/orders", data=other, headers=headers
        ) as response:
            statuses.append(response.status)
        assert statuses == [200, 403, 403, 403]
        assert ada.counter("n").value == 1


async def test_a_page_token_opens_pages_and_nothing_else() -> None:
    """A scraper's token shows sizes; it proves nothing, and the page scope gives no orders."""
    async with Agent("ada", secret=SECRET) as ada, aiohttp.ClientSession() as session:
        token = f"Bearer {page_token(KEYS)}"
        elsewhere = {"Authorization": token, "Host": "ada.example"}
        assert await ask(ada, "/metrics", **elsewhere) == 200
        assert await ask(ada, "/metrics", Host="ada.example") == 403
        for path in ("/documents", "/changes", "/orders"):
            assert await ask(ada, path, **elsewhere) == 403
        body = b'{"verb":"set","name":"k","value":1}'
        client = AdminClient(ada.address, KEYS, 5)
        headers = await client._headers(session, "GET", "/status", {}, b"")
        as_order = headers | {"Content-Type": "application/json"}
        async with session.post(
            f"http://{ada.address}/orders", data=body, headers=as_order
        ) as answer:
            assert answer.status == 403


# --- pages of browsers ---------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET], ids=["none", "secret"])
@pytest.mark.parametrize("path", [*PATHS, "/orders"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Referer": "http://evil.example/"},
        {"Host": "evil.example"},
        {"Host": "evil.example:7001"},
        {"Host": "[evil]"},
        {"Host": b"\xff"},
    ],
    ids=range(9),
)
async def test_no_web_page_gets_anything_out_of_an_agent(
    secret: str | None, path: str, headers: dict[str, str | bytes]
) -> None:
    """Not by a script, an image, a form or a rebound name; streams and orders included."""
    async with Agent("ada", secret=secret) as ada:
        if path.startswith("/challenge") and "Host" in headers:
            return  # a challenge tells nothing, and an operator may call the agent what he likes
        assert await ask(ada, path, **headers) in {400, 403}
        assert ada.version().vector == {}


@pytest.mark.parametrize("value", [b"\xff", b"Bearer \xff", b"Convoca \xff:\xff:\xff:0:\xff"])
async def test_bytes_that_are_no_text_are_a_refusal(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """In the header that is judged first: 403 and no traceback."""
    async with Agent("ada", secret=SECRET) as ada:
        for path in ("/documents", "/orders", "/changes"):
            assert await ask(ada, path, Authorization=value) == 403
        host, _, port = ada.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /_replica HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20000\r\n"
            b"Content-Type: application/x-convoca-frame\r\nX-Convoca-Proof: " + value + b"\r\n\r\n"
        )
        assert int((await asyncio.wait_for(reader.readline(), 10)).split()[1]) in {401, 403, 413}
        writer.close()
    assert "Traceback" not in caplog.text


# --- the clear -----------------------------------------------------------------------------------


async def test_values_and_orders_leave_a_machine_by_tls_or_by_the_operators_word() -> None:
    """Without either nothing is sent; sizes may be asked for."""
    client = AdminClient("192.0.2.1:7001", KEYS, 0.2)
    attempts = (
        client.order("set", name="k", value="v"),
        client.get("/documents"),
        anext(client.changes("")),
    )
    for attempt in attempts:
        with pytest.raises(OrderRefusedError, match="without TLS"):
            await attempt
    for client, path in (
        (AdminClient("192.0.2.1:7001", KEYS, 0.2, insecure=True), "/documents"),
        (AdminClient("192.0.2.1:7001", KEYS, 0.2), "/status"),
    ):
        with pytest.raises(ReplicationError) as caught:
            await client.get(path)
        assert not isinstance(caught.value, OrderRefusedError)


def test_the_command_says_insecure_or_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The hint names what to say; with it the agent is asked."""
    asked = ["cut", "bob", "--peer", "192.0.2.1:7001", "--timeout", "0.2"]
    assert main(asked) == 1
    assert "--insecure" in capsys.readouterr().err
    assert main([*asked, "--insecure"]) in {1, 3}
    assert "without TLS" not in capsys.readouterr().err


async def test_an_agent_refuses_an_order_that_came_in_the_clear_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the operator's side did not look: he has to have said so, in what he proves."""
    async with Agent("ada", secret=SECRET) as ada:
        monkeypatch.setattr(
            door, "is_loopback", lambda host: host == ada.address.rpartition(":")[0] and asking[0]
        )
        asking = [True]
        real = AdminClient._headers

        async def headers(self: AdminClient, *rest: object) -> dict[str, str]:
            asking[0] = True  # the operator thinks that it is this machine
            found = await real(self, *rest)  # type: ignore[arg-type]
            asking[0] = False  # the agent sees that it is not
            return found

        monkeypatch.setattr(AdminClient, "_headers", headers)
        with pytest.raises(OrderRefusedError):
            await AdminClient(ada.address, KEYS, 5).order("set", name="k", value=1)
        assert ada.version().vector == {}
        await AdminClient(ada.address, KEYS, 5, insecure=True).order("set", name="k", value=1)
        assert ada.register("k").value == 1


async def test_the_doctor_asks_no_foreign_address_for_an_order(tmp_path: Path) -> None:
    """A leaf's address is a trap: it hears no token, no proof and no order, and is reported."""
    rules = AccessPolicy(relays={"hub"})
    async with recorder() as (trap, told):
        principals = {"leaf": "leaf-own-key-0001"}
        async with (
            Agent("hub", secret=SECRET, principals=principals, rules=rules) as hub,
            Agent("leaf", key="leaf-own-key-0001", rules=rules, peers=[hub.address], address=trap),
        ):
            async with asyncio.timeout(20):
                while all(m.address != trap for m in hub.members()):  # noqa: ASYNC110 gossip
                    await asyncio.sleep(0.01)
            with pytest.raises(UnhealthyError, match="leaf"):
                await of_cluster(hub.address, KEYS, 5)
    asked = [(path, headers) for path, headers in told if path != "/_replica"]
    assert {path for path, _ in asked} <= {"/challenge"}
    assert all("Authorization" not in headers for _, headers in told)


async def test_the_doctor_uses_the_callers_tls(tmp_path: Path) -> None:
    """A cluster that listens with TLS is asked with it, member by member, and not without."""
    made = subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 1"
            " -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
        ),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("no openssl program here")
    server, client = tls_contexts(tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "c.pem")
    tls = {"server_tls": server, "client_tls": client}
    async with (
        Agent("ada", secret=SECRET, **tls) as ada,
        Agent("bob", secret=SECRET, peers=[ada.address], **tls) as bob,
    ):
        ada.counter("n").increment(1)
        await bob.seen(ada.version(), timeout_s=10)
        report = await of_cluster(bob.address, KEYS, 5, client)
        assert (report["asked"], report["verdict"]) == (2, "healthy")
        with pytest.raises(ReplicationError):
            await of_cluster(bob.address, KEYS, 5)


# --- the record ----------------------------------------------------------------------------------


async def test_orders_and_failed_proofs_are_on_record(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who, what and from where, without values; so many lines a second, the rest is counted."""
    clock = [1000.0]
    monkeypatch.setattr(door.time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.WARNING, "replication.orders")
    async with Agent("ada", secret=SECRET) as ada:
        client = AdminClient(ada.address, KEYS, 5)
        await client.order("set", name="salary", value="payload")
        with pytest.raises(ReplicationError):
            await client.order("cut", peer="nobody")
        for _ in range(3 * door.LOG_LINES_PER_S):
            assert await ask(ada, "/orders", Authorization="Bearer guess") == 403
        clock[0] += 2
        assert await ask(ada, "/documents", Authorization="Bearer guess") == 403
    async with Agent("bob") as bob:
        await AdminClient(bob.address).order("inc", name="n", value=1)
    said = [(record.getMessage(), record.facts) for record in caplog.records]
    orders = [facts for event, facts in said if event == "order"]
    assert [(facts["verb"], facts["at"]) for facts in orders] == [
        ("set", "127.0.0.1"),
        ("cut", "127.0.0.1"),
        ("inc", "127.0.0.1"),
    ]
    assert orders[0]["name"] == "salary"
    assert orders[1]["peer"] == "nobody"
    assert (orders[0]["who"], orders[2]["who"]) == (proofs.name_of(KEYS[0]), "local")
    refused = [facts for event, facts in said if event == "proof-refused"]
    assert len(refused) == door.LOG_LINES_PER_S - 2 + 1
    assert refused[-1]["left_out"] == 2 * door.LOG_LINES_PER_S + 2
    assert (refused[0]["of"], refused[0]["at"]) == ("/orders", "127.0.0.1")
    assert "payload" not in str(said)
    assert SECRET not in str(said)


async def test_during_a_rotation_either_secret_opens(tmp_path: Path) -> None:
    """An operator with the new secret and one with the old, at agents that know one or both."""
    new, old = "the new secret 01", "the old secret 01"
    async with Agent("ada", secret=(new, old)) as ada, Agent("bob", secret=old) as bob:
        for keys in (keys_of(new), keys_of(old), keys_of((new, old))):
            await AdminClient(ada.address, keys, 5).order("inc", name="n", value=1)
        assert ada.counter("n").value == 3
        await AdminClient(bob.address, keys_of((new, old)), 5).order("inc", name="n", value=1)
        with pytest.raises(OrderRefusedError):
            await AdminClient(bob.address, keys_of(new), 5).order("inc", name="n", value=1)
        assert bob.counter("n").value == 1
