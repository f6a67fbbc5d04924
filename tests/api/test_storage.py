"""Uploads by every way of every client, downloads, ranges, and what hostile files become."""

import io
import time
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from PIL import Image

from impasto.api.download import single_range
from impasto.api.media import clean_name, content_disposition, media_type

MIB = 1024 * 1024


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()


async def initiate(client: httpx.AsyncClient, *, kind: str = "initiate", **body: Any) -> dict[str, str]:
    answer = await client.post(f"/storage/upload/{kind}?storage_type=fal-cdn-v3", json=body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"upload_url", "file_url"}
    return answer.json()


async def token(client: httpx.AsyncClient) -> dict[str, str]:
    answer = await client.post("/storage/auth/token?storage_type=fal-cdn-v3", json={})
    assert answer.status_code == 200
    return answer.json()


# ---------------------------------------------------------------- Python's way


async def test_the_upload_token_can_be_read_by_old_pythons(client) -> None:
    body = await token(client)
    assert list(body) == ["token", "token_type", "base_url", "expires_at"]
    assert (body["token_type"], body["base_url"]) == ("Bearer", "http://127.0.0.1:8000")
    expires = datetime.fromisoformat(body["expires_at"])
    assert body["expires_at"].endswith("+00:00")
    assert "." not in body["expires_at"]
    assert timedelta(minutes=30) < expires - datetime.now(expires.tzinfo) < timedelta(hours=2)


async def test_fal_hosts_upload_to_fals_file_host(server) -> None:
    async with server.client(base="https://rest.fal.ai") as client:
        assert (await token(client))["base_url"] == "https://v3.fal.media"
        urls = await initiate(client, content_type="image/png", file_name="x.png")
    assert urls["upload_url"].startswith("https://v3.fal.media/files/b/")
    async with server.client(base="https://v3.fal.media") as client:
        assert (await client.put(urls["upload_url"], content=png())).status_code == 200
        assert (await client.get(urls["file_url"])).content == png()


async def test_python_uploads_bytes_with_a_token(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as hers, server.client() as nobody:
        bearer = {"Authorization": f"Bearer {(await token(hers))['token']}"}
        answer = await nobody.post(
            "/files/upload", content=png(), headers={**bearer, "Content-Type": "image/png", "X-Fal-File-Name": "t.png"}
        )
        assert (answer.status_code, list(answer.json())) == (200, ["access_url"])
        found = await nobody.get(answer.json()["access_url"])
        assert (found.content, found.headers["content-type"]) == (png(), "image/png")
        assert found.headers["content-disposition"] == "inline; filename*=UTF-8''t.png"
        record = server.store.file(httpx.URL(answer.json()["access_url"]).path.removeprefix("/files/"))
        assert record.key_id == alice.partition(":")[0]


async def test_older_pythons_upload_with_their_key(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as client:
        answer = await client.post("/files/upload", content=b"hello", headers={"Content-Type": "text/plain"})
        assert (await client.get(answer.json()["access_url"])).content == b"hello"


async def test_uploads_want_a_token_or_a_key(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as hers, server.client() as nobody:
        good = (await token(hers))["token"]
        for header in (f"Bearer {good}x", f"Bearer {good[:-3]}", "Bearer x", f"Key {alice}x"):
            answer = await nobody.post("/files/upload", content=b"x", headers={"Authorization": header})
            assert answer.status_code == 401
        for path in ("/files/upload", "/files/upload/multipart"):
            assert (await nobody.post(path, content=b"x")).status_code == 401
        # an upload token opens uploads and nothing else
        answer = await nobody.post("/queue/fal-ai/flux-pro", json={}, headers={"Authorization": f"Bearer {good}"})
        assert answer.status_code == 401


async def test_a_revoked_key_uploads_no_more(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as hers, server.client() as nobody:
        bearer = {"Authorization": f"Bearer {(await token(hers))['token']}"}
        begun = (await nobody.post("/files/upload/multipart", headers=bearer)).json()
        parts = f"{begun['access_url']}/multipart/{begun['uploadId']}"
        tag = (await nobody.put(f"{parts}/1", content=b"x")).headers["etag"]
        put = (await initiate(hers))["upload_url"]
        listed = {"parts": [{"partNumber": 1, "etag": tag}]}

        assert await server.store.revoke_key(alice.partition(":")[0])
        for path in ("/files/upload", "/files/upload/multipart"):
            assert (await nobody.post(path, content=b"x", headers=bearer)).status_code == 401
        path, _, query = put.partition("?")
        for answer in (
            await nobody.put(put, content=b"x"),
            await nobody.put(f"{path}/1?{query}", content=b"x"),
            await nobody.post(f"{path}/complete?{query}", json={"parts": []}),
            await nobody.put(f"{parts}/2", content=b"x"),
            await nobody.post(f"{parts}/complete", json=listed),
        ):
            assert (answer.status_code, "no longer valid" in answer.json()["detail"]) == (403, True), answer.request.url


async def test_python_uploads_large_files_in_parts(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as hers, server.client() as nobody:
        bearer = {"Authorization": f"Bearer {(await token(hers))['token']}"}
        begun = await nobody.post(
            "/files/upload/multipart", headers={**bearer, "Content-Type": "application/zip", "X-Fal-File-Name": "b.zip"}
        )
        assert list(begun.json()) == ["access_url", "uploadId"]
        base, upload = begun.json()["access_url"], begun.json()["uploadId"]
        parts = {1: b"a" * 1000, 2: b"b" * 1000, 3: b"c"}
        tags = {}
        for number in (1, 3, 2):  # they arrive out of order
            answer = await nobody.put(f"{base}/multipart/{upload}/{number}", content=parts[number], headers=bearer)
            assert answer.status_code == 200
            tags[number] = answer.headers["etag"]
            assert answer.json() == {"partNumber": number, "etag": tags[number]}
        assert (await nobody.get(base)).status_code == 404, "not before it is complete"
        listed = {"parts": [{"partNumber": n, "etag": tags[n]} for n in (1, 3, 2)]}
        for _ in range(2):  # clients retry it
            done = await nobody.post(f"{base}/multipart/{upload}/complete", json=listed, headers=bearer)
            assert (done.status_code, done.json()) == (200, {"access_url": base})
        found = await nobody.get(base)
        assert found.content == b"a" * 1000 + b"b" * 1000 + b"c"
        assert found.headers["content-type"] == "application/zip"
    assert list((server.settings.data / "uploads").iterdir()) == [], "no part is left"


async def test_parts_that_do_not_fit_are_named(client) -> None:
    begun = (await client.post("/files/upload/multipart")).json()
    base = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    tag = (await client.put(f"{base}/1", content=b"x")).headers["etag"]
    for listed, named in (
        ({"parts": [{"partNumber": 1, "etag": tag}, {"partNumber": 2, "etag": tag}]}, "Part 2"),
        ({"parts": [{"partNumber": 1, "etag": '"other"'}]}, "Part 1"),
        ({"parts": []}, "parts"),
        ({"parts": [{"partNumber": 1, "etag": tag}] * 2}, "parts"),
        ({"parts": [{"partNumber": "1"}]}, "parts"),
        ({"parts": [{"partNumber": 0, "etag": tag}]}, "1 to 10000, not 0"),
        ({"parts": [{"partNumber": int("9" * 300), "etag": tag}]}, "1 to 10000"),
        ([], "parts"),
    ):
        answer = await client.post(f"{base}/complete", json=listed)
        assert answer.status_code == 400
        assert named in answer.json()["detail"]
    for number in (0, 10_001):
        assert (await client.put(f"{base}/{number}", content=b"x")).status_code == 400


async def test_an_upload_id_is_good_for_its_own_file_only(client) -> None:
    first = (await client.post("/files/upload/multipart")).json()
    second = (await client.post("/files/upload/multipart")).json()
    crossed = f"{first['access_url']}/multipart/{second['uploadId']}"
    assert (await client.put(f"{crossed}/1", content=b"x")).status_code == 403
    assert (await client.post(f"{crossed}/complete", json={"parts": []})).status_code == 403
    assert (await client.put(f"{first['access_url']}/multipart/UID/1", content=b"x")).status_code == 403
    bearer = (await token(client))["token"]
    assert (await client.put(f"{first['access_url']}/multipart/{bearer}/1", content=b"x")).status_code == 403


# ---------------------------------------------------------------- JavaScript's way


async def test_javascript_uploads_to_a_url_that_is_its_own_right(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as hers, server.client() as nobody:
        urls = await initiate(hers, content_type="text/plain", file_name="hello.txt")
        assert (await nobody.get(urls["file_url"])).status_code == 404, "not before it is there"
        put = await nobody.put(urls["upload_url"], content=b"Hello, World!", headers={"Content-Type": "text/plain"})
        assert put.status_code == 200
        found = await nobody.get(urls["file_url"])
        assert (found.content, found.headers["content-type"]) == (b"Hello, World!", "text/plain; charset=utf-8")
        assert urls["file_url"].endswith(".txt")


async def test_pythons_fallback_sends_its_key_to_the_signed_url(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as client:
        answer = await client.post(
            "/storage/upload/initiate?storage_type=gcs", json={"file_name": "a.txt", "content_type": "text/plain"}
        )
        assert (await client.put(answer.json()["upload_url"], content=b"a")).status_code == 200


async def test_a_signed_url_is_good_for_one_file_and_one_content(client) -> None:
    first = await initiate(client, content_type="text/plain")
    second = await initiate(client, content_type="text/plain")
    signature = httpx.URL(second["upload_url"]).query.decode()
    for wrong in ("", "?upload=", "?upload=x.y", f"?{signature}", "?upload=" + signature.removeprefix("upload=")[:-2]):
        assert (await client.put(first["file_url"] + wrong, content=b"x")).status_code == 403
    for _ in range(2):  # the same again is a retry
        assert (await client.put(first["upload_url"], content=b"x")).status_code == 200
    again = await client.put(first["upload_url"], content=b"y")
    assert again.status_code == 400
    assert (await client.get(first["file_url"])).content == b"x"


async def test_an_expired_url_is_403(client, monkeypatch) -> None:
    urls = await initiate(client, content_type="text/plain")
    now = time.time()
    monkeypatch.setattr("impasto.api.signing.time.time", lambda: now + 7200)
    assert (await client.put(urls["upload_url"], content=b"x")).status_code == 403


async def test_javascript_uploads_large_files_in_parts(client) -> None:
    urls = await initiate(client, kind="initiate-multipart", content_type="video/mp4", file_name="f.mp4")
    url = httpx.URL(urls["upload_url"])
    query = f"?{url.query.decode()}"
    parts = []
    for number, data in ((1, b"one"), (2, b"two")):
        answer = await client.put(f"{url.path}/{number}{query}", content=data)
        assert answer.headers["content-type"] == "application/json"
        parts.append(answer.json())
    assert (await client.put(f"{url.path}/3", content=b"x")).status_code == 403
    assert (await client.post(f"{url.path}/complete", json={"parts": parts})).status_code == 403
    assert (await client.post(f"{url.path}/complete{query}", json={"parts": parts})).status_code == 200
    found = await client.get(urls["file_url"])
    assert (found.content, found.headers["content-type"]) == (b"onetwo", "video/mp4")


@pytest.mark.parametrize("body", [{}, {"content_type": None}, {"content_type": 5, "file_name": ["x"]}])
async def test_a_careless_initiate_gets_a_plain_file(client, body: dict[str, Any]) -> None:
    urls = await initiate(client, **body)
    assert (await client.put(urls["upload_url"], content=b"\x00\x01")).status_code == 200
    assert (await client.get(urls["file_url"])).headers["content-type"] == "application/octet-stream"


# ---------------------------------------------------------------- limits and lifetimes


async def test_a_large_upload_is_413_by_every_way_and_names_the_setting(build) -> None:
    server = await build(max_upload_mb=1)
    async with server.client() as client:
        much = b"x" * (MIB + 1)
        urls = await initiate(client, content_type="text/plain")
        begun = (await client.post("/files/upload/multipart")).json()
        part = f"{begun['access_url']}/multipart/{begun['uploadId']}"
        for answer in (
            await client.post("/files/upload", content=much),
            await client.put(urls["upload_url"], content=much),
            await client.put(f"{part}/1", content=much),
        ):
            assert answer.status_code == 413
            assert "server.max_upload_mb" in answer.json()["detail"]
        assert (await client.put(f"{part}/1", content=b"x" * (MIB - 10))).status_code == 200
        assert (await client.put(f"{part}/1", content=b"x" * (MIB - 10))).status_code == 200, "a part may be sent again"
        assert (await client.put(f"{part}/2", content=b"x" * 11)).status_code == 413, "all parts together count"
        assert (await client.post("/files/upload", content=much[:-1])).status_code == 200


@pytest.mark.parametrize("header", ["X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference"])
async def test_a_file_ends_when_its_owner_said(client, server, header: str, monkeypatch) -> None:
    answer = await client.post("/files/upload", content=png(), headers={header: '{"expiration_duration_seconds": 60}'})
    url = answer.json()["access_url"]
    found = await client.get(url)
    assert found.status_code == 200
    assert 0 < int(found.headers["cache-control"].split("=")[1].split(",")[0]) <= 60
    record = server.store.file(httpx.URL(url).path.removeprefix("/files/"))
    monkeypatch.setattr("impasto.api.download.time.time", lambda: record.expires_at + 1)
    assert (await client.get(url)).status_code == 404


@pytest.mark.parametrize(
    "wish",
    [
        "nonsense",
        "[]",
        '{"expiration_duration_seconds": "soon"}',
        '{"expiration_duration_seconds": -1}',
        '{"initial_acl": {"default": "maybe"}}',
        '{"initial_acl": {"rules": [{"user": "", "decision": "hide"}]}}',
        '{"initial_acl": {"rules": [{"decision": "hide"}]}}',
        '{"initial_acl": {"rules": [' + ",".join(['{"user": "u", "decision": "hide"}'] * 33) + "]}}",
    ],
)
async def test_a_wish_that_cannot_be_kept_is_refused_not_forgotten(client, wish: str) -> None:
    answer = await client.post("/files/upload", content=b"x", headers={"X-Fal-Object-Lifecycle": wish})
    assert answer.status_code == 400
    assert "X-Fal-Object-Lifecycle" in answer.json()["detail"]


@pytest.mark.parametrize("digits", [12, 400, 4000])
async def test_a_file_for_ever_is_one_for_a_hundred_years(client, server, digits: int) -> None:
    headers = {"X-Fal-Object-Lifecycle": '{"expiration_duration_seconds": ' + "9" * digits + "}"}
    for path in ("/files/upload", "/files/upload/multipart", "/storage/upload/initiate"):
        assert (await client.post(path, headers=headers)).status_code == 200
    url = (await client.post("/files/upload", content=b"x", headers=headers)).json()["access_url"]
    record = server.store.file(httpx.URL(url).path.removeprefix("/files/"))
    assert record.expires_at == pytest.approx(time.time() + 100 * 365 * 24 * 3600, abs=3600)
    assert (await client.get(url)).content == b"x"


# ---------------------------------------------------------------- downloads


async def uploaded(client: httpx.AsyncClient, data: bytes, type_: str | None = None, name: str | None = None) -> str:
    headers = {"Content-Type": type_} if type_ else {}
    if name:
        headers["X-Fal-File-Name"] = name
    return (await client.post("/files/upload", content=data, headers=headers)).json()["access_url"]


async def test_a_download_carries_everything_a_reader_needs(client) -> None:
    url = await uploaded(client, png(), "image/png")
    found = await client.get(url)
    assert found.content == png()
    assert found.headers["content-length"] == str(len(png()))
    assert found.headers["accept-ranges"] == "bytes"
    assert found.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert found.headers["access-control-allow-origin"] == "*"
    assert found.headers["etag"].startswith('"')
    head = await client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert {k: v for k, v in head.headers.items() if k != "x-fal-request-id"} == {
        k: v for k, v in found.headers.items() if k != "x-fal-request-id"
    }


async def test_a_known_etag_is_304(client) -> None:
    url = await uploaded(client, png(), "image/png")
    tag = (await client.get(url)).headers["etag"]
    for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await client.get(url, headers={"If-None-Match": header})
        assert (answer.status_code, answer.content) == (304, b"")
    assert (await client.get(url, headers={"If-None-Match": '"other"'})).status_code == 200


DATA = bytes(range(100))


@pytest.mark.parametrize(
    ("header", "expected", "content_range"),
    [
        ("bytes=0-9", DATA[:10], "bytes 0-9/100"),
        ("bytes=90-", DATA[90:], "bytes 90-99/100"),
        ("bytes=-5", DATA[95:], "bytes 95-99/100"),
        ("bytes=-1000", DATA, "bytes 0-99/100"),
        ("bytes=99-1000", DATA[99:], "bytes 99-99/100"),
        ("bytes=0-0", DATA[:1], "bytes 0-0/100"),
    ],
)
async def test_one_range_is_206(client, header: str, expected: bytes, content_range: str) -> None:
    url = await uploaded(client, DATA)
    answer = await client.get(url, headers={"Range": header})
    assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["content-range"] == content_range
    assert answer.headers["content-length"] == str(len(expected))


@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-1,5-6",
        "bytes=" + "0-1," * 100_000 + "0-1",
        "items=0-1",
        "bytes=5-1",
        "bytes=-",
        "bytes=a-b",
        "bytes",
        "",
    ],
)
async def test_any_other_range_gets_the_whole_file(client, header: str) -> None:
    url = await uploaded(client, DATA)
    answer = await client.get(url, headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, DATA)


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
async def test_a_range_past_the_end_is_416(client, header: str) -> None:
    url = await uploaded(client, DATA)
    answer = await client.get(url, headers={"Range": header})
    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["content-range"] == "bytes */100"


async def test_if_range_guards_a_range(client) -> None:
    url = await uploaded(client, DATA)
    tag = (await client.get(url)).headers["etag"]
    assert (await client.get(url, headers={"Range": "bytes=0-1", "If-Range": tag})).status_code == 206
    assert (await client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"old"'})).status_code == 200


def test_ranges_of_an_empty_file() -> None:
    assert single_range("bytes=0-", 0) == (0, 0)
    assert single_range("bytes=-5", 0) == (0, 0)


async def test_an_empty_file_comes_back_empty(client) -> None:
    url = await uploaded(client, b"", "text/plain")
    answer = await client.get(url)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


HTML = b"<html><script>alert(1)</script></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("data", "declared", "name"),
    [
        (HTML, "text/html", "x.html"),
        (HTML, "TEXT/HTML; charset=utf-8", None),
        (HTML, "image/png", "x.png"),
        (HTML, "application/xhtml+xml", "x.xhtml"),
        (SVG, "image/svg+xml", "x.svg"),
        (SVG, "image/png", "x.png"),
        (b"GIF89" + HTML, "image/gif", "x.gif"),
        (b"alert(1)", "text/javascript", "x.js"),
        (b"alert(1)", "application/javascript", "x.js"),
        (b"%PDF-1.7", "application/pdf", "x.pdf"),
        (b"<?xml version='1.0'?>", "text/xml", "x.xml"),
        (b"MZ\x90", "application/x-msdownload", "x.exe"),
        (b"x", "text/html\r\nX-Injected: 1".replace("\r\n", " "), None),
        (b"x", "nonsense", None),
    ],
)
async def test_nothing_that_a_browser_could_run_is_shown(client, data: bytes, declared: str, name: str | None) -> None:
    found = await client.get(await uploaded(client, data, declared, name))
    assert found.content == data
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.headers["content-disposition"].startswith("attachment")
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in found.headers["content-security-policy"]


async def test_text_is_downloaded_as_text(client) -> None:
    found = await client.get(await uploaded(client, HTML, "text/plain", "x.html"))
    assert found.headers["content-type"] == "text/plain; charset=utf-8"
    assert found.headers["content-disposition"].startswith("attachment")


async def test_a_picture_is_known_by_its_bytes(client) -> None:
    for declared in (None, "text/html", "image/jpeg", "application/octet-stream"):
        found = await client.get(await uploaded(client, png(), declared))
        assert found.headers["content-type"] == "image/png"
        assert found.headers["content-disposition"] == "inline"


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("t.txt", "t.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\x.png", "x.png"),
        ('a"b\r\nX: 1.png', 'a"bX: 1.png'),
        ("Grüße.png", "Grüße.png"),
        ("..", None),
        ("", None),
        (None, None),
        ("x" * 500 + ".png", "x" * 196 + ".png"),
    ],
)
def test_file_names_are_only_shown(name: str | None, cleaned: str | None) -> None:
    assert clean_name(name) == cleaned
    shown = content_disposition("image/png", cleaned)
    assert all(32 <= ord(c) < 127 for c in shown)
    assert '"' not in shown


def test_media_types_keep_what_is_harmless() -> None:
    assert media_type("audio/mpeg", b"ID3\x03") == "audio/mpeg"
    assert media_type("Text/CSV; charset=x", b"a,b") == "text/csv"
    assert media_type(None, b"a") == "application/octet-stream"


@pytest.mark.parametrize(
    "path",
    [
        "/files/../impasto.sqlite3",
        "/files/%2e%2e/impasto.sqlite3",
        "/files/..%2fimpasto.sqlite3",
        "/files/b/../../impasto.sqlite3",
        "/files//etc/passwd",
        "/files/%2fetc%2fpasswd",
        "/files/tmp/x",
        "/files/b",
        "/files/b/",
        "/files/b/00000000/AAAAAAAAAAAAAAAAAAAAAA.png",
        "/files/%00",
        "/files/upload.key",
    ],
)
async def test_only_tokens_are_files(client, server, listen, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert server.settings.data.name not in answer.text


async def test_traversal_over_a_raw_socket(server, listen) -> None:
    import asyncio
    import socket

    def ask(url: str, target: str) -> bytes:
        port = httpx.URL(url).port
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))

    with listen(server.app) as url:
        for target in ("/files/../impasto.sqlite3", "/files/../../etc/passwd", "/files/b/%2e%2e/%2e%2e/upload.key"):
            answer = await asyncio.to_thread(ask, url, target)
            assert answer.startswith(b"HTTP/1.1 404 "), target
            assert b"SQLite format" not in answer
            assert b"root:" not in answer


async def test_an_upload_round_trips_over_a_real_socket(server, listen) -> None:
    data = bytes(range(256)) * 4096  # 1 MiB
    with listen(server.app) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            link = await uploaded(client, data)
            assert link.startswith(url)
            assert (await client.get(link)).content == data
            part = await client.get(link, headers={"Range": "bytes=1000-500999"})
            assert part.content == data[1000:501000]
            head = await client.head(link)
            assert (head.content, head.headers["content-length"]) == (b"", str(len(data)))
