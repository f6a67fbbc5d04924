"""`/v1/requests`, ours and not fal's: the whole history in one list, of every endpoint and in every state, by words;
and one of it cancelled.

fal lists the ended requests of one endpoint (`requests.by_endpoint`); who looks through pictures wants all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from starlette.responses import Response

from impasto.api import webhooks
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.api.platform.door import whose
from impasto.api.platform.requests import HTTP, WAITING, item, named, own, page_of
from impasto.api.queue import end_early, log_line
from impasto.store.records import InputFacts, Request, Status

SEARCHED = 2_000  # requests that one search for words looks at; its cursor goes on behind them
BATCH = 200
MAX_WORDS = 200  # characters
EXPANDS = ("payloads", "summary", "logs", "webhook")


async def requests(call: Call) -> Response:
    """Newest first. `endpoint_id`, `status`, `request_id` as with fal but optional; `q`: words of the prompt.
    `expand`: payloads (input and output), summary (what a list shows of them), logs, webhook (where it stands, every
    try).
    """
    query = call.request.query_params
    expand = q.expands(query, EXPANDS)
    size = q.limit(query)
    if wanted := query.get("request_id"):
        request = own(call, wanted)
        found, more = [] if request is None else [request], None
    elif words := _words(call):
        found, more = await call.gateway.reading.search(_search, call, _listing(call), words, size + 1)
    else:
        found, more = await call.gateway.reading.run(_listing(call), q.place(query), size + 1), None
    return await page_of(call, found, size, lambda request: _row(call, request, expand), more=more)


async def cancel(call: Call) -> Response:
    """As the queue's cancel, with its answers, and of anybody's request for an ADMIN key."""
    return await end_early(call, named(call))


Listing = Callable[[int | None, int], list[Request]]


def _listing(call: Call) -> Listing:
    """(before, limit) → requests that the filters of the query let through."""
    query, store = call.request.query_params, call.gateway.store
    status = q.choice(query, "status", (*HTTP, *WAITING))
    ids = q.endpoint_ids(query)
    key_id = whose(call)
    state = None if status is None else WAITING.get(status, Status.COMPLETED)
    http = None if status is None else HTTP.get(status)

    def listed(before: int | None, limit: int) -> list[Request]:
        return store.requests(key_id=key_id, endpoints=ids, status=state, http_status=http, before=before, limit=limit)

    return listed


def _words(call: Call) -> list[str]:
    return call.request.query_params.get("q", "")[:MAX_WORDS].lower().split()


def _search(call: Call, listed: Listing, words: Sequence[str], size: int) -> tuple[list[Request], int | None]:
    """Return up to `size` requests whose prompt has all the words, and where to go on: None when all were looked at.

    One call looks at `SEARCHED` requests at most.
    """
    before = q.place(call.request.query_params)
    found: list[Request] = []
    for _ in range(0, SEARCHED, BATCH):
        batch = listed(before, BATCH)
        prompts = call.gateway.store.input_facts([request.seq for request in batch])
        found += [request for request in batch if _has(prompts.get(request.seq), words)]
        if len(batch) < BATCH:
            return found[:size], None
        before = batch[-1].seq
        if len(found) >= size:
            break
    return found[:size], before


def _has(facts: InputFacts | None, words: Sequence[str]) -> bool:
    prompt = (facts.prompt or "").lower() if facts is not None else ""
    return all(word in prompt for word in words)


def _row(call: Call, request: Request, expand: Sequence[str]) -> dict[str, Any]:
    row = item(call, request, expand) | {
        "status": request.status.value,
        "attempts": request.attempt,
        "error": request.error,
        "error_type": request.error_type,
        "webhook_url": request.webhook_url,
    }
    store = call.gateway.store
    if "logs" in expand:
        row["logs"] = [log_line(line) for line in store.logs(request.request_id)]
    if "webhook" in expand:
        found = store.delivery(request.request_id)
        row["webhook"] = None if request.webhook_url is None else webhooks.shown(request, found, call.gateway.store)
    return row
