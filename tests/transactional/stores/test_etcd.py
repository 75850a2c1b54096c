"""What is the etcd engine's own: how keys lie, limits, leases, time, what a server keeps."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from base64 import b64decode, b64encode
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

import transactional as t
from tests.ports import free_ports
from tests.transactional.engines import EtcdEngine
from tests.transactional.servers import (
    EtcdMember,
    etcd_url,
    memory_directory,
    wait_until,
)
from transactional.cli.command_line import main as command
from transactional.stores.etcd import EtcdStore
from transactional.stores.etcd_server import (
    Address,
    reads_are_linearizable,
    version_to_move_to,
)
from transactional.stores.etcd_txn import MARK, Row, Txn, delete, get_range, kvs, put, time_us

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.processes


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EtcdEngine]:
    engine = EtcdEngine(tmp_path)
    yield engine
    await engine.stop()


@pytest.fixture
async def store(engine: EtcdEngine) -> EtcdStore:
    return await engine.client()


@pytest.fixture
def member() -> Iterator[EtcdMember]:
    """A member of one's own, that is not started."""
    client, peer = free_ports(2)
    member = EtcdMember(memory_directory(), "own", client, peer)
    yield member
    member.stop()


def begin(member: EtcdMember, token: str = "one") -> str:  # noqa: S107 a cluster's name
    member.start(f"own=http://127.0.0.1:{member.peer}", token=token)
    wait_until(member.healthy, "etcd")
    return f"etcd://{member.address}/own"


@asynccontextmanager
async def sent(store: EtcdStore) -> AsyncIterator[list[str]]:
    """Collect the bodies of the transactions that are sent meanwhile."""
    bodies: list[str] = []
    real = store._gateway.ask

    async def ask(path: str, body: str, *, repeatable: bool) -> dict:
        if path == "/kv/txn":
            bodies.append(body)
        return await real(path, body, repeatable=repeatable)

    store._gateway.ask = ask
    yield bodies
    store._gateway.ask = real


# --- versions and settings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "good", "move_to"),
    [
        ("3.4.23", False, "3.4.42"),
        ("3.4.42", True, "3.4.42"),
        ("3.5.0", False, "3.5.28"),
        ("3.5.27", False, "3.5.28"),
        ("3.6.8", False, "3.6.9"),
        ("3.6.9-rc.1", True, "3.6.9"),
        ("3.7.0", True, "3.6.9"),
        ("4.0.0", True, "3.6.9"),
        ("", False, "3.4.42"),
        ("3.3.27", False, "3.4.42"),
    ],
)
def test_versions_with_old_reads_are_known(version: str, good: bool, move_to: str) -> None:
    """What is not known is not good."""
    assert reads_are_linearizable(version) is good
    assert version_to_move_to(version) == move_to


async def test_reads_go_through_the_log_where_the_version_is_not_good(store: EtcdStore) -> None:
    """Each carries a delete, so that etcd decides it in the log; no revision is used up."""
    assert store.facts.fresh_reads is reads_are_linearizable(
        next(iter(store.facts.versions.values()))
    )
    first = await store.commit([], [t.Put("a", b"")])
    object.__setattr__(store.facts, "versions", {"http://a": "3.4.23"})
    async with sent(store) as bodies:
        await store.get("a")
        await store.get_many(["a", "b"])
        assert (await store.scan("")).revision == first.revision
        await store.commit([t.Exists("a")], [])
    assert len(bodies) == 4
    assert all("request_delete_range" in body for body in bodies)
    object.__setattr__(store.facts, "versions", {"http://a": "3.4.42"})
    async with sent(store) as bodies:
        await store.get("a")
    assert "request_delete_range" not in bodies[0]


async def test_reads_that_come_together_share_a_transaction(store: EtcdStore) -> None:
    """Sixty callers, a few round trips."""
    await store.get("warm")
    async with sent(store) as bodies:
        await asyncio.gather(*[store.get(f"k{n}") for n in range(60)])
    assert len(bodies) <= 4


async def test_a_member_without_fsync_is_refused_unless_it_is_named(member: EtcdMember) -> None:
    """Seen by its metrics: the count of fsyncs stands still."""
    member.options = ["--unsafe-no-fsync"]
    url = begin(member)
    with pytest.raises(t.WeakServerError) as refused:
        await EtcdStore.open(url)
    assert refused.value.settings == ("fsync",)
    store = await EtcdStore.open(f"{url}?weak=fsync")
    assert not store.capabilities.durable
    assert any("does not call fsync" in line for line in store.advice())
    await store.close()


def test_doctor_names_the_version_to_move_to(capsys: pytest.CaptureFixture[str]) -> None:
    """One member of an old version: both are said, and the exit status is 1."""
    url = etcd_url()
    status = command(["doctor", "--store", url, "-o", "plain"])
    said = capsys.readouterr().out
    assert "durable\tyes" in said
    assert "fault tolerant\tno" in said
    assert "the loss of one is not survived" in said
    assert status == 1
    if "etcd 3.4.23" in said:
        assert "move to 3.4.42 or later" in said


@pytest.mark.parametrize(
    "url",
    [
        "etcd://",
        "etcd:///name",
        "etcd://h:0/",
        "etcd://h:99999",
        "etcd://h:1/na me",
        "etcd://h:1?weak=everything",
        "etcd://h:1?request_s=soon",
        "etcd://h:1?request_s=0",
        "etcd://h:1?history_bytes_max=5",
        "etcd://h:1?unknown=5",
        "etcd://h:1?ca=/etc/ca.pem",
        "etcds://h:1?ca=/no/such/file",
    ],
)
async def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    """Typed, before anything is asked."""
    with pytest.raises(t.WrongRequestError):
        await t.connect(url)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("etcd://h:1?colour=red", {"ca", "request_s", "weak", "op_id_retention_s"}),
        ("postgresql://h/d?colour=red", {"schema", "sslmode", "weak", "history_bytes_max"}),
        ("sqlite:/no/such/file?colour=red", {"history_bytes_max"}),
    ],
)
async def test_who_gives_an_unknown_option_is_told_which_there_are(
    url: str, named: set[str]
) -> None:
    """Those of the scheme, and not what was given for it, which may be a secret."""
    with pytest.raises(t.InvalidRequestError, match="colour: no such option") as refused:
        await t.connect(url)
    assert named <= {*re.findall(r"\w+", str(refused.value))}
    assert "red" not in re.findall(r"\w+", str(refused.value))


def test_a_url_says_it_all() -> None:
    """Members, name, user, options; the password is in no repr."""
    found = Address.parse(
        "etcd://ann:s%40cret@a:1,[::1]:2,c/team/x?request_s=3&op_id_retention_s=60"
    )
    assert found.urls == ("http://a:1", "http://[::1]:2", "http://c:2379")
    assert (found.name, found.user, found.request_s) == ("team/x", ("ann", "s@cret"), 3.0)
    assert found.retention.op_id_retention_s == 60
    assert "cret" not in repr(found)


async def test_users_and_roles(member: EtcdMember) -> None:
    """The right password works, also when its token ran out; a wrong one does not."""
    url = begin(member).removeprefix("etcd://")
    member.ask("/v3/auth/user/add", {"name": "root", "password": "top"})
    member.ask("/v3/auth/role/add", {"name": "root"})
    member.ask("/v3/auth/user/grant", {"user": "root", "role": "root"})
    member.ask("/v3/auth/user/add", {"name": "ann", "password": "pw"})
    member.ask("/v3/auth/role/add", {"name": "team"})
    span = {"key": b64encode(b"own/").decode(), "range_end": b64encode(b"own0").decode()}
    grant = {"name": "team", "perm": {"permType": "READWRITE", **span}}
    member.ask("/v3/auth/role/grant", grant)
    member.ask("/v3/auth/user/grant", {"user": "ann", "role": "team"})
    member.ask("/v3/auth/enable", {})
    for wrong in (url, f"ann:no@{url}", f"bob:pw@{url}"):
        with pytest.raises(t.AccessDeniedError) as refused:
            await EtcdStore.open(f"etcd://{wrong}")
        assert "pw" not in str(refused.value)
    store = await EtcdStore.open(f"etcd://ann:pw@{url}")
    await store.commit([], [t.Put("a", b"1")])
    store._gateway._token = "gone.1"
    await store.commit([], [t.Put("a", b"2")])
    found = await store.get("a")
    assert found is not None
    assert found.value == b"2"
    revision = found.revision
    # Who only watches is let in again, too, when the members have forgotten the token.
    watching = await EtcdStore.open(f"etcd://ann:pw@{url}")
    watching._gateway._token = "gone.2"
    seen = asyncio.ensure_future(anext(aiter(watching.watch("a", after=revision))))
    await store.commit([], [t.Put("a", b"3")])
    event = await asyncio.wait_for(seen, 20)
    assert isinstance(event, t.WatchEvent)
    assert [change.current.value for change in event.changes if change.current] == [b"3"]
    await watching.close()
    lease = await store.lease(30)
    await store.commit([], [t.Put("b", b"", lease.id)])
    await store.revoke(lease.id)
    assert await store.get("b") is None
    await store.close()
    with pytest.raises(t.AccessDeniedError):
        await EtcdStore.open(f"etcd://ann:pw@{url.replace('/own', '/other')}")


async def test_a_cluster_behind_tls(member: EtcdMember, tmp_path: Path) -> None:
    """etcds:// with the cluster's own authority; without it nothing is sent."""
    made = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "k.pem",
            "-out",
            "c.pem",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("no openssl program here")
    here = f"https://{member.address}"
    member.options = [
        "--cert-file", str(tmp_path / "c.pem"), "--key-file", str(tmp_path / "k.pem"),
        "--listen-client-urls", here, "--advertise-client-urls", here,
    ]  # fmt: skip
    member.start(f"own=http://127.0.0.1:{member.peer}")
    url = f"etcds://{member.address}/own"
    async with asyncio.timeout(30):
        while True:
            try:
                store = await EtcdStore.open(f"{url}?ca={tmp_path / 'c.pem'}")
                break
            except t.UnavailableError:
                await asyncio.sleep(0.1)
    await store.commit([], [t.Put("a", b"1")])
    assert (await store.get("a")).value == b"1"
    assert store.capabilities.durable
    lease = await store.lease(30)
    await asyncio.to_thread(store.renew_from_thread, lease.id)
    await store.close()
    with pytest.raises(t.UnavailableError):
        await EtcdStore.open(url)


# --- limits --------------------------------------------------------------------------------------


async def test_as_many_operations_as_are_promised_are_taken(store: EtcdStore) -> None:
    """Of each kind, all at once: compares of prefixes, puts with a lease, deletes."""
    most = store.capabilities.max_operations
    lease = await store.lease(60)
    at = (await store.commit([], [t.Put("seed", b"")])).revision
    compares: list[t.Compare] = [t.Unchanged(f"day/{n}/", at) for n in range(most)]
    puts: list[t.Write] = [t.Put(f"k/{n}", b"", lease.id) for n in range(most)]
    await store.commit(compares, puts)
    deletes: list[t.Write] = [t.Delete(f"k/{n}") for n in range(most)]
    await store.commit([t.Absent(f"x{n}") for n in range(most)], deletes)
    with pytest.raises(t.ConflictError) as refused:
        await store.commit([t.Exists(f"x{n}") for n in range(most)], puts)
    assert len(refused.value.failed) == most
    assert not (await store.scan("k/")).items
    made = await store.commit([t.Exists("x")], [t.Put("n", b"")], [*puts[:64], t.Put("o", b"")])
    assert not made.succeeded


async def test_too_many_operations_are_refused_before_they_are_sent(store: EtcdStore) -> None:
    """And the refusal tells the figures, and which setting they are of."""
    at = (await store.commit([], [t.Put("seed", b"")])).revision
    halves = [t.Unchanged(f"d{n}/x", at) for n in range(store.capabilities.max_operations)]
    async with sent(store) as bodies:
        with pytest.raises(t.InvalidRequestError, match="--max-txn-ops"):
            await store.commit(halves, [t.Put("a", b"")])
        mib = b"x" * (1 << 20)
        with pytest.raises(t.InvalidRequestError, match="--max-request-bytes"):
            await store.commit([], [t.Put("a", mib), t.Put("b", mib)])
    assert bodies == []


async def test_a_commit_of_just_its_bytes_is_taken_by_etcd(store: EtcdStore) -> None:
    """What is promised fits: one value of the largest, and a second one up to the limit."""
    most = store.capabilities.commit_bytes_max
    values = [b"x" * (1 << 20), b"x" * (most - (1 << 20) - 1024)]
    await store.commit([], [t.Put("a", values[0]), t.Put("b", values[1])])
    assert [len(i.value) for i in (await store.get_many(["a", "b"])).items.values()] == [
        *map(len, values)
    ]


async def test_an_append_of_256_kib_is_taken_whole(store: EtcdStore) -> None:
    """In one event, in few and in as many as one append may have; one byte more is not sent."""
    log = t.EventLog(store)
    size = 256 << 10
    await log.append("one", [t.NewEvent("E", "x" * (size - 64))])
    await log.append("some", [t.NewEvent("E", "x" * 100)] * 2400)
    made = await log.append("many", [t.NewEvent("E", "x" * 40)] * 4096)
    assert made.last_position == 1 + 2400 + 4096
    async with sent(store) as bodies:
        with pytest.raises(t.InvalidRequestError, match=f"{size} are allowed"):
            await log.append("one", [t.NewEvent("E", "x" * size)])
        with pytest.raises(t.InvalidRequestError, match="4096"):
            await log.append("one", [t.NewEvent("E")] * 4097)
    assert bodies == []


def rooms_at_nine(count: int) -> list[t.Wanted]:
    start = datetime(2030, 1, 1, 9, tzinfo=UTC)
    slot = t.Interval(start, start.replace(hour=10))
    return [t.Wanted(f"room{n}", slot) for n in range(count)]


@pytest.mark.parametrize("key", [None, "once"])
async def test_a_booking_of_128_rooms_is_refused_in_days_and_before_it_is_sent(
    store: EtcdStore, key: str | None
) -> None:
    """116 are taken, with an idempotency key as well as without."""
    rooms = t.Reservations(store)
    async with sent(store) as bodies:
        for count in (128, 117):
            with pytest.raises(
                t.InvalidRequestError, match=f"take {count} days .* one commit holds 116"
            ):
                await rooms.book_many(rooms_at_nine(count), holder="ann", idempotency_key=key)
    assert bodies == []
    made = await rooms.book_many(rooms_at_nine(116), holder="ann", idempotency_key=key)
    assert len({booking.resource for booking in made}) == 116


async def test_a_member_that_takes_more_operations_takes_126_rooms(member: EtcdMember) -> None:
    """What the pages say of --max-txn-ops 138; it is found out, not configured."""
    member.options = ["--max-txn-ops", "138"]
    store = await EtcdStore.open(begin(member))
    assert store.capabilities.max_operations == 128
    rooms = t.Reservations(store)
    with pytest.raises(t.InvalidRequestError, match="one commit holds 126"):
        await rooms.book_many(rooms_at_nine(128), holder="ann", idempotency_key="once")
    made = await rooms.book_many(rooms_at_nine(126), holder="ann", idempotency_key="once")
    assert len(made) == 126
    await store.close()


# --- ranges, deletes and leases ------------------------------------------------------------------


async def test_a_range_from_which_a_lease_took_keys_has_changed(engine: EtcdEngine) -> None:
    """Etcd deletes silently; a commit of ours does not: who compares the range is told."""
    store, other = await engine.client(), await engine.client()
    lease = await store.lease(1)
    made = await store.commit([], [t.Put("q/a", b"", lease.id), t.Put("q/b", b"", lease.id)])
    events = other.watch("q/", after=made.revision)
    async with asyncio.timeout(15):
        ended = await anext(events)
    await events.aclose()
    assert [change.key for change in ended.changes] == ["q/a", "q/b"]
    assert ended.by == "lease"
    assert ended.time > made.time
    with pytest.raises(t.ConflictError):
        await store.commit([t.Unchanged("q/", made.revision)], [t.Put("x", b"")])
    with pytest.raises(t.LeaseExpiredError):
        await store.commit([], [t.Put("q/c", b"", lease.id)])


async def test_keys_of_a_lease_that_ended_while_nobody_was_there(engine: EtcdEngine) -> None:
    """The next client deletes them; one that was put anew without the lease stays."""
    store = await engine.client()
    lease = await store.lease(1)
    await store.commit([], [t.Put(f"q/{n:03}", b"", lease.id) for n in range(110)])
    await store.commit([], [t.Put("q/050", b"mine")])
    await store.close()
    await asyncio.sleep(4)
    heir = await engine.client()
    async with asyncio.timeout(20):
        while len((await heir.scan("q/")).items) > 1:  # noqa: ASYNC110 etcd ends it
            await asyncio.sleep(0.05)
    assert (await heir.get("q/050")).value == b"mine"


async def test_a_lease_that_ends_beside_a_sweep_is_heard(
    engine: EtcdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended since the sweep began need not wait for the next one."""
    owner = await engine.client()
    lease = await owner.lease(2)
    await owner.commit([], [t.Put("q/a", b"", lease.id)])
    await owner.close()
    real, swept = EtcdStore._sweep, []

    async def sweep(heir: EtcdStore) -> None:
        await real(heir)
        swept.append(heir)
        while kvs((await heir._one(get_range(heir._layout.heartbeat(lease.id))))[1]):  # noqa: ASYNC110 etcd ends it
            await asyncio.sleep(0.05)

    monkeypatch.setattr(EtcdStore, "_sweep", sweep)
    heir = await engine.client()
    async with asyncio.timeout(60):
        while (await heir.scan("q/")).items:  # noqa: ASYNC110 etcd ends it
            await asyncio.sleep(0.05)
    assert swept == [heir]


async def test_nobody_waits_for_the_next_lease_of_records(
    store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records hang on etcd leases, some on each: while the next one is asked for, all go on."""
    monkeypatch.setattr("transactional.stores.etcd.ATTACHED_MAX", 10)
    await store.commit([], [t.Put("first", b"")])
    grants, go_on = 0, asyncio.Event()
    real = store._gateway.ask

    async def ask(path: str, body: str, *, repeatable: bool) -> dict:
        nonlocal grants
        if path == "/lease/grant":
            grants += 1
            await go_on.wait()
        return await real(path, body, repeatable=repeatable)

    store._gateway.ask = ask
    async with asyncio.timeout(20):
        for number in range(40):
            await store.commit([], [t.Put(f"k{number}", b"")])
    assert grants == 1
    go_on.set()
    for number in range(40):
        await store.commit([], [t.Put(f"k{number}", b"")])
    assert 3 <= grants <= 6


async def test_who_put_the_keys_of_a_lease_ends_it_in_one_request(store: EtcdStore) -> None:
    """He knows them: one transaction deletes them, and that there are no others is compared."""
    lease = await store.lease(60)
    await store.commit([], [t.Put("q/b", b"", lease.id), t.Put("q/a", b"", lease.id)])
    await store.commit([], [t.Delete("q/a"), t.Put("q/ab", b"", lease.id)])
    async with sent(store) as bodies:
        await store.revoke(lease.id)
    assert len(bodies) == 1
    assert not (await store.scan("q/")).items
    with pytest.raises(t.LeaseExpiredError):
        await store.renew(lease.id)
    with pytest.raises(t.LeaseExpiredError):
        await store.commit([], [t.Put("q/c", b"", lease.id)])


@pytest.mark.parametrize("keys", [["q/aa"], ["q/c"], ["q/a"], ["q/b", "q/d"], ["p", "r"]])
async def test_what_others_put_under_a_lease_goes_with_it(
    engine: EtcdEngine, keys: list[str]
) -> None:
    """Before, between, behind and in place of those that its owner knows: all in one commit."""
    store, other = await engine.client(), await engine.client()
    lease = await store.lease(60)
    await store.commit([], [t.Put("q/a", b"", lease.id), t.Put("q/b", b"", lease.id)])
    made = await other.commit([], [t.Put(key, b"", lease.id) for key in keys])
    await store.revoke(lease.id)
    events = other.watch("", after=made.revision)
    ended = await anext(events)
    await events.aclose()
    assert [change.key for change in ended.changes] == sorted({"q/a", "q/b", *keys})
    assert not (await store.scan("")).items


async def test_a_lease_with_many_keys_is_ended_by_a_look(store: EtcdStore) -> None:
    """More than are remembered; all are gone."""
    lease = await store.lease(60)
    for part in range(3):
        await store.commit([], [t.Put(f"q/{part}{n}", b"", lease.id) for n in range(10)])
    await store.revoke(lease.id)
    assert not (await store.scan("q/")).items


async def test_a_lock_is_handed_over_in_one_commit_and_two_reads(engine: EtcdEngine) -> None:
    """What lies between a release and the next grant, beside the watch.

    Only the commit goes through the log of all: of the mark that says who let go, and of whether
    anybody else is ahead, one member tells what was at the revision of the release.
    """
    first, second = await engine.client(), await engine.client()
    grant = await t.Lock(first, "the", owner="ann", ttl_s=60).acquire(wait_s=10)
    waiting = []
    for n in range(2):  # one after the other: who comes beside another is woken once more
        lock = t.Lock(second, "the", owner=f"b{n}", ttl_s=60)
        waiting.append(asyncio.create_task(lock.acquire(wait_s=30)))
        async with asyncio.timeout(10):
            while second.figures()["watches"] <= n:  # noqa: ASYNC110 it waits
                await asyncio.sleep(0.01)
    for holder in (first, second):
        await holder.get("any")  # the clock may have been set meanwhile
        async with sent(first) as one, sent(second) as other:
            await grant.release()
            done, waiting = await asyncio.wait(waiting, timeout=10, return_when="FIRST_COMPLETED")
            (grant,) = [task.result() for task in done]
            bodies = [*map(json.loads, [*one, *other])]
        commits = [body for body in bodies if "compare" in body]
        looks = [body for body in bodies if "compare" not in body and of_keys(body)]
        local = [body for body in looks if '"serializable": true' in json.dumps(body)]
        assert (len(commits), len(looks), len(local)) == (1, 2, 2)
    await grant.release()


def of_keys(body: dict) -> bool:
    """Whether keys are read: not what an ended lease left, nor how far the store is."""
    ranges = [part["request_range"] for part in body["success"] if "request_range" in part]
    return any("/k/" in b64decode(each["key"]).decode() for each in ranges)


async def test_what_was_done_is_not_in_the_way_of_what_comes_next(store: EtcdStore) -> None:
    """Sixty jobs, timers and hand-overs leave a handful of marks where the next one is looked for.

    A delete leaves a mark in the key's folder, for half an hour: were each place in a queue a
    folder, who looks for its head would walk over the marks of all that were there.
    """
    queue = t.WorkQueue(store, "q")
    lock = t.Lock(store, "the", owner="ann")
    for number in range(60):
        await queue.put(f"j{number}")
        (job,) = await queue.claim("ann")
        if number % 2:
            await job.retry(in_s=0.001)
            (job,) = await queue.claim("ann", wait_s=10)
        await job.done()
    for _ in range(30):
        grant = await lock.acquire()
        waiting = asyncio.create_task(lock.acquire(wait_s=30))
        async with asyncio.timeout(10):
            while not (await store.scan("lock/the/wait/")).items:  # noqa: ASYNC110 he lines up
                await asyncio.sleep(0)
        await grant.release()
        await (await waiting).release()
    layout = store._layout
    for prefix in ("queue/q/index/", "queue/q/kept/", "lock/"):
        ends = layout.key(prefix), layout.end(prefix)
        _, (answer,) = await store._read([get_range(*ends)])
        places = [layout.name_at(kv["key"]) for kv in kvs(answer)]
        marks = [place for place in places if MARK in place]
        assert len(marks) <= 8, marks
    await queue.close()


async def test_a_scan_passes_many_marks_in_few_steps(store: EtcdStore) -> None:
    """A caller's own keys, each in a folder of its own: 300 that went, and what is left of them."""
    for part in range(3):
        keys = [f"jobs/{part}{n:02}/state" for n in range(100)]
        await store.commit([], [t.Put(key, b"") for key in keys])
        await store.commit([], [t.Delete(key) for key in keys if key != "jobs/150/state"])
    last = await store.commit([], [t.Put("jobs/a", b"1"), t.Put("jobs/b", b"2")])
    async with sent(store) as bodies:
        found = await store.scan("jobs/")
    assert [*found.items] == ["jobs/150/state", "jobs/a", "jobs/b"]
    assert (found.revision, found.more) == (last.revision, False)
    assert len(bodies) <= 6  # a page, its marks, the key in their midst, marks, the rest
    first = await store.scan("jobs/", limit=1)
    assert ([*first.items], first.more) == (["jobs/150/state"], True)
    await store.commit([], [t.Delete(key) for key in found.items])
    assert (await store.scan("jobs/")).items == {}


async def test_a_prefix_inside_one_that_was_deleted_has_changed(store: EtcdStore) -> None:
    """Also a prefix that ends in the midst of a name, and one whose keys went long ago."""
    await store.commit([], [t.Put(key, b"") for key in ("a/b/1", "a/b/2", "a/bc", "z")])
    at = (await store.scan("a/")).revision
    await store.commit([], [t.DeletePrefix("a/b")])
    for prefix in ("a/b/", "a/b/1", "a/", "a/bc", "", "a"):
        with pytest.raises(t.ConflictError):
            await store.commit([t.Unchanged(prefix, at)], [])
    at = (await store.commit([], [t.Put("y/one", b""), t.Put("y/two", b"")])).revision
    await store.commit([], [t.Delete("y/one")])
    for prefix in ("y/o", "y/one", "y/"):
        with pytest.raises(t.ConflictError):
            await store.commit([t.Unchanged(prefix, at)], [])
    await store.commit([t.Unchanged("z", at), t.Unchanged("x/", at)], [])


async def test_a_delete_that_was_watched_alone_tells_who_and_when(store: EtcdStore) -> None:
    """A watch of one key does not see the mark beside it, and asks for it."""
    made = await store.commit([], [t.Put("d/a", b""), t.Put("e/a", b"")])
    gone = await store.commit([], [t.Delete("d/a"), t.DeletePrefix("e/")], by="bob")
    for key in ("d/a", "e/a"):
        events = store.watch(key, after=made.revision)
        event = await anext(events)
        await events.aclose()
        assert (event.by, event.time, event.revision) == ("bob", gone.time, gone.revision)


# --- what is remembered --------------------------------------------------------------------------


async def test_a_revision_that_etcd_has_compacted_is_not_known(engine: EtcdEngine) -> None:
    """Others' old op_ids expire, old ranges do not hold, watches are told; records stay."""
    store = await engine.client()
    old = store.mint_op_id()
    kept = await store.commit([], [t.Put("a", b"")], op_id=old)
    never = store.mint_op_id()
    for n in range(5):
        last = await store.commit([], [t.Put(f"b{n}", b"")])
    await store._send("/kv/compaction", f'{{"revision":"{last.revision}"}}', repeatable=True)
    other = await engine.client()
    outcome = await other.resolve(old)  # its record is there still
    assert isinstance(outcome, t.Applied)
    assert outcome.commit == kept
    with pytest.raises(t.OpIdExpiredError):
        await other.resolve(never)
    with pytest.raises(t.OpIdExpiredError):
        await other.commit([], [t.Put("late", b"")], op_id=never)
    with pytest.raises(t.ConflictError):
        await other.commit([t.Unchanged("zzz/", kept.revision)], [])
    events = other.watch("", after=kept.revision)
    assert isinstance(await anext(events), t.Compacted)
    await events.aclose()
    assert isinstance(await store.resolve(never), t.Fenced)  # who minted it knows its age


async def test_what_was_is_told_by_one_member_or_else_what_is(store: EtcdStore) -> None:
    """A page of the past, in pages; of the present where etcd forgot it, or knows no such yet."""
    await store.commit([], [t.Put(f"q/{n:02}", b"old") for n in range(40)])
    then = await store.scan("q/")
    await store.commit([], [t.DeletePrefix("q/")])
    async with sent(store) as bodies:
        assert await store.scan_at(then.revision, "q/") == then
        few = await store.scan_at(then.revision, "q/", after="q/10", limit=3)
    assert [*few.items] == ["q/11", "q/12", "q/13"]
    assert few.more
    assert bodies
    for body in map(json.loads, bodies):
        assert [part["request_range"]["serializable"] for part in body["success"]] == [True]
    last = await store.commit([], [t.Put("q/new", b"")])
    assert [*(await store.scan_at(last.revision + 1000, "q/")).items] == ["q/new"]
    await store._send("/kv/compaction", f'{{"revision":"{last.revision}"}}', repeatable=True)
    late = await store.scan_at(then.revision, "q/")
    assert [*late.items] == ["q/new"]
    assert late.revision >= last.revision


async def test_a_store_of_a_later_version_is_not_opened(engine: EtcdEngine) -> None:
    """Nor one whose format is no number; neither is changed."""
    store = await engine.client()
    place = store._layout.epoch
    for found, error in ((2, t.NewerFormatError), ("x", t.CorruptStoreError)):
        raw = json.dumps({"epoch": store.epoch[:8], "format": found}).encode()
        await store._ask(Txn(success=[put(place, raw)]), repeatable=True)
        with pytest.raises(error):
            await engine.client()
        _, answer = await store._one(get_range(place))
        assert b64decode(kvs(answer)[0]["value"]) == raw


async def test_another_cluster_under_the_same_address_is_another_life(member: EtcdMember) -> None:
    """[transactional 15] A restore makes another cluster: nothing of the old one is accepted."""
    url = begin(member)
    store = await EtcdStore.open(url)
    op_id = store.mint_op_id()
    await store.commit([], [t.Put("a", b"")])
    member.signal(signal.SIGKILL)
    member.directory = member.directory.with_name("restored")
    begin(member, "two")
    with pytest.raises(t.EpochMismatchError):
        await store.get("a")
    await store.close()
    fresh = await EtcdStore.open(url)
    with pytest.raises(t.EpochMismatchError):
        await fresh.resolve(op_id)
    await fresh.close()


async def test_a_row_that_was_changed_behind_our_back_is_told(store: EtcdStore) -> None:
    """A checksum over key and row: bytes of others are no value, nor is a row of another key."""
    await store.commit([], [t.Put("a", b"1"), t.Put("b", b"2")])
    _, answer = await store._one(get_range(store._layout.key("a")))
    raw = b64decode(kvs(answer)[0]["value"])
    for wrong in (b"", b"hello", raw[:-1] + b"9"):
        await store._ask(Txn(success=[put(store._layout.key("a"), wrong)]), repeatable=True)
        with pytest.raises(t.DamagedRowError) as told:
            await store.get("a")
        assert told.value.key == "a"
    await store._ask(Txn(success=[put(store._layout.key("b"), raw)]), repeatable=True)
    with pytest.raises(t.DamagedRowError):
        await store.scan("b")
    await store._ask(Txn(success=[delete(store._layout.key("a"))]), repeatable=True)


async def test_clients_with_different_clocks_agree_about_time(engine: EtcdEngine) -> None:
    """Times rise with revisions, whoever writes; 40 writers at once, and now() lies between."""
    stores = [await engine.client() for _ in range(4)]
    for number, store in enumerate(stores):  # a clock that is a little behind, and one ahead
        real = store._clock.wall_us
        object.__setattr__(
            store._clock, "wall_us", lambda real=real, n=number: real() + (n - 2) * 700_000
        )
    made: list[t.Commit] = []

    async def write(number: int) -> None:
        store = stores[number % 4]
        for step in range(5):
            before = await store.now()
            commit = await store.commit([], [t.Put(f"k{number}", b"%d" % step)])
            assert before < commit.time <= await store.now()
            made.append(commit)

    await asyncio.gather(*[write(number) for number in range(40)])
    made.sort(key=lambda commit: commit.revision)
    assert len({commit.revision for commit in made}) == len(made)
    times = [commit.time for commit in made]
    assert times == sorted(set(times))


def test_a_row_is_what_it_was() -> None:
    """Any bytes, any name; the layout of a row is checked in, too."""
    row = Row(-5, "ünïcode ✓", "123", bytes(range(256)))
    assert Row.decode("k", row.encode("k")) == row
    golden = Row(1, "ann", None, b"v").encode("k")
    assert golden.hex() == "01000000000000000103616e6e0092bda37376"
    assert time_us(10, 5) == 30
