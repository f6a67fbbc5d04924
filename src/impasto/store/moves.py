"""Every transition of a request, T1 to T11 (reliability 5.5), each one function over an open transaction.

    submit T1 · claim T2 · renew T3 · finish T4 · requeue T5 T6 T10 · cancel T7 T8 · sweep T5 T6 T9 T11 · recover

A transition owns its side rows: log lines, result, files, webhook outbox, and the notice to whoever watches. The writer
is the only one inside a transaction, so a row read here is still true when it is changed below.
"""

import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from impasto.errors import (
    ClientCancelled,
    ModelError,
    PayloadTooLarge,
    QueueFull,
    QuotaExceeded,
    RequestError,
    RequestTimeout,
    RunnerDisconnected,
    StoreError,
    docs_url,
)
from impasto.store import outbox
from impasto.store.briefs import prompt_of
from impasto.store.fairness import ORDINARY, FairOrder, Lines, Turns
from impasto.store.records import (
    Acl,
    CancelResult,
    FileRecord,
    Held,
    LogLine,
    NewRequest,
    Outcome,
    Request,
    Result,
    Status,
)
from impasto.store.rows import clean, dump, dump_acl, dump_lifecycle, lifecycle_of, request_of
from impasto.store.writer import Transaction

BACKOFF_SECONDS = 0.5  # of the first retry; doubled each time, ±20 %
MAX_BACKOFF_SECONDS = 30.0
UNREAD = 1e15  # `not_before` of a request whose files are not read yet: claims and sweeps pass it by
PASSED_SECONDS = 10.0  # for which a request that lost a runner lets others pass; then they wait until it was alone
CRASH_BACKOFF_SECONDS = 0.5  # at most, after the first crash: most often the request is innocent
IDEMPOTENCY_SECONDS = 24 * 3600.0
# X-Fal-Store-IO: 0 asks for nothing to be kept; the answer has to wait somewhere until it is fetched, so: ten minutes.
# Its pictures are part of the answer and live as long, unless the caller named a time for them.
UNSTORED_RESULT_SECONDS = 600.0
MAX_LOG_LINES = 1_000
MAX_LOG_BYTES = 256 * 1024
LOG_FULL = "The log limit of a request (1,000 lines, 256 KB) is reached; later lines are dropped."
MAX_SHORTENED = 512  # inputs in one submit; at 64 KiB each these are more than a body may have
SWEEP_LIMIT = 500  # rows in one sweep
SWEEP_STEP = 100  # rows at most in one of its transactions, during which submits wait; fewer cost more syncs a row
SWEEP_STEP_SECONDS = 0.02  # that such a transaction goes on moving: one input may take tens of megabytes


@dataclass(frozen=True, slots=True)
class LastWord:
    """How a request ends whose last attempt this was."""

    result: Result
    payload: str
    error: str | None
    error_type: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """The rules, with the clocks they are read on."""

    boot: str  # names this process's monotonic clock
    clock: Callable[[], float]  # unix seconds, for dates: created, ended, kept until
    monotonic: Callable[[], float]
    steady: Callable[
        [], float
    ]  # unix seconds at the start plus what has passed since, for delays that outlive a process
    lease_seconds: float
    max_attempts: int
    max_crashes: int
    retention_seconds: float
    max_running: int = 0  # of one key; 0: no limit
    key_input_bytes: int = 0  # stored inputs of one key; 0: no limit
    all_input_bytes: int = 0  # stored inputs of all keys; 0: no limit
    lines: Lines = field(default_factory=lambda: Lines(Turns()))

    def submit(
        self, tx: Transaction, new: NewRequest, input_: str, idempotency_hash: bytes | None, brief: str | None = None
    ) -> Request:
        """Add a request. `input_`: its JSON, ASCII; `brief`: what replaces it where a large one is not kept."""
        now = self.clock()
        if new.idempotency_key is not None:
            known = tx.row("request_by_idempotency", key_id=new.key_id, idempotency_key=new.idempotency_key)
            if known is not None and known["created_at"] > now - IDEMPOTENCY_SECONDS:
                return _same_request(known, idempotency_hash)
            if known is not None:
                tx.run("request_forget_idempotency", request_id=known["request_id"])
        _check_room(tx, new)
        self._make_room(tx, new.key_id, len(input_))
        row = tx.row(
            "request_insert",
            request_id=new.request_id,
            endpoint=new.endpoint,
            key_id=new.key_id,
            priority=new.priority,
            seed=str(new.seed),
            base_url=new.base_url,
            webhook_url=new.webhook_url,
            no_retry=new.no_retry,
            store_io=new.store_io,
            idempotency_key=new.idempotency_key,
            idempotency_hash=idempotency_hash,
            max_attempts=self.max_attempts if new.max_attempts is None else new.max_attempts,
            boot=self.boot,
            start_deadline=None if new.start_timeout is None else self.steady() + new.start_timeout,
            now=now,
            input=input_,
            lifecycle=dump_lifecycle(new.lifecycle),
            reading=new.names_files,
            not_before=UNREAD if new.names_files else 0,
        )
        tx.run(
            "input_insert",
            seq=_there(row)["seq"],
            key_id=new.key_id,
            prompt=prompt_of(new.input) if new.store_io else None,
            bytes=len(input_),
            brief=brief,
        )
        tx.changed.append(new.request_id)
        tx.rings.append(0)
        if not new.names_files:
            self.lines.add(new.endpoint, priority=new.priority, key_id=new.key_id, seq=_there(row)["seq"])
        return replace(request_of(_there(row)), input=new.input)

    def claim(
        self,
        tx: Transaction,
        *,
        endpoints: Sequence[str],
        runner_id: str,
        limit: int,
        lease_seconds: float,
        idle: bool,
        busy: Collection[str] | None = None,
        suspects: Collection[tuple[str, str]] = (),
        resting: Collection[tuple[str, str]] = (),
    ) -> list[Request]:
        now, monotonic = self.clock(), self.monotonic()
        claimed: list[Request] = []
        order = FairOrder(
            tx,
            self.lines,
            endpoints=endpoints,
            now=self.steady(),
            monotonic=monotonic,
            most=self.max_running,
            busy=busy,
            resting=resting if idle else {*resting, *suspects},
        )
        alone = False  # whether what was claimed has to be alone
        while len(claimed) < limit and not alone:
            seq = order.next()
            if seq is None:
                break
            row = tx.row(
                "request_claim",
                seq=seq,
                lease=uuid.uuid4().hex,
                lease_until=monotonic + lease_seconds,
                boot=self.boot,
                runner_id=runner_id,
                now=now,
                alone=idle and not claimed,
            )
            if row is None:  # it lost a runner, and would take its neighbours with it: it waits until it can be alone
                if tx.row("request_passed_for", seq=seq, since=monotonic - PASSED_SECONDS) is None:
                    order.passed(seq)  # others go first, but not for ever
                    continue
                break
            order.took(seq)
            claimed.append(request_of(row))
            tx.changed.append(claimed[-1].request_id)
            alone = order.lane in suspects or bool(claimed[-1].crash_count)
            order.rest(suspects)
        order.close()
        return claimed

    def charge(self, seq: int, work: float) -> None:
        """Count a claimed request as `work` ordinary images in its key's turns."""
        self.lines.moved(self.lines.turns.charge(seq, round(work * ORDINARY)))

    def settle(self, seq: int, share: float) -> None:
        """Give a key back what was not done of a request that has ended."""
        self.lines.moved(self.lines.turns.settle(seq, share))

    def renew(self, tx: Transaction, leases: Mapping[str, str], *, lease_seconds: float) -> tuple[list[str], list[str]]:
        until = self.monotonic() + lease_seconds
        lost: list[str] = []
        cancelled: list[str] = []
        for request_id, lease in leases.items():
            row = tx.row("request_renew", request_id=request_id, lease=lease, lease_until=until, boot=self.boot)
            if row is None:
                lost.append(request_id)
            elif row["cancel_requested"]:
                cancelled.append(request_id)
        return lost, cancelled

    def progress(self, tx: Transaction, request_id: str, lease: str, lines: Sequence[LogLine]) -> bool:
        row = tx.row("request_held", request_id=request_id, lease=lease)
        if row is None:
            return False
        self._log(tx, row, lines)
        return True

    def finish(
        self,
        tx: Transaction,
        request_id: str,
        lease: str,
        *,
        outcome: Outcome,
        result: Result,
        payload: str,
        files: Sequence[FileRecord],
        error: str | None,
        error_type: str | None,
        inference_time: float | None,
        pictures: int,
        input_: str | None,
    ) -> bool:
        row = tx.row("request_held", request_id=request_id, lease=lease)
        if row is None:
            # T4': a runner whose Done was answered too late says it again, and must not delete its files.
            return tx.row("result_by_lease", request_id=request_id, lease=lease) is not None
        lifecycle = lifecycle_of(row["lifecycle"])
        kept = self._kept(row) if lifecycle.expires_in is None else lifecycle.expires_in
        expires_at = self.clock() + kept
        for file in files:
            if not self._insert_file(
                tx, file, request_id=request_id, key_id=row["key_id"], expires_at=expires_at, acl=lifecycle.acl
            ):
                raise StoreError(f"the file {file.token} is known already")
        self._complete(
            tx,
            row,
            lease=lease,
            outcome=outcome,
            result=result,
            payload=payload,
            error=error,
            error_type=error_type,
            inference_time=inference_time,
            pictures=pictures,
            input_=input_,
        )
        return True

    def erase_payloads(self, tx: Transaction, request_id: str) -> list[str] | None:
        if not tx.run("payloads_erase_input", request_id=request_id):
            return None
        tx.run("input_erase", request_id=request_id)
        tx.run("payloads_erase_result", request_id=request_id)
        tx.changed.append(request_id)
        tx.erased = tx.promised = True
        return [row["token"] for row in tx.rows("payloads_retire_files", request_id=request_id)]

    def requeue(
        self,
        tx: Transaction,
        request_id: str,
        lease: str,
        *,
        crashed: bool,
        drain: bool,
        reason: str,
        last: LastWord | None,
    ) -> Request | None:
        row = tx.row("request_held", request_id=request_id, lease=lease)
        if row is None:
            return None
        return self._release(tx, row, crashed=crashed, drain=drain, reason=reason, last=last)

    def defer(self, tx: Transaction, request_id: str, lease: str) -> bool:
        row = tx.row("request_held", request_id=request_id, lease=lease)
        if row is None:
            return False
        if row["cancel_requested"]:
            self._complete_with(tx, row, Outcome.CANCELLED, ClientCancelled())
            return False
        tx.row("request_defer", request_id=request_id, lease=lease, boot=self.boot, not_before=UNREAD)
        tx.changed.append(request_id)
        tx.rings.append(0)
        return True

    def files_are_read(self, tx: Transaction, request_id: str) -> bool:
        row = tx.row("request_is_read", request_id=request_id, boot=self.boot)
        if row is None:
            return False
        self.lines.add(row["endpoint"], priority=row["priority"], key_id=row["key_id"], seq=row["seq"])
        tx.rings.append(0)
        return True

    def cancel(self, tx: Transaction, request_id: str) -> CancelResult:
        row = tx.row("request_get", request_id=request_id)
        if row is None:
            return CancelResult.NOT_FOUND
        if row["status"] == Status.COMPLETED:
            return CancelResult.ALREADY_COMPLETED
        if row["status"] == Status.IN_QUEUE:
            self._complete_with(tx, row, Outcome.CANCELLED, ClientCancelled())
        else:
            tx.run("request_ask_cancel", request_id=request_id)
            tx.changed.append(request_id)
            tx.rings.append(0)
        return CancelResult.CANCELLATION_REQUESTED

    def sweep(self, tx: Transaction, limit: int, *, late: float, held: Held | None = None) -> tuple[int, bool]:
        """One step: at most `limit` rows, or as many as its time allows. → how many moved, whether more may be due."""
        until = time.monotonic() + SWEEP_STEP_SECONDS
        tx.run("sweep_adopt_leases", boot=self.boot, lease_until=self.monotonic() + self.lease_seconds)
        self._adopt_backoff(tx)
        if late > self.lease_seconds / 2:
            tx.run("sweep_extend_leases", boot=self.boot, seconds=late)
        if held is not None:
            self.renew(tx, held.waiting, lease_seconds=self.lease_seconds)
        moved = 0
        for _ in self._sweep_each(tx, limit, held):
            moved += 1
            if moved >= limit or time.monotonic() >= until:
                return moved, True
        return self._sweep_expired(tx, limit, moved=moved, until=until)

    def _sweep_expired(self, tx: Transaction, limit: int, *, moved: int, until: float) -> tuple[int, bool]:
        """Files and requests past their time, half of what is left of `limit` each; what one does not need, the other
        gets: after a long stop a hundred thousand of both may wait.
        """
        now = self.clock()
        half = (limit - moved + 1) // 2
        files = tx.run("sweep_files", now=now, limit=half)
        moved += files
        while moved < limit and time.monotonic() < until:
            gone = tx.row("sweep_request", now=now)
            if gone is None:
                moved += tx.run("sweep_files", now=now, limit=limit - moved) if files == half else 0
                return moved, moved >= limit
            tx.changed.append(gone["request_id"])
            tx.erased = True
            moved += 1
        return moved, True

    def _sweep_each(self, tx: Transaction, limit: int, held: Held | None) -> Iterator[None]:
        """Ends a lease or a wait that is over between two yields."""
        for row in tx.rows("sweep_leases", monotonic=self.monotonic(), limit=limit):
            # Nobody knows whether a silent runner is dead; blaming what it works on keeps poison from going round.
            crashed = held is None or row["lease"] in held.blamed
            reason = "the runner fell silent" if crashed else "its lease ran out"
            self._release(tx, row, crashed=crashed, drain=False, reason=reason)
            yield
        for row in tx.rows("sweep_deadlines", now=self.steady(), limit=limit):
            self._complete_with(tx, row, Outcome.TIMEOUT, RequestTimeout(), {"X-Fal-Request-Timeout-Type": "user"})
            yield

    def recover(self, tx: Transaction, blamed: Collection[str] | None = None) -> int:
        self._adopt_backoff(tx)
        outbox.release(tx, self.steady())
        tx.erased = tx.promised = True  # by the former process, perhaps, which was killed before it emptied the log
        rows = tx.rows("requests_running")
        for row in rows:
            # A request whose caller forbade retries has had its one attempt. One that takes the whole server with it
            # (all of the machine's memory) must not do so for ever.
            crashed = blamed is None or row["lease"] in blamed
            last = row["no_retry"] or (crashed and row["crash_count"] + 1 >= self.max_crashes)
            self._release(tx, row, crashed=crashed, drain=not last, reason="the server was restarted")
        return len(rows)

    def add_file(
        self, tx: Transaction, file: FileRecord, *, quota: int | None = None, max_files: int | None = None
    ) -> bool:
        if max_files is not None:
            count = _there(tx.row("uploads_count", key_id=file.key_id, now=self.clock()))[0]
            if count >= max_files:
                raise QuotaExceeded.of_files(limit=max_files)
        if quota is not None:
            used = _there(tx.row("uploads_size", key_id=file.key_id, now=self.clock()))[0]
            if used + file.size > quota:
                raise QuotaExceeded.of(used=used, more=file.size, quota=quota)
        return self._insert_file(tx, file)

    def note(self, tx: Transaction, request_id: str, message: str, level: str) -> None:
        """A line of our own in a request's log, whatever its status."""
        row = tx.row("request_whole", request_id=request_id)
        if row is not None:
            self._note(tx, row, message, level)

    # ------------------------------------------------------------ the pieces

    def _adopt_backoff(self, tx: Transaction) -> None:
        if tx.run("sweep_adopt_backoff", boot=self.boot):
            self.lines.forget()

    def _insert_file(
        self,
        tx: Transaction,
        file: FileRecord,
        *,
        request_id: str | None = None,
        key_id: str | None = None,
        expires_at: float | None = None,
        acl: Acl | None = None,
    ) -> bool:
        """→ False: the token is known. What the record leaves open is filled in."""
        added = tx.run(
            "file_insert",
            token=file.token,
            media_type=file.media_type,
            size=file.size,
            file_name=None if file.file_name is None else clean(file.file_name),
            request_id=file.request_id or request_id,
            key_id=file.key_id or key_id or "",
            created_at=file.created_at or self.clock(),
            expires_at=expires_at if file.expires_at is None else file.expires_at,
            acl=dump_acl(file.acl or acl),
        )
        return added > 0

    def _kept(self, row: sqlite3.Row) -> float:
        """Seconds that a request's result is kept."""
        return self.retention_seconds if row["store_io"] else min(UNSTORED_RESULT_SECONDS, self.retention_seconds)

    def _release(
        self,
        tx: Transaction,
        row: sqlite3.Row,
        *,
        crashed: bool,
        drain: bool,
        reason: str,
        last: LastWord | None = None,
    ) -> Request:
        """T5, T6, T10: back to the queue, or the end when attempts, crashes or the caller's patience are used up."""
        if row["cancel_requested"]:
            return self._complete_with(tx, row, Outcome.CANCELLED, ClientCancelled())
        crashes = row["crash_count"] + crashed
        attempt: int = row["attempt"]
        used_up = row["no_retry"] or attempt >= row["max_attempts"] or crashes >= self.max_crashes
        if used_up and not drain:
            self._note(tx, row, f"Attempt {attempt} ended: {reason}. It was the last one.", "ERROR")
            if last is None:
                return self._complete_with(tx, row, Outcome.ERROR, RunnerDisconnected(), crash_count=crashes)
            return self._complete(
                tx,
                row,
                outcome=Outcome.ERROR,
                result=last.result,
                payload=last.payload,
                error=last.error,
                error_type=last.error_type,
                crash_count=crashes,
            )
        self._note(tx, row, f"Attempt {attempt} ended: {reason}. Back in the queue.", "WARN")
        delay = 0.0 if drain else _backoff(attempt, first_crash=crashed and crashes == 1)
        not_before = self.monotonic() + delay if delay else 0.0
        moved = tx.row(
            "request_requeue",
            request_id=row["request_id"],
            boot=self.boot,
            not_before=not_before,
            attempt=attempt - 1 if drain else attempt,
            crash_count=crashes,
        )
        tx.changed.append(row["request_id"])
        tx.rings.append(delay)
        place = _there(moved)
        self.lines.add(
            place["endpoint"],
            priority=place["priority"],
            key_id=place["key_id"],
            seq=place["seq"],
            wake=not_before,
        )
        return request_of(place)

    def _complete_with(
        self,
        tx: Transaction,
        row: sqlite3.Row,
        outcome: Outcome,
        error: RequestError,
        headers: Mapping[str, str] | None = None,
        *,
        crash_count: int | None = None,
    ) -> Request:
        """The end that no runner wrote: the stored result is the error's body."""
        result = Result(error.status, error.body(), error.headers() | dict(headers or {}))
        return self._complete(
            tx,
            row,
            outcome=outcome,
            result=result,
            payload=dump(result.payload, "the error"),
            error=error.message,
            error_type=error.error_type,
            crash_count=crash_count,
        )

    def _complete(
        self,
        tx: Transaction,
        row: sqlite3.Row,
        *,
        outcome: Outcome,
        result: Result,
        payload: str,
        error: str | None,
        error_type: str | None,
        lease: str | None = None,
        inference_time: float | None = None,
        pictures: int = 0,
        input_: str | None = None,
        crash_count: int | None = None,
    ) -> Request:
        """The one door into COMPLETED: status, result, webhook outbox; `lease` if a runner wrote the result."""
        now = self.clock()
        request_id: str = row["request_id"]
        done = tx.row(
            "request_complete",
            request_id=request_id,
            outcome=outcome.value,
            http_status=result.http_status,
            error=None if error is None else clean(error),
            error_type=error_type,
            inference_time=inference_time,
            pictures=pictures,
            now=now,
            expires_at=now + self._kept(row),
            input=input_,
            crash_count=row["crash_count"] if crash_count is None else crash_count,
        )
        self._note_input(tx, row, outcome, input_)
        tx.run(
            "result_insert",
            request_id=request_id,
            lease=lease,
            http_status=result.http_status,
            headers=dump(result.headers, "the result's headers"),
            payload=payload,
        )
        if row["webhook_url"] is not None:
            outbox.post(tx, request_id, row["key_id"], row["webhook_url"], self.steady())
        tx.changed.append(request_id)
        tx.erased |= not row["store_io"]
        return request_of(_there(done))

    def _note_input(self, tx: Transaction, row: sqlite3.Row, outcome: Outcome, input_: str | None) -> None:
        """Bring the index of inputs in step with what `request_complete` did to the input."""
        if not row["store_io"]:
            tx.run("input_end", seq=row["seq"], whole=False, bytes=2)
        elif input_ is not None:
            tx.run("input_end", seq=row["seq"], whole=False, bytes=len(input_))
        else:
            tx.run("input_end", seq=row["seq"], whole=outcome is Outcome.OK, bytes=None)

    def _make_room(self, tx: Transaction, key_id: str, size: int) -> None:
        """Keep the stored inputs below their limits: large ones of ended requests become brief, the oldest first.

        Raises `PayloadTooLarge` (413): not even this input fits; `QueueFull` (429): those of open requests fill it.
        """
        for scope, most, large, setting in (
            (f"key:{key_id}", self.key_input_bytes, "input_large_of_key", "queue.max_key_input_mb"),
            ("all", self.all_input_bytes, "input_large", "queue.max_input_mb"),
        ):
            used = tx.row("input_total", scope=scope)
            over = (0 if used is None else used["bytes"]) + size - most
            if not most or over <= 0:
                continue
            if size > most:
                raise PayloadTooLarge(
                    f"The input is larger than all stored inputs together may be (setting {setting})."
                )
            ended = tx.rows(large, key_id=key_id, limit=MAX_SHORTENED)
            if sum(row["freed"] for row in ended) < over:
                raise QueueFull(
                    f"The stored inputs of {'this key' if scope != 'all' else 'all keys'} take {most // 2**20} MiB, as "
                    f"much as they may (setting {setting}). Wait for requests to end, or upload files and send URLs."
                )
            for row in ended:
                if over > 0:
                    tx.run("input_shorten", seq=row["seq"])
                    tx.run("input_shortened", seq=row["seq"])
                    over -= row["freed"]

    def _note(self, tx: Transaction, row: sqlite3.Row, message: str, level: str) -> None:
        stamp = datetime.fromtimestamp(self.clock(), UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
        self._log(tx, row, [LogLine(stamp, message, level)])

    def _log(self, tx: Transaction, row: sqlite3.Row, lines: Sequence[LogLine]) -> None:
        """Append lines up to the cap; the line that does not fit is replaced by one that says so."""
        count, size, full = row["log_lines"], row["log_bytes"], row["log_full"]
        if full or not lines:
            return
        for line in lines:
            message = clean(line.message)
            length = len(message.encode()) + len(LOG_FULL)  # the notice must fit, too
            full = count + 1 >= MAX_LOG_LINES or size + length > MAX_LOG_BYTES
            if full:
                message, line = LOG_FULL, LogLine(line.timestamp, LOG_FULL, "WARN")
            count, size = count + 1, size + len(message.encode())
            tx.run(
                "log_insert",
                request_id=row["request_id"],
                n=count,
                attempt=row["attempt"],
                timestamp=clean(line.timestamp),
                message=message,
                level=clean(line.level),
                source=clean(line.source),
                labels=dump(line.labels, "the log labels"),
            )
            if full:
                break
        tx.run("request_count_logs", request_id=row["request_id"], log_lines=count, log_bytes=size, log_full=full)
        tx.changed.append(row["request_id"])


def _check_room(tx: Transaction, new: NewRequest) -> None:
    """Raises `QueueFull` (429): the queue is longer than the caller takes, or the key has as much waiting, or open, as
    it may.
    """
    longest = new.max_queue_length
    if longest is not None and tx.row("queued_past", endpoint=new.endpoint, length=longest) is not None:
        raise QueueFull(f"More than {longest} requests are waiting (fal_max_queue_length={longest}).")
    for query, most, words in (
        ("queued_of_key", new.max_queued, "may wait (setting queue.max_queued)"),
        ("open_of_key", new.max_open, "may run at a time (setting queue.max_running)"),
    ):
        if most is not None and _there(tx.row(query, key_id=new.key_id, limit=most))["count"] >= most:
            raise QueueFull(f"At most {most} requests of one key {words}; try again soon.")


def _same_request(known: sqlite3.Row, idempotency_hash: bytes | None) -> Request:
    if known["idempotency_hash"] != idempotency_hash:
        raise ModelError(
            [
                {
                    "loc": ["header", "Idempotency-Key"],
                    "msg": "This idempotency key was used for another input within the last 24 hours. Use a new key.",
                    "type": "value_error",
                    "url": docs_url("value_error"),
                }
            ]
        )
    return request_of(known)


def _backoff(attempt: int, *, first_crash: bool) -> float:
    """Seconds before attempt + 1; the spread keeps requests that failed together from coming back together."""
    delay = min(BACKOFF_SECONDS * 2.0 ** (attempt - 1), MAX_BACKOFF_SECONDS) * random.uniform(0.8, 1.2)
    return min(delay, CRASH_BACKOFF_SECONDS if first_crash else MAX_BACKOFF_SECONDS)


def _there(row: Any) -> sqlite3.Row:
    if row is None:
        raise StoreError("an illegal move: the request is not in the status that it must come from")
    return row
