"""Uploads on their way: bounded in memory, gone when their client is, one content a name, honest limits."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from impasto.api.bodies import MIB


def left_behind(server: Any) -> list[Path]:
    """Files on the disk that no record names."""
    data: Path = server.settings.data
    drafts = list((data / "files" / "tmp").iterdir())
    parts = [path for path in (data / "uploads").rglob("*") if path.is_file()]
    blobs = list((data / "files" / "b").glob("*/*"))
    known = [path for path in blobs if server.store.file(path.relative_to(data / "files").as_posix()) is not None]
    return [*drafts, *parts, *(path for path in blobs if path not in known)]


async def initiate(client: httpx.AsyncClient) -> dict[str, str]:
    return (await client.post("/storage/upload/initiate", json={})).json()


async def begin(client: httpx.AsyncClient) -> tuple[str, str]:
    begun = (await client.post("/files/upload/multipart")).json()
    return begun["access_url"], f"{begun['access_url']}/multipart/{begun['uploadId']}"


# ---------------------------------------------------------------- the bytes arrive


async def test_a_body_in_pieces_of_any_size_arrives_whole(client, server) -> None:
    data = os.urandom(3 * MIB + 17)

    async def pieces() -> Any:
        for start in range(0, len(data), 70_001):
            yield data[start : start + 70_001]

    url = (await client.post("/files/upload", content=pieces())).json()["access_url"]
    assert (await client.get(url)).content == data
    assert left_behind(server) == []


async def test_weights_keep_their_ending_which_no_media_type_tells(client) -> None:
    for name, ending in (("Style.safetensors", "safetensors"), ("style.pt", "bin"), ("safetensors", "bin")):
        headers = {"Content-Type": "application/octet-stream", "X-Fal-File-Name": name}
        posted = (await client.post("/files/upload", content=b"x", headers=headers)).json()["access_url"]
        body = {"file_name": name, "content_type": "application/octet-stream"}
        promised = (await client.post("/storage/upload/initiate", json=body)).json()
        await client.put(promised["upload_url"], content=b"x")
        for url in (posted, promised["file_url"]):
            assert url.endswith(f".{ending}")
            assert (await client.get(url)).content == b"x"


async def test_the_same_bytes_at_once_are_one_file_and_others_are_refused(client, server) -> None:
    urls = await initiate(client)
    data = os.urandom(300_000)
    same = await asyncio.gather(*(client.put(urls["upload_url"], content=data) for _ in range(8)))
    assert [answer.status_code for answer in same] == [200] * 8
    urls = await initiate(client)
    bodies = [bytes([number]) * 300_000 for number in range(8)]
    done = await asyncio.gather(*(client.put(urls["upload_url"], content=body) for body in bodies))
    assert sorted(answer.status_code for answer in done) == [200] + [400] * 7
    kept = (await client.get(urls["file_url"])).content
    assert kept == bodies[[answer.status_code for answer in done].index(200)]
    assert all("used already" in answer.json()["detail"] for answer in done if answer.status_code == 400)
    assert left_behind(server) == []


async def test_a_blob_whose_record_was_lost_takes_its_own_bytes_and_no_others(client, server) -> None:
    """The process died between the two; the client sends again."""
    urls = await initiate(client)
    token = httpx.URL(urls["file_url"]).path.removeprefix("/files/")
    server.blobs.put(b"first", media_type="", token=token)
    assert (await client.put(urls["upload_url"], content=b"other")).status_code == 400
    assert (await client.put(urls["upload_url"], content=b"first")).status_code == 200
    assert (await client.get(urls["file_url"])).content == b"first"


async def test_a_multipart_upload_completed_twice_at_once_is_one_file(client, server) -> None:
    url, base = await begin(client)
    tag = (await client.put(f"{base}/1", content=b"x" * 100_000)).headers["etag"]
    listed = {"parts": [{"partNumber": 1, "etag": tag}]}
    done = await asyncio.gather(*(client.post(f"{base}/complete", json=listed) for _ in range(4)))
    assert [answer.status_code for answer in done] == [200] * 4
    assert (await client.get(url)).content == b"x" * 100_000
    assert (await client.post(f"{base}/complete", json=listed)).status_code == 200
    late = await client.put(f"{base}/2", content=b"x")
    assert (late.status_code, "is complete" in late.json()["detail"]) == (400, True)
    assert left_behind(server) == []


# ---------------------------------------------------------------- the older ways


async def test_gcs_parts_are_asked_for_one_by_one(keyed) -> None:
    """What the `fal` package does: the number behind the whole URL, `part_number`, ETags without quotes."""
    server, alice, _ = keyed
    async with server.client(key=alice, base="https://rest.alpha.fal.ai") as hers:
        begun = await hers.post(
            "/storage/upload/initiate-multipart?storage_type=gcs",
            json={"file_name": "a.txt", "content_type": "text/plain"},
        )
        assert set(begun.json()) == {"upload_url", "file_url"}
        upload, listed = begun.json()["upload_url"], []
        assert "?" not in upload
        async with server.client(base="https://v3.fal.media") as media:
            for number, data in ((2, b"two"), (1, b"one")):
                where = (await media.post(f"{upload}/{number}")).json()["upload_url"]
                tag = (await media.put(where, content=data)).headers["etag"]
                listed.append({"part_number": number, "etag": tag.strip('"')})
            assert (await media.post(f"{upload}/complete", json={"parts": listed})).status_code == 200
            found = await media.get(begun.json()["file_url"])
    assert (found.content, found.headers["content-type"]) == (b"onetwo", "text/plain; charset=utf-8")


@pytest.mark.parametrize("kind", ["gcs", "fal-cdn-v3"])
async def test_an_upload_can_be_completed_at_the_rest_host(keyed, kind: str) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as hers:
        begun = (await hers.post(f"/storage/upload/initiate-multipart?storage_type={kind}", json={})).json()
        path, _, query = begun["upload_url"].partition("?")
        part = (await hers.put(f"{path}/1?{query}", content=b"bytes")).json()
        where = f"/storage/upload/complete-multipart?storage_type={kind}"
        for wrong, status in (("", 403), (begun["file_url"], 403), (begun["upload_url"][:-1], 403), ("http://[", 400)):
            assert (await hers.post(where, json={"upload_url": wrong, "parts": [part]})).status_code == status
        body = {"upload_url": begun["upload_url"], "parts": [part]}
        assert (await hers.post(where, json=body)).json() == {"access_url": begun["file_url"]}
        assert (await hers.get(begun["file_url"])).content == b"bytes"
    async with server.client() as nobody:
        assert (await nobody.post(where, json=body)).status_code == 401


@pytest.mark.parametrize("scheme", ["Key", "Bearer"])
@pytest.mark.parametrize("host", ["fal.media", "v3.fal.media", "v3b.fal.media"])
async def test_every_file_host_takes_a_key(keyed, scheme: str, host: str) -> None:
    server, alice, _ = keyed
    async with server.client(base=f"https://{host}") as client:
        answer = await client.post("/files/upload", content=b"x", headers={"Authorization": f"{scheme} {alice}"})
        assert answer.status_code == 200
        assert (await client.get(answer.json()["access_url"])).content == b"x"


async def test_a_name_in_utf_8_is_read_as_it_was_meant(client) -> None:
    headers = [(b"X-Fal-File-Name", "Grüße 🍎.txt".encode())]
    url = (await client.post("/files/upload", content=b"x", headers=headers)).json()["access_url"]
    shown = (await client.get(url)).headers["content-disposition"]
    assert shown == "attachment; filename*=UTF-8''Gr%C3%BC%C3%9Fe%20%F0%9F%8D%8E.txt"


# ---------------------------------------------------------------- the client hangs up


async def test_a_truncated_upload_leaves_nothing(server, listen) -> None:
    def cut(url: str, method: str, target: str) -> None:
        parts = httpx.URL(url)
        with socket.create_connection((parts.host, parts.port)) as connection:
            head = f"{method} {target} HTTP/1.1\r\nHost: {parts.host}:{parts.port}\r\nContent-Length: 5000000\r\n\r\n"
            connection.sendall(head.encode() + b"x" * 2_500_000)

    with listen(server.app) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            signed = httpx.URL((await initiate(client))["upload_url"]).raw_path.decode()
            _, base = await begin(client)
            for method, target in (
                ("POST", "/files/upload"),
                ("PUT", signed),
                ("PUT", httpx.URL(f"{base}/1").raw_path.decode()),
            ):
                await asyncio.to_thread(cut, url, method, target)
            async with asyncio.timeout(60):
                while left_behind(server):  # noqa: ASYNC110 - the server notices by itself
                    await asyncio.sleep(0.01)
            assert (await client.get("/healthz")).status_code == 200
    assert server.store.stored_bytes("") == 0


# ---------------------------------------------------------------- limits


async def test_parts_that_come_at_once_do_not_pass_the_limit_together(build) -> None:
    server = await build(max_upload_mb=1)
    async with server.client() as client:
        _, base = await begin(client)
        half = b"x" * (MIB * 6 // 10)
        done = await asyncio.gather(*(client.put(f"{base}/{n}", content=half) for n in (1, 2, 3)))
        tags = [{"partNumber": n, "etag": done[n - 1].headers["etag"]} for n in (1, 2, 3) if done[n - 1].is_success]
        assert tags
        if len(tags) > 1:  # they did not see each other
            answer = await client.post(f"{base}/complete", json={"parts": tags})
            assert answer.status_code == 413
            assert "server.max_upload_mb" in answer.json()["detail"]
    assert [path for path in left_behind(server) if "uploads" not in path.parts] == []


async def test_a_quota_counts_what_a_key_keeps_and_names_the_setting(build) -> None:
    server = await build(auth="keys", upload_quota_mb=1)
    _, alice = await server.store.create_key(alias="alice", scopes=["API"])
    _, bob = await server.store.create_key(alias="bob", scopes=["API"])
    big = b"x" * (700 * 1024)
    async with server.client(key=alice) as hers, server.client(key=bob) as his:
        first = (await hers.post("/files/upload", content=big)).json()["access_url"]
        urls = await initiate(hers)
        _, base = await begin(hers)

        async def pieces() -> Any:
            yield big[:100]
            yield big[100:]

        for answer in (
            await hers.post("/files/upload", content=big),
            await hers.post("/files/upload", content=pieces()),  # without a Content-Length
            await hers.put(urls["upload_url"], content=big),
            await hers.put(f"{base}/1", content=big),
        ):
            assert answer.status_code == 413
            assert answer.headers["x-fal-error-type"] == "quota_exceeded"
            assert answer.json()["error_type"] == "quota_exceeded"
            assert "server.upload_quota_mb" in answer.json()["detail"]
        assert left_behind(server) == []
        assert (await his.post("/files/upload", content=big)).status_code == 200, "everybody has their own"
        assert (await hers.post("/files/upload", content=big[: 200 * 1024])).status_code == 200
        assert (await hers.delete(first)).status_code == 204
        assert (await hers.put(urls["upload_url"], content=big)).status_code == 200, "what is deleted is free again"
        assert (await hers.put(urls["upload_url"], content=big)).status_code == 200, "a retry needs no room"


async def test_parts_that_wait_use_the_quota_and_of_uploads_at_once_only_those_that_fit_are_kept(build) -> None:
    server = await build(upload_quota_mb=1)
    part = b"x" * (600 * 1024)
    async with server.client() as client:
        url, base = await begin(client)
        tag = (await client.put(f"{base}/1", content=part)).headers["etag"]
        assert (await client.put(f"{base}/1", content=part)).status_code == 200, "sent again, it takes no more"
        assert (await client.put(f"{base}/2", content=part)).status_code == 413
        assert (await client.post("/files/upload", content=part)).status_code == 413
        listed = {"parts": [{"partNumber": 1, "etag": tag}]}
        assert (await client.post(f"{base}/complete", json=listed)).status_code == 200
        assert (await client.delete(url)).status_code == 204
        done = await asyncio.gather(*(client.post("/files/upload", content=part) for _ in range(6)))
        assert sorted(answer.status_code for answer in done) == [200] + [413] * 5
    assert server.store.stored_bytes("") == len(part)
    assert [path for path in left_behind(server) if server.store.expired_files() == []] == []


@pytest.mark.parametrize("size", [0, 1])
async def test_small_and_empty_files_and_parts_count_against_the_quota(build, size: int) -> None:
    server = await build(upload_quota_mb=1, upload_quota_files=5)
    async with server.client() as client:
        _, base = await begin(client)
        assert (await client.put(f"{base}/1", content=b"x" * size)).status_code == 200
        done = [await client.post("/files/upload", content=b"x" * size) for _ in range(5)]
        assert [answer.status_code for answer in done] == [200] * 4 + [413]
        assert done[-1].headers["x-fal-error-type"] == "quota_exceeded"
        assert "server.upload_quota_files" in done[-1].json()["detail"]
        assert (await client.put(f"{base}/2", content=b"")).status_code == 413
        assert (await client.put(f"{base}/1", content=b"y" * size)).status_code == 200, "sent again, it is no more"
        assert (await client.delete(done[0].json()["access_url"])).status_code == 204
        assert (await client.post("/files/upload", content=b"")).status_code == 200


async def test_a_quota_of_bytes_bounds_the_number_of_files_too(build) -> None:
    server = await build(upload_quota_mb=1)
    async with server.client() as client:
        done = [(await client.post("/files/upload", content=b"")).status_code for _ in range(260)]
    assert done == [200] * 256 + [413] * 4


@contextlib.contextmanager
def disk_of(size: int) -> Iterator[None]:
    """The system refuses to let any file of this process grow past `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_is_507_and_breaks_nothing(client, server) -> None:
    data = b"x" * (12 * MIB)
    urls = await initiate(client)
    _, base = await begin(client)
    tags = [(await client.put(f"{base}/{number}", content=b"y" * (6 * MIB))).json() for number in (1, 2)]
    with disk_of(8 * MIB):
        for answer in (
            await client.post("/files/upload", content=data),
            await client.put(urls["upload_url"], content=data),
            await client.put(f"{base}/3", content=data),
            await client.post(f"{base}/complete", json={"parts": tags}),
        ):
            assert (answer.status_code, answer.reason_phrase) == (507, "Insufficient Storage")
            assert answer.json() == {
                "detail": "The server's disk has no room for this file; tell its operator.",
                "error_type": "storage_full",
            }
            assert answer.headers["x-fal-error-type"] == "storage_full"
        assert (await client.post("/files/upload", content=b"small")).status_code == 200
    assert server.store.healthy
    assert (await client.put(urls["upload_url"], content=data)).status_code == 200
    assert (await client.post(f"{base}/complete", json={"parts": tags})).status_code == 200
    assert left_behind(server) == []
