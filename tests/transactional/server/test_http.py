"""The HTTP authority: what curl sees, who may come, what a broken connection means."""

from __future__ import annotations

import asyncio
import io
import json
import shlex
import ssl
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp
import pytest

import transactional as t
from tests.transactional.authority import AuthorityProcess, Relay
from transactional.cli import main
from transactional.server.admission import Listen
from transactional.server.server import Authority
from transactional.stores.http import HTTPStore
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.processes


@pytest.fixture
async def authority() -> AsyncIterator[Authority]:
    authority = Authority(MemoryStore(), Listen(port=0))
    await authority.start()
    yield authority
    await authority.stop()


@pytest.fixture
async def web(authority: Authority) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(authority.url) as session:
        yield session


async def test_curl_can_set_a_key_if_it_is_absent_or_unchanged(
    web: aiohttp.ClientSession,
) -> None:
    """If-None-Match: * creates, If-Match with the ETag replaces, anything else is 412."""
    async with web.put("/v1/keys/a/b", data=b"1", headers={"If-None-Match": "*"}) as made:
        assert made.status == 200
        tag = made.headers["ETag"]
    async with web.put("/v1/keys/a/b", data=b"2", headers={"If-None-Match": "*"}) as refused:
        assert refused.status == 412
        doc = await refused.json()
        assert doc["applied"] is False
        assert doc["current"]["a/b"]["value"] == "1"
    async with web.put("/v1/keys/a/b", data=b"3", headers={"If-Match": tag}) as changed:
        assert changed.status == 200
    async with web.delete("/v1/keys/a/b", headers={"If-Match": tag}) as refused:
        assert refused.status == 412
    async with web.get("/v1/keys/a/b") as found:
        assert await found.read() == b"3"
    async with web.delete("/v1/keys/a/b"), web.get("/v1/keys/a/b") as gone:
        assert gone.status == 404


async def test_an_idempotency_key_makes_a_repeat_harmless(web: aiohttp.ClientSession) -> None:
    """The same key and body twice: one effect; another body: 422."""
    headers = {"Idempotency-Key": "order-17"}
    async with web.put("/v1/keys/a", data=b"1", headers=headers) as first:
        revision = (await first.json())["revision"]
    async with web.put("/v1/keys/a", data=b"1", headers=headers) as repeat:
        doc = await repeat.json()
        assert (doc["revision"], doc["replayed"]) == (revision, True)
    async with web.put("/v1/keys/a", data=b"2", headers=headers) as other:
        assert other.status == 422


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/keys/none", None, 404),
        ("GET", "/v1/none", None, 404),
        ("PATCH", "/v1/keys/a", None, 405),
        ("POST", "/v1/commit", {"compares": [{"type": "exists", "key": "a"}], "writes": []}, 409),
        ("POST", "/v1/commit", {"writes": [{"type": "put", "key": "", "value": ""}]}, 400),
        ("POST", "/v1/commit", {"writes": [{"type": "put", "key": "a"}]}, 400),
        ("POST", "/v1/commit", {"writes": [{"type": "wish", "key": "a"}]}, 400),
        ("POST", "/v1/commit", {"writes": "all"}, 400),
        ("POST", "/v1/commit", [], 400),
        ("POST", "/v1/leases", {"ttl_s": -1}, 400),
        ("POST", "/v1/leases/none", {}, 410),
        ("POST", "/v1/batch", {"requests": [{}] * 513}, 400),
        ("GET", "/v1/keys?limit=0", None, 400),
        ("GET", "/v1/keys?limit=many", None, 400),
        ("GET", "/v1/watch?after=99", None, 400),
    ],
)
async def test_each_refusal_has_its_status_and_says_that_nothing_was_written(
    web: aiohttp.ClientSession, method: str, path: str, body: object, status: int
) -> None:
    """The body of every error has code, message, hint and applied."""
    async with web.request(method, path, json=body) as response:
        assert response.status == status
        doc = await response.json()
        assert doc["applied"] is False
        assert {"code", "message", "hint", "details"} <= doc.keys()


async def test_a_body_over_the_limit_is_refused(web: aiohttp.ClientSession) -> None:
    """17 MiB are 413; the authority goes on."""
    headers = {"Content-Type": "application/json"}
    body = io.BytesIO(b"[" + b" " * (17 << 20) + b"]")
    async with web.post("/v1/commit", data=body, headers=headers) as response:
        assert response.status == 413
    async with web.get("/v1/status") as response:
        assert response.status == 200


async def test_a_page_in_a_browser_cannot_reach_it(web: aiohttp.ClientSession) -> None:
    """A foreign Host (DNS rebinding) is 401; a form's content type is refused."""
    async with web.get("/v1/status", headers={"Host": "evil.example:80"}) as response:
        assert response.status == 401
    headers = {"Content-Type": "text/plain"}
    async with web.post("/v1/commit", data=b'{"writes":[]}', headers=headers) as response:
        assert response.status == 400


async def test_off_loopback_a_token_is_required_and_checked() -> None:
    """Listening on 0.0.0.0 without a token is refused; a wrong token is 401."""
    with pytest.raises(t.InvalidRequestError):
        Listen(host="0.0.0.0")  # noqa: S104 that is the point
    authority = Authority(MemoryStore(), Listen(port=0, token="s3cret"))
    await authority.start()
    for token in (None, "wrong"):
        with pytest.raises(t.UnauthorizedError):
            await HTTPStore.open(authority.url, token=token)
    async with t.open(f"{authority.url}?token=s3cret") as store:
        await store.commit([], [t.Put("a", b"")])
    await authority.stop()


async def test_it_speaks_tls(tmp_path: Path) -> None:
    """With a certificate the same client works over https, and distrusts it without."""
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
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    authority = Authority(MemoryStore(), Listen(port=0, tls=served))
    await authority.start()
    trusting = ssl.create_default_context(cafile=tmp_path / "c.pem")
    store = await HTTPStore.open(authority.url, tls=trusting)
    await store.commit([], [t.Put("a", b"")])
    await store.close()
    with pytest.raises(t.UnavailableError):
        await HTTPStore.open(authority.url)
    await authority.stop()


async def test_concurrent_calls_share_requests(authority: Authority) -> None:
    """300 concurrent commits travel in a few batches, each with its own result."""
    store = await HTTPStore.open(authority.url)
    posts = 0
    real = store._post._try

    async def counting(batch: list[object]) -> str | None:
        nonlocal posts
        posts += 1
        return await real(batch)

    store._post._try = counting
    commits = await asyncio.gather(
        *[store.commit([], [t.Put(f"k{number}", b"")]) for number in range(300)]
    )
    assert len({commit.revision for commit in commits}) == 300
    assert posts < 10
    await store.close()


async def test_an_answer_that_is_lost_after_the_commit_is_resolved(tmp_path: Path) -> None:
    """[transactional 7] Reply cut: OutcomeUnknown; resolve says applied; the repeat is harmless."""
    process = AuthorityProcess(tmp_path / "s.db")
    await process.start()
    relay = Relay(process.port)
    await relay.start()
    store = await HTTPStore.open(relay.url)
    relay.lose_answers = True
    with pytest.raises(t.OutcomeUnknownError) as caught:
        await store.commit([], [t.Put("a", b"1")], op_id="x")
    relay.lose_answers = False
    outcome = await store.resolve(caught.value.op_id)
    assert isinstance(outcome, t.Applied)
    repeat = await store.commit([], [t.Put("a", b"1")], op_id="x")
    assert repeat == outcome.commit
    await store.close()
    await relay.stop()
    await process.stop()


async def test_a_request_that_is_lost_before_the_commit_is_fenced_off(tmp_path: Path) -> None:
    """[transactional 7] Request cut: OutcomeUnknown; resolve fences it; the late one is refused."""
    process = AuthorityProcess(tmp_path / "s.db")
    await process.start()
    relay = Relay(process.port)
    await relay.start()
    store = await HTTPStore.open(relay.url)
    relay.lose_requests = True
    with pytest.raises(t.OutcomeUnknownError):
        await store.commit([], [t.Put("a", b"1")], op_id="x")
    relay.lose_requests = False
    assert await store.resolve("x") == t.Fenced("x")
    with pytest.raises(t.OpIdFencedError):
        await store.commit([], [t.Put("a", b"1")], op_id="x")
    assert await store.get("a") is None
    await store.close()
    await relay.stop()
    await process.stop()


async def test_nobody_at_the_address_is_definitely_unavailable(tmp_path: Path) -> None:
    """A connection that cannot be made sent nothing: UnavailableError, never unknown."""
    process = AuthorityProcess(tmp_path / "s.db")
    await process.start()
    store = await HTTPStore.open(process.url)
    await process.stop()
    while True:  # the first one may meet the dying connection
        try:
            await store.commit([], [t.Put("a", b"1")])
        except t.OutcomeUnknownError:
            continue
        except t.UnavailableError:
            break
    await store.close()
    with pytest.raises(t.UnavailableError):
        await HTTPStore.open(process.url)


async def test_a_watch_goes_on_when_the_authority_comes_back(tmp_path: Path) -> None:
    """[transactional 14] kill -9 and a new start in mid-watch: no event twice, none missing."""
    process = AuthorityProcess(tmp_path / "s.db")
    await process.start()
    store = await HTTPStore.open(process.url)
    seen: list[int] = []

    async def watch() -> None:
        async for event in store.watch("k/", after=0):
            seen.append(event.revision)
            if len(seen) == 30:
                return

    watcher = asyncio.create_task(watch())
    written: list[int] = []
    for number in range(30):
        if number in {10, 20}:
            await process.kill()
            await process.start()
        written.append((await t.update(store, f"k/{number}", lambda _: b"x")).revision)
    await asyncio.wait_for(watcher, 30)
    assert seen == written
    await store.close()
    await process.stop()


async def test_stopping_finishes_what_was_accepted(tmp_path: Path) -> None:
    """SIGTERM under load: every answer is definite or the connection was refused; exit status 0."""
    process = AuthorityProcess(tmp_path / "s.db")
    await process.start()
    store = await HTTPStore.open(process.url)
    done = 0

    async def load(name: str) -> None:
        nonlocal done
        number = 0
        while True:
            try:
                await store.commit([], [t.Put(f"{name}/{number}", b"")])
            except t.UnavailableError:
                return
            number += 1
            done += 1

    tasks = [asyncio.create_task(load(str(number))) for number in range(16)]
    while done < 200:  # noqa: ASYNC110 progress of many tasks
        await asyncio.sleep(0.002)
    stopping = asyncio.create_task(process.stop())
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [r for r in results if r is not None and not isinstance(r, t.OutcomeUnknownError)]
    assert await stopping == 0
    await store.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "transactional", *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True)


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command as ``run`` does, but here: most of a short command is starting Python."""

    def here(*arguments: str) -> subprocess.CompletedProcess[str]:
        status = main(arguments)
        output, errors = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, status, output, errors)

    return here


def test_the_command_line_reads_changes_and_repairs(tmp_path: Path, command: Command) -> None:
    """put, cas, get, scan, watch, resolve, backup, verify on a file, in each form of output."""
    store = ["--store", f"sqlite:{tmp_path / 's.db'}"]
    assert run("put", "a/b", "1", *store).returncode == 0
    conflict = command("cas", "a/b", "2", "--expected", "0", *store)
    assert conflict.returncode == 1
    assert conflict.stderr.startswith("error: 'a/b' is at revision 1, expected absent")
    assert conflict.stderr.count("\n") == 1
    assert command("cas", "a/b", "2", "--expected", "1", *store).returncode == 0
    got = command("get", "a/b", "-o", "json", *store)
    assert json.loads(got.stdout)["value"] == "2"
    assert command("scan", "a/", "-o", "plain", *store).stdout.startswith("a/b\t2\t2\t1\t")
    watched = command("watch", "--after", "0", "--count", "2", "-o", "plain", *store)
    assert watched.stdout == "1\ta/b\t1\n2\ta/b\t2\n"
    assert "fenced" in command("resolve", "x", *store).stdout
    assert command("backup", str(tmp_path / "s.db"), str(tmp_path / "c.db")).returncode == 0
    assert command("verify", str(tmp_path / "c.db")).stdout.endswith(": sound\n")


def test_a_program_runs_under_a_lock(tmp_path: Path, command: Command) -> None:
    """Lock NAME -- PROGRAM: the program sees the fencing token; afterwards nothing is left."""
    store = ["--store", f"sqlite:{tmp_path / 's.db'}"]
    done = command("lock", "nightly", *store, "--", "sh", "-c", "echo fence $CONVOCA_FENCE")
    assert (done.returncode, done.stdout) == (0, "fence 1\n")
    assert command("lock", "nightly", *store, "--", "false").returncode == 1
    assert command("scan", "lock/", "-o", "plain", *store).stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "a", "--store", "ftp://x"),
        ("get", "a", "--store", "http://127.0.0.1:1"),
        ("get", "a", "--store", "sqlite:/no/such/folder/s.db"),
        ("get", "", "--store", "memory:"),
        ("get", "a", "--store", "memory:"),
        ("put", "a", "\udcff", "--store", "memory:"),
        ("verify", "/no/such/file"),
        ("backup", "/no/such/file", "/no/such/copy"),
        ("serve", "memory:", "--listen", "nonsense"),
        ("serve", "memory:", "--listen", "0.0.0.0:0"),
        ("serve", "/no/such/folder/s.db", "--listen", "127.0.0.1:0"),
        ("serve", "memory:", "--listen", "127.0.0.1:0", "--token-file", "/no/such/file"),
        ("serve", "memory:", "--listen", "127.0.0.1:0", "--tls-cert", "/no/such/file"),
        ("bench", "--callers", "0", "--store", "memory:"),
        ("bench", "--callers", "300", "--seconds", "0.000001", "--store", "memory:"),
        ("watch", "--count", "0", "--store", "memory:"),
        ("get", "a", "--store", "http://[::1"),
        ("get", "a", "--store", "http://"),
        ("get", "a", "--store", "http://127.0.0.1:99999"),
        ("backup", sys.executable, "/no/such/copy"),
        ("serve", "memory:", "--listen", "127.0.0.1:0", "--token-file", sys.executable),
    ],
)
def test_foreseeable_mistakes_are_one_line_and_a_status(
    arguments: tuple[str, ...], command: Command
) -> None:
    """No traceback: one line on stderr with a hint, and a non-zero exit."""
    done = command(*arguments)
    assert done.returncode in {1, 3}
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "(hint: " in done.stderr


@pytest.mark.parametrize(
    ("store", "advice"),
    [
        ("http://", "use memory: | sqlite:PATH | http(s)://HOST:PORT | "),
        ("http://127.0.0.1:99999", "use memory:"),
        ("nats://127.0.0.1:4222", "DATABASE)\n"),
        ("sqlite:/no/such/folder/s.db", "correct what the message names"),
    ],
)
def test_the_advice_fits_the_mistake(store: str, advice: str, command: Command) -> None:
    """What no repeat heals is status 1 and not "try again"; only what exists is recommended."""
    done = command("get", "a", "--store", store)
    assert done.returncode == 1
    assert f"hint: {advice}" in done.stderr or done.stderr.endswith(advice)
