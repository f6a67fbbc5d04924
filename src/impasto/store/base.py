"""The store's verbs. One protocol, one test suite, one dialect a file (`sqlite`; `postgres` comes later).

Every verb that moves a request is one transaction with all its side rows (reliability 5.5, T1 to T11): the transition
records, notifies and schedules; nobody else touches the tables. Returning means: durable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from impasto.store.records import (
    Acl,
    CancelResult,
    Delivery,
    DeliveryAttempt,
    DeliveryRow,
    DeliveryState,
    DurationRow,
    FileRecord,
    Held,
    InputFacts,
    Key,
    Lane,
    LogLine,
    NewRequest,
    Outcome,
    Request,
    Result,
    SigningKey,
    Status,
    UsageRow,
)


class Store(Protocol):
    # ------------------------------------------------------------ requests: moves
    async def submit(self, new: NewRequest) -> Request:
        """T1. IN_QUEUE, durable before it returns. A known (key_id, idempotency_key) returns the first request.

        Raises `ModelError` (422) when that key came with another endpoint or input (it is known for 24 hours),
        `QueueFull` (429) past the request's own `max_queued`, `max_open` or `max_queue_length`, and when the inputs of
        open requests fill what the store's inputs may take; `PayloadTooLarge` (413) for one that never fits.
        """
        ...

    async def claim(
        self,
        *,
        endpoints: Sequence[str],
        runner_id: str,
        limit: int,
        lease_seconds: float,
        idle: bool = True,
        busy: Collection[str] | None = None,
        suspects: Collection[tuple[str, str]] = (),
        resting: Collection[tuple[str, str]] = (),
    ) -> list[Request]:
        """T2. Up to `limit` requests → IN_PROGRESS with a fresh lease and attempt+1.

        Normal before low, keys in turn, first come first served within a key. No key gets more than the store's
        `max_running` at a time. A request that lost a runner (`crash_count`) comes alone, and only to an `idle` one:
        until then nothing behind it is claimed, so that it is not passed for ever. `busy`: key ids of which nothing is
        claimed; then each other key gets at most one. `suspects`: lanes (key id, endpoint) whose requests come alone,
        too, and let others pass; `resting`: lanes of which nothing is claimed. The cost of a claim does not grow with
        the keys and endpoints that wait.
        """
        ...

    def charge(self, request: Request, work: float) -> None:
        """Count a claimed request as `work` ordinary images (1024 × 1024 pixels, 28 steps) in the turns of its key.
        Until then it counts as much as the last one of its key.
        """
        ...

    def settle(self, request: Request, share: float) -> None:
        """Refund what was not done of a claimed request: `share`, 0 to 1, was. Once; later calls do nothing."""
        ...

    async def renew(self, leases: dict[str, str], *, lease_seconds: float) -> tuple[list[str], list[str]]:
        """T3. {request_id: lease} → (lost request ids: stop now, request ids whose cancel was asked)."""
        ...

    async def progress(self, request_id: str, lease: str, lines: Sequence[LogLine]) -> bool:
        """Append log lines of the attempt that holds `lease`; False: the lease is not ours any more."""
        ...

    async def finish(
        self,
        request_id: str,
        lease: str,
        *,
        outcome: Outcome,
        result: Result,
        files: Sequence[FileRecord] = (),
        error: str | None = None,
        error_type: str | None = None,
        inference_time: float | None = None,
        pictures: int = 0,
        input_: dict[str, object] | None = None,
    ) -> bool:
        """T4. IN_PROGRESS → COMPLETED if `lease` still holds; True again for the same lease (T4'); else False: dropped.

        `files` are served from the same instant on, for as long and for whom the request's lifecycle says; else for
        everybody and as long as its result is kept. `input_`
        replaces the stored input (say, with data URIs turned into file URLs).
        """
        ...

    async def requeue(
        self,
        request_id: str,
        lease: str,
        *,
        crashed: bool,
        drain: bool = False,
        reason: str,
        result: Result | None = None,
        error: str | None = None,
        error_type: str | None = None,
    ) -> Request | None:
        """T5, T6, T10. Back to IN_QUEUE with back-off, or COMPLETED(ERROR): attempts used up; None: lease lost.

        That end is `result` with `error` and `error_type`; without it a 503 that blames the runner. COMPLETED(CANCELLED
        499) when its cancel was asked meanwhile. `drain`: the attempt does not count, no back-off.
        """
        ...

    async def defer(self, request_id: str, lease: str) -> bool:
        """Give a claimed request back until its files are read (`files_are_read`), without an attempt. False: the lease
        does not hold it, or its cancel was asked, which ends it.
        """
        ...

    async def files_are_read(self, request_id: str) -> bool:
        """Let a waiting request be claimed whose files had to be read first. False: it waits for none any more."""
        ...

    async def cancel(self, request_id: str) -> CancelResult:
        """T7 (queued: COMPLETED, 499) or T8 (running: the runner is told; it ends within a step)."""
        ...

    async def sweep(self, *, late: float = 0.0, held: Held | None = None) -> int:
        """T5, T6, T9, T11: leases that ran out, start deadlines missed, rows past their retention. → how many moved.

        Not one transaction but several short ones: others write in between. After a second the rest is left to the
        next call. `held`: which leases wait for their result to be stored (they go on), and which of those that ran
        out are counted as a crash; None: all of them. `late`: seconds for which this process stood still before it.
        When that is much of a lease, leases get it on top: their holders' beats wait to be read.
        """
        ...

    async def recover(self, *, blamed: Collection[str] | None = None) -> int:
        """At start of an embedded server: requeue what the former process left IN_PROGRESS; the deliveries that it had
        claimed are due. A server that is stopped leaves nothing, so that this one was killed, perhaps by its work: no
        attempt is counted, but a crash of the leases that are `blamed` (None: of all), and as many crashes as may be of
        one request end it.
        """
        ...

    # ------------------------------------------------------------ requests: reads (cheap, synchronous)
    def get(self, request_id: str) -> Request | None:
        """The request without its input: what a poll needs, at the same small cost whatever was sent."""
        ...

    def input(self, request_id: str) -> dict[str, Any] | None:
        """The input of a request, {} when it was not to be kept; None: unknown. A large one of a request that drew
        nothing, or that had to make room, has its long strings cut.
        """
        ...

    def reading_after(self, lane: tuple[str, str]) -> tuple[str, str] | None:
        """The next (key id, endpoint) after `lane` for which requests wait for their files; None: none follows."""
        ...

    def reading(self, lane: tuple[str, str], *, limit: int) -> list[tuple[str, int]]:
        """(request id, priority) of the first requests of a lane that wait for their files."""
        ...

    async def unread(self, request_id: str) -> tuple[Request, int] | None:
        """A request that waits for its files, with its input and the input's size in characters; read in a thread.
        None: it does not wait for them any more.
        """
        ...

    def result(self, request_id: str) -> Result | None: ...

    def logs(self, request_id: str, *, after: int = 0) -> list[LogLine]: ...

    async def position(self, request: Request) -> int:
        """Return how many requests are claimed before this one if nothing comes, whatever their endpoint. 0 = next.

        Exact up to 256 waiting requests, as long as each costs what the last one of its key did. Beyond, as of a
        moment ago: usually a quarter of a second, at most some seconds.
        """
        ...

    def queued(self, endpoint: str | None = None) -> int: ...

    def queue_counts(self) -> dict[str, int]:
        """Count the waiting requests of each endpoint that has some. Reads the whole queue: call it in a thread."""
        ...

    # ------------------------------------------------------------ webhook deliveries (made when their request ends)
    def steady(self) -> float:
        """Return unix seconds at `open` plus the seconds since, whatever the machine's clock is set to. Delays that
        outlive the process are kept on it: `next_at` of deliveries, start deadlines.
        """
        ...

    def deliveries_due(self) -> dict[Lane, float]:
        """Each key and host (host:port) that something is to be delivered for → when the first is due, by `steady`.
        Reads all of them: call it in a thread.
        """
        ...

    async def claim_deliveries(self, wanted: Mapping[Lane, int], *, seconds: float) -> list[Delivery]:
        """Due deliveries, at most so many a lane: attempt+1, theirs for `seconds`; a claim that lapses is due again."""
        ...

    async def record_delivery(
        self,
        delivery: Delivery,
        attempt: DeliveryAttempt,
        *,
        state: DeliveryState,
        next_at: float | None = None,
        note: str | None = None,
    ) -> bool:
        """Append to the delivery's log; move it (DELIVERED, DEAD, DUE again at `next_at`) if its claim still holds.

        `note` goes to the request's log with the move. False: the claim lapsed, somebody else decides.
        """
        ...

    def delivery(self, request_id: str) -> tuple[Delivery, list[DeliveryAttempt]] | None:
        """The delivery of an ended request and its last 100 attempts; None: not ended, or without webhook."""
        ...

    def deliveries(
        self,
        *,
        key_id: str | None = None,
        state: DeliveryState | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[DeliveryRow]:
        """Newest first. `key_id` None: of all keys' requests. `before`: the `seq` that ended the last page, whose row
        may be gone meanwhile. May take a while: call it in a thread.
        """
        ...

    async def redeliver(self, request_id: str) -> bool:
        """Make the request's delivery due now, whatever its state; False: it has none."""
        ...

    async def delivery_due(self, *, timeout: float) -> None:
        """Wait until a delivery may be due: a request with a webhook ended here, or `timeout` seconds are over."""
        ...

    # ------------------------------------------------------------ keys that sign webhooks
    async def ensure_signing_key(self) -> None:
        """Make the first key, if there is none."""
        ...

    async def rotate_signing_key(self, *, overlap: float) -> SigningKey:
        """A new key, which signs in `overlap` seconds; old ones stay published as long again. 0: a key leaked."""
        ...

    def signing_keys(self) -> list[SigningKey]:
        """The published keys, in the order in which they sign."""
        ...

    # ------------------------------------------------------------ looking back
    def requests(
        self,
        *,
        key_id: str | None = None,
        endpoints: Sequence[str] = (),
        status: Status | None = None,
        http_status: tuple[int, int] | None = None,
        since: float | None = None,
        until: float | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[Request]:
        """Newest first, without inputs. `key_id` None: of all keys; no `endpoints`: of all. `http_status`: lowest and
        highest, both included. `since`, `until`: of the submit. `before`: the `seq` that ended the last page, whose row
        may be gone meanwhile. What a filter leaves out is read all the same: call it in a thread.
        """
        ...

    def input_facts(self, seqs: Sequence[int]) -> dict[int, InputFacts]:
        """Prompt and size of the inputs of the requests with these `seq`s, without reading the inputs themselves."""
        ...

    async def usage(
        self, *, buckets: Sequence[float], until: float, key_id: str | None = None, whole: bool = False
    ) -> tuple[list[UsageRow], list[DurationRow]]:
        """Requests that ended from the first bucket's start to `until`, by bucket, endpoint and key; the durations by
        bucket and endpoint, `whole`: by bucket, of all endpoints together. `buckets`: starts in unix seconds,
        ascending. `key_id` None: of all keys.
        """
        ...

    async def erase_payloads(self, request_id: str) -> list[str] | None:
        """Erase input and result of a COMPLETED request for good, and take its files out of service; → their tokens.

        None: unknown or not completed. The bytes go as those of expired files do.
        """
        ...

    # ------------------------------------------------------------ waking up
    async def changed(self, request_id: str, *, since: int, timeout: float) -> int:
        """Wait until the request's change counter passes `since` or `timeout` seconds are over; → the counter now."""
        ...

    def version(self, request_id: str) -> int:
        """The request's change counter (0 before its first change in this process)."""
        ...

    async def work_available(self, *, timeout: float) -> None:
        """Wait for the doorbell: something was submitted or requeued, or a cancel was asked."""
        ...

    # ------------------------------------------------------------ files and keys
    async def add_file(self, file: FileRecord, *, quota: int | None = None, max_files: int | None = None) -> bool:
        """Serve an upload from now on; False: its token is known already, and stays as it is.

        Raises `QuotaExceeded` when the key's uploads would take more than `quota` bytes or be more than `max_files`;
        judged where it is written,
        so that of many at once only those that fit are taken.
        """
        ...

    def file(self, token: str) -> FileRecord | None:
        """The file, while it is served; None: unknown or past its retention."""
        ...

    def stored_files(self, key_id: str) -> int:
        """How many uploads in service this key made. Results are not counted."""
        ...

    def stored_bytes(self, key_id: str) -> int:
        """Bytes of the uploads in service that this key made. Results are not counted."""
        ...

    async def set_acl(self, token: str, acl: Acl) -> bool:
        """Say anew who may read a file; False: it is not served."""
        ...

    async def delete_file(self, token: str) -> bool:
        """Stop serving a file at once; its bytes go with the next sweep. False: it was not served."""
        ...

    def known_files(self, tokens: Sequence[str]) -> set[str]:
        """Those of `tokens` that the store has a row for, served or not. May be called from a thread."""
        ...

    def expired_files(self, *, limit: int = 500) -> list[FileRecord]:
        """Files that `sweep` took out of service. Delete their bytes, then `forget_files`: a row outlives its bytes."""
        ...

    async def forget_files(self, tokens: Sequence[str]) -> int:
        """Drop the rows of expired files whose bytes are gone; → how many. Files in service are left alone."""
        ...

    async def create_key(self, *, alias: str, scopes: Sequence[str]) -> tuple[Key, str]:
        """→ (record, "key_id:secret"). The secret is shown this once; only its keyed hash is kept."""
        ...

    def authenticate(self, key_id: str, secret: str) -> Key | None:
        """The live key, compared in constant time; None: unknown or revoked."""
        ...

    def key(self, key_id: str) -> Key | None:
        """Return the key, revoked or not; None: unknown."""
        ...

    def keys(self) -> list[Key]: ...

    async def revoke_key(self, key_id: str) -> bool: ...

    @property
    def healthy(self) -> bool:
        """False after a failed write to the disk: every verb raises `StoreError`, the process should end."""
        ...

    @property
    def full(self) -> bool:
        """Whether a write found no room on the disk within the last seconds."""
        ...

    async def close(self) -> None: ...
