"""`/v1/system/activity`, ours and not fal's: what was drawn, for whom and how fast, over time. ADMIN only.

fal's analytics tell percentiles endpoint by endpoint. Those of the whole server are neither their sum nor their mean,
so the store is asked for them.
"""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from impasto.api.bodies import Json
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.api.platform.door import admin
from impasto.api.platform.reports import COUNTS, DURATIONS, grouped
from impasto.errors import BadRequest
from impasto.store.records import DurationRow, UsageRow

LOCAL = "local"  # the caller of an open server


async def activity(call: Call) -> Response:
    """By bucket of time, by endpoint, by key. `endpoint_id` narrows it to one endpoint."""
    admin(call)
    query = call.request.query_params
    where = q.zone(query)
    start, end = q.span(query, where)
    ids = q.endpoint_ids(query)
    if len(ids) > 1:
        raise BadRequest("endpoint_id names one endpoint at most, e.g. endpoint_id=fal-ai/flux-pro.")
    one = ids[0] if ids else None
    starts = [at.timestamp() for at in q.buckets(query, start, end)]
    until = end.timestamp()
    counts, durations = await _rows(call, starts, until, one)
    _, whole = await _rows(call, starts[:1], until, one)  # percentiles of the whole are not those of its parts
    names = {key.key_id: key.alias for key in call.gateway.store.keys()}  # noqa: SIM118 - a store is no mapping
    by_bucket = {row.bucket: row for row in durations}
    return Json(
        {
            "time_series": [
                {"bucket": q.shown(bucket, where), **_counts(rows), **_durations(by_bucket.get(bucket))}
                for bucket, rows in grouped(counts, lambda row: row.bucket).items()
            ],
            "summary": {**_counts(counts), **_durations(whole[0] if whole else None)},
            "endpoints": [
                {"endpoint_id": id_, **_counts(rows)} for id_, rows in grouped(counts, lambda row: row.endpoint).items()
            ],
            "keys": [
                {"key_id": key_id, "alias": names.get(key_id, key_id or LOCAL), **_counts(rows)}
                for key_id, rows in grouped(counts, lambda row: row.key_id).items()
            ],
        }
    )


async def _rows(
    call: Call, buckets: Sequence[float], until: float, endpoint: str | None
) -> tuple[list[UsageRow], list[DurationRow]]:
    counts, durations = await call.gateway.store.usage(buckets=buckets, until=until, whole=endpoint is None)
    if endpoint is None:
        return counts, durations
    return [row for row in counts if row.endpoint == endpoint], [row for row in durations if row.endpoint == endpoint]


def _counts(rows: Sequence[UsageRow]) -> dict[str, Any]:
    found: dict[str, Any] = {name: sum(getattr(row, attribute) for row in rows) for name, attribute in COUNTS.items()}
    pictures, seconds = sum(row.pictures for row in rows), sum(row.inference_seconds for row in rows)
    return found | {"pictures": pictures, "inference_seconds": round(seconds, 3)}


def _durations(row: DurationRow | None) -> dict[str, float | None]:
    values = [None] * len(DURATIONS) if row is None else [round(seconds, 3) for seconds in (*row.waited, *row.ran)]
    return dict(zip(DURATIONS, values, strict=True))
