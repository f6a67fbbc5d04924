"""A stop ends open streams as their clients expect it: the last chunk is there, and nothing is logged as a fault."""

import asyncio
from typing import Any

import httpx
import pytest

from impasto.api.connection import protocols
from impasto.api.warden import Warden
from impasto.settings import ServerSettings


@pytest.mark.parametrize("path", ["/queue/fal-ai/flux-pro/requests/{}/status/stream", "/fal-ai/flux-pro/stream"])
async def test_an_open_stream_ends_cleanly_at_a_stop(server: Any, listen: Any, caplog: Any, path: str) -> None:
    http, _ = protocols(Warden(ServerSettings()))
    heard: list[bytes] = []
    async with server.client() as client:
        request_id = (await client.post("/queue/fal-ai/flux-pro", json={"prompt": "a"})).json()["request_id"]

    async def follow(url: str, begun: asyncio.Event) -> None:
        method = "GET" if "status" in path else "POST"
        body = {} if method == "GET" else {"json": {"prompt": "b"}}
        async with (
            httpx.AsyncClient(base_url=url, timeout=30) as client,
            client.stream(method, path.format(request_id), **body) as answer,
        ):
            async for chunk in answer.aiter_raw():
                heard.append(chunk)
                begun.set()

    begun = asyncio.Event()
    with listen(server.app, http=http, log_config=None, timeout_graceful_shutdown=1) as url:
        following = asyncio.create_task(follow(url, begun))
        await begun.wait()
    await asyncio.wait_for(following, 10)  # raises if the chunked body was torn
    assert heard[0].startswith(b"data: ")
    assert "Traceback" not in caplog.text
    assert "Exception in ASGI" not in caplog.text
    if "status" not in path:
        assert b"stopping" in heard[-1]
