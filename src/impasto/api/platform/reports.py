"""`/v1/models/usage`: pictures and what they cost, `/v1/models/analytics`: requests, errors, durations; over time."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import tzinfo
from itertools import groupby
from typing import Any, TypeVar

from starlette.responses import Response

from impasto.api.bodies import Json
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.api.platform.door import whose
from impasto.api.platform.pricing import UNIT
from impasto.store.records import DurationRow, UsageRow

Row = TypeVar("Row", UsageRow, DurationRow)

USAGE = ("time_series", "summary", "auth_method")
COUNTS = {
    "request_count": "requests",
    "success_count": "successes",
    "user_error_count": "user_errors",
    "error_count": "errors",
}
PERCENTS = (50, 75, 90)
DURATIONS = [f"p{percent}_{name}" for name in ("prepare_duration", "duration") for percent in PERCENTS]
ANALYTICS = ("time_series", "summary", *COUNTS, *DURATIONS)
DEFAULT_ANALYTICS = ("time_series", "request_count", "success_count", "user_error_count", "error_count")


async def usage(call: Call) -> Response:
    query = call.request.query_params
    where, expand = q.zone(query), q.expands(query, USAGE, ("time_series",))
    start, end = q.span(query, where)
    starts = [at.timestamp() for at in q.buckets(query, start, end)]
    rows, _ = await call.gateway.store.usage(buckets=starts, until=end.timestamp(), key_id=whose(call))
    rows = _of(rows, q.endpoint_ids(query))
    by_key = "auth_method" in expand
    series = _series(rows, where, lambda some: _costs(call, some, by_key=by_key))
    size, next_ = q.slice_page(query, series, most=q.MAX_BUCKETS)
    body = (
        q.page("time_series", size, next_=next_) if "time_series" in expand else q.page("time_series", [], next_=None)
    )
    if "summary" in expand:
        body["summary"] = _costs(call, rows, by_key=by_key)
    return Json(body)


async def analytics(call: Call) -> Response:
    query = call.request.query_params
    where, expand = q.zone(query), q.expands(query, ANALYTICS, DEFAULT_ANALYTICS)
    start, end = q.span(query, where)
    ids = q.endpoint_ids(query)
    starts = [at.timestamp() for at in q.buckets(query, start, end)]
    counts, durations = await _both(call, starts, end.timestamp(), ids)
    wished = [name for name in (*COUNTS, *DURATIONS) if name in expand] or list(COUNTS)
    by_bucket = {(row.bucket, row.endpoint): row for row in durations}
    series = _series(counts, where, lambda some: _figures(some, by_bucket, wished))
    shown, next_ = q.slice_page(query, series, most=q.MAX_BUCKETS)
    body = q.page("time_series", shown if "time_series" in expand else [], next_=next_)
    if "summary" in expand:
        # Percentiles of the whole are not those of its parts: the store is asked again, for one bucket.
        counts, durations = await _both(call, starts[:1], end.timestamp(), ids)
        whole = {(row.bucket, row.endpoint): row for row in durations}
        body["summary"] = _figures(counts, whole, wished)
    return Json(body)


async def _both(
    call: Call, starts: Sequence[float], until: float, ids: Sequence[str]
) -> tuple[list[UsageRow], list[DurationRow]]:
    counts, durations = await call.gateway.store.usage(buckets=starts, until=until, key_id=whose(call))
    return _of(counts, ids), _of(durations, ids)


def _of(rows: Iterable[Row], ids: Sequence[str]) -> list[Row]:
    return [row for row in rows if not ids or row.endpoint in ids]


def _series(
    rows: Sequence[UsageRow], where: tzinfo, results: Callable[[list[UsageRow]], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Buckets in which something ended, oldest first."""
    return [
        {"bucket": q.shown(bucket, where), "results": results(list(some))}
        for bucket, some in groupby(rows, lambda row: row.bucket)
    ]


def grouped(rows: Iterable[UsageRow], key: Callable[[UsageRow], Hashable]) -> dict[Any, list[UsageRow]]:
    """In the order in which the groups begin."""
    groups: dict[Any, list[UsageRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _costs(call: Call, rows: Iterable[UsageRow], *, by_key: bool) -> list[dict[str, Any]]:
    settings = call.gateway.settings.platform
    names = {key.key_id: key.alias for key in call.gateway.store.keys()} if by_key else {}  # noqa: SIM118
    found: list[dict[str, Any]] = []
    for (id_, key_id), some in grouped(rows, lambda row: (row.endpoint, row.key_id if by_key else "")).items():
        quantity, price = sum(row.pictures for row in some), settings.price_of(id_)
        line: dict[str, Any] = {
            "endpoint_id": id_,
            "unit": UNIT,
            "quantity": quantity,
            "unit_price": price,
            "cost": round(quantity * price, 6),
            "currency": settings.currency,
        }
        found.append(line | {"auth_method": names.get(key_id, key_id or "local")} if by_key else line)
    return found


def _figures(
    rows: Iterable[UsageRow], durations: dict[tuple[float, str], DurationRow], wished: Sequence[str]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for (bucket, id_), some in grouped(rows, lambda row: (row.bucket, row.endpoint)).items():
        figures: dict[str, Any] = {
            name: sum(getattr(row, attribute) for row in some) for name, attribute in COUNTS.items()
        }
        row = durations.get((bucket, id_))
        values = [None] * len(DURATIONS) if row is None else [round(seconds, 3) for seconds in (*row.waited, *row.ran)]
        figures |= dict(zip(DURATIONS, values, strict=True))
        found.append({"endpoint_id": id_} | {name: figures[name] for name in wished})
    return found
