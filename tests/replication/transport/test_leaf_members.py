"""What a leaf, a stranger and an eavesdropper can do to what agents believe about members."""

from __future__ import annotations

import aiohttp
import pytest

from replication import AccessPolicy, Agent, Config, NotYetError
from replication.protocol.keyring import Keyring
from replication.protocol.messages import Digest, Leave, MemberClaim, Message, Status, Sync, Tier
from replication.protocol.wire import Wire
from replication.transport.http import UNAUTHENTICATED
from tests.ports import free_ports
from tests.replication.stranger import BOOTS, challenge_of, posted

SECRET = "the secret of the cluster"
KEY = "the key of the leaf"
RULES = AccessPolicy(relays={"hub", "boss"})


class Sender:
    """Knows a key, and follows no protocol."""

    def __init__(self, keys: Keyring, rules: AccessPolicy = RULES) -> None:
        boot = next(BOOTS).to_bytes(8, "big")
        self._wire = Wire(
            cluster="convoca",
            namespace="default",
            keys=keys,
            boot=boot,
            config=Config(),
            rules=rules.digest,
        )

        self._challenge = b""

    async def frame(self, address: str, message: Message, replica: str) -> bytes:
        self._challenge = self._challenge or await challenge_of(address, self._wire, replica)
        return self._wire.seal(replica, message, challenge=self._challenge)

    async def say(self, address: str, message: Message, replica: str = "leaf~1") -> int:
        status, _ = await posted(address, await self.frame(address, message, replica))
        return status


def leaf() -> Sender:
    return Sender(Keyring(own=(KEY.encode(),)))


def claims(*told: MemberClaim) -> Sync:
    return Sync(Digest(b"x" * 16, Tier.FULL), told)


def hub() -> Agent:
    return Agent("hub", secret=SECRET, principals={"leaf": KEY}, rules=RULES)


def status_of(agent: Agent, name: str) -> Status:
    (found,) = [m.status for m in agent.members() if m.name == name]
    return found


async def test_a_leaf_moves_nobody_and_ends_nobody(until):
    """Addresses, goodbyes, orders and verdicts that a leaf tells of others are dropped."""
    async with hub() as ada, Agent("boss", secret=SECRET, rules=RULES, peers=[ada.address]) as boss:
        await until(lambda: any(m.name == "boss" and m.address for m in ada.members()))
        before, (trap,) = (ada.id, boss.id), free_ports(1)
        for status in Status:
            told = MemberClaim(boss.id, f"127.0.0.1:{trap}", (1 << 48) - 2, status)
            assert await leaf().say(ada.address, claims(told)) == 200
            assert await leaf().say(ada.address, Leave((told,))) == 200
        assert {m.name: m.address for m in ada.members()}["boss"] == boss.address
        assert status_of(ada, "boss") is Status.ALIVE
        ada.register("x").set(1)
        await until(lambda: boss.register("x").value == 1)
        assert (ada.id, boss.id) == before


async def test_stable_waits_for_who_was_met_whatever_a_leaf_says(until):
    """A member that is cut off is waited for, and members that a leaf invented are not."""
    async with hub() as ada, Agent("boss", secret=SECRET, rules=RULES, peers=[ada.address]) as boss:
        await until(lambda: any(m.name == "boss" and m.address for m in ada.members()))
        sender = leaf()
        ghosts = [MemberClaim(f"ghost{n}~1", "127.0.0.1:9", 5, Status.ALIVE) for n in range(300)]
        await sender.say(ada.address, claims(*ghosts))
        await sender.say(ada.address, Leave((MemberClaim("leaf~1", "", 1, Status.LEFT),)))
        ada.register("x").set(1)
        assert await ada.stable(ada.version(), timeout_s=10) == 1
        ada.block("boss")
        ada.register("x").set(2)
        await sender.say(ada.address, Leave((MemberClaim(boss.id, "", 1 << 40, Status.LEFT),)))
        with pytest.raises(NotYetError):
            await ada.stable(ada.version(), timeout_s=0.3)


async def test_ids_of_a_leaf_leave_room_for_others(until):
    """A leaf that speaks under hundreds of ids has its share of the table, and no more."""
    config = Config(members_max=100)
    async with Agent(
        "hub", secret=SECRET, principals={"leaf": KEY}, rules=RULES, config=config
    ) as ada:
        sender = leaf()
        for number in range(150):
            await sender.say(ada.address, claims(), f"leaf~{number}")
        assert len(ada.members()) < 100
        async with Agent("boss", secret=SECRET, rules=RULES, peers=[ada.address]):
            await until(lambda: any(m.name == "boss" for m in ada.members()))


async def test_nothing_is_said_where_a_leaf_says_that_it_is_until_it_answered(until):
    """Else a hub could be turned against whoever listens there: it knocks, and tells nothing."""
    heard: list[bytes] = []

    async def listen(request: aiohttp.web.Request) -> aiohttp.web.Response:
        heard.append(await request.read())
        return aiohttp.web.Response(status=500)

    app = aiohttp.web.Application()
    app.router.add_post("/_replica", listen)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    there = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with hub() as ada:
            ada.register("x").set("VALUE" * 100)
            mine = MemberClaim("leaf~1", there, 1, Status.ALIVE)
            await leaf().say(ada.address, claims(mine))
            await until(lambda: heard)
            assert max(map(len, heard)) < 200
            assert not any(b"VALUE" in frame or ada.address.encode() in frame for frame in heard)
    finally:
        await runner.cleanup()


async def test_a_stranger_and_a_repeated_goodbye_part_nobody(until):
    """Without a key nothing is believed; what was heard on the way is believed once."""
    async with (
        Agent("ada", secret=SECRET) as ada,
        Agent("bob", secret=SECRET, peers=[ada.address]) as bob,
    ):
        await until(lambda: any(m.address for m in ada.members()))
        told = Leave((MemberClaim(bob.id, "", 1 << 40, Status.LEFT),))
        for keys in (Keyring(), Keyring((b"guessed",))):
            stranger = Sender(keys, AccessPolicy())
            frame = stranger._wire.seal("eve~1", told)
            assert await posted(ada.address, frame) == (401, UNAUTHENTICATED.encode())
        assert {m.name for m in ada.members()} == {"bob"}
        cyd = Sender(Keyring((SECRET.encode(),)), AccessPolicy())
        gone = Leave((MemberClaim("cyd~1", "", 1, Status.LEFT),))
        goodbye = await cyd.frame(ada.address, gone, "cyd~1")
        assert (await posted(ada.address, goodbye))[0] == 200
        assert (await posted(ada.address, goodbye))[0] == 401
        assert status_of(ada, "bob") is Status.ALIVE
