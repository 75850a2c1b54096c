"""Clients of one authority: each does what its role may, and learns nothing of the others."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

import transactional as t
from transactional.cli import main
from transactional.lock import key_of
from transactional.server import Authority, ClientList, Listen
from transactional.server import server as serving
from transactional.stores.http import HTTPStore
from transactional.stores.leases import Leases
from transactional.stores.memory import MemoryStore
from transactional.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from transactional.store import Store

pytestmark = pytest.mark.processes

ROLES = {"ann": (["a/", "both/", "lock/a"], ["a/", "both/", "lock/a"]), "bob": (["b/"], ["b/"])}


def write_list(
    path: Path,
    roles: dict[str, tuple[Iterable[str], Iterable[str]]],
    clients: dict[str, str],
) -> None:
    """Write a list; a client's token is ``token-NAME``."""
    lines = []
    for role, (reads, writes) in roles.items():
        lines += [f"[roles.{role}]", f"read = {list(reads)}", f"write = {list(writes)}"]
    for name, role in clients.items():
        digest = hashlib.sha256(f"token-{name}".encode()).hexdigest()
        lines += [f"[clients.{name}]", f'role = "{role}"', f'sha256 = "{digest}"']
    fresh = path.with_suffix(".new")
    fresh.write_text("\n".join(lines) + "\n")
    fresh.replace(path)  # another inode: seen at once, however coarse the clock of the disk


class Served:
    """An authority with a list of clients."""

    def __init__(self, authority: Authority, path: Path) -> None:
        self.authority = authority
        self.path = path
        self.opened: list[HTTPStore] = []

    async def client(self, name: str) -> HTTPStore:
        store = await HTTPStore.open(self.authority.url, token=f"token-{name}")
        self.opened.append(store)
        return store


@asynccontextmanager
async def serve(
    path: Path,
    roles: dict[str, tuple[Iterable[str], Iterable[str]]],
    clients: dict[str, str],
    engine: Store | None = None,
) -> AsyncIterator[Served]:
    write_list(path / "clients.toml", roles, clients)
    listen = Listen(port=0, clients=ClientList(path / "clients.toml"))
    authority = Authority(engine or MemoryStore(), listen)
    await authority.start()
    served = Served(authority, path / "clients.toml")
    try:
        yield served
    finally:
        for store in served.opened:
            await store.close()
        await authority.stop()


@pytest.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each engine that an authority serves; the authority closes it."""
    if request.param == "memory":
        return MemoryStore()
    return await SQLiteStore.open(tmp_path / "s.db")


@pytest.fixture
async def served(engine: Store, tmp_path: Path) -> AsyncIterator[Served]:
    clients = {"ann": "ann", "ann-2": "ann", "bob": "bob"}
    async with serve(tmp_path, ROLES, clients, engine) as served:
        yield served


async def test_a_role_gives_orders_only_if_it_may(tmp_path: Path, hand_clock) -> None:
    """To remove what is old is an order: a role needs the word for it, a lone token has it."""
    path = tmp_path / "s.db"
    engine = await SQLiteStore.open(path, clock=hand_clock.clock())
    for number in range(40):
        await engine.commit([], [t.Put(f"a/{number % 3}", b"x" * 10_000)])
    await engine.close()
    engine = await SQLiteStore.open(path, clock=hand_clock.clock(), history_bytes_max=0)
    async with serve(tmp_path, ROLES, {"ann": "ann", "bob": "bob"}, engine) as served:
        ann = await served.client("ann")
        with pytest.raises(t.ForbiddenError, match="orders"):
            await ann.compact()
        served.path.write_text(
            served.path.read_text().replace("[roles.ann]", "[roles.ann]\noperate = true")
        )
        assert await ann.compact() > 30
        assert await ann.compact() == 0
        with pytest.raises(t.ForbiddenError):
            await (await served.client("bob")).compact()


async def test_an_engine_that_keeps_nothing_has_nothing_to_remove(tmp_path: Path) -> None:
    """The order is obeyed all the same, piece by piece if there is much."""
    async with serve(tmp_path, ROLES, {"ann": "ann"}) as served:
        served.path.write_text(
            served.path.read_text().replace("[roles.ann]", "[roles.ann]\noperate = true")
        )
        assert await (await served.client("ann")).compact() == 0


async def test_a_role_reads_and_writes_under_its_prefixes_only(served: Served) -> None:
    """Every way to a key of others is 403, and so is every range that reaches beyond one's own."""
    ann, bob = await served.client("ann"), await served.client("bob")
    await ann.commit([], [t.Put("a/1", b"x")])
    assert (await ann.get("a/1")) is not None
    for prefix in ("", "a", "a/", "a/1"):
        with pytest.raises(t.ForbiddenError):
            await bob.scan(prefix)
        with pytest.raises(t.ForbiddenError):
            async with aclosing(bob.watch(prefix, after=0)) as events:
                await anext(events)
    for refused in (
        bob.get("a/1"),
        bob.get_many(["b/1", "a/1"]),
        bob.commit([], [t.Put("a/1", b"")]),
        bob.commit([], [t.Delete("a/1")]),
        bob.commit([], [t.Put("b/1", b"")], [t.Delete("a/1")]),
        bob.commit([], [t.DeletePrefix("")]),
        bob.commit([], [t.DeletePrefix("a/")]),
    ):
        with pytest.raises(t.ForbiddenError):
            await refused
    assert (await ann.get("a/1")) is not None
    assert await bob.get("b/1") is None


@pytest.mark.parametrize(
    "compare",
    [
        t.Exists("a/1"),
        t.Absent("a/1"),
        t.Revision("a/1", 1),
        t.ValueIs("a/1", b"secret"),
        t.Unchanged("a/", 0),
        t.Unchanged("", 0),
    ],
    ids=lambda compare: f"{type(compare).__name__}-{getattr(compare, 'prefix', 'key')}",
)
async def test_a_compare_tells_nothing_of_what_may_not_be_read(
    served: Served, compare: t.Compare
) -> None:
    """The refusal is the same, word for word, whether the key is there or not."""
    ann, bob = await served.client("ann"), await served.client("bob")
    words = set()
    for prepare in ([], [t.Put("a/1", b"secret")], [t.Delete("a/1")]):
        await ann.commit([], prepare)
        for otherwise in ([], [t.Put("b/other", b"")]):
            with pytest.raises(t.ForbiddenError) as caught:
                await bob.commit([compare], [t.Put("b/1", b"")], otherwise)
            words.add(str(caught.value))
    assert len(words) == 1
    assert not (await bob.scan("b/")).items


async def test_one_who_may_write_only_learns_nothing_by_writing(tmp_path: Path) -> None:
    """Blind puts and deletes answer alike, whatever stood there; compares are refused."""
    roles = {"box": ([], ["in/"])}
    async with serve(tmp_path, roles, {"box": "box"}) as served:
        box = await served.client("box")
        await served.authority._store.commit([], [t.Put("in/1", b"x")])
        answers = [await box.commit([], [t.Delete(f"in/{n}")]) for n in (1, 2)]
        assert answers[1].revision == answers[0].revision + 1
        for question in (box.get("in/1"), box.scan("in/"), box.commit([t.Absent("in/1")], [])):
            with pytest.raises(t.ForbiddenError):
                await question


async def test_every_commit_records_the_client_that_made_it(served: Served) -> None:
    """By whom stands with the key, in the watch, and for deletions; no client can be another."""
    ann, colleague, bob = [await served.client(name) for name in ("ann", "ann-2", "bob")]
    await ann.commit([], [t.Put("a/1", b"x")])
    await colleague.commit([], [t.Put("a/2", b"x")], by="ann")
    await asyncio.gather(*[ann.commit([], [t.Delete(f"a/{n}")]) for n in (1, 2)])
    await bob.commit([], [t.Put("b/1", b"x")])
    watch = ann.watch("a/", after=0)
    assert [(await anext(watch)).by for _ in range(4)] == ["ann", "ann-2:ann", "ann", "ann"]
    await watch.aclose()
    found = await bob.get("b/1")
    assert found is not None
    assert found.by == "bob"


async def test_op_ids_and_their_answers_belong_to_the_role(served: Served) -> None:
    """Another role neither fences nor sees `order-42`; a colleague resolves and repeats it."""
    ann, colleague, bob = [await served.client(name) for name in ("ann", "ann-2", "bob")]
    minted = ann.mint_op_id()
    assert await bob.resolve("order-42") == t.Fenced("order-42")
    assert await bob.resolve(minted) == t.Fenced(minted)
    for op_id in ("order-42", minted):
        first = await ann.commit([], [t.Put("a/1", b"x")], op_id=op_id)
        assert not first.replayed
        resolved = await colleague.resolve(op_id)
        assert isinstance(resolved, t.Applied)
        assert resolved.commit == first
        assert (await colleague.commit([], [t.Put("a/1", b"x")], op_id=op_id)).replayed
        with pytest.raises(t.OpIdFencedError) as caught:
            await bob.commit([], [t.Put("b/1", b"x")], op_id=op_id)
        assert caught.value.op_id == op_id
    assert await bob.resolve("other") == t.Fenced("other")
    with pytest.raises(t.OpIdFencedError):
        await bob.commit([], [t.Put("b/1", b"x")], op_id="other")
    assert not (await ann.commit([], [t.Put("a/1", b"x")], op_id="other")).replayed


async def test_leases_belong_to_the_role(served: Served) -> None:
    """A colleague renews and ends a lease; another role can do nothing with its id."""
    ann, colleague, bob = [await served.client(name) for name in ("ann", "ann-2", "bob")]
    lease = await ann.lease(60)
    await ann.commit([], [t.Put("a/1", b"x", lease.id)])
    for refused in (
        bob.renew(lease.id),
        bob.revoke(lease.id),
        bob.commit([t.LeaseAlive(lease.id)], [t.Put("b/1", b"")]),
        bob.commit([], [t.Put("b/1", b"", lease.id)]),
    ):
        with pytest.raises(t.ForbiddenError):
            await refused
    assert await ann.get("a/1") is not None
    assert (await colleague.renew(lease.id)).ttl_s == 60
    await colleague.revoke(lease.id)
    assert await ann.get("a/1") is None


def test_a_role_cannot_use_up_the_leases_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own share is full, that of another role is not; ended leases count no more."""
    monkeypatch.setattr("transactional.stores.leases.LEASES_PER_ROLE_MAX", 3)
    leases = Leases()
    for number in range(3):
        leases.admit("ann")
        leases.start(f"ann.{number}", 1.0, 0.0)
    leases.start("ann.0", 1.0, 0.5)  # renewed: still one
    with pytest.raises(t.TooManyRequestsError):
        leases.admit("ann")
    leases.admit("bob")
    leases.admit("")
    leases.end("ann.1")
    leases.admit("ann")


async def test_a_client_cannot_use_up_the_places_of_others(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its watches beyond its share are 429 while another client gets one."""
    monkeypatch.setattr(serving, "PER_CLIENT_MAX", 2)
    headers = {name: {"Authorization": f"Bearer token-{name}"} for name in ("ann", "bob")}
    async with aiohttp.ClientSession(served.authority.url) as web:
        held = [await web.get("/v1/watch?prefix=a/", headers=headers["ann"]) for _ in range(2)]
        async with web.get("/v1/watch?prefix=a/", headers=headers["ann"]) as refused:
            assert refused.status == 429
        async with web.get("/v1/watch?prefix=b/", headers=headers["bob"]) as open_:
            assert open_.status == 200
        for response in held:
            response.close()


async def test_a_lock_is_searched_for_circles_among_what_may_be_read(tmp_path: Path) -> None:
    """Two that see their queues find the circle; names that one may not read are not told."""
    roles = {"x": (["lock/"], ["lock/"]), "y": (["lock/one/", "lock/two/"], ["lock/o", "lock/t"])}
    async with serve(tmp_path, roles, {"x": "x", "y": "y"}) as served:
        x, y = await served.client("x"), await served.client("y")
        hidden = await t.Lock(x, "hidden", owner="payroll").acquire()
        both: list[BaseException | None] = []
        inside = asyncio.Barrier(2)

        async def nest(store: Store, first: str, second: str) -> None:
            async with t.Lock(store, first, owner=first).held():
                await inside.wait()
                try:
                    async with t.Lock(store, second, owner=first).held(wait_s=20):
                        both.append(None)
                except t.DeadlockError as error:
                    both.append(error)

        async with asyncio.timeout(20):
            await asyncio.gather(
                asyncio.create_task(nest(x, "one", "two")),
                asyncio.create_task(nest(y, "two", "one")),
            )
        assert sorted(type(outcome).__name__ for outcome in both) == ["DeadlockError", "NoneType"]
        async with t.Lock(y, "two", owner="y").held():
            with pytest.raises(t.ForbiddenError):
                await t.Lock(y, "hidden", owner="y").acquire(wait_s=1)
        with pytest.raises(t.ForbiddenError):
            await y.get(key_of("hidden", hidden.id))
        await hidden.release()


async def test_a_token_that_is_taken_out_opens_nothing_any_more(served: Served) -> None:
    """From the next request on; an open watch ends; the others go on. A new one is let in."""
    ann, bob = await served.client("ann"), await served.client("bob")
    await ann.commit([], [t.Put("a/1", b"x")])
    watch = ann.watch("a/", after=0)
    assert (await anext(watch)).revision == 1
    upcoming = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    write_list(served.path, ROLES, {"bob": "bob", "eve": "ann"})
    with pytest.raises(t.UnauthorizedError):
        await ann.get("a/1")
    eve = await served.client("eve")
    await eve.commit([], [t.Put("a/2", b"y")])
    with pytest.raises(t.UnauthorizedError):
        await asyncio.wait_for(upcoming, 20)
    assert await bob.get("b/1") is None


async def test_a_right_that_is_taken_back_ends_the_watch_it_opened(served: Served) -> None:
    """The role keeps its token and loses a prefix: what comes there later is not told."""
    ann, colleague = await served.client("ann"), await served.client("ann-2")
    watch = ann.watch("both/", after=0)
    upcoming = asyncio.ensure_future(anext(watch))
    await colleague.commit([], [t.Put("both/1", b"")])
    assert (await upcoming).revision == 1
    upcoming = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    narrowed = ROLES | {"ann": (["a/"], ["a/", "both/"])}
    write_list(served.path, narrowed, {"ann": "ann", "ann-2": "ann", "bob": "bob"})
    await colleague.commit([], [t.Put("both/2", b"")])
    with pytest.raises(t.ForbiddenError):
        await asyncio.wait_for(upcoming, 20)


async def test_a_list_that_makes_no_sense_changes_nothing(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip of the pen, or no file, locks nobody out and lets nobody in; the log says so."""
    bob = await served.client("bob")
    for text in ("[clients.eve]\nrole = 'none'", "no toml", ""):
        fresh = served.path.with_suffix(".new")
        fresh.write_text(text or "[roles.x]\nreads = []")
        fresh.replace(served.path)
        assert await bob.get("b/1") is None
    served.path.unlink()
    assert await bob.get("b/1") is None
    assert caplog.text.count("stays as it was") == 4
    write_list(served.path, ROLES, {})
    with pytest.raises(t.UnauthorizedError):
        await bob.get("b/1")


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[roles.a]\nread = 1",
        "[roles.a]\nreads = []",
        "[roles.a]\noperate = 1",
        '[roles.a]\nread = ["\\u0000"]',
        "[roles.'a b']",
        "[clients.a]\nrole = 'b'\nsha256 = 'x'",
        "[roles.b]\n[clients.a]\nrole = 'b'\nsha256 = 'x'",
        "[roles.b]\n[clients.a]\nrole = 'b'",
        "[roles.b]\n[clients.a]\nrole = 'b'\ntoken = 'geheim'",
        "[roles.b]" + "".join(f"\n[clients.{c}]\nrole='b'\nsha256='{'0' * 64}'" for c in "ac"),
        "more = 1",
    ],
    ids=range(12),
)
def test_a_list_with_a_mistake_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    """It is a typed error that names the file, and not what a token may be."""
    path = tmp_path / "clients.toml"
    path.write_text(text)
    with pytest.raises(t.InvalidRequestError) as caught:
        ClientList(path)
    assert str(path) in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_list_that_everybody_may_change_is_refused(tmp_path: Path) -> None:
    """Whoever can write it can let himself in."""
    path = tmp_path / "clients.toml"
    path.write_text("")
    path.chmod(0o646)
    with pytest.raises(t.InvalidRequestError, match="everybody"):
        ClientList(path)
    path.chmod(0o640)
    assert len(ClientList(path)) == 0
    with pytest.raises(t.InvalidRequestError):
        ClientList(tmp_path / "none")
    with pytest.raises(t.InvalidRequestError):
        Listen(token="x", clients=ClientList(path))
    assert Listen(host="0.0.0.0", clients=ClientList(path)).token is None  # noqa: S104


async def test_the_fence_of_a_role_holds_over_a_restart(tmp_path: Path) -> None:
    """Op_ids and leases of a role lie in the file, under the role."""
    roles, clients = ROLES, {"ann": "ann", "ann-2": "ann", "bob": "bob"}
    path = tmp_path / "s.db"
    async with serve(tmp_path, roles, clients, await SQLiteStore.open(path)) as served:
        ann = await served.client("ann")
        first = await ann.commit([], [t.Put("a/1", b"x")], op_id="order-42")
        lease = await ann.lease(60)
    async with serve(tmp_path, roles, clients, await SQLiteStore.open(path)) as served:
        colleague, bob = await served.client("ann-2"), await served.client("bob")
        resolved = await colleague.resolve("order-42")
        assert isinstance(resolved, t.Applied)
        assert resolved.commit.revision == first.revision
        assert await bob.resolve("order-42") == t.Fenced("order-42")
        with pytest.raises(t.ForbiddenError):
            await bob.renew(lease.id)
        assert (await colleague.renew(lease.id)).id == lease.id
    assert os.access(path, os.R_OK)


def test_the_command_serves_a_list_and_draws_tokens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`token` draws one and tells its hash; `serve --tokens` knows it; every verb may show it."""

    def run(*arguments: str) -> tuple[int, str]:
        status = main(arguments)
        return status, "".join(capfd.readouterr())

    drawn = json.loads(run("token", "-o", "json")[1])
    token, digest = drawn["token"], drawn["sha256"]
    assert hashlib.sha256(token.encode()).hexdigest() == digest
    (tmp_path / "token").write_text(token + "\n")
    listed = tmp_path / "clients.toml"
    listed.write_text('[roles.r]\nread=["a/"]\nwrite=["a/"]\n[clients.c]\nrole="r"\n')
    assert run("serve", "memory:", "--listen", "127.0.0.1:0", "--tokens", str(listed))[0] == 1
    with listed.open("a") as file:
        file.write(f'sha256 = "{digest}"\n')
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "transactional", "serve", "memory:"),
            *("--listen", "127.0.0.1:0", "--tokens", str(listed)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().split()[2]
    with_token = ("--store", url, "--token-file", str(tmp_path / "token"))
    assert run("put", "a/1", "x", *with_token)[0] == 0
    assert run("get", "a/1", *with_token, "-o", "plain")[1].startswith("a/1\tx\t")
    status, words = run("get", "b/1", *with_token)
    assert (status, "may not read" in words) == (1, True)
    assert run("get", "a/1", "--store", url)[0] == 1
    server.terminate()
    _, errors = server.communicate()
    assert "not let in" in errors
    assert token not in errors
