"""`/v1/models/requests/…`: what was sent to an endpoint, newest first; and its payloads erased."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any

import msgspec
from starlette.responses import Response

from impasto.api.bodies import Json
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.api.platform.door import whose
from impasto.api.queue import shown_payload
from impasto.errors import BadRequest, NotFound
from impasto.files.urls import file_url
from impasto.store.records import InputFacts, Request, Status

HTTP = {"success": (0, 399), "user_error": (400, 499), "error": (500, 599)}
SHORT = 200  # characters of a text in a summary
PAGE_BYTES = (
    4 * 2**20
)  # of the rows of a page: they may hold images, and a client that reads slowly holds its page in memory
WAITING = {"in_queue": Status.IN_QUEUE, "in_progress": Status.IN_PROGRESS}  # beyond fal's, which lists what ended


async def by_endpoint(call: Call) -> Response:
    """The caller's own; of everybody for an ADMIN key. `expand=payloads` adds what went in and came out, `summary`
    (ours) what a list shows of it.
    """
    query = call.request.query_params
    ids = q.endpoint_ids(query)
    if len(ids) != 1:
        raise BadRequest("endpoint_id names one endpoint, e.g. endpoint_id=fal-ai/flux-pro.")
    status = q.choice(query, "status", (*HTTP, *WAITING))
    q.choice(query, "sort_by", ("ended_at",))
    expand = q.expands(query, ("payloads", "summary"))
    size = q.limit(query)
    if wanted := query.get("request_id"):
        request = own(call, wanted)
        found = [] if request is None or request.endpoint != ids[0] else [request]
    else:
        start, end = q.moment(query, "start", UTC), q.moment(query, "end", UTC)
        found = await call.gateway.reading.run(
            call.gateway.store.requests,
            key_id=whose(call),
            endpoints=ids,
            status=Status.COMPLETED if status is None else WAITING.get(status),
            http_status=None if status is None else HTTP.get(status),
            since=None if start is None else start.timestamp(),
            until=None if end is None else end.timestamp(),
            before=q.place(query),
            limit=size + 1,
        )
    return await page_of(call, found, size, lambda request: item(call, request, expand))


async def page_of(
    call: Call,
    found: Sequence[Request],
    size: int,
    row: Callable[[Request], dict[str, Any]],
    *,
    more: int | None = None,
) -> Response:
    """One page of at most `size` of the requests, and of no more bytes than `PAGE_BYTES`, but for a single row; the
    cursor says where the next page begins. `more`: where it does when all that was `found` is shown. Made beside the
    event loop: payloads are read from the disk.
    """

    def made() -> Json:
        rows: list[msgspec.Raw] = []
        spent = 0
        for request in found[:size]:
            text = msgspec.json.encode(row(request))
            spent += len(text)
            if rows and spent > PAGE_BYTES:
                break
            rows.append(msgspec.Raw(text))
        next_ = found[len(rows) - 1].seq if len(found) > len(rows) else more
        next_ = None if next_ is None else str(next_)
        return Json(q.page("items", rows, next_=next_))

    return await call.gateway.reading.run(made)


async def erase(call: Call) -> Response:
    """Input, output and produced files are gone for good, at once; uploads stay, another request may use them."""
    return Json({"cdn_delete_results": await _erase(call)})


async def erase_io(call: Call) -> Response:
    """The same in its older form, at rest.alpha.fal.ai."""
    return Json({"CDN_DELETE_RESULTS": await _erase(call)})


async def _erase(call: Call) -> list[dict[str, Any]]:
    request = named(call)
    store, blobs = call.gateway.store, call.gateway.blobs
    tokens = await store.erase_payloads(request.request_id)
    if tokens is None:
        raise BadRequest("The request is still in progress; cancel it, or wait for its end.")
    results: list[dict[str, Any]] = []
    for token in tokens:
        fault: str | None = None
        try:
            await asyncio.to_thread(blobs.delete, token)
        except OSError as error:
            fault = error.strerror or str(error)  # the hourly collection tries again
        results.append({"link": file_url(call.address.file_base, token), "exception": fault})
    await store.forget_files([token for token, row in zip(tokens, results, strict=True) if row["exception"] is None])
    return results


def named(call: Call) -> Request:
    """The request that the path names. Raises NotFound unless the caller may see it."""
    request = own(call, call.request.path_params["request_id"])
    if request is None:
        raise NotFound("No request of this caller has that id.")
    call.request_id = request.request_id
    return request


def own(call: Call, request_id: str) -> Request | None:
    """The request, if the caller may see it."""
    request = call.gateway.store.get(request_id)
    return request if request is not None and whose(call) in (None, request.key_id) else None


def item(call: Call, request: Request, expand: Sequence[str]) -> dict[str, Any]:
    """A request as fal lists it."""
    store, started, ended = call.gateway.store, request.started_at, request.finished_at
    row: dict[str, Any] = {
        "request_id": request.request_id,
        "endpoint_id": request.endpoint,
        "sent_at": q.shown(request.created_at),
        "started_at": None if started is None else q.shown(started),
        "ended_at": None if ended is None else q.shown(ended),
        "status_code": request.http_status,
        "duration": None if started is None or ended is None else round(ended - started, 6),
    }
    if "payloads" in expand or "summary" in expand:
        result = store.result(request.request_id)
        made = None if result is None else shown_payload(call, request, result)
        if "payloads" in expand:
            row["json_input"], row["json_output"] = store.input(request.request_id), made
        if "summary" in expand:
            row["summary"] = _summary(store.input_facts([request.seq]).get(request.seq), made)
    return row


def _summary(given: InputFacts | None, made: Any) -> dict[str, Any]:
    """What a list of requests shows of one, in a few hundred bytes: payloads may hold whole pictures. `picture` is the
    first one's URL, None where that is a data URI; `kept` whether there is an input still.
    """
    prompt = None if given is None else given.prompt
    images = made.get("images") if isinstance(made, dict) else None
    pictures = images if isinstance(images, list) else []
    url = pictures[0].get("url") if pictures and isinstance(pictures[0], dict) else None
    return {
        "prompt": None if prompt is None else prompt[:SHORT],
        "picture": url if isinstance(url, str) and not url.startswith("data:") else None,
        "pictures": len(pictures),
        "kept": given is not None and given.kept,
    }
