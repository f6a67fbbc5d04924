"""Hostile files, names and ranges (reliability 7: S4, S8, S9, S13): nothing runs, escapes or is guessed."""

import asyncio
import io
import itertools
import re
import socket
import zipfile
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from PIL import Image

from impasto.api.download import single_range

SCRIPT = b"<script>document.title = 'ran'</script>"


def encoded(format_: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, format_)
    return buffer.getvalue()


def jar() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Main-Class: Evil\n")
    return buffer.getvalue()


async def uploaded(client: httpx.AsyncClient, data: bytes, *, type_: str = "", name: bytes | None = None) -> str:
    headers = [(b"Content-Type", type_.encode())] if type_ else []
    if name is not None:
        headers.append((b"X-Fal-File-Name", name))
    return (await client.post("/files/upload", content=data, headers=headers)).json()["access_url"]


# ---------------------------------------------------------------- S9: polyglots

PICTURES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
POLYGLOTS = {
    **{f"{format_} with a JAR behind it": encoded(format_) + jar() for format_ in PICTURES},
    **{f"{format_} with HTML behind it": encoded(format_) + b"<html>" + SCRIPT for format_ in PICTURES},
    **{
        f"{format_} that begins and goes on as HTML": encoded(format_)[:16] + b"<html>" + SCRIPT for format_ in PICTURES
    },
    "GIF that is JavaScript": b"GIF89a=1;document.title='ran'//",
    "JPEG that is JavaScript": b"\xff\xd8\xff\xe0/*" + b"\x00" * 20 + b"*/=1;document.title='ran'//",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>document.title="ran"</script></svg>',
    "SVG behind a comment": b"<!-- GIF89a --><svg xmlns='http://www.w3.org/2000/svg' onload='document.title=1'/>",
    "SVG with a byte order mark": b"\xef\xbb\xbf<?xml version='1.0'?><svg onload='document.title=1'/>",
    "HTML": b"<!doctype html>" + SCRIPT,
    "HTML in UTF-16": ("\ufeff<html>" + SCRIPT.decode()).encode("utf-16-le"),
    "HTML in UTF-7": b"+ADw-script+AD4-document.title=1+ADw-/script+AD4-",
    "HTML far behind blanks": b" " * 2000 + b"<html>" + SCRIPT,
    "PDF with JavaScript": b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj",
    "JAR": jar(),
    "Flash": b"CWS\x0b" + bytes(40),
    "XML with a stylesheet": b"<?xml version='1.0'?><?xml-stylesheet href='javascript:1'?><a/>",
    "MHTML": b"MIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n" + SCRIPT,
    "a service worker": b"self.onfetch = (e) => e.respondWith(new Response('x'))",
    "a cache manifest": b"CACHE MANIFEST\n*",
    "nothing": b"",
}
DECLARED = [
    "",
    "text/html",
    "image/svg+xml",
    "image/png",
    "application/javascript",
    "application/pdf",
    "multipart/related",
]
SAFE = {*PICTURES.values(), "image/avif", "application/octet-stream"}


@pytest.mark.parametrize("kind", POLYGLOTS)
async def test_no_polyglot_is_served_as_what_could_run(client, kind: str) -> None:
    for type_ in DECLARED:
        found = await client.get(await uploaded(client, POLYGLOTS[kind], type_=type_, name=b"x.html"))
        served = found.headers["content-type"]
        assert served in SAFE, (type_, served)
        assert found.content == POLYGLOTS[kind]
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["content-security-policy"] == "default-src 'none'; sandbox"
        if served == "application/octet-stream":
            assert found.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize("type_", ["text/plain", "text/csv", "application/json", "application/zip", "video/mp4"])
async def test_types_that_are_kept_are_never_shown(client, type_: str) -> None:
    found = await client.get(await uploaded(client, b"<html>" + SCRIPT, type_=type_))
    assert found.headers["content-type"].partition(";")[0] == type_
    assert found.headers["content-disposition"] == "attachment"
    assert found.headers["x-content-type-options"] == "nosniff"


# ---------------------------------------------------------------- S4: traversal

UPS = ["../", "..\\", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%252f", "....//", "..;/", "..%c0%af", "..%ef%bc%8f"]
TARGETS = ["etc/passwd", "impasto.sqlite3", "upload.key", "files/tmp/x", "server.lock"]
HEADS = ["", "/", "b/", "b/00000000/"]
NAMES = [head + up * depth + target for head, up, depth, target in itertools.product(HEADS, UPS, (1, 5), TARGETS)]


def test_there_are_200_names_and_more() -> None:
    assert len(set(NAMES)) >= 200


async def test_no_path_below_files_leads_anywhere_else(client, server) -> None:
    for name in NAMES:
        for method in ("GET", "PUT", "DELETE"):
            answer = await client.request(method, f"/files/{name}", content=b"x" if method == "PUT" else None)
            assert answer.status_code in {403, 404, 405}, (method, name)
            assert b"SQLite format" not in answer.content
            assert b"root:" not in answer.content


async def test_no_file_name_leads_anywhere_and_none_breaks_a_header(client, server) -> None:
    before = sorted(server.settings.data.iterdir())
    odd = [
        b"a\x80b",
        "\u202egnp.exe".encode(),
        b'a"; filename=evil.html',
        b"a;b",
        b"%0d%0aX: 1",
        "😀".encode() * 300,
        b"CON",
    ]
    for name in [*(name.encode() for name in NAMES), *odd]:
        found = await client.head(await uploaded(client, b"x", name=name))
        shown = found.headers["content-disposition"]
        assert re.fullmatch(r"attachment(; filename\*=UTF-8''[A-Za-z0-9._~%-]+)?", shown), shown
        cleaned = unquote(shown.partition("''")[2])
        assert not set("/\\\r\n\u202e") & set(cleaned)
        assert not cleaned.startswith(".")
    assert sorted(server.settings.data.iterdir()) == before
    kept = [path.relative_to(server.settings.data) for path in server.settings.data.rglob("*.bin")]
    assert {(path.parts[:2], len(path.parts)) for path in kept} == {(("files", "b"), 4)}


async def test_no_member_of_initiate_leads_anywhere(client, server) -> None:
    for name in NAMES[::7]:
        body = {"file_name": name, "content_type": f"image/{name}"}
        url = (await client.post("/storage/upload/initiate", json=body)).json()["file_url"]
        assert re.fullmatch(r"http://127\.0\.0\.1:8000/files/b/[0-9a-f]{8}/[A-Za-z0-9_-]{22}\.bin", url)


# ---------------------------------------------------------------- S8: guessing


async def test_urls_have_128_bits_that_nothing_tells(client, server) -> None:
    """22 characters of base64url carry 132 bits; the last one only four values, so 128 are random."""
    names = [httpx.URL(await uploaded(client, b"x")).path.rpartition("/")[2][:22] for _ in range(300)]
    assert len(set(names)) == 300
    for place in range(21):
        assert len({name[place] for name in names}) > 25, "a place that carries no chance"
    for listing in ("/files", "/files/", "/files/b", "/files/b/", f"/files/b/{'0' * 8}"):
        answer = await client.get(listing)
        assert answer.status_code in {404, 405}
        assert not any(name in answer.text for name in names)


async def test_a_near_miss_is_404_as_a_far_one(client) -> None:
    url = await uploaded(client, b"x")
    folder, _, name = url.rpartition("/")
    other = ("y" if name[0] == "x" else "x") + name[1:]
    for near in (
        name[:-1],
        name + "x",
        other,
        name.replace(".bin", ".png"),
        name[:22].swapcase() + ".bin",
        name + "%00",
    ):
        assert (await client.get(f"{folder}/{near}")).json() == {"detail": "File not found"}, near
    assert (await client.get(url)).status_code == 200


# ---------------------------------------------------------------- S13: ranges


async def test_a_range_of_100_000_parts_gets_the_whole_file(client) -> None:
    url = await uploaded(client, b"x" * 1000)
    header = "bytes=" + ",".join(f"{n}-{n}" for n in range(100_000))
    answer = await client.get(url, headers={"Range": header})
    assert (answer.status_code, len(answer.content)) == (200, 1000)


async def test_over_a_socket_it_is_refused_or_ignored_and_the_server_goes_on(server, listen) -> None:
    with listen(server.app) as base:
        async with httpx.AsyncClient(base_url=base) as client:
            url = await uploaded(client, b"x" * 1000)
            header = "bytes=" + ",".join("0-" for _ in range(100_000))
            try:
                answer = await client.get(url, headers={"Range": header})
                assert answer.status_code in {200, 400, 431}
                assert len(answer.content) <= 1000
            except httpx.HTTPError:
                pass  # the connection was closed in the middle of the header
            assert (await client.get(url, headers={"Range": "bytes=0-1"})).status_code == 206


@pytest.mark.parametrize(
    "header", ["bytes=" + "9" * 100_000 + "-", "bytes=-" + "9" * 100_000, "bytes=" + "-" * 100_000]
)
def test_long_numbers_are_not_read(header: str) -> None:
    assert single_range(header, 100) is None


# ---------------------------------------------------------------- what HTTP says of downloads


async def test_every_precondition_and_range_together(client) -> None:
    url = await uploaded(client, bytes(range(100)))
    tag = (await client.get(url)).headers["etag"]
    cases: list[tuple[dict[str, str], int, int]] = [
        ({"If-None-Match": tag, "Range": "bytes=0-1"}, 304, 0),
        ({"If-None-Match": '"x"', "Range": "bytes=0-1"}, 206, 2),
        ({"If-Range": f"W/{tag}", "Range": "bytes=0-1"}, 200, 100),
        ({"If-Range": "Wed, 21 Oct 2015 07:28:00 GMT", "Range": "bytes=0-1"}, 200, 100),
        ({"If-Range": '"x"', "Range": "bytes=200-"}, 200, 100),
        ({"Range": "bytes=200-"}, 416, 0),
        ({"Range": " bytes=0-1 "}, 206, 2),
    ]
    for headers, status, length in cases:
        got = await client.get(url, headers=headers)
        assert (got.status_code, len(got.content)) == (status, length), headers
        head = await client.head(url, headers=headers)
        assert (head.status_code, head.content) == (status, b"")
        assert head.headers.get("content-range") == got.headers.get("content-range")


async def test_a_download_that_its_reader_gives_up_frees_the_file(server, listen, monkeypatch) -> None:
    opened: list[Any] = []
    true_open = server.blobs.open
    monkeypatch.setattr(server.blobs, "open", lambda token: opened.append(true_open(token)) or opened[-1])
    with listen(server.app) as base:
        async with httpx.AsyncClient(base_url=base) as client:
            url = httpx.URL(await uploaded(client, bytes(20_000_000)))

            def glance() -> None:
                with socket.create_connection((url.host, url.port)) as connection:
                    connection.sendall(f"GET {url.path} HTTP/1.1\r\nHost: {url.host}\r\n\r\n".encode())
                    connection.recv(1000)

            await asyncio.to_thread(glance)
            async with asyncio.timeout(60):
                while not (opened and opened[-1].closed):  # noqa: ASYNC110 - the server notices by itself
                    await asyncio.sleep(0.01)
