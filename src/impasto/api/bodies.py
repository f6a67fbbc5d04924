"""Bodies in and out: read with a limit while they stream, parsed as one JSON object; written as JSON.

A body that is not JSON is refused at once with FastAPI's item for it (422 `json_invalid`), in the queue too: what
cannot be parsed cannot be kept for later. An empty body means {}: JavaScript's client sends none for an empty input.
"""

import codecs
import re
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from impasto.api.warden import STATE, Line
from impasto.errors import ModelError, PayloadTooLarge, docs_url

MIB = 1024 * 1024
MAX_DEPTH = 32  # arrays and objects within each other; no input of any endpoint needs five
MAX_VALUES = 100_000  # commas and opening brackets; parsed, 30 MiB of them would be gigabytes and stop the event loop

_BYTE = re.compile(r"\(byte (\d+)\)")


class Json(Response):
    """`application/json` from plain data. Numbers go out exactly, up to 64-bit seeds and beyond."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


async def read_body(request: Request, *, limit_mb: int, setting: str) -> bytes:
    """The whole body. Raises `PayloadTooLarge`, which names `setting`, once more than `limit_mb` MiB are there;
    `TooMuchBuffered` (429) when its key's bodies, or all, hold too much memory.
    """
    size = 0
    chunks: list[bytes] = []
    check_declared(request, limit_mb=limit_mb, setting=setting)
    line: Line | None = request.scope.get("state", {}).get(STATE)
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_mb * MIB:
            raise too_large(limit_mb, setting)
        if line is not None:
            line.holds(size)
        chunks.append(chunk)
    return b"".join(chunks)


def let_go(request: Request) -> None:
    """Count the body of a request as gone, which waits on for something else."""
    line: Line | None = request.scope.get("state", {}).get(STATE)
    if line is not None:
        line.holds(0)


def check_declared(request: Request, *, limit_mb: int, setting: str) -> None:
    """Refuse a too large Content-Length before a byte of the body is read."""
    declared = whole_number(request.headers.get("content-length", ""))
    if declared is not None and declared > limit_mb * MIB:
        raise too_large(limit_mb, setting)


def whole_number(text: str) -> int | None:
    """`text` as a number of at most 18 ASCII digits, else None: `int` takes more and refuses long ones."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def too_large(limit_mb: int, setting: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit_mb} MiB, the limit of this server (setting {setting}).")


async def read_object(request: Request, *, limit_mb: int) -> dict[str, Any]:
    """The body as a JSON object. Raises `ModelError` (422) for anything else, `PayloadTooLarge` (413)."""
    body = await read_body(request, limit_mb=limit_mb, setting="server.max_body_mb")
    return parse_object(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """`body` as a JSON object at most `MAX_DEPTH` deep; no body is {}. Raises `ModelError`.

    A byte order mark is skipped, as fal's own parser does: editors and shells of Windows write one.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        return {}
    if sum(body.count(mark) for mark in b",[{") > MAX_VALUES:
        raise _invalid(f"the body may hold at most {MAX_VALUES} values (commas and opening brackets are counted)")
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from None
    if not isinstance(value, dict):
        item = _item("body", "Input should be a valid dictionary", "dict_type")
        raise ModelError([item])
    if _deeper(value, MAX_DEPTH):
        raise _too_deep()
    return cast("dict[str, Any]", value)


def _deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            child
            for parent in level
            for child in (cast("dict[str, object]", parent).values() if isinstance(parent, dict) else parent)  # pyright: ignore[reportGeneralTypeIssues]
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _item(loc: str, message: str, type_: str) -> dict[str, Any]:
    parts = ["body"] if loc == "body" else ["body", loc]
    return {"loc": parts, "msg": message, "type": type_, "url": docs_url(type_)}


def _invalid(reason: str) -> ModelError:
    at = _BYTE.search(reason)
    item = _item(at[1] if at else "0", "JSON decode error", "json_invalid")
    return ModelError([{**item, "ctx": {"error": reason}, "input": {}}])


def _too_deep() -> ModelError:
    return _invalid(f"arrays and objects may be nested at most {MAX_DEPTH} deep")
