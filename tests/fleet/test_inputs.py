"""A caller's picture: three ways in, one plain form out, and fal's own 422 for whatever is wrong with it."""

import asyncio
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from impasto.endpoints.base import Wanted
from impasto.engine.job import ImageInput
from impasto.errors import ModelError
from impasto.files.blobs import BlobStore
from impasto.files.fetch import Fetched
from impasto.files.images import data_uri
from impasto.files.links import identity
from impasto.fleet import inputs
from impasto.fleet.decoder import KEPT_PIXELS, _plain
from impasto.fleet.inputs import Inputs
from impasto.settings import FetchSettings, Settings
from impasto.store.records import Acl, Decision, FileRecord
from impasto.store.sqlite import SqliteStore

BASE = "http://127.0.0.1:8000"
SECRET = b"s" * 32


def encoded(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


RED = encoded(Image.new("RGB", (40, 30), (200, 10, 10)))


class Room:
    def __init__(self, store: SqliteStore, blobs: BlobStore, settings: Settings) -> None:
        self.store, self.blobs = store, blobs
        self.inputs = Inputs(settings=settings, store=store, blobs=blobs, secret=SECRET)

    async def read(self, source: bytes | str, *, reader: str = "") -> tuple[ImageInput, list[str]]:
        url = source if isinstance(source, str) else data_uri(source, "image/png")
        wanted = Wanted(url=url, role="init", strength=0.5)
        image, notices = await self.inputs.read(wanted, base_url=BASE, reader=reader)
        return image, [notice.code for notice in notices]

    async def refused(self, source: bytes | str, *, reader: str = "") -> dict[str, Any]:
        with pytest.raises(ModelError) as caught:
            await self.read(source, reader=reader)
        assert caught.value.status == 422
        (item,) = caught.value.items
        assert item["loc"] == ["body", "image_url"]
        assert item["url"].endswith(item["type"])
        return item


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    store = await SqliteStore.open(tmp_path / "impasto.sqlite3")
    room = Room(store, BlobStore(tmp_path / "files"), Settings(data=tmp_path, fetch=FetchSettings(max_mb=1)))
    yield room
    await room.inputs.close()
    await store.close()


def shown(image: ImageInput) -> Image.Image:
    picture = Image.open(io.BytesIO(image.data))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (image.width, image.height))
    return picture


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
async def test_every_kind_is_read_from_a_data_uri(room: Room, format_: str) -> None:
    image, notices = await room.read(encoded(Image.new("RGB", (40, 30), (200, 10, 10)), format_))
    assert shown(image).size == (40, 30)
    assert (image.role, image.strength, notices) == ("init", 0.5, [])
    red, green, _ = shown(image).getpixel((20, 15))
    assert red > 180
    assert green < 40


async def test_our_own_file_needs_no_network(room: Room) -> None:
    token = room.blobs.put(RED, media_type="image/png")
    await room.store.add_file(FileRecord(token=token, media_type="image/png", size=len(RED)))
    for base in (BASE, "https://v3.fal.media"):
        image, _ = await room.read(f"{base}/files/{token}")
        assert (image.width, image.height) == (40, 30)
    assert (await room.refused(f"{BASE}/files/b/00000000/nothing.png"))["type"] == "file_download_error"


async def test_our_own_file_that_goes_while_it_is_asked_for_is_told_at_its_field(room: Room) -> None:
    token = room.blobs.put(RED, media_type="image/png")
    await room.store.add_file(FileRecord(token=token, media_type="image/png", size=len(RED)))
    room.blobs.delete(token)
    item = await room.refused(f"{BASE}/files/{token}")
    assert (item["type"], item["msg"]) == ("file_download_error", "This file of the server is not there.")


@pytest.mark.parametrize(
    "home",
    ["http://localhost:8000", "http://[::1]:8001", "http://impasto:8000", "https://old.example/a/files/x", "HTTP://A"],
)
async def test_our_own_file_is_known_by_its_token_under_every_host_and_port(room: Room, home: str) -> None:
    token = room.blobs.put(RED, media_type="image/png")
    acl = Acl(Decision.HIDE)
    await room.store.add_file(FileRecord(token=token, media_type="image/png", size=len(RED), key_id="alice", acl=acl))
    for name in (token, f"{token}?x=1#y", token.replace("b/", "b%2F", 1)):
        image, _ = await room.read(f"{home}/files/{name}", reader="alice")
        assert (image.width, image.height) == (40, 30)
    assert "is not there" in (await room.refused(f"{home}/files/{token}", reader="bob"))["msg"]


async def test_a_token_that_the_store_does_not_know_is_fetched_as_any_url_is(room: Room) -> None:
    token = room.blobs.new_token("image/png")
    for home in ("http://127.0.0.1:8001", "https://127.0.0.1:8000", "http://10.0.0.1"):
        assert "not a public address" in (await room.refused(f"{home}/files/{token}"))["msg"]
    assert "is not there" in (await room.refused(f"http://localhost:8000/files/{token}"))["msg"]
    kept = room.blobs.put(RED, media_type="image/png")
    await room.store.add_file(FileRecord(token=kept, media_type="image/png", size=len(RED)))
    for url in (f"http://127.0.0.1:8001/admin?/files/{kept}", f"http://127.0.0.1:8001/files/{kept}/x"):
        assert "not a public address" in (await room.refused(url))["msg"]


@pytest.mark.parametrize("name", ["rabbit/rmgBxhwGYb2d3pl3x9sKf_output.png", "b/0a1b2c3d/AbCdEfGhIjKlMnOpQrStUv.png"])
async def test_a_picture_that_fal_keeps_is_fetched_there(
    room: Room, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[str] = []

    async def fetch(url: str, *, into: Callable[[bytes], object], **_: Any) -> Fetched:
        asked.append(url)
        into(RED)
        return Fetched(data=RED, media_type="image/png", url=url)

    monkeypatch.setattr(inputs, "fetch", fetch)
    url = f"https://v3.fal.media/files/{name}"
    image, _ = await room.read(url)
    assert (image.width, asked) == (40, [url])


async def test_a_request_is_no_way_round_an_acl(room: Room) -> None:
    token = room.blobs.put(RED, media_type="image/png")
    acl = Acl(Decision.HIDE, (("bob", Decision.ALLOW), ("carol", Decision.FORBID)))
    await room.store.add_file(FileRecord(token=token, media_type="image/png", size=len(RED), key_id="alice", acl=acl))
    url = f"{BASE}/files/{token}"
    for reader in ("alice", "bob"):
        await room.read(url, reader=reader)
    hidden = await room.refused(url, reader="dave")
    missing = await room.refused(url.replace(".png", ".gif"), reader="dave")
    assert (
        (hidden["type"], hidden["msg"])
        == (missing["type"], missing["msg"])
        == (
            "file_download_error",
            "This file of the server is not there.",
        )
    )
    assert "may not be read" in (await room.refused(url, reader="carol"))["msg"]
    link = f"{url}?identity={identity(token, until=int(time.time()) + 60, secret=SECRET)}"
    await room.read(link, reader="carol")
    for wrong in (link[:-1], f"{url}?identity={identity(token, until=1, secret=SECRET)}", f"{url}?identity="):
        await room.refused(wrong, reader="carol")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/a.png",
        "http://localhost:8080/a.png",
        "file:///etc/passwd",
        "ftp://example.org/a.png",
        "nonsense",
    ],
)
async def test_private_places_and_other_schemes_are_refused(room: Room, url: str) -> None:
    assert (await room.refused(url))["type"] == "file_download_error"


async def test_turned_pictures_are_set_upright_and_only_the_first_frame_counts(room: Room) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    image, _ = await room.read(encoded(Image.new("RGB", (40, 30)), "JPEG", exif=exif))
    assert (image.width, image.height) == (30, 40)
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    image, _ = await room.read(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert shown(image).getpixel((1, 1))[0] > 200


async def test_what_is_transparent_becomes_white(room: Room) -> None:
    image, _ = await room.read(encoded(Image.new("RGBA", (40, 30), (0, 0, 0, 0))))
    assert shown(image).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("role", ["mask", "region"])
@pytest.mark.parametrize("around", [(0, 0, 0, 0), (255, 255, 255, 0)])
async def test_a_mask_drawn_on_a_transparent_canvas_is_its_strokes(room: Room, role: Any, around: Any) -> None:
    canvas = Image.new("RGBA", (40, 30), around)
    canvas.paste((255, 255, 255, 255), (0, 0, 20, 30))
    wanted = Wanted(url=data_uri(encoded(canvas), "image/png"), role=role, strength=1.0, field="mask_url")
    mask, _ = await room.inputs.read(wanted, base_url=BASE, reader="")
    assert (shown(mask).getpixel((5, 5)), shown(mask).getpixel((35, 5))) == ((255, 255, 255), (0, 0, 0))


async def test_grey_of_sixteen_bits_keeps_its_upper_eight(room: Room) -> None:
    """Depth maps are often such."""
    values = [(x * 1637 + y * 7) % 65536 for y in range(30) for x in range(40)]
    deep = Image.frombytes("I;16", (40, 30), struct.pack("<1200H", *values))
    assert Image.open(io.BytesIO(encoded(deep))).mode == "I;16"
    image, notices = await room.read(encoded(deep))
    assert list(shown(image).get_flattened_data()) == [(value >> 8,) * 3 for value in values]
    assert notices == []


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L"])
def test_every_order_of_sixteen_bits_is_read(mode: str) -> None:
    order = "<I" if mode == "I" else ">H" if mode.endswith("B") else "<H"
    deep = Image.frombytes(mode, (16, 16), struct.pack(order, 0x8034) * 256)
    assert _plain(deep, None, 255).getpixel((3, 3)) == (0x80, 0x80, 0x80)


async def test_a_large_one_is_made_smaller_and_says_so(room: Room) -> None:
    image, notices = await room.read(encoded(Image.new("RGB", (3000, 1500)), "JPEG"))
    assert notices == ["image_downscaled"]
    assert image.width * image.height <= KEPT_PIXELS * 1.01
    assert abs(image.width / image.height - 2) < 0.01


async def test_damaged_and_mislabelled_ones_do_not_load(room: Room) -> None:
    for data in (
        RED[:-30],
        RED[:40],
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xff\xd8\xff",
    ):
        assert (await room.refused(data))["type"] == "image_load_error", data[:12]
    assert (await room.refused(b"GIF89a" + RED))["type"] == "image_too_large", "by what it says in a GIF's place"
    assert (await room.refused("data:image/png;base64,@@@"))["type"] == "image_load_error"


async def test_bombs_are_refused_by_their_header(room: Room) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
        + chunk(b"IEND", b"")
    )
    for large in (bomb, encoded(Image.new("1", (9000, 8000))), encoded(Image.new("1", (13_000, 10_000)))):
        item = await room.refused(large)
        assert (item["type"], item["ctx"]) == ("image_too_large", {"max_resolution": 64_000_000})


async def test_limits_are_named(room: Room) -> None:
    item = await room.refused(encoded(Image.new("RGB", (15, 400))))
    assert (item["type"], item["ctx"]) == ("image_too_small", {"min_height": 16, "min_width": 16})
    item = await room.refused(RED + bytes(1024 * 1024))
    assert (item["type"], item["ctx"]) == ("file_too_large", {"max_size": 1024 * 1024})


def pair(width: int, height: int, across: int, down: int) -> list[Wanted]:
    picture, mask = (
        data_uri(encoded(Image.new("RGB", size)), "image/png") for size in ((width, height), (across, down))
    )
    return [
        Wanted(url=picture, role="fill", strength=1.0),
        Wanted(url=mask, role="mask", strength=1.0, field="mask_url"),
    ]


async def test_several_pictures_come_in_their_order_with_all_their_notices(room: Room) -> None:
    images, notices = await room.inputs.read_all(pair(2000, 1500, 2000, 1500), base_url=BASE, reader="alice")
    assert [image.role for image in images] == ["fill", "mask"]
    assert [image.sent for image in images] == [(2000, 1500)] * 2
    assert [notice.field for notice in notices] == ["image_url", "mask_url"]


@pytest.mark.parametrize("mask", [(40, 31), (30, 40), (4000, 3000)])
async def test_a_mask_of_another_size_is_refused_at_its_field(room: Room, mask: tuple[int, int]) -> None:
    """Even one that would be as large after both were made smaller."""
    size = (40, 30) if mask[0] < 100 else (2000, 1500)
    with pytest.raises(ModelError, match=f"{mask[0]}x{mask[1]}.*{size[0]}x{size[1]}") as caught:
        await room.inputs.read_all(pair(*size, *mask), base_url=BASE, reader="alice")
    assert caught.value.items[0]["loc"] == ["body", "mask_url"]


async def test_a_mask_belongs_to_the_picture_that_it_masks(room: Room) -> None:
    """Inpainting's to the one it starts from; a reference beside them may have any size."""
    picture, mask = pair(40, 30, 40, 30)
    reference, other = (replace(each, role="context", field="reference_image_url") for each in pair(50, 20, 40, 31))
    repaint = [replace(picture, role="init"), replace(mask, role="region"), reference]
    images, _ = await room.inputs.read_all(repaint, base_url=BASE, reader="alice")
    assert [image.role for image in images] == ["init", "region", "context"]
    with pytest.raises(ModelError) as caught:
        await room.inputs.read_all(
            [repaint[0], replace(other, role="region", field="mask_url")], base_url=BASE, reader="alice"
        )
    assert caught.value.items[0]["loc"] == ["body", "mask_url"]


async def test_of_several_bad_pictures_the_first_is_told(room: Room) -> None:
    bad = [Wanted(url="data:image/png;base64,AAAA", role="context", strength=1, field=name) for name in ("a", "b")]
    with pytest.raises(ModelError) as caught:
        await room.inputs.read_all(bad, base_url=BASE, reader="alice")
    assert caught.value.items[0]["loc"] == ["body", "a"]


async def test_names_that_nobody_answers_for_hold_up_no_other_request(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, answer = socket.getaddrinfo, threading.Event()

    def silent(host: Any, *args: Any, **options: Any) -> Any:
        if str(host).endswith(".example"):
            answer.wait(60)
            raise socket.gaierror("no answer")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    token = room.blobs.put(RED, media_type="image/png")
    await room.store.add_file(FileRecord(token=token, media_type="image/png", size=len(RED)))
    lost = [asyncio.create_task(room.refused(f"http://{n}.example/a", reader="crowd")) for n in range(40)]
    try:
        await asyncio.sleep(0.1)
        async with asyncio.timeout(20):
            await room.read(f"{BASE}/files/{token}")  # the loop's threads are free
            assert "not a public address" in (await room.refused("http://localhost/a.png", reader="k"))["msg"]
    finally:
        answer.set()
    assert {item["type"] for item in await asyncio.gather(*lost)} == {"file_download_error"}


async def test_of_a_list_the_error_tells_the_place_and_the_warning_the_field(room: Room) -> None:
    good, large = (data_uri(encoded(Image.new("RGB", size)), "image/png") for size in ((40, 30), (2000, 1500)))
    urls = [good, large, "data:image/png;base64,AAAA"]
    wanted = [Wanted(url=url, role="context", strength=1, field=f"image_urls.{i}") for i, url in enumerate(urls)]
    with pytest.raises(ModelError) as caught:
        await room.inputs.read_all(wanted, base_url=BASE, reader="alice")
    assert caught.value.items[0]["loc"] == ["body", "image_urls", "2"]
    _, notices = await room.inputs.read_all(wanted[:2], base_url=BASE, reader="alice")
    assert [notice.field for notice in notices] == ["image_urls"]


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "//[",
        "http://h:99999999/a.png",
        "http://127.0.0.1/\ud800?\udfff",
        "http://127.0.0.1:8000/files/\ud800",
        "http://127.0.0.1:8000/files/a\0b",
        "https://v3.fal.media/files/\ud800?link=\ud800",
        "data:image/png;base64,\ud800",
        "data:\0",
        "\0",
        "http://" + "a" * 70_000,
        "http://" + "\N{BIRD}" * 300 + "/",
    ],
)
async def test_an_image_url_that_is_none_is_refused_at_its_field(room: Room, url: str) -> None:
    await room.refused(url)
