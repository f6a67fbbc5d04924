"""`impasto requests`: what the store knows of requests, as text. Beside a running server or without one."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

from impasto.plain import printable
from impasto.serve import open_store
from impasto.settings import Settings
from impasto.store.records import Request, Status
from impasto.store.sqlite import SqliteStore

LONG = 200  # characters; a longer word of an input or a result (a data URI) is cut


@asynccontextmanager
async def _store(settings: Settings) -> AsyncGenerator[SqliteStore]:
    store = await open_store(settings, make=False)
    try:
        yield store
    finally:
        await store.close()


async def lines(
    settings: Settings,
    *,
    endpoint: str | None = None,
    key_id: str | None = None,
    status: str | None = None,
    before: str | None = None,
    limit: int = 20,
) -> list[str]:
    """One line a request, newest first."""
    async with _store(settings) as store:
        last = None if before is None else store.get(before)
        if before is not None and last is None:
            return []
        found = store.requests(
            endpoints=() if endpoint is None else (endpoint,),
            key_id=key_id,
            status=None if status is None else Status(status),
            before=None if last is None else last.seq,
            limit=limit,
        )
    return [_line(request) for request in found]


def _line(request: Request) -> str:
    seconds = "" if request.inference_time is None else f"{request.inference_time:.1f} s"
    http = "" if request.http_status is None else str(request.http_status)
    head = f"{request.request_id}  {request.status.value:<11}  {http:>3}  {seconds:>7}"
    return printable(f"{head}  {_time(request.created_at)}  {request.endpoint}  {request.key_id}".rstrip())


async def details(settings: Settings, request_id: str) -> str | None:
    """The whole request; None: unknown."""
    async with _store(settings) as store:
        request = store.get(request_id)
        if request is None:
            return None
        facts: dict[str, object] = {
            "request": request.request_id,
            "endpoint": request.endpoint,
            "status": request.status.value,
            "outcome": "" if request.outcome is None else f"{request.outcome.value} ({request.http_status})",
            "error": request.error,
            "key": request.key_id,
            "seed": request.seed,
            "attempt": request.attempt,
            "submitted": _time(request.created_at),
            "started": _time(request.started_at),
            "ended": _time(request.finished_at),
            "inference": "" if request.inference_time is None else f"{request.inference_time:.3f} s",
        }
        result = store.result(request_id)
        text = [f"{name:<10} {printable(str(value))}" for name, value in facts.items() if value not in (None, "")]
        text += ["input", _json(store.input(request_id))]
        text += [
            "logs",
            *(printable(f"  {line.timestamp} {line.level:<5} {line.message}") for line in store.logs(request_id)),
        ]
        text += ["result", "  none" if result is None else _json(result.payload)]
        return "\n".join(text)


async def cancel(settings: Settings, request_id: str) -> str:
    """→ CANCELLATION_REQUESTED, ALREADY_COMPLETED or NOT_FOUND."""
    async with _store(settings) as store:
        return (await store.cancel(request_id)).value


def _time(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _json(value: object) -> str:
    text = json.dumps(_cut(value), indent=2, ensure_ascii=False)
    return "\n".join("  " + printable(line) for line in text.split("\n"))


def _cut(value: object) -> Any:
    if isinstance(value, str) and len(value) > LONG:
        return f"{value[:LONG]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {key: _cut(inner) for key, inner in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_cut(inner) for inner in cast("list[object]", value)]
    return value
