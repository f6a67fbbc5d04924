"""The store over one SQLite file: durable (WAL, synchronous=FULL), one writer thread with group commit, no server.

In: the verbs of `store.base`. Moves (`moves.py`) go to the writer (`writer.py`); reads are done here, on a connection
of their own, in microseconds. Out: records. Several processes may open one file (a server, a command line beside it).
"""

import asyncio
import json
import os
import secrets
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hmac import compare_digest
from pathlib import Path
from typing import Any, Self

from impasto.errors import StoreError
from impasto.store import history, keyring, moves, outbox
from impasto.store.briefs import brief_of
from impasto.store.migrate import migrate
from impasto.store.moves import LastWord, Moves
from impasto.store.positions import Positions, Waiting
from impasto.store.queries import Query, load
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
from impasto.store.rows import (
    attempt_of,
    clean,
    delivery_of,
    delivery_row_of,
    dump,
    dump_acl,
    file_of,
    key_of,
    log_of,
    request_of,
    result_of,
)
from impasto.store.secret import keyed_hash, load_pepper
from impasto.store.watch import Watch
from impasto.store.writer import Transaction, Writer

MINIMUM_SQLITE = (3, 37)  # strict tables
BUSY_SECONDS = 10.0  # how long to wait for another process's write
SWEEP_REST_SECONDS = 0.1  # at most, between two steps of a sweep
SWEEP_SECONDS = 1.0  # that one sweep goes on; the next one does the rest
FULL_SECONDS = 5.0  # that a write without room counts: later ones may find some
REPORTS = 2  # reports over the history that are read at a time
TOUCH_SECONDS = 60.0  # a key's last_used_at is written at most so often: polls must not become writes


class SqliteStore:
    """One file, one writing thread. Made by `open`; implements `store.base.Store`."""

    def __init__(
        self,
        *,
        reader: sqlite3.Connection,
        lister: sqlite3.Connection,
        places: sqlite3.Connection,
        writer: Writer,
        watch: Watch,
        moves: Moves,
        queries: dict[str, Query],
        pepper: bytes,
        path: Path,
    ) -> None:
        self._path = path
        self._reader = _Reader(reader)
        self._lister = _Reader(lister)  # long lists are read in threads and hold up no poll
        self._places = _Reader(places)  # the whole queue is read in a thread of its own
        self._writer = writer
        self._watch = watch
        self._moves = moves
        self._queries = queries
        self._pepper = pepper
        self._positions = Positions(self._waiting, lambda: self._count("file_version"), moves.lines.turns)
        self._reports = ThreadPoolExecutor(REPORTS, "impasto-store-reports")
        self._touched: dict[str, float] = {}

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        lease_seconds: float = 15.0,
        max_attempts: int = 10,
        max_crashes: int = 3,
        max_running: int = 0,
        key_input_bytes: int = 0,
        all_input_bytes: int = 0,
        retention_seconds: float = 168 * 3600.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
    ) -> Self:
        """Open the file, made and migrated as needed.

        `clock`: unix seconds, for everything that outlives the process. `monotonic`: seconds, for leases and back-off,
        so that a clock that is set does not end a lease; default: the machine's, or `clock` if that was given. Delays
        that outlive the process (webhook tries, start deadlines) begin at `clock` and go on with `monotonic`.
        Raises `StoreError`: not a database, from a newer version, not writable, pepper lost.
        """
        queries = load("queries.sql")
        path = Path(path)
        (connection, reader, lister, places), pepper = await asyncio.to_thread(_connect, path, queries)
        watch = Watch()
        monotonic = monotonic or (time.monotonic if clock is time.time else clock)
        moves = Moves(
            boot=uuid.uuid4().hex,
            clock=clock,
            monotonic=monotonic,
            steady=clock if monotonic is clock else _steady(clock, monotonic),
            lease_seconds=lease_seconds,
            max_attempts=max_attempts,
            max_crashes=max_crashes,
            max_running=max_running,
            key_input_bytes=key_input_bytes,
            all_input_bytes=all_input_bytes,
            retention_seconds=retention_seconds,
        )
        writer = Writer(connection, queries, watch)
        return cls(
            reader=reader,
            lister=lister,
            places=places,
            writer=writer,
            watch=watch,
            moves=moves,
            queries=queries,
            pepper=pepper,
            path=path,
        )

    async def close(self) -> None:
        """Finish the moves that wait, then let go of the file. Later moves raise `StoreError`. Safe to repeat."""
        await self._writer.close()
        self._reader.close()
        self._lister.close()
        await asyncio.to_thread(self._positions.close)
        await asyncio.to_thread(self._reports.shutdown)
        self._places.close()

    @property
    def healthy(self) -> bool:
        """False after a failed write to the disk: nothing more is accepted, the process should end."""
        return self._writer.broken is None

    @property
    def full(self) -> bool:
        return time.monotonic() - self._writer.full_at < FULL_SECONDS

    @property
    def counters(self) -> dict[str, int]:
        """commits and operations since `open`; their ratio tells how well commits are shared."""
        return {"commits": self._writer.commits, "operations": self._writer.operations}

    # ------------------------------------------------------------ requests: moves

    async def submit(self, new: NewRequest) -> Request:
        input_ = dump(new.input, "the input")
        body_hash = None
        if new.idempotency_key is not None:
            body = json.dumps([new.endpoint, new.input], sort_keys=True)
            body_hash = keyed_hash(self._pepper, body.encode())
        brief = brief_of(new.input, size=len(input_))
        return await self._writer.run(lambda tx: self._moves.submit(tx, new, input_, body_hash, brief))

    async def claim(
        self,
        *,
        endpoints: Sequence[str],
        runner_id: str,
        limit: int,
        lease_seconds: float | None = None,
        idle: bool = True,
        busy: Collection[str] | None = None,
        suspects: Collection[tuple[str, str]] = (),
        resting: Collection[tuple[str, str]] = (),
    ) -> list[Request]:
        seconds = self._lease(lease_seconds)
        return await self._writer.run(
            lambda tx: self._moves.claim(
                tx,
                endpoints=endpoints,
                runner_id=runner_id,
                limit=limit,
                lease_seconds=seconds,
                idle=idle,
                busy=busy,
                suspects=suspects,
                resting=resting,
            )
        )

    def charge(self, request: Request, work: float) -> None:
        self._writer.cast(lambda _: self._moves.charge(request.seq, work))

    def settle(self, request: Request, share: float) -> None:
        self._writer.cast(lambda _: self._moves.settle(request.seq, share))

    async def renew(self, leases: dict[str, str], *, lease_seconds: float | None = None) -> tuple[list[str], list[str]]:
        seconds, leases = self._lease(lease_seconds), dict(leases)
        return await self._writer.run(lambda tx: self._moves.renew(tx, leases, lease_seconds=seconds))

    async def progress(self, request_id: str, lease: str, lines: Sequence[LogLine]) -> bool:
        return await self._writer.run(lambda tx: self._moves.progress(tx, request_id, lease, lines))

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
        payload = dump(result.payload, "the result")
        new_input = None if input_ is None else dump(input_, "the input")
        return await self._writer.run(
            lambda tx: self._moves.finish(
                tx,
                request_id,
                lease,
                outcome=outcome,
                result=result,
                payload=payload,
                files=files,
                error=error,
                error_type=error_type,
                inference_time=inference_time,
                pictures=pictures,
                input_=new_input,
            )
        )

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
        last = None if result is None else LastWord(result, dump(result.payload, "the result"), error, error_type)
        return await self._writer.run(
            lambda tx: self._moves.requeue(
                tx, request_id, lease, crashed=crashed, drain=drain, reason=reason, last=last
            )
        )

    async def defer(self, request_id: str, lease: str) -> bool:
        return await self._writer.run(lambda tx: self._moves.defer(tx, request_id, lease))

    async def files_are_read(self, request_id: str) -> bool:
        return await self._writer.run(lambda tx: self._moves.files_are_read(tx, request_id))

    async def cancel(self, request_id: str) -> CancelResult:
        return await self._writer.run(lambda tx: self._moves.cancel(tx, request_id))

    async def sweep(self, *, late: float = 0.0, held: Held | None = None) -> int:
        until = time.monotonic() + SWEEP_SECONDS
        moved, more = 0, True
        while more and moved < moves.SWEEP_LIMIT and time.monotonic() < until:
            began = time.monotonic()
            step, more = await self._sweep_step(min(moves.SWEEP_STEP, moves.SWEEP_LIMIT - moved), late, held)
            moved, late = moved + step, 0.0
            if more:  # as long as the step took, others write
                await asyncio.sleep(min(time.monotonic() - began, SWEEP_REST_SECONDS))
        return moved

    async def _sweep_step(self, limit: int, late: float, held: Held | None) -> tuple[int, bool]:
        return await self._writer.run(lambda tx: self._moves.sweep(tx, limit, late=late, held=held))

    async def recover(self, *, blamed: Collection[str] | None = None) -> int:
        return await self._writer.run(lambda tx: self._moves.recover(tx, blamed))

    # ------------------------------------------------------------ requests: reads

    def get(self, request_id: str) -> Request | None:
        row = self._row("request_get", request_id=request_id)
        return None if row is None else request_of(row)

    def input(self, request_id: str) -> dict[str, Any] | None:
        row = self._row("request_input", request_id=request_id)
        return None if row is None else json.loads(row["input"])

    def reading_after(self, lane: tuple[str, str]) -> tuple[str, str] | None:
        key_id, endpoint = lane
        row = self._row("reading_after", key_id=key_id, endpoint=endpoint)
        return None if row is None else (row["key_id"], row["endpoint"])

    def reading(self, lane: tuple[str, str], *, limit: int) -> list[tuple[str, int]]:
        key_id, endpoint = lane
        rows = self._rows("reading_of", key_id=key_id, endpoint=endpoint, limit=limit)
        return [(row["request_id"], row["priority"]) for row in rows]

    async def unread(self, request_id: str) -> tuple[Request, int] | None:
        def read() -> tuple[Request, int] | None:
            rows = self._lister.rows(self._queries["reading_input"], {"request_id": request_id})
            return (request_of(rows[0]), len(rows[0]["input"])) if rows else None

        return await asyncio.to_thread(read)

    def result(self, request_id: str) -> Result | None:
        row = self._row("result_get", request_id=request_id)
        return None if row is None else result_of(row)

    def logs(self, request_id: str, *, after: int = 0) -> list[LogLine]:
        return [log_of(row) for row in self._rows("logs_after", request_id=request_id, after=after)]

    async def position(self, request: Request) -> int:
        place = self._row("request_place", request_id=request.request_id)
        return 0 if place is None else await self._positions.ahead(*place)

    def queued(self, endpoint: str | None = None) -> int:
        return self._count("queue_count_all") if endpoint is None else self._count("queue_count", endpoint=endpoint)

    def queue_counts(self) -> dict[str, int]:
        return {row["endpoint"]: row["waiting"] for row in self._lister.rows(self._queries["queue_counts"], {})}

    # ------------------------------------------------------------ webhook deliveries

    def steady(self) -> float:
        return self._moves.steady()

    def deliveries_due(self) -> dict[Lane, float]:
        return {
            (row["key_id"], row["host"]): row["next_at"]
            for row in self._lister.rows(self._queries["delivery_lanes"], {})
        }

    async def claim_deliveries(self, wanted: Mapping[Lane, int], *, seconds: float) -> list[Delivery]:
        wanted, now = dict(wanted), self._moves.steady()
        return await self._writer.run(lambda tx: outbox.claim(tx, wanted, seconds=seconds, now=now))

    async def record_delivery(
        self,
        delivery: Delivery,
        attempt: DeliveryAttempt,
        *,
        state: DeliveryState,
        next_at: float | None = None,
        note: str | None = None,
    ) -> bool:
        at = attempt.at if next_at is None else next_at

        def move(tx: Transaction) -> bool:
            moved = outbox.record(tx, delivery, attempt, state=state, next_at=at)
            if moved and note is not None:
                self._moves.note(tx, delivery.request_id, note, "WARN")
            return moved

        return await self._writer.run(move)

    def delivery(self, request_id: str) -> tuple[Delivery, list[DeliveryAttempt]] | None:
        row = self._row("delivery_get", request_id=request_id)
        if row is None:
            return None
        attempts = self._rows("attempt_list", delivery_id=row["delivery_id"])
        return delivery_of(row), [attempt_of(attempt) for attempt in attempts]

    def deliveries(
        self,
        *,
        key_id: str | None = None,
        state: DeliveryState | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[DeliveryRow]:
        wanted = None if state is None else state.value
        values = {"key_id": key_id, "state": wanted, "before": before, "limit": limit}
        return [delivery_row_of(row) for row in self._lister.rows(self._queries["deliveries_newest"], values)]

    async def redeliver(self, request_id: str) -> bool:
        now = self._moves.steady()
        return await self._writer.run(lambda tx: outbox.redeliver(tx, request_id, now))

    async def ensure_signing_key(self) -> None:
        now = self._moves.clock()
        await self._writer.run(lambda tx: keyring.ensure(tx, self._pepper, now))

    async def rotate_signing_key(self, *, overlap: float) -> SigningKey:
        now = self._moves.clock()
        return await self._writer.run(lambda tx: keyring.rotate(tx, self._pepper, overlap=overlap, now=now))

    def signing_keys(self) -> list[SigningKey]:
        rows = self._rows("signing_key_list", now=self._moves.clock())
        return [keyring.opened(row, self._pepper) for row in rows]

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
        lowest, highest = http_status or (None, None)
        query = self._queries[history.newest(key_id=key_id, endpoints=endpoints, status=status, lowest=lowest)]
        values = {
            "key_id": key_id,
            "endpoint": endpoints[0] if len(endpoints) == 1 else None,
            "endpoints": json.dumps(list(endpoints)) if len(endpoints) > 1 else None,
            "status": None if status is None else status.value,
            "lowest": lowest,
            "highest": highest,
            "since": since,
            "until": until,
            "before": before,
            "limit": limit,
        }
        return [request_of(row) for row in self._lister.rows(query, values)]

    def input_facts(self, seqs: Sequence[int]) -> dict[int, InputFacts]:
        rows = self._lister.rows(self._queries["input_facts"], {"seqs": json.dumps(list(seqs))})
        return {row["seq"]: InputFacts(row["prompt"], row["bytes"]) for row in rows}

    async def usage(
        self, *, buckets: Sequence[float], until: float, key_id: str | None = None, whole: bool = False
    ) -> tuple[list[UsageRow], list[DurationRow]]:
        report = partial(
            history.usage, self._path, self._queries, buckets=buckets, until=until, key_id=key_id, whole=whole
        )
        return await asyncio.get_running_loop().run_in_executor(self._reports, report)

    async def erase_payloads(self, request_id: str) -> list[str] | None:
        return await self._writer.run(lambda tx: self._moves.erase_payloads(tx, request_id))

    # ------------------------------------------------------------ waking up

    async def delivery_due(self, *, timeout: float) -> None:
        await self._watch.delivery_due(timeout=timeout)

    async def changed(self, request_id: str, *, since: int, timeout: float) -> int:
        return await self._watch.changed(request_id, since=since, timeout=timeout)

    def version(self, request_id: str) -> int:
        return self._watch.version(request_id)

    async def work_available(self, *, timeout: float) -> None:
        await self._watch.work_available(timeout=timeout)

    # ------------------------------------------------------------ files

    async def add_file(self, file: FileRecord, *, quota: int | None = None, max_files: int | None = None) -> bool:
        return await self._writer.run(lambda tx: self._moves.add_file(tx, file, quota=quota, max_files=max_files))

    def file(self, token: str) -> FileRecord | None:
        row = self._row("file_get", token=token, now=self._moves.clock())
        return None if row is None else file_of(row)

    async def set_acl(self, token: str, acl: Acl) -> bool:
        text = dump_acl(acl)
        return await self._writer.run(lambda tx: tx.run("file_set_acl", token=token, acl=text) > 0)

    async def delete_file(self, token: str) -> bool:
        return await self._writer.run(lambda tx: tx.run("file_withdraw", token=token) > 0)

    def stored_files(self, key_id: str) -> int:
        return self._count("uploads_count", key_id=key_id, now=self._moves.clock())

    def stored_bytes(self, key_id: str) -> int:
        return self._count("uploads_size", key_id=key_id, now=self._moves.clock())

    def known_files(self, tokens: Sequence[str]) -> set[str]:
        return {row["token"] for row in self._rows("files_known", tokens=json.dumps(list(tokens)))}

    def expired_files(self, *, limit: int = 500) -> list[FileRecord]:
        return [file_of(row) for row in self._rows("files_deleting", limit=limit)]

    async def forget_files(self, tokens: Sequence[str]) -> int:
        return await self._writer.run(lambda tx: sum(tx.run("file_delete", token=token) for token in tokens))

    # ------------------------------------------------------------ keys

    async def create_key(self, *, alias: str, scopes: Sequence[str]) -> tuple[Key, str]:
        key_id, secret, now = str(uuid.uuid4()), secrets.token_hex(16), self._moves.clock()
        key = Key(key_id=key_id, alias=clean(alias), scopes=tuple(scopes), created_at=now)
        values = {
            "alias": key.alias,
            "scopes": dump(list(scopes), "the scopes"),
            "hash": self._hash(secret),
            "now": now,
        }

        def insert(tx: Transaction) -> None:
            tx.run("key_insert", key_id=key_id, **values)

        await self._writer.run(insert)
        return key, f"{key_id}:{secret}"

    def authenticate(self, key_id: str, secret: str) -> Key | None:
        row = self._row("key_get", key_id=clean(key_id))
        # A miss compares too, so that the time does not tell which key ids exist.
        expected = bytes(32) if row is None else row["hash"]
        matches = compare_digest(self._hash(secret), expected)
        if row is None or not matches or row["revoked_at"] is not None:
            return None
        self._touch(row["key_id"])
        return key_of(row)

    def key(self, key_id: str) -> Key | None:
        row = self._row("key_get", key_id=key_id)
        return None if row is None else key_of(row)

    def keys(self) -> list[Key]:
        return [key_of(row) for row in self._rows("key_list")]

    async def revoke_key(self, key_id: str) -> bool:
        now = self._moves.clock()
        return await self._writer.run(lambda tx: tx.run("key_revoke", key_id=key_id, now=now) > 0)

    # ------------------------------------------------------------ the pieces

    def _touch(self, key_id: str) -> None:
        now = self._moves.clock()
        if now - self._touched.get(key_id, -TOUCH_SECONDS) >= TOUCH_SECONDS:
            self._touched[key_id] = now
            self._writer.cast(lambda tx: tx.run("key_touch", key_id=key_id, now=now))

    def _hash(self, secret: str) -> bytes:
        return keyed_hash(self._pepper, secret.encode("utf-8", "surrogatepass"))

    def _lease(self, seconds: float | None) -> float:
        return self._moves.lease_seconds if seconds is None else seconds

    def _waiting(self, limit: int | None) -> list[Waiting]:
        reader = self._places if limit is None else self._reader
        rows = reader.rows(self._queries["queue_whole"], {"limit": -1 if limit is None else limit})
        return [(row[0], row[1], row[2]) for row in rows]

    def _rows(self, query: str, **values: Any) -> list[sqlite3.Row]:
        return self._reader.rows(self._queries[query], values)

    def _row(self, query: str, **values: Any) -> sqlite3.Row | None:
        rows = self._rows(query, **values)
        return rows[0] if rows else None

    def _count(self, query: str, **values: Any) -> int:
        return self._rows(query, **values)[0][0]


def _steady(clock: Callable[[], float], monotonic: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that starts at `clock` and goes on with `monotonic`: setting the machine's does not move it."""
    offset = clock() - monotonic()
    return lambda: offset + monotonic()


class _Reader:
    """A connection that only reads, for one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def rows(self, query: Query, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        try:
            with self._lock:
                return self._connection.execute(query.sql, values).fetchall()
        except (UnicodeEncodeError, OverflowError):  # no column holds such a value, so that no row has it
            return []
        except sqlite3.Error as error:
            raise StoreError(f"the database cannot be read: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()


_Connections = tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection, sqlite3.Connection]


def _connect(path: Path, queries: dict[str, Query]) -> tuple[_Connections, bytes]:
    """((writer, reader, reader of lists, reader of the queue), pepper) of a file, migrated."""
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise StoreError(
            f"this Python comes with SQLite {sqlite3.sqlite_version}; impasto needs 3.37 or newer. "
            "Use a newer Python build, for example one of uv or python.org."
        )
    connections: list[sqlite3.Connection] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Prompts lie in this file: for its owner only. SQLite gives the log beside it the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        for settings in ("writer_settings", "reader_settings", "reader_settings", "reader_settings"):
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            connections.append(connection)
            connection.row_factory = sqlite3.Row
            for statement in queries[settings].sql.splitlines():
                connection.execute(statement).fetchall()
            if settings == "writer_settings":
                migrate(connection, queries)
        writer, reader, lister, places = connections
        has_keys = any(writer.execute(queries[name].sql).fetchone()[0] for name in ("key_count", "signing_key_count"))
        return (writer, reader, lister, places), load_pepper(path, needed=has_keys)
    except BaseException as error:
        for connection in connections:
            connection.close()
        if isinstance(error, sqlite3.Error | OSError):
            raise StoreError(f"{path} cannot be used as the database: {error}") from error
        raise
