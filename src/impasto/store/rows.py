"""Rows ↔ records, and the JSON that the database holds."""

import json
import sqlite3
from typing import Any

from impasto.errors import StoreError
from impasto.store.records import (
    Acl,
    Decision,
    Delivery,
    DeliveryAttempt,
    DeliveryRow,
    DeliveryState,
    FileRecord,
    Key,
    Lifecycle,
    LogLine,
    Outcome,
    Request,
    Result,
    Status,
)


def dump(value: Any, what: str) -> str:
    """JSON text, ASCII only (a lone surrogate survives as its escape). Raises `StoreError` for what JSON cannot say."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{what} cannot be kept as JSON: {error}") from None


def clean(text: str) -> str:
    """`text` with what UTF-8 cannot carry (lone surrogates) replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def request_of(row: sqlite3.Row) -> Request:
    outcome = row["outcome"]
    return Request(
        request_id=row["request_id"],
        endpoint=row["endpoint"],
        input=None if row["input"] is None else json.loads(row["input"]),
        seed=int(row["seed"]),
        base_url=row["base_url"],
        key_id=row["key_id"],
        priority=row["priority"],
        status=Status(row["status"]),
        outcome=None if outcome is None else Outcome(outcome),
        http_status=row["http_status"],
        error=row["error"],
        error_type=row["error_type"],
        webhook_url=row["webhook_url"],
        no_retry=bool(row["no_retry"]),
        store_io=bool(row["store_io"]),
        attempt=row["attempt"],
        crash_count=row["crash_count"],
        max_attempts=row["max_attempts"],
        lease=row["lease"],
        runner_id=row["runner_id"],
        cancel_requested=bool(row["cancel_requested"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        inference_time=row["inference_time"],
        seq=row["seq"],
    )


def result_of(row: sqlite3.Row) -> Result:
    return Result(row["http_status"], json.loads(row["payload"]), json.loads(row["headers"]))


def log_of(row: sqlite3.Row) -> LogLine:
    return LogLine(row["timestamp"], row["message"], row["level"], row["source"], json.loads(row["labels"]))


def file_of(row: sqlite3.Row) -> FileRecord:
    return FileRecord(
        token=row["token"],
        media_type=row["media_type"],
        size=row["size"],
        file_name=row["file_name"],
        request_id=row["request_id"],
        key_id=row["key_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        acl=None if row["acl"] is None else _acl(json.loads(row["acl"])),
    )


def dump_acl(acl: Acl | None) -> str | None:
    return None if acl is None else dump([acl.default, acl.rules], "the ACL")


def dump_lifecycle(lifecycle: Lifecycle | None) -> str | None:
    if lifecycle is None:
        return None
    acl = lifecycle.acl and [lifecycle.acl.default, lifecycle.acl.rules]
    return dump({"expires_in": lifecycle.expires_in, "acl": acl}, "the lifecycle")


def lifecycle_of(text: str | None) -> Lifecycle:
    if text is None:
        return Lifecycle()
    value = json.loads(text)
    return Lifecycle(value["expires_in"], None if value["acl"] is None else _acl(value["acl"]))


def _acl(value: list[Any]) -> Acl:
    default, rules = value
    return Acl(Decision(default), tuple((user, Decision(decision)) for user, decision in rules))


def key_of(row: sqlite3.Row) -> Key:
    return Key(
        key_id=row["key_id"],
        alias=row["alias"],
        scopes=tuple(json.loads(row["scopes"])),
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )


def delivery_of(row: sqlite3.Row) -> Delivery:
    return Delivery(
        delivery_id=row["delivery_id"],
        request_id=row["request_id"],
        key_id=row["key_id"],
        url=row["url"],
        host=row["host"],
        state=DeliveryState(row["state"]),
        attempt=row["attempt"],
        tries=row["tries"],
        next_at=row["next_at"],
        created_at=row["created_at"],
        claim=row["claim"],
        claimed_until=row["claimed_until"],
    )


def attempt_of(row: sqlite3.Row) -> DeliveryAttempt:
    return DeliveryAttempt(
        number=row["number"],
        at=row["at"],
        http_status=row["http_status"],
        error=row["error"],
        seconds=row["seconds"],
    )


def delivery_row_of(row: sqlite3.Row) -> DeliveryRow:
    last = None
    if row["last_number"] is not None:
        last = DeliveryAttempt(
            number=row["last_number"],
            at=row["last_at"],
            http_status=row["last_http_status"],
            error=row["last_error"],
            seconds=row["last_seconds"],
        )
    return DeliveryRow(delivery=delivery_of(row), endpoint=row["endpoint"], last=last, seq=row["seq"])
