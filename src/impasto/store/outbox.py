"""The outbox of webhooks: every move of a delivery, each one function over an open transaction.

    post (with the end of its request) · claim · record · redeliver · release (at the start of a server)

A claim is fenced as a lease is: whoever comes back after its claim lapsed may still add to the log what happened, but
no longer moves the delivery. Times are those of `Store.steady`: a clock that is set moves no try.
"""

import uuid
from collections.abc import Mapping
from urllib.parse import urlsplit

from impasto.store.records import Delivery, DeliveryAttempt, DeliveryState, Lane
from impasto.store.rows import clean, delivery_of
from impasto.store.writer import Transaction

MAX_ATTEMPTS = 100  # lines of the log that are kept: a delivery can be asked for again and again
LAPSED = "Nobody wrote down how it ended: the server was stopped meanwhile."


def post(tx: Transaction, request_id: str, key_id: str, url: str, now: float) -> None:
    """The outbox row of a request that ends in this transaction; due at once."""
    delivery_id = str(uuid.uuid4())
    tx.run(
        "delivery_insert",
        delivery_id=delivery_id,
        request_id=request_id,
        key_id=key_id,
        url=url,
        host=host_of(url),
        now=now,
    )
    tx.posted = True


def claim(tx: Transaction, wanted: Mapping[Lane, int], *, seconds: float, now: float) -> list[Delivery]:
    claimed: list[Delivery] = []
    for (key_id, host), limit in wanted.items():
        for row in tx.rows("delivery_due", key_id=key_id, host=host, now=now, limit=max(limit, 0)):
            if row["claim"] is not None:
                lapsed = DeliveryAttempt(number=row["attempt"], at=now, http_status=None, error=LAPSED, seconds=0.0)
                _append(tx, row["delivery_id"], lapsed)
            token, until = uuid.uuid4().hex, now + seconds
            moved = tx.row("delivery_claim", delivery_id=row["delivery_id"], claim=token, until=until)
            if moved is not None:
                claimed.append(delivery_of(moved))
    return claimed


def record(
    tx: Transaction, delivery: Delivery, attempt: DeliveryAttempt, *, state: DeliveryState, next_at: float
) -> bool:
    _append(tx, delivery.delivery_id, attempt)
    return (
        tx.run(
            "delivery_settle",
            delivery_id=delivery.delivery_id,
            claim=delivery.claim,
            state=state.value,
            next_at=next_at,
        )
        > 0
    )


def redeliver(tx: Transaction, request_id: str, now: float) -> bool:
    tx.posted = True
    return tx.run("delivery_again", request_id=request_id, now=now) > 0


def release(tx: Transaction, now: float) -> int:
    """What the former process was at is due now. Its claim stays in the row, so that the next one logs it as lapsed."""
    return tx.run("delivery_release", now=now)


def host_of(url: str) -> str:
    """host:port of a URL, in one spelling; "" for what is no URL (it is refused when it is tried)."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return clean(f"{(parts.hostname or '').rstrip('.')}:{port}")
    except ValueError:
        return ""


def _append(tx: Transaction, delivery_id: str, attempt: DeliveryAttempt) -> None:
    tx.run(
        "attempt_insert",
        delivery_id=delivery_id,
        number=attempt.number,
        at=attempt.at,
        http_status=attempt.http_status,
        error=None if attempt.error is None else clean(attempt.error),
        seconds=attempt.seconds,
    )
    tx.run("attempts_trim", delivery_id=delivery_id, number=attempt.number - MAX_ATTEMPTS)
