"""Outputs and errors as OpenAI's clients read them.

In: a finished request's stored output, or an error in fal's shape. Out: `{"created", "data": […]}` and
`{"error": {"message", "type", "param", "code"}}`. There is no `usage`: nothing here is counted in tokens.
"""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any, Literal

from starlette.responses import Response

from impasto.api.bodies import Json
from impasto.api.gateway import Blobs
from impasto.files.urls import token_of

FIELDS = {"image_size": "size", "num_images": "n", "image_url": "image"}  # fal's names in errors → OpenAI's
CODES = {401: "invalid_api_key", 413: "request_too_large", 429: "rate_limit_exceeded"}

Form = Literal["url", "b64_json"]


# ---------------------------------------------------------------- pictures


async def pictures(output: Mapping[str, Any], blobs: Blobs, form: Form | None) -> list[dict[str, Any]]:
    """`data[]` of a model's output, in `form` or in both."""
    prompt = output.get("prompt")
    revised = {"revised_prompt": prompt} if isinstance(prompt, str) else {}
    data: list[dict[str, Any]] = []
    for image in output["images"]:
        item: dict[str, Any] = {}
        if form != "b64_json":
            item["url"] = image["url"]
        if form != "url":
            item["b64_json"] = await base64_of(image["url"], blobs)
        data.append(item | revised)
    return data


async def base64_of(url: str, blobs: Blobs) -> str:
    """The bytes behind one of our own URLs, or in a data URI."""
    if url.startswith("data:"):
        return url.partition(",")[2]
    return await asyncio.to_thread(_read, blobs, token_of(url) or "")


def _read(blobs: Blobs, token: str) -> str:
    with blobs.open(token) as file:
        return base64.b64encode(file.read()).decode("ascii")


def size_of(image: Mapping[str, Any]) -> str:
    return f"{image['width']}x{image['height']}"


# ---------------------------------------------------------------- errors


def failure(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """The answer to an error that has fal's `body` and `headers`. What fal calls 422 is 400 here.

    OpenAI's clients repeat a 5xx by themselves unless `x-should-retry` says that it would end the same way.
    """
    again = next((value for name, value in headers.items() if name.lower() == "x-fal-retryable"), "false")
    shown = {**headers, "x-should-retry": again}
    return Json(error(status, body, headers), status_code=400 if status == 422 else status, headers=shown)


def error(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    detail = body.get("detail", "The request failed.")
    fal_type = next((value for name, value in headers.items() if name.lower() == "x-fal-error-type"), None)
    code = CODES.get(status, fal_type or "internal_error")
    param = "model" if code == "model_not_found" else None
    message = detail
    if isinstance(detail, list):
        first = detail[0]
        name = str(first["loc"][1]) if len(first["loc"]) > 1 else None
        param, code = FIELDS.get(name, name) if name else None, first["type"]
        message = "; ".join(_line(item) for item in detail)
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _line(item: Mapping[str, Any]) -> str:
    where = [str(part) for part in item["loc"][1:]]
    return ": ".join([*([".".join([FIELDS.get(where[0], where[0]), *where[1:]])] if where else []), str(item["msg"])])
