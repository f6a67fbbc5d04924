"""Pixels ↔ image bytes, data URIs, and what bytes are. Pillow and numpy are imported only where they work."""

import base64
import binascii
import io
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Format = Literal["jpeg", "png"]

JPEG_QUALITY = 95
PNG_LEVEL = 1  # level 6 takes five times as long for a few percent
OCTETS = "application/octet-stream"
INLINE = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif", "image/avif"})
AVIF = frozenset({b"avif", b"avis"})
HEIC = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"})
BLANKS = b" \t\r\n"  # `base64` and others wrap lines at 76 letters
MAX_ESCAPES = 100_000  # %XX in a data URI
_SNIFFED_TEXT = 1024  # bytes
_TEXT_CONTROLS = set(b"\t\n\r\f")


def encode(pixels: "NDArray[np.uint8]", format: Format) -> tuple[bytes, str]:
    """(H, W, 3) uint8 RGB → (bytes, media type). The same pixels give the same bytes with the same Pillow.

    JPEG keeps full colour resolution (4:4:4): drawn pictures have hard edges between saturated colours, which 4:2:0
    smears; it costs about a fifth more bytes. Raises `ValueError` for another shape, type or format.
    """
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != "uint8":
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; an image is uint8 (height, width, 3)")
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    match format:
        case "jpeg":
            image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        case "png":
            image.save(buffer, "PNG", compress_level=PNG_LEVEL)
        case _:
            raise ValueError(f"format {format!r} is not one of jpeg, png")
    return buffer.getvalue(), f"image/{format}"


def data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def parse_data_uri(text: str) -> tuple[bytes, str]:
    """(bytes, media type) of an RFC 2397 URI; the type is what it claims, see `sniff`. Blanks in base64 are skipped.

    Raises `ValueError` with a message for the caller.
    """
    if text.count("%") > MAX_ESCAPES:  # each costs a microsecond
        raise ValueError(f"the data URI has more than {MAX_ESCAPES} percent escapes; send it as base64")
    head, comma, body = text.partition(",")
    if head[:5].lower() != "data:" or not comma:
        raise ValueError("not a data URI: it must look like data:image/png;base64,iVBORw0…")
    media_type, *parameters = head[5:].split(";")
    if not parameters or parameters[-1].strip().lower() != "base64":
        return unquote_to_bytes(body), media_type.lower() or "text/plain"
    try:
        letters = unquote_to_bytes(body).translate(None, BLANKS)
        return base64.b64decode(letters, validate=True), media_type.lower() or "text/plain"
    except binascii.Error as error:
        raise ValueError(f"the data URI is not valid base64: {error}") from None


def sniff(data: bytes) -> str:
    """The media type that the first bytes prove. What nothing proves is text/plain if it reads as text, else octets."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if AVIF & brands(data):
        return "image/avif"
    return "text/plain" if _is_text(data[:_SNIFFED_TEXT]) else OCTETS


def brands(data: bytes) -> frozenset[bytes]:
    """The brands of an ISO media file (AVIF, HEIC, MP4), major and compatible; of any other file none."""
    if data[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(data[:4], "big"), len(data), _SNIFFED_TEXT)
    return frozenset([data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))])


def disposition(media_type: str) -> Literal["inline", "attachment"]:
    """Whether a browser may show it. Only the images that `sniff` proves: SVG, HTML and text could carry a script."""
    return "inline" if media_type in INLINE else "attachment"


def _is_text(head: bytes) -> bool:
    if not head or any(byte < 32 and byte not in _TEXT_CONTROLS for byte in head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == _SNIFFED_TEXT  # a character cut by the window
    return True
