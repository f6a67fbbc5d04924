"""WebSockets against a real uvicorn: realtime frames, their order and limits, and HTTP over WebSocket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus

from impasto.api import sockets
from impasto.store.records import Outcome, Status

PATH = "/fal-ai/flux-pro/realtime"
SMALL = {"prompt": "a cat", "image_size": {"width": 64, "height": 64}, "seed": 7}


@asynccontextmanager
async def serving(server: Any) -> AsyncIterator[str]:
    """On this event loop: the worker and the store are shared with the test."""
    config = uvicorn.Config(
        server.app, port=0, log_config=None, lifespan="off", ws="websockets-sansio", ws_max_size=1024 * 1024
    )
    running = uvicorn.Server(config)
    task = asyncio.create_task(running._serve())
    while not running.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"ws://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        await task


@pytest.fixture
async def url(server) -> AsyncIterator[str]:
    async with serving(server) as url:
        yield url


def pack(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


async def say(socket: Any) -> Any:
    """The next frame, decoded."""
    async with asyncio.timeout(20):
        frame = await socket.recv()
    return json.loads(frame) if isinstance(frame, str) else msgspec.msgpack.decode(frame)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_binary_in_gives_raw_pictures_and_text_in_gives_data_uris(url, working) -> None:
    async with connect(url + PATH) as socket:
        assert socket.response.headers["x-fal-request-id"]
        await socket.send(pack({**SMALL, "request_id": "mine"}))
        output, timings = await say(socket), await say(socket)
        image = output["images"][0]
        assert image["content"][:3] == b"\xff\xd8\xff"
        assert (image["content_type"], image["width"], image["height"]) == ("image/jpeg", 64, 64)
        assert "url" not in image
        assert (output["seed"], output["request_id"]) == (7, "mine")
        assert (timings["type"], timings["action"]) == ("x-fal-message", "timings")
        assert timings["request_id"] == working.taken[0]
        await socket.send(json.dumps(SMALL))
        assert (await say(socket))["images"][0]["url"].startswith("data:image/jpeg;base64,")
        await say(socket)
        await socket.send(pack({**SMALL, "sync_mode": True}))
        image = (await say(socket))["images"][0]
        assert image["url"].startswith("data:")
        assert image["content"][:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("seed", [-1, 2**53 + 1, 2**64 - 1, float(2**70)])
async def test_a_seed_comes_back_in_a_frame_as_it_was_sent(url, working, seed: float) -> None:
    async with connect(url + PATH) as socket:
        await socket.send(pack({**SMALL, "seed": seed}))
        assert (await say(socket))["seed"] == seed


@pytest.mark.parametrize(
    ("frame", "error", "words"),
    [
        (pack({"num_images": 0}), "VALIDATION_ERROR", "body.prompt"),
        (json.dumps({"prompt": 3}), "VALIDATION_ERROR", "body.prompt"),
        ("{", "VALIDATION_ERROR", "JSON"),
        (b"\xc1", "BAD_REQUEST", "MessagePack"),
        (b"", "BAD_REQUEST", "empty"),
        (pack([1]), "BAD_REQUEST", "map"),
        (b"\x81\xa1a\xdd\x7f\xff\xff\xff", "BAD_REQUEST", "MessagePack"),
        (b"\x81\xa1a" + b"\x91" * 500_000, "BAD_REQUEST", "MessagePack"),
        (pack({"a": [[]] * 200_000}), "BAD_REQUEST", "at most"),
    ],
)
async def test_a_bad_frame_is_told_in_a_text_frame_and_the_next_one_works(url, working, frame, error, words) -> None:
    async with connect(url + PATH) as socket:
        await socket.send(frame)
        said = await say(socket)
        assert (said["type"], said["error"]) == ("x-fal-error", error)
        assert words in said["reason"]
        await socket.send(pack(SMALL))
        assert "images" in await say(socket)


async def test_the_latest_inputs_win_when_more_wait_than_may(url, server) -> None:
    async with connect(url + PATH + "?max_buffering=2") as socket:
        await socket.send(pack({**SMALL, "seed": 0}))
        await until(lambda: server.store.queued())
        for seed in range(1, 6):
            await socket.send(pack({**SMALL, "seed": seed}))
        await (await socket.ping())
        assert server.store.queued() == 1
        task = asyncio.create_task(server.worker.run())
        seeds = []
        for _ in range(3):
            seeds.append((await say(socket))["seed"])
            await say(socket)
        task.cancel()
        assert seeds == [0, 4, 5]


async def test_closing_the_socket_cancels_what_runs(url, server) -> None:
    async with connect(url + PATH) as socket:
        await socket.send(pack(SMALL))
        await until(lambda: server.store.queued())
        request = await server.worker.take()
    await until(lambda: server.store.get(request.request_id).cancel_requested)


async def test_an_idle_socket_is_told_and_closed_normally(build) -> None:
    server = await build(realtime_idle_seconds=0.1)
    async with serving(server) as url, connect(url + PATH) as socket:
        assert await say(socket) == {
            "type": "x-fal-error", "error": "TIMEOUT", "reason": "no inputs, reconnect when needed!"
        }  # fmt: skip
        with pytest.raises(ConnectionClosedOK):
            await socket.recv()


async def test_a_refused_handshake_is_an_http_answer(url, keyed, build, caplog) -> None:
    async def refusal(address: str, **options: Any) -> Any:
        with pytest.raises(InvalidStatus) as caught:
            await connect(address, **options)
        response = caught.value.response
        assert response.headers["x-fal-request-id"]
        return response.status_code, json.loads(response.body)["detail"]

    assert await refusal(url + "/fal-ai/nothing/realtime") == (404, 'Application "nothing" not found')
    assert await refusal(url + "/fal-ai/flux-pro/xyz/realtime") == (404, "Path /xyz not found")
    assert (await refusal(url + "/fal-ai/flux-pro"))[0] == 404
    assert (await refusal(url + PATH + "?max_buffering=61"))[0] == 400
    async with serving(await build(auth="auto")) as open_:
        assert (await refusal(open_ + PATH, origin="https://evil.example"))[0] == 403
        await (await connect(open_ + PATH, origin="http://localhost:3000")).close()
    async with serving(keyed[0]) as locked:
        assert (await refusal(locked + PATH))[0] == 401
        assert (await refusal(locked + PATH, additional_headers={"Authorization": "Key a:b"}))[0] == 401
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_bad_token_is_told_in_the_frame_that_the_javascript_client_understands(keyed) -> None:
    async with serving(keyed[0]) as url, connect(url + PATH + "?fal_jwt_token=x") as socket:
        said = await say(socket)
        assert (said["status"], said["error"]) == ("error", "Unauthorized")
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd.code == 1008


async def test_a_token_opens_and_revoking_its_key_closes(keyed, monkeypatch) -> None:
    monkeypatch.setattr(sockets, "KEY_CHECK_SECONDS", 0.05)
    server, alice, _ = keyed
    async with server.client(key=alice) as client:
        token = (await client.post("/tokens/", json={"allowed_apps": ["flux-pro"]})).json()
    async with serving(server) as url, connect(f"{url}{PATH}?fal_jwt_token={token}") as socket:
        await socket.send(pack(SMALL))
        await until(lambda: server.store.queued())
        request = await server.worker.take()
        assert request.key_id == alice.partition(":")[0]
        await server.store.revoke_key(request.key_id)
        assert (await say(socket))["error"] == "Unauthorized"
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        await until(lambda: server.store.get(request.request_id).cancel_requested)


async def test_a_token_opens_one_socket_at_a_time(keyed, monkeypatch) -> None:
    """Reused beside an open one: refused. Reused after it: JavaScript's client does so, and it works."""
    monkeypatch.setattr(sockets, "HANDOVER_SECONDS", 0.2)
    server, alice, _ = keyed
    async with server.client(key=alice) as client:
        token, other = [(await client.post("/tokens/", json={"allowed_apps": ["flux-pro"]})).json() for _ in range(2)]
    async with serving(server) as url:
        at = f"{url}{PATH}?fal_jwt_token="
        async with connect(at + token) as first:
            async with connect(at + token) as second:
                assert (await say(second))["error"] == "Unauthorized"
            async with connect(at + other) as third:
                await third.send(json.dumps({"num_images": 0}))
                assert (await say(third))["error"] == "VALIDATION_ERROR"
            await first.send(json.dumps({"num_images": 0}))
            assert (await say(first))["error"] == "VALIDATION_ERROR", "the first one goes on"
        async with connect(at + token) as again:
            await again.send(json.dumps({"num_images": 0}))
            assert (await say(again))["error"] == "VALIDATION_ERROR"


async def test_a_reconnect_faster_than_its_goodbye_is_let_in(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as client:
        token = (await client.post("/tokens/", json={"allowed_apps": ["flux-pro"]})).json()
    async with serving(server) as url:
        at = f"{url}{PATH}?fal_jwt_token={token}"
        first = await connect(at)
        opening = asyncio.create_task(connect(at).__aenter__())
        await asyncio.sleep(0.1)
        assert not opening.done()
        await first.close()
        second = await opening
        await second.send(json.dumps({"num_images": 0}))
        assert (await say(second))["error"] == "VALIDATION_ERROR"
        await second.close()


@pytest.mark.parametrize("path", ["/ws/fal-ai/flux-pro", "/fal-ai/flux-pro"])
async def test_http_over_websocket_answers_in_order(url, server, working, path: str) -> None:
    here = urlsplit(url)
    if path.startswith("/ws/"):
        host = connect(url + path)
    else:
        host = connect("ws://ws.fal.run" + path, host=here.hostname, port=here.port)
    async with host as socket:
        for input_ in (SMALL, {"prompt": 1}, SMALL):
            await socket.send(json.dumps(input_))
        for status in (200, 422, 200):
            start, body, end = json.loads(await socket.recv()), json.loads(await socket.recv()), await say(socket)
            assert (start["type"], start["status"], end["type"]) == ("start", status, "end")
            assert start["request_id"] == end["request_id"] == start["headers"]["x-fal-request-id"]
            assert ("images" in body) is (status == 200)
    done = [server.store.get(id_) for id_ in working.taken]
    assert [(r.status, r.outcome) for r in done] == [(Status.COMPLETED, Outcome.OK)] * 2


async def test_calls_that_wait_are_bounded_in_bytes(build) -> None:
    large = json.dumps({"prompt": "a", "x": "y" * 400_000})
    async with serving(await build(max_body_mb=1)) as url, connect(url + "/ws/fal-ai/flux-pro") as socket:
        for _ in range(4):
            await socket.send(large)
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, "server.max_body_mb" in caught.value.rcvd.reason) == (1008, True)


async def test_a_call_over_a_socket_makes_files_as_its_handshake_asks(server, url, working) -> None:
    wish = json.dumps({"expiration_duration_seconds": 60, "initial_acl": {"default": "hide"}})
    headers = {"X-Fal-Object-Lifecycle-Preference": wish}
    async with connect(url + "/ws/fal-ai/flux-pro", additional_headers=headers) as socket:
        await socket.send(json.dumps(SMALL))
        assert (await say(socket))["status"] == 200
        output = json.loads(await socket.recv())
        file = server.store.file(urlsplit(output["images"][0]["url"]).path.removeprefix("/files/"))
        assert (file.acl.default, 0 < file.expires_at - file.created_at <= 60) == ("hide", True)
