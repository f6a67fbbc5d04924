"""`GET /files/{token}`: the bytes of pictures and uploads, for whoever knows the URL, unless an ACL says otherwise.

In: a token, looked up as it stands (no path is ever made of it here). Out: the bytes with type, length, ETag and cache
headers, or one range of them. Nothing that a browser could run is ever shown in place, and what is shown is sandboxed.
What is not public no cache may keep for others.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from typing import BinaryIO

from starlette.responses import Response, StreamingResponse

from impasto.api import readers
from impasto.api.gateway import Call
from impasto.api.media import content_disposition
from impasto.errors import NotFound
from impasto.store.records import FileRecord

CHUNK = 256 * 1024  # bytes
YEAR = 365 * 24 * 3600  # seconds; a file never changes
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def download(call: Call) -> Response:
    """200, 206 for a single range, 304 for a known ETag, 416 past the end; 404 for anything else."""
    token: str = call.request.path_params["token"]
    record = call.gateway.store.file(token)
    if record is None or (record.expires_at is not None and record.expires_at <= time.time()):
        raise NotFound(readers.MISSING)
    readers.check(call, record)
    request_headers = call.request.headers
    headers = _headers(record)
    if _matches(request_headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, record.size, 200
    wanted = request_headers.get("range")
    if wanted is not None and request_headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        found = single_range(wanted, record.size)
        if found is not None:
            start, end = found
            if start >= end:
                headers["Content-Range"] = f"bytes */{record.size}"
                return Response(status_code=416, headers=headers)
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{record.size}"
    headers["Content-Length"] = str(end - start)
    if call.request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    file = await asyncio.to_thread(call.gateway.blobs.open, token)
    return StreamingResponse(_read(file, start, end - start), status_code=status, headers=headers)


def single_range(header: str, size: int) -> tuple[int, int] | None:
    """(start, end) of `bytes=a-b`, `bytes=a-` or `bytes=-n`, end exclusive; start >= end: not satisfiable.

    None for anything else, several ranges above all: HTTP lets a server answer those with the whole file.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or len(header) > 60:
        return None
    first, last = match[1], match[2]
    if first:
        end = min(int(last) + 1, size) if last else size
        return None if last and int(last) < int(first) else (int(first), end)
    if not last:
        return None
    return (max(size - int(last), 0), size) if int(last) else (size, size)


def etag(token: str) -> str:
    """Strong: the bytes of a token never change."""
    return f'"{hashlib.sha256(token.encode("utf-8")).hexdigest()[:32]}"'


def _headers(record: FileRecord) -> dict[str, str]:
    seconds = YEAR if record.expires_at is None else max(int(record.expires_at - time.time()), 0)
    kind = "text/plain; charset=utf-8" if record.media_type == "text/plain" else record.media_type
    headers = {
        "Content-Type": kind,
        "Content-Disposition": content_disposition(record.media_type, record.file_name),
        "ETag": etag(record.token),
        "Accept-Ranges": "bytes",
        "Cache-Control": f"public, max-age={seconds}, immutable",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Referrer-Policy": "no-referrer",
    }
    if not readers.is_public(record):
        headers |= {"Cache-Control": "private, no-cache", "Vary": "Authorization"}
    return headers


def _matches(header: str | None, tag: str) -> bool:
    return header is not None and any(
        part.strip().removeprefix("W/") in (tag, "*") for part in header[:4096].split(",")
    )


async def _read(file: BinaryIO, start: int, length: int) -> AsyncIterator[bytes]:
    try:
        await asyncio.to_thread(file.seek, start)
        while length > 0:
            chunk = await asyncio.to_thread(file.read, min(CHUNK, length))
            if not chunk:
                return
            length -= len(chunk)
            yield chunk
    finally:
        file.close()
