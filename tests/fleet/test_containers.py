"""Only pixels decide whether an image is read; its colours become what a browser shows."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from impasto.files.images import sniff
from impasto.fleet.colour import profile_of_cicp, to_srgb
from impasto.fleet.containers import MAX_PROFILE, PNG_SIGNATURE
from impasto.fleet.decoder import answer

HERE = Path(__file__).parent
SIZE = (160, 96)
P3 = profile_of_cicp(12, 13)
NOISE = Image.effect_noise(SIZE, 60).convert("RGB")


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes, *, wrong: bool = False) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


def with_chunk(kind: bytes, body: bytes, *, wrong: bool = False, data: bytes | None = None) -> bytes:
    data = data or encoded(NOISE, "PNG")
    return data[:33] + chunk(kind, body, wrong=wrong) + data[33:]


def shown(data: bytes, **options: Any) -> Image.Image:
    facts, png = answer(data, 255, **options)
    assert "type" not in facts, facts
    return Image.open(io.BytesIO(png))


def refused(data: bytes) -> bool:
    return answer(data, 255)[0].get("type") == "image_load_error"


JPEG = encoded(NOISE, "JPEG", quality=90)
PROGRESSIVE = encoded(NOISE, "JPEG", quality=90, progressive=True)
PNG = encoded(NOISE, "PNG")
LONG = zlib.compress(bytes(8 * 1024 * 1024), 9)
WEBP = encoded(NOISE, "WEBP", lossless=True)
WEBP_TOLD = encoded(NOISE, "WEBP", lossless=True, icc_profile=P3, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0", xmp=b"x" * 3000)
AVIF = encoded(NOISE, "AVIF")

WHOLE: dict[str, Callable[[], bytes]] = {
    "text over 1 MiB": lambda: with_chunk(b"zTXt", b"k\0\0" + LONG),
    "international text over 1 MiB": lambda: with_chunk(b"iTXt", b"k\0\1\0\0\0" + LONG),
    "text that is not packed at all": lambda: with_chunk(b"zTXt", b"k\0\0abc"),
    "profile over its bound": lambda: with_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(MAX_PROFILE + 1))),
    "profile that is no profile": lambda: with_chunk(b"iCCP", b"k\0\0" + zlib.compress(b"x" * 500)),
    "gamma with a wrong checksum": lambda: with_chunk(b"gAMA", struct.pack(">I", 100_000), wrong=True),
    "transparency with a wrong checksum": lambda: with_chunk(b"tRNS", bytes(6), wrong=True),
    "profile with a wrong checksum": lambda: with_chunk(b"iCCP", b"k\0\0" + zlib.compress(P3 or b""), wrong=True),
    "EXIF of garbage": lambda: with_chunk(b"eXIf", b"MM\0*" + b"\xff" * 40),
    "an unknown chunk of nothing": lambda: with_chunk(b"abCd", b"", wrong=True),
    "without IEND": lambda: PNG[:-12],
    "bytes behind IEND": lambda: PNG + b"x" * 5000,
}


@pytest.mark.parametrize("name", WHOLE)
def test_metadata_of_a_png_never_decides_whether_it_is_read(name: str) -> None:
    assert shown(WHOLE[name]()).tobytes() == NOISE.tobytes()


def test_a_png_with_damaged_pixels_header_or_palette_is_refused() -> None:
    at = PNG.index(b"IDAT")
    assert refused(PNG[: at + 100] + bytes([PNG[at + 100] ^ 1]) + PNG[at + 101 :])
    assert refused(PNG[: len(PNG) // 2])
    assert refused(PNG[:29] + bytes(4) + PNG[33:])
    paletted = encoded(NOISE.quantize(16), "PNG")
    at = paletted.index(b"PLTE")
    assert refused(paletted[: at + 5] + bytes([paletted[at + 5] ^ 1]) + paletted[at + 6 :])
    assert refused(PNG_SIGNATURE)


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
def test_a_jpeg_whose_pixels_are_whole_needs_no_end_marker_and_no_more_may_be_missing(data: bytes) -> None:
    whole = shown(data).tobytes()
    for cut in (data[:-1], data[:-2], data + b"garbage" * 99, data[:-2] + b"\xff\xff"):
        assert shown(cut).tobytes() == whole
    for missing in (4, 8, 50, 1000):
        assert refused(data[:-missing]), missing


def test_metadata_of_a_jpeg_never_decides_whether_it_is_read() -> None:
    whole = shown(JPEG).tobytes()
    told = {
        0xE1: b"Exif\0\0MM\0*" + b"\xff" * 60,
        0xE2: b"MPF\0" + b"\xff" * 90,
        0xE3: b"ICC_PROFILE\0\1\1" + b"x" * 300,
        0xED: b"Photoshop 3.0\0x",
        0xFE: b"\xff" * 60_000,
    }
    for marker, body in told.items():
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
        assert shown(JPEG[:2] + segment + JPEG[2:]).tobytes() == whole


def test_metadata_of_a_webp_never_decides_whether_it_is_read() -> None:
    for data in (WEBP, WEBP + b"x" * 50, WEBP_TOLD[:-100], WEBP[:4] + bytes(4) + WEBP[8:]):
        assert shown(data, convert=False).tobytes() == NOISE.tobytes()
    assert refused(WEBP[: len(WEBP) // 2])


@pytest.mark.parametrize("major", [b"avif", b"avis", b"mif1", b"miaf", b"msf1"])
def test_an_avif_is_known_by_its_compatible_brands(major: bytes) -> None:
    data = AVIF[:8] + major + AVIF[12:]
    assert sniff(data) == "image/avif"
    assert shown(data).size == SIZE


def test_a_heic_is_named_and_is_no_avif() -> None:
    data = struct.pack(">I", 28) + b"ftypmif1" + bytes(4) + b"mif1heicmiaf" + bytes(500)
    assert sniff(data) == "application/octet-stream"
    assert "HEIC" in answer(data, 255)[0]["message"]


# ---------------------------------------------------------------- colours

RED = Image.new("RGB", SIZE, (230, 30, 30))


def near(image: Image.Image, expected: tuple[int, ...], within: int) -> bool:
    found = image.getpixel((SIZE[0] // 2, SIZE[1] // 2))
    return all(abs(a - b) <= within for a, b in zip(found, expected, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_display_p3_becomes_srgb(format_: str) -> None:
    options: dict[str, Any] = {"PNG": {}, "WEBP": {"lossless": True}}.get(format_, {"quality": 100})
    data = encoded(RED, format_, icc_profile=P3, **options)
    assert near(shown(data), (251, 0, 0), 1 if format_ == "PNG" else 4)
    assert near(shown(data, convert=False), (230, 30, 30), 0 if format_ == "PNG" else 4)


def test_a_phones_own_profile_is_read() -> None:
    assert near(shown((HERE / "images/display-p3.png").read_bytes()), (251, 0, 0), 1)


def test_what_a_png_says_without_a_profile_counts_in_the_order_of_the_standard() -> None:
    grey = encoded(Image.new("RGB", SIZE, (128, 128, 128)), "PNG")
    linear = with_chunk(b"gAMA", struct.pack(">I", 100_000), data=grey)
    assert near(shown(linear), (188, 188, 188), 1)
    assert near(shown(with_chunk(b"sRGB", b"\0", data=linear)), (128, 128, 128), 0)
    assert near(shown(with_chunk(b"gAMA", struct.pack(">I", 45_455), data=grey)), (128, 128, 128), 0)
    assert near(shown(with_chunk(b"cICP", bytes([12, 13, 0, 1]), data=encoded(RED, "PNG"))), (251, 0, 0), 1)
    primaries = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    assert near(shown(with_chunk(b"cHRM", primaries, data=encoded(RED, "PNG"))), (251, 0, 0), 1)
    for odd in (bytes(32), b"\xff" * 32, struct.pack(">8I", *[33333] * 8)):
        assert near(shown(with_chunk(b"cHRM", odd, data=encoded(RED, "PNG"))), (230, 30, 30), 0)


def test_profiles_of_other_kinds_of_pixels_and_broken_ones_change_nothing() -> None:
    grey, press = Image.new("L", SIZE, 128), Image.new("CMYK", SIZE, (0, 200, 200, 20))
    assert P3 is not None
    for broken in (b"", b"x", P3[:200], P3[:16] + b"CMYK" + P3[20:], bytes(128)):
        assert to_srgb(RED, broken).tobytes() == RED.tobytes()
    assert to_srgb(grey, P3).mode == "RGB"
    assert to_srgb(press, P3).tobytes() == press.convert("RGB").tobytes()
    assert to_srgb(NOISE, None).tobytes() == NOISE.tobytes()


def test_a_profile_that_is_srgb_changes_no_pixel() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert to_srgb(NOISE, profile).tobytes() == NOISE.tobytes()


def test_transparency_and_orientation_survive_a_profile() -> None:
    clear = Image.new("RGBA", SIZE, (230, 30, 30, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 80, 96))
    made = shown(encoded(clear, "PNG", icc_profile=P3))
    assert (made.getpixel((10, 10)), made.getpixel((150, 10))) == ((255, 255, 255), (251, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    for format_ in ("PNG", "JPEG", "WEBP", "AVIF"):
        assert shown(encoded(NOISE, format_, exif=exif.tobytes(), icc_profile=P3)).size == (96, 160), format_
