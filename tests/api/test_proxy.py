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
    "https://fal\t.run/x",
    "https://fal.run/\tx",
    "https://fal.run\\x",
    "https://fal.run/x\x7f",
    " https://fal.run/x",
    "https://fal.run:443:443/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://0x7f000001/x",
    "https://FAL.RUN.EVIL.EXAMPLE/x",
    "https://fal.run#@evil.example/x",
    "https://ws.fal.run/x",
    "https://api.fal.ai/v1/keys",
    "https://rest.fal.ai/queue/fal-ai/flux-pro",
    "https://fal.run/queue/fal-ai/flux-pro",
    "HTTPS://fal.run@queue.fal.run/x",
    "wss://fal.run/fal-ai/flux-pro/realtime",
    "https:fal.run/x",
    "https:/fal.run/x",
    "https:////fal.run/x",
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
    for method, kind in (("POST", "text/plain"), ("POST", "text/json"), ("PUT", "multipart/form-data; boundary=b")):
        headers = to(f"https://queue.fal.run{APP}", **{"Content-Type": kind})
        assert (await client.request(method, PROXY, content=b"x", headers=headers)).status_code == 415
    kind = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = await client.post(PROXY, content=b"{}", headers=to(f"https://queue.fal.run{APP}", **kind))
    assert answer.status_code == 200
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
    assert answer.status_code == 404


ADMIN = ("/", "/keys", "/v1/keys", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json", PROXY)
OURS = ("/files/b/x", "/files/upload", "/openai/v1/models", "/.well-known/jwks.json", "/tokens/other", "/queue/tokens")


@pytest.mark.parametrize(
    "path", [*ADMIN, *OURS, "/v1/storage/files/sign", "/requests/delete_io/x", "/tokens/../v1/keys", APP]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_rest_host_is_good_for_tokens_and_uploads_only(client, method: str, path: str) -> None:
    answer = await client.request(method, PROXY, headers=to(f"https://rest.fal.ai{path}"))
    assert answer.status_code == 412


@pytest.mark.parametrize(
    "path", [*ADMIN, *OURS, "/tokens/", "/storage/auth/token", "/fal-ai%252Fflux-pro", "?@evil.example/"]
)
@pytest.mark.parametrize("host", ["fal.run", "queue.fal.run"])
async def test_the_other_hosts_are_good_for_models_only(client, host: str, path: str) -> None:
    """404 as on fal, or 412; what lies at that path here is not reached."""
    for method in ("GET", "POST", "PUT"):
        answer = await client.request(method, PROXY, headers=to(f"https://{host}{path}"))
        assert answer.status_code in {404, 412}
        assert answer.json()["detail"]


async def test_a_request_is_asked_for_at_the_queues_host_only(client) -> None:
    submitted = (await client.post(PROXY, json={"prompt": "a"}, headers=to(f"https://queue.fal.run{APP}"))).json()
    path = f"{APP}/requests/{submitted['request_id']}"
    for host, status in (("queue.fal.run", 202), ("fal.run", 404), ("rest.fal.ai", 412)):
        assert (await client.get(PROXY, headers=to(f"https://{host}{path}/status"))).status_code == status


async def test_tokens_streams_and_large_uploads_go_through(client, working) -> None:
    token = await client.post(PROXY, json={"allowed_apps": ["flux-pro"]}, headers=to("https://rest.fal.ai/tokens/"))
    assert (token.status_code, type(token.json())) == (200, str)
    streamed = await client.post(PROXY, json={"prompt": "a"}, headers=to(f"https://fal.run{APP}/stream"))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert '"images"' in streamed.text
    target = "https://rest.fal.ai/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"
    answer = await client.post(PROXY, json={"content_type": "text/plain", "file_name": "a.txt"}, headers=to(target))
    assert set(answer.json()) == {"upload_url", "file_url"}
    target = "https://rest.fal.ai/storage/auth/token?storage_type=fal-cdn-v3"
    assert (await client.post(PROXY, json={}, headers=to(target))).json()["token_type"] == "Bearer"


async def test_the_proxy_lends_nobody_an_identity(keyed) -> None:
    """No key of the server is ever added: a page without one gets what it would get without the proxy."""
    server, alice, bob = keyed
    submit, rest = to(f"https://queue.fal.run{APP}"), to("https://rest.fal.ai/tokens/")
    async with server.client() as nobody, server.client(key=alice) as hers, server.client(key=bob) as his:
        assert (await nobody.post(PROXY, json={"prompt": "a"}, headers=submit)).status_code == 401
        assert (await nobody.post(PROXY, json={"allowed_apps": ["a"]}, headers=rest)).status_code == 401
        cookie = submit | {"Cookie": f"authorization=Key {alice}", "x-fal-client-proxy": "x"}
        assert (await nobody.post(PROXY, json={"prompt": "a"}, headers=cookie)).status_code == 401
        submitted = (await hers.post(PROXY, json={"prompt": "a"}, headers=submit)).json()
        at = to(f"https://queue.fal.run{APP}/requests/{submitted['request_id']}/status")
        assert server.store.get(submitted["request_id"]).key_id == alice.partition(":")[0]
        assert (await hers.get(PROXY, headers=at)).status_code == 202
        for other in (his, nobody):
            assert (await other.get(PROXY, headers=at)).status_code == 404


async def test_a_server_without_keys_serves_pages_of_its_machine_without_credentials(build) -> None:
    server = await build(auth="auto")
    submit = to(f"https://queue.fal.run{APP}")
    async with server.client() as client:
        for origin, status in (("http://localhost:3000", 200), ("https://evil.example", 403)):
            answer = await client.post(PROXY, json={"prompt": "a"}, headers=submit | {"Origin": origin})
            assert answer.status_code == status


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
