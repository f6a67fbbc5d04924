"""The proxy route: fal's proxy protocol, dispatched inside, never a call to anywhere."""

import socket
from typing import Any

import pytest

from impasto.api.proxy import parse_target
from impasto.api.roles import Role
from impasto.errors import PreconditionFailed

APP = "/fal-ai/flux-pro"
PROXY = "/api/fal/proxy"


def to(url: str, **more: str) -> dict[str, str]:
    return {"x-fal-target-url": url, **more}


@pytest.mark.parametrize(
    ("target", "role", "path", "query"),
    [
        ("https://fal.run/fal-ai/flux-pro", Role.RUN, APP, ""),
        ("https://queue.fal.run/fal-ai/flux-pro?a=%2F%2Fx", Role.QUEUE, APP, "a=%2F%2Fx"),
        ("https://queue.fal.run/fal-ai/flux-pro/", Role.QUEUE, APP, ""),
        ("https://rest.fal.ai/storage/auth/token?x=1", Role.REST, "/storage/auth/token", "x=1"),
        ("https://rest.alpha.fal.ai/tokens/", Role.REST, "/tokens", ""),
        ("https://FAL.RUN/fal-ai/flux-pro", Role.RUN, APP, ""),
        ("https://fal.run:443/fal-ai/flux-pro", Role.RUN, APP, ""),
        ("https://fal.run/fal%2Dai/flux-pro", Role.RUN, APP, ""),
        ("https://fal.run", Role.RUN, "/", ""),
    ],
)  # fmt: skip
def test_targets(target: str, role: Role, path: str, query: str) -> None:
    assert parse_target(target) == (role, path, query)


REFUSED = [
    "https://evilfal.run/x",
    "https://fal.run.evil.example/x",
    "https://fal.run@evil.example/x",
    "https://evil.example@fal.run/x",
    "https://user:pass@fal.run/x",
    "https://fal.run:8443/x",
    "https://fal.run:80/x",
    "https://fal.run:x/x",
    "https://fal.run\\@evil.example/x",
    "https://fal.run%2eevil.example/x",
    "https://fal\u3002run/x",
    "https://ｆal.run/x",
    "https://fal.run./x",
    "https://sub.fal.run/x",
    "https://queue.fal.run.localhost/x",
    "http://fal.run/x",
    "ftp://fal.run/x",
    "file:///etc/passwd",
    "//fal.run/x",
    "fal.run/x",
    "/fal-ai/flux-pro",
    "https:///x",
    "https://",
    "https://127.0.0.1/x",
    "https://169.254.169.254/latest/meta-data",
    "https://[::1]/x",
    "https://[fal.run]/x",
    "https://[",
    "https://v3.fal.media/files/x",
    "https://fal.ai/x",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("target", REFUSED)
def test_every_other_target_is_refused(target: str) -> None:
    with pytest.raises(PreconditionFailed):
        parse_target(target)


async def test_refused_targets_are_412_and_no_socket_is_opened(client, server, monkeypatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: opened.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: opened.append(a))
    for target in REFUSED:
        answer = await client.post(PROXY, json={}, headers={"x-fal-target-url": target.encode()})
        assert answer.status_code == 412, target
        assert "queue.fal.run" in answer.json()["detail"]
    answer = await client.post(PROXY, json={"prompt": "a"}, headers=to(f"https://queue.fal.run{APP}"))
    assert answer.status_code == 200
    assert opened == []


async def test_the_rules_for_proxies(client) -> None:
    assert (await client.post(PROXY, json={})).status_code == 400
    assert (await client.post(PROXY, json={}, headers=to(""))).status_code == 400
    for method in ("DELETE", "PATCH", "HEAD"):
        answer = await client.request(method, PROXY, headers=to(f"https://fal.run{APP}"))
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, POST, PUT"
    answer = await client.post(
        PROXY, content=b"x", headers=to(f"https://queue.fal.run{APP}", **{"Content-Type": "text/plain"})
    )
    assert answer.status_code == 415
    answer = await client.post(PROXY + "/", json={"prompt": "a"}, headers=to(f"https://queue.fal.run{APP}"))
    assert answer.status_code == 200, "a slash at the end does no harm"


async def test_a_whole_life_through_the_proxy(client, server) -> None:
    """What @fal-ai/client sends: status, headers and bodies come back as they are inside."""
    submitted = await client.post(
        PROXY, json={"prompt": "a"}, headers=to(f"https://queue.fal.run{APP}", **{"x-fal-queue-priority": "low"})
    )
    body = submitted.json()
    assert submitted.status_code == 200
    assert submitted.headers["x-fal-request-id"] == body["request_id"]
    assert body["status_url"] == f"http://127.0.0.1:8000/queue{APP}/requests/{body['request_id']}/status"
    assert server.store.get(body["request_id"]).priority == 1
    base = f"https://queue.fal.run{APP}/requests/{body['request_id']}"
    headers = to(base + "/status?logs=1", **{"Content-Type": "application/json"})
    assert (await client.get(PROXY, headers=headers)).status_code == 202
    assert (await client.get(PROXY, headers=to(base))).status_code == 400
    request = await server.worker.take()
    await server.worker.log(request, "step 1")
    assert [line["message"] for line in (await client.get(PROXY, headers=headers)).json()["logs"]] == ["step 1"]
    await server.worker.draw(request)
    assert (await client.get(PROXY, headers=headers)).status_code == 200
    result = await client.get(PROXY, headers=to(base))
    assert result.headers["x-fal-request-id"] == body["request_id"]
    picture = result.json()["images"][0]["url"]
    assert picture.startswith("http://127.0.0.1:8000/files/b/")
    assert (await client.get(picture)).status_code == 200
    cancelled = await client.put(PROXY, headers=to(base + "/cancel", **{"content-length": "0"}))
    assert (cancelled.status_code, cancelled.json()) == (400, {"status": "ALREADY_COMPLETED"})


async def test_the_sync_run_through_the_proxy(client, working) -> None:
    answer = await client.post(PROXY, json={"prompt": "a"}, headers=to(f"https://fal.run{APP}"))
    assert answer.status_code == 200
    assert answer.json()["prompt"] == "a"
    answer = await client.post(PROXY, json={}, headers=to(f"https://fal.run{APP}"))
    assert answer.status_code == 422
    assert answer.headers["x-fal-billable-units"] == "0"


async def test_an_upload_through_the_proxy_lands_on_our_host(client) -> None:
    target = "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"
    answer = await client.post(PROXY, json={"content_type": "text/plain", "file_name": "hello.txt"}, headers=to(target))
    urls = answer.json()
    assert urls["upload_url"].startswith("http://127.0.0.1:8000/files/b/")
    assert (await client.put(urls["upload_url"], content=b"Hello", headers={"Content-Type": "text/plain"})).is_success
    assert (await client.get(urls["file_url"])).content == b"Hello"


async def test_a_target_that_names_the_proxy_ends(client) -> None:
    answer = await client.post(PROXY, json={}, headers=to(f"https://fal.run{PROXY}"))
    assert answer.status_code == 400


async def test_a_public_url_holds_behind_the_proxy(build) -> None:
    server = await build(public_url="https://draw.example.org")
    async with server.client() as client:
        body = (await client.post(PROXY, json={"prompt": "a"}, headers=to(f"https://queue.fal.run{APP}"))).json()
    assert body["status_url"].startswith(f"https://draw.example.org/queue{APP}/requests/")


async def test_the_proxy_wants_the_same_keys(keyed) -> None:
    server, alice, bob = keyed
    async with server.client() as nobody, server.client(key=alice) as hers, server.client(key=bob) as his:
        answer = await nobody.post(PROXY, json={"prompt": "a"}, headers=to(f"https://queue.fal.run{APP}"))
        assert answer.status_code == 401
        body = (await hers.post(PROXY, json={"prompt": "a"}, headers=to(f"https://queue.fal.run{APP}"))).json()
        status = to(f"https://queue.fal.run{APP}/requests/{body['request_id']}/status")
        assert (await hers.get(PROXY, headers=status)).status_code == 202
        assert (await his.get(PROXY, headers=status)).json() == {"status": "NOT_FOUND"}


async def test_the_target_header_means_nothing_elsewhere(client, working) -> None:
    answer = await client.post(APP, json={"prompt": "a"}, headers=to(f"https://queue.fal.run{APP}"))
    assert "images" in answer.json(), "not at the proxy route: an ordinary sync run"
