"""`/images/generations` and `/images/edits`: the same durable requests as fal's sync run and stream.

In: OpenAI's JSON or form. Out: its answer, or its events; progress events hold our previews. When the client hangs up,
the request is cancelled.
"""

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from impasto.api import queue
from impasto.api.admission import admit
from impasto.api.bodies import Json, read_object
from impasto.api.forms import read_form
from impasto.api.gateway import Call
from impasto.api.openai.answers import FIELDS, base64_of, error, failure, pictures, size_of
from impasto.api.openai.inputs import Wish, understand
from impasto.api.problems import STOPPING
from impasto.api.run import completed_or_gone
from impasto.api.sse import PING, EventStream, named_event
from impasto.api.stream import follow
from impasto.engine.job import Notice
from impasto.errors import ModelError, RequestError, ServiceUnavailable, UnknownRequest
from impasto.files.images import data_uri, sniff
from impasto.fleet.messages import Preview
from impasto.fleet.work import WARNINGS, warnings
from impasto.store.records import Request, Status

GENERATION, EDIT = "image_generation", "image_edit"  # what the names of events begin with


async def generations(call: Call) -> Response:
    """Pictures from words. 400 naming OpenAI's field, 404 for an unknown model."""
    body = await read_object(call.request, limit_mb=_limit(call))
    return await _draw(call, _understand(call, body), GENERATION)


async def edits(call: Call) -> Response:
    """One picture drawn anew after a prompt."""
    form = await read_form(call.request, limit_mb=_limit(call))
    given = [*form.files.get("image", ()), *form.files.get("image[]", ())]
    if len(given) != 1:
        raise ModelError.at("image", f"One file is needed, not {len(given)}.", "missing" if not given else "too_long")
    if "mask" in form.files:
        raise ModelError.at("mask", "Painting inside a mask is not served: leave it out.", "feature_not_supported")
    picture = data_uri(given[0], sniff(given[0]))
    return await _draw(call, _understand(call, dict(form.texts), picture), EDIT)


def _understand(call: Call, body: dict[str, Any], picture: str | None = None) -> Wish:
    return understand(body, call.gateway.endpoints, settings=call.gateway.settings.openai, picture=picture)


def _limit(call: Call) -> int:
    return call.gateway.settings.server.max_body_mb


async def _draw(call: Call, wish: Wish, kind: str) -> Response:
    request = await admit(call, wish.endpoint, wish.input, previews=wish.stream and wish.partial_images > 0)
    if wish.stream:
        stopped = ServiceUnavailable(STOPPING)
        last = named_event("error", error(stopped.status, stopped.body(), stopped.headers()))
        call.request.scope["impasto.last_words"].append(last)
        stream = EventStream(_events(call, request, wish, kind))
        stream.headers.update(_headers(wish, {}))
        return stream
    completed = await completed_or_gone(call, request)
    stored = call.gateway.store.result(request.request_id)
    if stored is None:
        raise UnknownRequest
    headers = _headers(wish, queue.headers_of(completed, stored))
    if stored.http_status >= 400:
        return failure(stored.http_status, stored.payload, headers)
    output = queue.shown_payload(call, completed, stored)
    return Json(
        {
            "created": int(completed.finished_at or completed.created_at),
            "data": await pictures(output, call.gateway.blobs, wish.form),
            "background": "opaque",
            "output_format": wish.output_format,
            "size": size_of(stored.payload["images"][0]),
        },
        headers=headers,
    )


def _headers(wish: Wish, stored: Mapping[str, str]) -> dict[str, str]:
    """The result's own, with what OpenAI's fields have no effect on before its warnings."""
    told = [Notice(**item) for item in json.loads(stored.get(WARNINGS, "[]"))]
    told = [replace(notice, field=FIELDS.get(notice.field or "", notice.field)) for notice in told]
    return {**stored, **warnings([*wish.notices, *told])}


# ---------------------------------------------------------------- stream


async def _events(call: Call, request: Request, wish: Wish, kind: str) -> AsyncIterator[bytes]:
    """Previews as they come, then one event for each finished picture; what goes wrong is an event `error`."""
    told: dict[int, tuple[int, int]] = {}  # picture → previews told, step of the last one
    try:
        async with aclosing(follow(call, request)) as changes:
            async for now in changes:
                if now is None:
                    yield PING
                elif now.status is not Status.COMPLETED:
                    for preview in call.gateway.dispatcher.previews(now.request_id):
                        count, step = told.get(preview.image, (0, 0))
                        if preview.step > step and _due(preview, count, wish.partial_images):
                            told[preview.image] = (count + 1, preview.step)
                            yield named_event(f"{kind}.partial_image", _partial(preview, count, kind, now))
                elif (stored := call.gateway.store.result(now.request_id)) is not None:
                    if stored.http_status >= 400:
                        headers = queue.headers_of(now, stored)
                        yield named_event("error", error(stored.http_status, stored.payload, headers))
                        return
                    for image in stored.payload["images"]:
                        data = await base64_of(image["url"], call.gateway.blobs)
                        picture = _picture(data, wish.output_format, size_of(image), now)
                        yield named_event(f"{kind}.completed", {"type": f"{kind}.completed", **picture, "usage": None})
    except RequestError as late:
        yield named_event("error", error(late.status, late.body(), late.headers()))


def _due(preview: Preview, told: int, wanted: int) -> bool:
    """Previews are spread evenly over the steps, the last one before the last step."""
    return told < wanted and preview.step * (wanted + 1) >= preview.steps * (told + 1)


def _partial(preview: Preview, index: int, kind: str, request: Request) -> dict[str, Any]:
    data = base64.b64encode(preview.jpeg).decode("ascii")
    picture = _picture(data, "jpeg", f"{preview.width}x{preview.height}", request)
    return {"type": f"{kind}.partial_image", "partial_image_index": index, **picture}


def _picture(data: str, format_: str, size: str, request: Request) -> dict[str, Any]:
    return {
        "b64_json": data,
        "created_at": int(request.finished_at or time.time()),
        "size": size,
        "quality": "auto",
        "background": "opaque",
        "output_format": format_,
    }
