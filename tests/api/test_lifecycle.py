"""How long files live and who may read them: asked for at uploads and requests, by key, link or nobody."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

WAYS = ["upload", "multipart", "initiate", "initiate-multipart", "gcs"]


def wish(seconds: int | None = None, default: str | None = None, **rules: str) -> str:
    body: dict[str, Any] = {}
    if seconds is not None:
        body["expiration_duration_seconds"] = seconds
    if default is not None:
        acl: dict[str, Any] = {"default": default}
        if rules:
            acl["rules"] = [{"user": user, "decision": decision} for user, decision in rules.items()]
        body["initial_acl"] = acl
    return json.dumps(body)


async def put_by(client: httpx.AsyncClient, way: str, header: str, text: str, data: bytes = b"secret") -> str:
    """Upload by one of the ways of the clients; → the file's URL."""
    headers = {header: text}
    if way == "upload":
        return (await client.post("/files/upload", content=data, headers=headers)).json()["access_url"]
    if way == "multipart":
        begun = (await client.post("/files/upload/multipart", headers=headers)).json()
        url, base = begun["access_url"], f"{begun['access_url']}/multipart/{begun['uploadId']}"
        tag = (await client.put(f"{base}/1", content=data)).headers["etag"]
        done = await client.post(f"{base}/complete", json={"parts": [{"partNumber": 1, "etag": tag}]})
        assert done.status_code == 200, done.text
        return url
    path = "/storage/upload/initiate" if way == "initiate" else "/storage/upload/initiate-multipart"
    kind = "gcs" if way == "gcs" else "fal-cdn-v3"
    begun = (await client.post(f"{path}?storage_type={kind}", json={}, headers=headers)).json()
    url = begun["upload_url"]
    if way == "initiate":
        assert (await client.put(url, content=data)).status_code == 200
    elif way == "gcs":
        part = (await client.post(f"{url}/1")).json()["upload_url"]
        tag = (await client.put(part, content=data)).headers["etag"].strip('"')
        done = await client.post(f"{url}/complete", json={"parts": [{"part_number": 1, "etag": tag}]})
        assert done.status_code == 200, done.text
    else:
        path, query = url.split("?")
        part = (await client.put(f"{path}/1?{query}", content=data)).json()
        assert (await client.post(f"{path}/complete?{query}", json={"parts": [part]})).status_code == 200
    return begun["file_url"]


def record(server: Any, url: str) -> Any:
    return server.store.file(httpx.URL(url).path.removeprefix("/files/"))


def key_id(key: str) -> str:
    return key.partition(":")[0]


# ---------------------------------------------------------------- uploads


@pytest.mark.parametrize("header", ["X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference"])
@pytest.mark.parametrize("way", WAYS)
async def test_every_way_of_uploading_keeps_what_was_asked(keyed, way: str, header: str) -> None:
    server, alice, bob = keyed
    async with server.client(key=alice) as hers, server.client(key=bob) as his, server.client() as nobody:
        before = time.time()
        url = await put_by(hers, way, header, wish(3600, "hide", **{key_id(bob): "forbid"}))
        assert before + 3600 <= record(server, url).expires_at <= time.time() + 3600
        assert (await hers.get(url)).content == b"secret"
        assert (await his.get(url)).status_code == 403
        assert (await nobody.get(url)).status_code == 404


@pytest.mark.parametrize("text", ["{}", '{"expiration_duration_seconds": null}', '{"expiration_duration_seconds": 0}'])
async def test_no_time_is_the_servers_rule(client, server, text: str) -> None:
    url = await put_by(client, "upload", "X-Fal-Object-Lifecycle", text)
    assert record(server, url).expires_at is None


@pytest.mark.parametrize("acl", ['{"default": "allow"}', '{"default": "allow", "rules": []}', "{}", '{"rules": null}'])
async def test_an_acl_that_refuses_nobody_makes_a_public_file(client, acl: str) -> None:
    url = await put_by(client, "upload", "X-Fal-Object-Lifecycle", f'{{"initial_acl": {acl}}}')
    found = await client.get(url)
    assert (found.status_code, found.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")


async def test_a_short_life_begins_when_the_file_is_there(client, server, monkeypatch) -> None:
    """What fal's clients call immediate is 60 seconds; a large file may be longer than that on its way."""
    headers = {"X-Fal-Object-Lifecycle": wish(60)}
    begun = (await client.post("/storage/upload/initiate", json={}, headers=headers)).json()
    now = time.time()
    monkeypatch.setattr("impasto.api.incoming.time.time", lambda: now + 600)
    assert (await client.put(begun["upload_url"], content=b"x")).status_code == 200
    assert record(server, begun["file_url"]).expires_at == pytest.approx(now + 660, abs=1)


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize("way", ["run", "queue", "stream"])
async def test_the_pictures_of_a_request_live_and_are_read_as_it_said(keyed, way: str) -> None:
    server, alice, bob = keyed
    body = {"prompt": "x", "image_size": "square"}
    headers = {"X-Fal-Object-Lifecycle-Preference": wish(60, "forbid", **{key_id(bob): "allow"})}
    async with server.client(key=alice) as hers, server.client(key=bob) as his, server.client() as nobody:
        working = asyncio.create_task(server.worker.run())
        if way == "run":
            output = (await hers.post("/fal-ai/flux-pro", json=body, headers=headers)).json()
        elif way == "stream":
            told = (await hers.post("/fal-ai/flux-pro/stream", json=body, headers=headers)).text
            output = json.loads(told.strip().rpartition("data: ")[2])
        else:
            sent = (await hers.post("/queue/fal-ai/flux-pro", json=body, headers=headers)).json()
            await hers.get(sent["status_url"] + "/stream")  # until it is completed
            output = (await hers.get(sent["response_url"])).json()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        url = output["images"][0]["url"]
        assert 0 < record(server, url).expires_at - time.time() <= 60
        assert [(await reader.get(url)).status_code for reader in (hers, his, nobody)] == [200, 200, 403]


@pytest.mark.parametrize("way", ["/fal-ai/flux-pro", "/queue/fal-ai/flux-pro", "/fal-ai/flux-pro/stream"])
async def test_a_wish_that_is_not_understood_is_400_before_anything_is_drawn(client, server, way: str) -> None:
    for text in ("x", '{"initial_acl": {"default": "maybe"}}', '{"expiration_duration_seconds": -1}'):
        headers = {"X-Fal-Object-Lifecycle-Preference": text}
        answer = await client.post(way, json={"prompt": "x"}, headers=headers)
        assert answer.status_code == 400
        assert "X-Fal-Object-Lifecycle-Preference" in answer.json()["detail"]
    assert server.store.queued() == 0


# ---------------------------------------------------------------- readers


@pytest.fixture
async def private(keyed) -> Any:
    """(server, alice, bob, URL of a file of alice's that is hidden from all but her)."""
    server, alice, bob = keyed
    async with server.client(key=alice) as hers:
        return server, alice, bob, await put_by(hers, "upload", "X-Fal-Object-Lifecycle", wish(None, "hide"))


async def test_what_is_hidden_looks_like_what_is_not_there(private) -> None:
    server, _, bob, url = private
    missing = url.rpartition("/")[0] + "/" + "A" * 22 + ".bin"
    for key in (None, bob, bob + "x", "nonsense"):
        async with server.client(key=key) as reader:
            for method in ("GET", "HEAD"):
                hidden, absent = await reader.request(method, url), await reader.request(method, missing)
                assert hidden.status_code == 404
                assert hidden.content == absent.content
                told = [{**answer.headers, "x-fal-request-id": ""} for answer in (hidden, absent)]
                assert told[0] == told[1]


async def test_nothing_of_a_private_file_may_be_kept_by_a_shared_cache(private) -> None:
    server, alice, _, url = private
    async with server.client(key=alice) as hers, server.client() as nobody:
        found = await hers.get(url)
        assert found.headers["cache-control"] == "private, no-cache"
        assert found.headers["vary"] == "Authorization"
        tag = found.headers["etag"]
        assert (await hers.get(url, headers={"If-None-Match": tag})).status_code == 304
        assert (await nobody.get(url, headers={"If-None-Match": tag})).status_code == 404, "a tag is no key"
        part = await hers.get(url, headers={"Range": "bytes=0-1"})
        assert (part.status_code, part.headers["cache-control"]) == (206, "private, no-cache")
        assert (await nobody.get(url, headers={"Range": "bytes=0-1"})).status_code == 404


async def test_an_upload_token_and_a_revoked_key_read_nothing(private) -> None:
    server, alice, _, url = private
    async with server.client(key=alice) as hers:
        token = (await hers.post("/storage/auth/token", json={})).json()["token"]
        async with server.client() as nobody:
            assert (await nobody.get(url, headers={"Authorization": f"Bearer {token}"})).status_code == 404
        await server.store.revoke_key(key_id(alice))
        assert (await hers.get(url)).status_code == 404


async def test_on_an_open_server_any_key_is_the_owners_and_none_is_nobodys(build) -> None:
    server = await build(auth="auto")
    async with server.client() as client, server.client(key="any:key") as keyed:
        url = await put_by(client, "upload", "X-Fal-Object-Lifecycle", wish(None, "forbid"))
        assert (await client.get(url)).status_code == 403
        assert (await keyed.get(url)).status_code == 200
        assert (await keyed.get(url, headers={"Origin": "https://evil.example"})).status_code == 403
        assert (await keyed.get(url, headers={"Origin": "http://localhost:3000"})).status_code == 200


# ---------------------------------------------------------------- signed links


async def signed(client: httpx.AsyncClient, url: str, seconds: Any = 60) -> httpx.Response:
    return await client.post("/v1/storage/files/sign", params={"url": url}, json={"expiration_seconds": seconds})


async def test_a_signed_link_opens_a_hidden_file_for_whoever_has_it_until_it_is_over(private, monkeypatch) -> None:
    server, alice, _, url = private
    async with server.client(key=alice) as hers, server.client() as nobody:
        answer = await signed(hers, url)
        assert (answer.status_code, list(answer.json())) == (200, ["signed_url"])
        link = answer.json()["signed_url"]
        assert link.startswith(f"{url}?identity=")
        found = await nobody.get(link)
        assert (found.content, found.headers["cache-control"]) == (b"secret", "private, no-cache")
        assert (await nobody.head(link)).status_code == 200
        assert (await nobody.get(link[:-1])).status_code == 404
        other = await put_by(hers, "upload", "X-Fal-Object-Lifecycle", wish(None, "hide"))
        assert (await nobody.get(other + "?" + link.partition("?")[2])).status_code == 404, "it opens one file"
        assert (await nobody.put(link, content=b"x")).status_code == 403, "it reads, it does not write"
        now = time.time()
        monkeypatch.setattr("impasto.api.readers.time.time", lambda: now + 61)
        assert (await nobody.get(link)).status_code == 404


@pytest.mark.parametrize("seconds", [0, 604_801, "60", True, 1.5, None])
async def test_a_link_lives_a_second_to_seven_days(private, seconds: Any) -> None:
    server, alice, _, url = private
    async with server.client(key=alice) as hers:
        answer = await signed(hers, url, seconds)
        assert answer.status_code == 422
        assert (answer.json()["error"]["type"], "expiration_seconds" in answer.json()["error"]["message"]) == (
            "validation_error",
            True,
        )
        assert (await signed(hers, url, 604_800)).status_code == 200


@pytest.mark.parametrize("url", ["", "x", "/files/b/x", "https://[", "http://h/files/", "http://h/files/b/x.png?a=b"])
async def test_what_is_no_files_url_is_said_so(private, url: str) -> None:
    server, alice, _, _ = private
    async with server.client(key=alice) as hers:
        for answer in (await signed(hers, url), await hers.get("/v1/storage/files/acl", params={"url": url})):
            assert answer.status_code == 400
            assert "url" in answer.json()["error"]["message"]


async def test_only_the_owner_signs_reads_and_sets_acls_and_deletes(keyed) -> None:
    server, alice, bob = keyed
    async with server.client(key=alice) as hers, server.client(key=bob) as his, server.client() as nobody:
        for default, status in (("allow", 403), ("forbid", 403), ("hide", 404)):
            url = await put_by(hers, "upload", "X-Fal-Object-Lifecycle", wish(None, default))
            where = {"url": url}
            for answer in (
                await signed(his, url),
                await his.get("/v1/storage/files/acl", params=where),
                await his.put("/v1/storage/files/acl", params=where, json={"default": "allow"}),
                await his.delete(url),
            ):
                assert answer.status_code == status
            for answer in (
                await signed(nobody, url),
                await nobody.get("/v1/storage/files/acl", params=where),
                await nobody.delete(url),
            ):
                assert answer.status_code == 401
            assert (await hers.get(url)).content == b"secret"


# ---------------------------------------------------------------- changing one's mind


async def test_an_acl_is_read_and_replaced(keyed) -> None:
    server, alice, bob = keyed
    async with server.client(key=alice) as hers, server.client(key=bob) as his, server.client() as nobody:
        url = await put_by(hers, "upload", "X-Fal-Object-Lifecycle", "{}")
        where = {"url": url}
        public = {"default": "allow", "rules": []}
        assert (await hers.get("/v1/storage/files/acl", params=where)).json() == public
        acl = {"default": "forbid", "rules": [{"user": key_id(bob), "decision": "allow"}]}
        answer = await hers.put("/v1/storage/files/acl", params=where, json=acl)
        assert (answer.status_code, answer.json()) == (200, acl)
        assert (await hers.get("/v1/storage/files/acl", params=where)).json() == acl
        assert [(await reader.get(url)).status_code for reader in (hers, his, nobody)] == [200, 200, 403]
        for wrong in ({"default": "x"}, {"rules": [{}]}, []):
            assert (await hers.put("/v1/storage/files/acl", params=where, json=wrong)).status_code == 400
        await hers.put("/v1/storage/files/acl", params=where, json=public)
        assert (await nobody.get(url)).status_code == 200


async def test_a_file_is_deleted_at_once(client, server) -> None:
    begun = (await client.post("/storage/upload/initiate", json={})).json()
    await client.put(begun["upload_url"], content=b"x")
    answer = await client.delete(begun["file_url"])
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.get(begun["file_url"])).status_code == 404
    assert (await client.delete(begun["file_url"])).status_code == 404
    again = await client.put(begun["upload_url"], content=b"x")
    assert (again.status_code, "deleted" in again.json()["detail"]) == (400, True)
    assert (await client.get(begun["file_url"])).status_code == 404


async def test_a_request_loses_its_pictures_in_the_older_form_too(keyed) -> None:
    server, alice, bob = keyed
    body = {"prompt": "x", "image_size": "square", "num_images": 2}
    async with server.client(key=alice) as hers, server.client(key=bob) as his, server.client() as nobody:
        sent = (await hers.post("/queue/fal-ai/flux-pro", json=body)).json()
        where = f"/requests/delete_io/{sent['request_id']}"
        assert (await hers.put(where)).status_code == 400, "it is not completed"
        await server.worker.draw(await server.worker.take())
        urls = [image["url"] for image in (await hers.get(sent["response_url"])).json()["images"]]
        assert (await nobody.put(where)).status_code == 401
        assert (await his.put(where)).status_code == 404
        answer = await hers.put(where)
        results = sorted(answer.json()["CDN_DELETE_RESULTS"], key=lambda result: result["link"])
        assert results == [{"link": url, "exception": None} for url in sorted(urls)]
        assert [(await nobody.get(url)).status_code for url in urls] == [404, 404]
        assert (await hers.get(sent["response_url"])).status_code == 404
