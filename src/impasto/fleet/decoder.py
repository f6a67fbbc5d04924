"""A child process that decodes callers' pictures: what is hostile about them stays in here.

In (stdin): frames of a byte of ground (the grey that shows through), a byte that says whether colours become sRGB, 8
bytes of length and an image file. Out (stdout): for each, 4 bytes of length and a JSON object, then its `size` bytes of
PNG: RGB, upright, at most 2 MP. Or `type`, `message` and `ctx` of what is wrong with it.
Memory and processor time are limited by the system; the header is read before the pixels, so that a small file cannot
unfold into a large picture. Nothing but Pillow is imported: the process is there in a moment.
"""

import io
import json
import math
import os
import resource
import sys
import zlib
from dataclasses import replace
from typing import Any, BinaryIO

from PIL import AvifImagePlugin, Image, ImageFile

from impasto.files.images import HEIC, INLINE, brands, sniff
from impasto.fleet.colour import profile_of, to_srgb
from impasto.fleet.containers import MAX_PROFILE, Parts, ended_jpegs, take_apart
from impasto.fleet.process import become_child, prepare

MAX_PIXELS = 64_000_000  # of a caller's picture (reliability 6, row 2)
MIN_SIDE = 16  # pixels: one token
KEPT_PIXELS = 2 * 1024 * 1024  # larger ones are made smaller: no model reads more
ORIENTATION = 0x0112  # EXIF
STRIP = 256  # rows
UNREADABLE = "The image could not be read"

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {UPRIGHT[value] for value in (5, 6, 7, 8)}


class Refused(Exception):
    def __init__(self, type_: str, message: str, **ctx: int) -> None:
        super().__init__(message)
        self.facts: dict[str, Any] = {"type": type_, "message": message, "ctx": ctx}


def decode(data: bytes, ground: int, *, convert: bool = True) -> tuple[dict[str, Any], bytes]:
    """Image bytes → (facts, PNG). The first frame of several; `ground` is what shows through. Raises `Refused`.

    `convert`: colours become sRGB; False for masks and depth maps, whose numbers are no colours.
    """
    media_type = sniff(data)
    if media_type not in INLINE:
        named = " (it is HEIC)" if HEIC & brands(data) else ""
        message = f"The file is not an image that can be read{named}: send JPEG, PNG, WebP, GIF or AVIF."
        raise Refused("image_load_error", message)
    parts = take_apart(data, media_type)
    del data
    if parts.ended:
        return _decode(parts, media_type, ground, convert=convert)
    one, other = (replace(parts, data=ended) for ended in ended_jpegs(parts.data))
    found = _decode(one, media_type, ground, convert=convert)
    if _sum(one.data) != _sum(other.data):
        raise Refused("image_load_error", f"{UNREADABLE}: it is incomplete.")
    return found


def _sum(data: bytes) -> int:
    """A checksum of a JPEG's pixels, at full size, taken in strips: a second copy of a large image costs memory."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        _check_size(*image.size)
        summed = 0
        for top in range(0, image.height, STRIP):
            strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
            summed = zlib.crc32(strip.tobytes(), summed)
        return summed


def _decode(parts: Parts, media_type: str, ground: int, *, convert: bool) -> tuple[dict[str, Any], bytes]:
    with Image.open(io.BytesIO(parts.data), formats=[media_type.partition("/")[2].upper()]) as image:
        width, height = image.size
        _check_size(width, height)
        scale = min(1.0, math.sqrt(KEPT_PIXELS / (width * height)))
        size = (max(round(width * scale), MIN_SIDE), max(round(height * scale), MIN_SIDE))
        if scale < 1:
            image.draft(image.mode, size)  # JPEG decodes to about this size at once
        image.seek(0)
        profile = _profile(image, parts) if convert else None
        picture = _plain(image, size if scale < 1 else None, ground, profile)
        turn = UPRIGHT.get(_orientation(image, parts.exif))
    if turn is not None:
        picture = picture.transpose(turn)
    before = [height, width] if turn in SIDEWAYS else [width, height]
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return {"width": picture.width, "height": picture.height, "before": before}, buffer.getvalue()


def _profile(image: Image.Image, parts: Parts) -> bytes | None:
    """The ICC profile of the image's colours; None: they are sRGB, as far as its file says."""
    if parts.profile is not None:
        return parts.profile
    given = image.info.get("icc_profile")
    return given if isinstance(given, bytes) and 0 < len(given) <= MAX_PROFILE else profile_of(parts.colour)


def _plain(image: Image.Image, size: tuple[int, int] | None, ground: int, profile: bytes | None = None) -> Image.Image:
    """RGB on the grey `ground`; made smaller first, so that few copies of a large image are in memory at a time.

    `profile`: ICC; colours become sRGB.
    """
    image.load()
    if image.mode.startswith("I"):  # grey of 16 bits: `point` has no table for I;16, and I to RGB would be clipped
        picture = image.convert("I").point([value >> 8 for value in range(65536)], "L")
    elif image.has_transparency_data:
        picture = image if image.mode == "RGBA" else image.convert("RGBA")
    else:
        picture = image if image.mode in {"RGB", "L", "CMYK"} else image.convert("L" if image.mode == "1" else "RGB")
    if size is not None:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if picture.mode != "RGBA":
        return to_srgb(picture, profile)
    alpha = picture.getchannel("A")
    colours = to_srgb(picture.convert("RGB"), profile)
    return Image.composite(colours, Image.new("RGB", picture.size, (ground, ground, ground)), alpha)


def _orientation(image: Image.Image, given: bytes | None) -> int:
    """1 for an image that says nothing, or nothing that can be read. `given`: EXIF that was taken out of the file."""
    try:
        exif = image.getexif()
        if given is not None:
            exif = Image.Exif()
            exif.load(given)
        return int(exif.get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - Pillow's reader raises whatever the bytes make it stumble over
        return 1


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        message = f"The image has {width}x{height} pixels; it needs at least {MIN_SIDE}x{MIN_SIDE}."
        raise Refused("image_too_small", message, min_height=MIN_SIDE, min_width=MIN_SIDE)
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width}x{height}")


def _too_large(size: str) -> Refused:
    message = f"The image has {size} pixels; it may have {MAX_PIXELS} in all."
    return Refused("image_too_large", message, max_resolution=MAX_PIXELS)


def answer(data: bytes, ground: int, *, convert: bool = True) -> tuple[dict[str, Any], bytes]:
    """`decode`, with whatever goes wrong as facts; `spent`: memory ran out, this process should not go on."""
    try:
        return decode(data, ground, convert=convert)
    except Refused as refused:
        return refused.facts, b""
    except Image.DecompressionBombError:  # Pillow's own bound, which is twice ours and comes before `_check_size`
        return _too_large(f"more than {2 * MAX_PIXELS}").facts, b""
    except Exception as error:  # noqa: BLE001 - whatever a decoder stumbles over, it is the picture's fault
        message = f"{UNREADABLE}: it is damaged or incomplete ({type(error).__name__})."
        spent = isinstance(error, MemoryError)
        return {"type": "image_load_error", "message": message, "ctx": {}, "spent": spent}, b""


def limit(*, memory: int) -> None:
    """No more memory than this, no core file, no file written. Linux; macOS does not enforce the first."""
    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def allow_seconds(seconds: float) -> None:
    """Processor time from now on; past it the system ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    whole = math.ceil(used.ru_utime + used.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (whole if hard == resource.RLIM_INFINITY else min(whole, hard), hard))


def serve(source: BinaryIO, sink: BinaryIO, *, seconds: float) -> None:
    """Until the other side hangs up."""
    sink.write(b"\x01")  # it is there
    sink.flush()
    while len(head := source.read(10)) == 10:
        data = source.read(int.from_bytes(head[2:], "big"))
        allow_seconds(seconds)
        facts, png = answer(data, head[0], convert=head[1] != 0)
        words = json.dumps({**facts, "size": len(png)}).encode()
        sink.write(len(words).to_bytes(4, "big") + words + png)
        sink.flush()


def main() -> None:
    """`python -m impasto.fleet.decoder PARENT_PID MEMORY SECONDS`"""
    parent, memory, seconds = sys.argv[1:4]
    prepare()
    become_child(int(parent))
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each thread would take its own address space
    limit(memory=int(memory))
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    serve(sys.stdin.buffer, sink, seconds=float(seconds))


if __name__ == "__main__":
    main()
