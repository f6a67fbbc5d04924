"""What the store keeps: plain frozen records and the status machine they go through.

    IN_QUEUE ──claim──▶ IN_PROGRESS ──finish/cancel──▶ COMPLETED (absorbing; outcome OK | ERROR | CANCELLED | TIMEOUT)
        ▲                   │
        └──────requeue──────┘   runner lost, lease over, drain

There is no FAILED and no CANCELLED status: fal's clients know three words only (protocol section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"


class Outcome(StrEnum):
    OK = "OK"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"


class CancelResult(StrEnum):
    """The words of the cancel answer (protocol section 3.5)."""

    CANCELLATION_REQUESTED = "CANCELLATION_REQUESTED"
    ALREADY_COMPLETED = "ALREADY_COMPLETED"
    NOT_FOUND = "NOT_FOUND"


class Decision(StrEnum):
    """What a reader gets (protocol section 8.4)."""

    ALLOW = "allow"
    FORBID = "forbid"  # 403
    HIDE = "hide"  # 404, as if there were no such file


@dataclass(frozen=True, slots=True)
class Acl:
    """Who may read a file besides its owner. `rules`: (key id, decision); the first that names the reader counts."""

    default: Decision = Decision.ALLOW
    rules: tuple[tuple[str, Decision], ...] = ()

    @property
    def public(self) -> bool:
        """Whether it refuses nobody."""
        return {self.default, *(decision for _, decision in self.rules)} == {Decision.ALLOW}

    def decide(self, reader: str | None) -> Decision:
        return next((decision for user, decision in self.rules if user == reader), self.default)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What X-Fal-Object-Lifecycle(-Preference) asks for."""

    expires_in: float | None = None  # seconds from the file's creation; None: the server's rule
    acl: Acl | None = None  # None: everybody may read


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRequest:
    """What `submit` takes. `input` is the caller's JSON, unvalidated: the queue answers 422 at the result."""

    request_id: str
    endpoint: str
    input: dict[str, Any]
    seed: int  # fixed at admission, so that another attempt draws the same picture
    base_url: str  # scheme://host the client used; result and file URLs are built on it
    key_id: str = ""  # "" = the open mode of a loopback server
    priority: int = 0  # 0 normal, 1 low
    webhook_url: str | None = None
    no_retry: bool = False
    store_io: bool = True
    start_timeout: float | None = None  # seconds the caller is ready to wait for the start
    idempotency_key: str | None = None
    max_attempts: int | None = None  # None: the server's setting
    lifecycle: Lifecycle | None = None  # of the files that it will make
    names_files: bool = False  # its images and LoRAs are read before it is claimed
    max_queued: int | None = None  # refused when so many of its key wait
    max_open: int | None = None  # refused when so many of its key wait or run
    max_queue_length: int | None = None  # refused when more than so many wait at its endpoint, of all keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the gateway knows of leases, for a sweep."""

    waiting: Mapping[str, str] = field(default_factory=dict[str, str])  # request id → lease: its result is to be stored
    blamed: frozenset[str] = frozenset()  # leases at work in a runner that died or is silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One stored request. Times are unix seconds (UTC)."""

    request_id: str
    endpoint: str
    input: dict[str, Any] | None = field(compare=False)  # None from `Store.get`, for polls; `Store.input` reads it
    seed: int
    base_url: str
    key_id: str
    priority: int
    status: Status
    outcome: Outcome | None
    http_status: int | None  # of the result; None until COMPLETED
    error: str | None  # one line for the status answer
    error_type: str | None
    webhook_url: str | None
    no_retry: bool
    store_io: bool
    attempt: int  # 1 for the first
    crash_count: int  # attempts that took their runner with them
    max_attempts: int
    lease: str | None
    runner_id: str | None
    cancel_requested: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    inference_time: float | None  # seconds, of the attempt that completed
    seq: int = 0  # its place in the order of arrival, for lists


@dataclass(frozen=True, slots=True)
class InputFacts:
    """What is known of an input without reading it."""

    prompt: str | None  # its first 2,000 characters; None: there is none, or it was not to be kept
    size: int  # bytes of JSON

    @property
    def kept(self) -> bool:
        return self.size > len("{}")


@dataclass(frozen=True, slots=True)
class Result:
    """The one stored answer of a request; immutable once visible."""

    http_status: int
    payload: Any  # JSON: the model's output, or the error body
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class LogLine:
    timestamp: str  # ISO 8601, UTC, no zone suffix, as fal prints it
    message: str
    level: str = "INFO"  # STDERR STDOUT ERROR INFO WARN DEBUG
    source: str = "USER"
    labels: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One served file; the bytes lie in `files.blobs` under `token`."""

    token: str  # path below /files/, unguessable
    media_type: str
    size: int  # bytes
    file_name: str | None = None
    request_id: str | None = None  # None: an upload
    key_id: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    acl: Acl | None = None  # None: everybody may read

    def decide(self, reader: str | None) -> Decision:
        """What `reader` gets: a key id ("" in the open mode), or None for somebody unknown. The owner always reads."""
        if self.acl is None or reader == self.key_id:
            return Decision.ALLOW
        return self.acl.decide(reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key as the store knows it: never the secret, only its hash."""

    key_id: str
    alias: str
    scopes: tuple[str, ...]  # "API", "ADMIN"
    created_at: float
    last_used_at: float | None = None
    revoked_at: float | None = None


class DeliveryState(StrEnum):
    DUE = "DUE"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"  # given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One webhook and its series of attempts (reliability 5.7). `claim` fences it, as a lease fences a request."""

    delivery_id: str
    request_id: str
    key_id: str  # of the request
    url: str
    host: str  # host:port
    state: DeliveryState
    attempt: int  # number of the last attempt, the one under way included; over all series
    tries: int  # the same, since the webhook was last asked for
    next_at: float  # when it is due; while it is claimed: when the claim lapses
    created_at: float
    claim: str | None
    claimed_until: float | None  # None: nobody is at it


Lane = tuple[str, str]
"""(key id, host:port): deliveries that wait for each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryAttempt:
    """One line of the delivery log that the caller can read."""

    number: int  # 1 for the first
    at: float
    http_status: int | None  # None: no answer
    error: str | None  # why there was none, or why it did not count; None: delivered
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """A delivery in a list of them."""

    delivery: Delivery
    endpoint: str
    last: DeliveryAttempt | None  # the last that is written down; None: nobody tried yet
    seq: int  # its place in the list


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """An Ed25519 key of the webhooks."""

    kid: str
    private: bytes = field(repr=False)  # 32 bytes, the seed
    public: bytes  # 32 bytes
    created_at: float
    active_from: float  # it signs from then on, until a younger one does
    retire_at: float | None  # it is published until then


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Requests of one endpoint and key that ended in one bucket of time."""

    bucket: float  # its start, unix seconds
    endpoint: str
    key_id: str
    requests: int
    successes: int
    user_errors: int  # 4xx, cancels included
    errors: int  # 5xx
    pictures: int
    inference_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationRow:
    """How long the successful requests of one endpoint and bucket waited and ran: seconds at 50, 75 and 90 percent."""

    bucket: float
    endpoint: str  # "": all together
    waited: tuple[float, float, float]
    ran: tuple[float, float, float]
