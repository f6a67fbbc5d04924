"""Hostile pictures end as 422 at their field; the gateway decodes none itself, and the next picture is read (S2)."""

import asyncio
import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from impasto.endpoints.base import Wanted
from impasto.errors import ModelError
from impasto.files.blobs import BlobStore
from impasto.fleet.decoders import Decoders, Undecodable
from impasto.fleet.inputs import Inputs
from impasto.settings import Settings
from impasto.store.records import FileRecord
from impasto.store.sqlite import SqliteStore

BASE = "http://127.0.0.1:8000"
GROWTH = 64 * 1024 * 1024  # bytes of the gateway's own memory; the decoder's limit is 1.4 GiB of address space
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, rows: bytes, *extra: bytes, colour: int = 2, depth: int = 8, interlace: int = 0
) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return SIGNATURE + chunk(b"IHDR", head) + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def squeezed(size: int) -> bytes:
    """`size` zero bytes, a thousand to one."""
    squeeze = zlib.compressobj(9)
    return b"".join([*(squeeze.compress(bytes(1024 * 1024)) for _ in range(size // (1024 * 1024))), squeeze.flush()])


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def small() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 48)).convert("RGB")


def rows(width: int, height: int) -> bytes:
    return zlib.compress(b"".join(b"\0" + bytes(3 * width) for _ in range(height)))


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    data = bytearray(encoded(small(), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(small(), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def webp_of_size(side: int) -> bytes:
    """An extended WebP whose canvas is as large as the format allows, animated."""
    canvas = bytes([0x02, 0, 0, 0]) + (side - 1).to_bytes(3, "little") * 2
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    body += b"ANMF" + struct.pack("<I", 16) + bytes(16)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def text_bomb(kind: bytes) -> bytes:
    """Words of a PNG that unfold to 256 MiB."""
    words = squeezed(256 * 1024 * 1024)
    body = {
        b"iTXt": b"k\0\1\0\0\0" + words,
        b"zTXt": b"k\0\0" + words,
        b"iCCP": b"k\0\0" + words,
    }[kind]
    return png(64, 48, rows(64, 48), chunk(kind, body))


def endless_tiff_directories() -> bytes:
    """EXIF whose directory points at itself."""
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    data = encoded(small(), "JPEG", exif=b"Exif\0\0" + tiff)
    return data[: len(data) // 2]


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG of 50,000 x 50,000": lambda: png(50_000, 50_000, squeezed(32 * 1024 * 1024)),
    "PNG of 2^31 - 1 squared": lambda: png(2**31 - 1, 2**31 - 1, b""),
    "PNG of no width": lambda: png(0, 100, b""),
    "PNG a thousand to one, 100 MP": lambda: png(10_000, 10_000, squeezed(300 * 1024 * 1024)),
    "PNG of one bit a pixel, 400 MP": lambda: png(20_000, 20_000, squeezed(50 * 1024 * 1024), colour=0, depth=1),
    "PNG interlaced, cut": lambda: png(7_900, 7_900, squeezed(1024 * 1024), interlace=1),
    "PNG of 62 MP, RGBA 16 bits, without its rows": lambda: png(7_900, 7_900, b"", colour=6, depth=16),
    "PNG of good size with broken rows": lambda: png(64, 48, b"not zlib"),
    "PNG profile that unfolds, no picture": lambda: text_bomb(b"iCCP")[:-60],
    "APNG that promises 2^31 frames and has none": lambda: png(
        64, 48, b"", chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    ),
    "JPEG that claims 100 MP": lambda: jpeg_of_size(10_000, 10_000),
    "JPEG that claims 65,535 squared": lambda: jpeg_of_size(65_535, 65_535),
    "JPEG of which half is there": lambda: encoded(small(), "JPEG")[:400],
    "JPEG with circular EXIF, cut": endless_tiff_directories,
    "GIF of 65,535 squared": lambda: gif_of_size(65_535, 65_535),
    "GIF cut after its head": lambda: encoded(small(), "GIF")[:14],
    "WebP canvas of 16,384 squared, animated": lambda: webp_of_size(16_384),
    "WebP cut": lambda: encoded(small(), "WEBP")[:60],
    "AVIF cut": lambda: encoded(small(), "AVIF")[:200],
    "AVIF of garbage": lambda: b"\0\0\0\x20ftypavif" + os.urandom(5000),
    "a picture within another's name": lambda: b"GIF89a" + encoded(small(), "PNG"),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "a script that begins like a JPEG": lambda: b"\xff\xd8\xff#!/bin/sh\n" * 1000,
    "TIFF, which is not read": lambda: encoded(small(), "TIFF"),
    "PostScript, which is not read": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
}


def animated(format_: str, frames: int) -> bytes:
    pictures = [Image.new("RGB", (32, 32), (n % 256, n // 256 % 256, 7)) for n in range(frames)]
    return encoded(pictures[0], format_, save_all=True, append_images=pictures[1:])


def big_words() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("k", "x" * 900_000)
    return encoded(small(), "PNG", pnginfo=info)


def big_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    return encoded(small(), "JPEG", exif=exif)


LARGE: dict[str, Callable[[], bytes]] = {  # odd, but pictures: the first frame counts, the rest is not decoded
    "PNG words that unfold (iTXt)": lambda: text_bomb(b"iTXt"),
    "PNG words that unfold (zTXt)": lambda: text_bomb(b"zTXt"),
    "PNG profile that unfolds": lambda: text_bomb(b"iCCP"),
    "WebP of 64 MP, lossless": lambda: encoded(
        Image.new("RGB", (8_000, 8_000), "red"), "WEBP", lossless=True, method=0
    ),
    "WebP of 64 MP, lossless, transparent": lambda: encoded(
        Image.new("RGBA", (8_000, 8_000), (9, 9, 9, 9)), "WEBP", lossless=True, method=0
    ),
    "GIF of 3,000 frames": lambda: animated("GIF", 3000),
    "APNG of 300 frames": lambda: animated("PNG", 300),
    "WebP of 300 frames": lambda: animated("WEBP", 300),
    "PNG of 62 MP": lambda: png(7_900, 7_900, zlib.compress(bytes(7_900 * (3 * 7_900 + 1)), 1)),
    "PNG of 62 MP, RGBA": lambda: png(7_900, 7_900, zlib.compress(bytes(7_900 * (4 * 7_900 + 1)), 1), colour=6),
    "PNG of 62 MP, grey of 16 bits": lambda: png(
        7_900, 7_900, zlib.compress(bytes(7_900 * (2 * 7_900 + 1)), 1), colour=0, depth=16
    ),
    "JPEG of 62 MP": lambda: encoded(Image.new("RGB", (7_900, 7_900), "red"), "JPEG"),
    "long words": big_words,
    "long EXIF": big_exif,
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {name: make() for name, make in (BOMBS | LARGE).items()}


class Room:
    def __init__(self, store: SqliteStore, blobs: BlobStore, inputs: Inputs) -> None:
        self.store, self.blobs, self.inputs = store, blobs, inputs

    async def wanted(self, data: bytes) -> Wanted:
        token = self.blobs.put(data, media_type="image/png")
        await self.store.add_file(FileRecord(token=token, media_type="image/png", size=len(data)))
        return Wanted(url=f"{BASE}/files/{token}", role="init", strength=0.5)

    async def refused(self, data: bytes) -> str:
        wanted = await self.wanted(data)
        with pytest.raises(ModelError) as caught:
            await self.inputs.read(wanted, base_url=BASE, reader="")
        (item,) = caught.value.items
        assert (caught.value.status, item["loc"]) == (422, ["body", "image_url"])
        return item["type"]

    async def reads(self, data: bytes) -> tuple[int, int]:
        image, _ = await self.inputs.read(await self.wanted(data), base_url=BASE, reader="")
        return image.width, image.height


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    store = await SqliteStore.open(tmp_path / "impasto.sqlite3")
    blobs = BlobStore(tmp_path / "files")
    settings = Settings(data=tmp_path, queue={"lease_seconds": 120})  # type: ignore[arg-type]
    inputs = Inputs(settings=settings, store=store, blobs=blobs)
    yield Room(store, blobs, inputs)
    await inputs.close()
    await store.close()


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("name", BOMBS)
async def test_a_hostile_picture_is_422_and_the_next_one_is_read(
    room: Room, files: dict[str, bytes], name: str
) -> None:
    before = resident()
    assert await room.refused(files[name]) in {"image_load_error", "image_too_large", "image_too_small"}
    assert resident() - before < GROWTH
    assert await room.reads(encoded(small(), "PNG")) == (64, 48)


@pytest.mark.parametrize("name", LARGE)
async def test_large_and_odd_pictures_are_read_by_their_first_frame(
    room: Room, files: dict[str, bytes], name: str
) -> None:
    before = resident()
    width, height = await room.reads(files[name])
    assert width * height <= 2.1 * 1024 * 1024
    assert resident() - before < GROWTH


async def test_a_decoder_is_used_again_and_ends_with_the_server() -> None:
    decoders = Decoders(at_a_time=1)
    data = encoded(small(), "PNG")
    await decoders.decode(data)
    first = decoders.pids
    for _ in range(3):
        assert (await decoders.decode(data)).before == (64, 48)
    assert decoders.pids == first
    with pytest.raises(Undecodable):
        await decoders.decode(data[:60])
    assert decoders.pids == first, "a damaged picture costs no process"
    await decoders.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first[0], 0)


@pytest.mark.parametrize("seen", [True, False])
async def test_a_decoder_that_dies_is_replaced(*, seen: bool) -> None:
    decoders = Decoders(at_a_time=1)
    data = encoded(small(), "PNG")
    await decoders.decode(data)
    (first,) = decoders.pids
    os.kill(first, signal.SIGKILL)
    while seen and there(first):  # noqa: ASYNC110 - until asyncio has seen it, or nearly
        await asyncio.sleep(0.01)
    assert (await decoders.decode(data)).width == 64
    assert decoders.pids != [first]
    await decoders.close()


async def test_a_decoder_that_takes_too_long_or_too_much_is_ended(files: dict[str, bytes]) -> None:
    for decoders in (Decoders(seconds=0.001), Decoders(memory=150 * 1024 * 1024)):
        with pytest.raises(Undecodable) as caught:
            await decoders.decode(files["PNG of 62 MP"])
        assert caught.value.type == "image_load_error"
        assert decoders.pids == []
        await decoders.close()


async def test_many_at_once_share_few_processes(room: Room) -> None:
    sizes = await asyncio.gather(*(room.reads(encoded(small(), "PNG")) for _ in range(12)))
    assert sizes == [(64, 48)] * 12


def test_the_server_starts_without_pillow() -> None:
    program = "import impasto.serve, sys; print([m for m in ('PIL', 'numpy', 'torch') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.strip() == "[]"
