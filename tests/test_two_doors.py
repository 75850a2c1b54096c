"""An agent's keys and an authority's tokens: neither opens anything at the other's door."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest

import transactional as t
from replication import Agent
from replication.credentials import keys_of, page_token
from replication.errors import OrderRefusedError
from replication.protocol.messages import Sync
from replication.transport import AdminClient
from replication.transport.http import MEDIA_TYPE
from tests.replication.protocol.test_wire import DIGEST, wire
from tests.transactional.server.test_clients import serve
from transactional.stores.http import HTTPStore

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a secret of the cluster"
TOKEN = "token-of-a-client-of-the-authority"


async def test_a_token_of_an_authority_is_no_key_of_an_agent() -> None:
    """Frames sealed with it are refused, it makes no member, shows no page and gives no order."""
    async with Agent("ada", secret=SECRET) as ada, aiohttp.ClientSession() as web:
        with pytest.raises(OrderRefusedError):
            await AdminClient(ada.address, keys_of(TOKEN), 5).order("set", name="k", value=1)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("/documents", "/changes"):
            async with web.get(f"http://{ada.address}{path}", headers=bearer) as answer:
                assert answer.status == 403
        claims = wire(TOKEN.encode(), cluster="convoca", namespace="default")
        frame = claims.seal("mallory~01", Sync(DIGEST))
        headers = bearer | {"Content-Type": MEDIA_TYPE}
        async with web.post(
            f"http://{ada.address}/_replica", data=frame, headers=headers
        ) as answer:
            body = await answer.read()
        assert SECRET.encode() not in body
        assert ada.members() == []
        assert ada.version().vector == {}


@pytest.mark.processes
async def test_a_key_of_an_agent_is_no_token_of_an_authority(tmp_path: Path) -> None:
    """Neither a leaf's own key, nor the cluster's secret, nor what is derived from it."""
    async with serve(tmp_path, {"a": ([""], [""])}, {"ann": "a"}) as served:
        for shown in ("a leaf's own key", SECRET, page_token(keys_of(SECRET))):
            with pytest.raises(t.UnauthorizedError):
                await HTTPStore.open(served.authority.url, token=shown)
