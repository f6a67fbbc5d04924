"""What an uploaded file is called and served as: decided by its bytes where that matters, never by the client alone.

Pictures are pictures only if their bytes say so; declared types that no browser runs are kept; everything else (HTML,
SVG, scripts, PDF, …) becomes application/octet-stream. Only proven pictures are shown in place, the rest is downloaded.
"""

import re
from urllib.parse import quote

from impasto.files.images import INLINE, OCTETS, disposition, sniff

HARMLESS = frozenset(
    {
        "text/plain", "text/csv", "application/json", "application/zip", "application/gzip", "application/x-tar",
        "audio/mpeg", "audio/wav", "audio/x-wav", "audio/ogg", "audio/flac", "audio/mp4", "audio/aac", "audio/webm",
        "video/mp4", "video/webm", "video/quicktime",
    }
)  # fmt: skip
MAX_FILE_NAME = 200  # characters


def media_type(declared: str | None, data: bytes) -> str:
    """What a file is kept and served as."""
    found = sniff(data)
    if found in INLINE:
        return found
    plain = bare(declared)
    return plain if plain in HARMLESS else OCTETS


def bare(declared: str | None) -> str:
    """A Content-Type without its parameters, in lower case."""
    return (declared or OCTETS).partition(";")[0].strip().lower()


def clean_name(file_name: str | None) -> str | None:
    """The last part of a client's file name, without control characters; only ever shown, never a path of ours."""
    if not file_name:
        return None
    last = re.split(r"[/\\]", file_name)[-1]
    last = "".join(c for c in last if c.isprintable()).strip(". ")
    return last[-MAX_FILE_NAME:] or None


def content_disposition(type_: str, file_name: str | None) -> str:
    """inline for pictures, attachment for the rest, with the name that the uploader gave."""
    kind = disposition(type_)
    return f"{kind}; filename*=UTF-8''{quote(file_name, safe='')}" if file_name else kind
