"""Take an image file apart: pixels for the decoder, and from its metadata only colour profile and orientation.

In: a PNG, JPEG, WebP or AVIF file of a caller. Out: `Parts`, the same pixels in a file without other metadata. Metadata
never decides whether an image is read: what is damaged, cut or too large in it is dropped. Damaged pixels stay damaged,
for the decoder to refuse. Nothing is unpacked here but a profile, up to `MAX_PROFILE`.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAX_PROFILE = 4 * 1024 * 1024  # bytes of a colour profile; those of printing presses have up to 3 MB
MAX_EXIF = 1024 * 1024
MAX_BOXES = 64 * 1024  # bytes of an AVIF in which its colours are looked for
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EOI = b"\xff\xd9"
_ICC = b"ICC_PROFILE\0"
_EXIF = b"Exif\0\0"
_WEBP_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # in VP8X: ICC profile, EXIF, XMP
_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}


class Damaged(Exception):
    """A part without which there are no pixels is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """What a file says of its colours without a profile; None: nothing."""

    cicp: tuple[int, int] | None = None  # primaries and transfer function, ITU-T H.273
    gamma: float | None = None  # of the encoding: 0.45455
    primaries: tuple[float, ...] | None = None  # x, y of white, red, green, blue
    srgb: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """`data` has no metadata left but what Pillow needs to decode the pixels."""

    data: bytes
    profile: bytes | None = None  # ICC
    exif: bytes | None = None  # a TIFF structure, without the "Exif" in front
    colour: Colour = Colour()
    ended: bool = True  # False: a JPEG without its end marker, whose pixels may be whole all the same


def take_apart(data: bytes, media_type: str) -> Parts:
    """Split an image file by its type. Raises `Damaged`; what is not understood is handed on as it is."""
    match media_type:
        case "image/png":
            return _png(data)
        case "image/jpeg":
            return _jpeg(data)
        case "image/webp":
            return _webp(data)
        case "image/avif":
            # Pillow knows few of the major brands.
            return Parts(data=data[:8] + b"avif" + data[12:], colour=_avif_colour(data))
        case _:
            return Parts(data=data)


# ---------------------------------------------------------------- PNG


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool | None]]:
    """(type, body, whether the checksum is right) up to IEND; None: the file ends within the chunk."""
    view, at = memoryview(data), len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        cut = end + 4 > len(data)
        sound = None if cut else zlib.crc32(view[at + 4 : end]) == struct.unpack_from(">I", data, end)[0]
        yield kind, view[at + 8 : min(end, len(data))], sound
        at = end + 4
        if kind == b"IEND":
            return


def _png(data: bytes) -> Parts:
    kept: list[tuple[bytes, bytes]] = []
    pixels: list[memoryview] = []
    told: dict[bytes, bytes] = {}
    for kind, body, sound in _chunks(data):
        if kind == b"IDAT":
            if sound is False:
                raise Damaged
            pixels.append(body)  # the last one may be cut behind the last pixel
        elif kind[:1].isupper():
            if not sound and kind != b"IEND":
                raise Damaged
            if kind != b"IEND":
                kept.append((kind, bytes(body)))
        elif sound and kind in {b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"eXIf"} and len(body) <= MAX_PROFILE:
            told.setdefault(kind, bytes(body))
        elif sound and kind == b"tRNS" and len(body) <= 768:
            kept.append((kind, bytes(body)))
    chunks = [*kept, (b"IDAT", b"".join(pixels)), (b"IEND", b"")]
    exif = told.get(b"eXIf")
    return Parts(
        data=PNG_SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks),
        profile=_unpacked(told[b"iCCP"]) if b"iCCP" in told else None,
        exif=exif if exif is not None and len(exif) <= MAX_EXIF else None,
        colour=_png_colour(told),
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _unpacked(body: bytes) -> bytes | None:
    """The profile of an iCCP chunk; None: it is damaged or too large."""
    _, _, packed = body.partition(b"\0")
    try:
        unpack = zlib.decompressobj()
        profile = unpack.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return None
    return profile if unpack.eof else None


def _png_colour(told: dict[bytes, bytes]) -> Colour:
    cicp, gamma, primaries = (told.get(kind, b"") for kind in (b"cICP", b"gAMA", b"cHRM"))
    return Colour(
        cicp=(cicp[0], cicp[1]) if len(cicp) == 4 else None,
        gamma=struct.unpack(">I", gamma)[0] / 100_000 if len(gamma) == 4 else None,
        primaries=tuple(x / 100_000 for x in struct.unpack(">8I", primaries)) if len(primaries) == 32 else None,
        srgb=b"sRGB" in told,
    )


# ---------------------------------------------------------------- JPEG


def _jpeg(data: bytes) -> Parts:
    """Segments before the first scan; what follows it stays as it is, and what the format has no name for, too."""
    view, at = memoryview(data), 2
    kept: list[bytes | memoryview] = [data[:2]]
    profile: dict[int, bytes] = {}
    exif: bytes | None = None
    while True:
        while at + 1 < len(data) and data[at] == data[at + 1] == 0xFF:
            at += 1  # fill bytes
        if at + 4 > len(data) or data[at] != 0xFF:
            return Parts(data=data)
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        body = view[at + 4 : at + 2 + length]
        if marker == 0xDA or length < 2:
            break
        if marker == 0xE1 and bytes(body[:6]) == _EXIF and exif is None:
            exif = bytes(body[6:])
        elif marker == 0xE2 and bytes(body[:12]) == _ICC and len(body) > 14:
            profile.setdefault(body[12], bytes(body[14:]))
        elif not (0xE1 <= marker <= 0xED or marker in {0xEF, 0xFE}):  # JFIF and Adobe's say how colours are stored
            kept.append(view[at : at + 2 + length])
        at += 2 + length
    whole = b"".join(profile[number] for number in sorted(profile))
    return Parts(
        data=b"".join([*kept, view[at:]]),
        profile=whole if 0 < len(whole) <= MAX_PROFILE else None,
        exif=exif,
        ended=data.rfind(_EOI, at) >= 0,
    )


def ended_jpegs(data: bytes) -> tuple[bytes, bytes]:
    """Two files that end a JPEG without an end marker. They decode to the same pixels if, and only if, none is missing:
    what stands in for missing bits differs.
    """
    data = data.rstrip(b"\xff")
    return data + _EOI, data + b"\x55\x2a\x33\x6d" * 64 + _EOI


# ---------------------------------------------------------------- AVIF


def _avif_colour(data: bytes) -> Colour:
    """Of the first `colr` box with code points, in the boxes before the pixels."""
    at = data.find(b"colrnclx", 0, MAX_BOXES)
    if at < 0 or at + 12 > len(data):
        return Colour()
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    return Colour(cicp=(primaries, transfer))


# ---------------------------------------------------------------- WebP


def _webp(data: bytes) -> Parts:
    at, kept, told = 12, [b"WEBP"], dict[bytes, bytes]()
    while at + 8 <= len(data):
        kind, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        body = data[at + 8 : at + 8 + length]
        whole = len(body) == length
        if kind == b"VP8X" and whole and body:
            kept.append(data[at : at + 8] + bytes([body[0] & ~_WEBP_METADATA_FLAGS]) + body[1:] + bytes(length % 2))
        elif kind in _WEBP_PIXELS:
            kept.append(data[at : at + 8] + body + bytes(length % 2 if whole else 0))
        elif whole and kind in {b"ICCP", b"EXIF"} and length <= MAX_PROFILE:
            told.setdefault(kind, body)
        at += 8 + length + length % 2
    file = b"".join(kept)
    exif = told.get(b"EXIF")
    return Parts(
        data=b"RIFF" + struct.pack("<I", len(file)) + file,
        profile=told.get(b"ICCP"),
        exif=None if exif is None else exif.removeprefix(_EXIF),
    )
