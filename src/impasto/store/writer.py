"""The one thread that writes. Group commit: it takes every operation that waits, runs each inside its own savepoint of
one transaction, commits (one fsync for all), and only then tells the awaiting tasks and the watch.

In: operations, functions over a `Transaction`. Out: their values; nothing is told before it is durable.
"""

import asyncio
import contextlib
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from impasto.errors import StoreError
from impasto.store.queries import Query
from impasto.store.watch import Watch, wake

T = TypeVar("T")

ERASE_SECONDS = 1.0  # between two emptyings of the log: each costs two syncs
MAX_BATCH = 512  # operations in one transaction: bounds how long the first one waits for the last one

# What a failed transaction may be tried again after; anything else (an I/O error, a corrupt file) breaks the store,
# because after a failed fsync nobody knows what is on the disk.
_PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM}


class Transaction:
    """An operation's hold on the database: named statements, and what the world must hear once they are durable."""

    def __init__(self, connection: sqlite3.Connection, queries: Mapping[str, Query]) -> None:
        self._connection = connection
        self._queries = queries
        self.changed: list[str] = []  # request ids
        self.rings: list[float] = []  # seconds from now at which there is work to claim
        self.posted = False  # whether a webhook became due
        self.erased = False  # something went that nobody may find in the log, either
        self.promised = False  # and the caller is told that it is gone: the log is emptied first
        self.undo: list[Callable[[], None]] = []  # what to call when the operation, or its batch, is rolled back

    def rows(self, query: str, **values: Any) -> list[sqlite3.Row]:
        return self._connection.execute(self._queries[query].sql, values).fetchall()

    def row(self, query: str, **values: Any) -> sqlite3.Row | None:
        rows = self.rows(query, **values)
        return rows[0] if rows else None

    def run(self, query: str, **values: Any) -> int:
        """→ how many rows were changed."""
        return self._connection.execute(self._queries[query].sql, values).rowcount


@dataclass(slots=True)
class _Item:
    operation: Callable[[Transaction], Any]
    future: asyncio.Future[None] | None  # only a doorbell: value and error lie here
    value: Any = None
    error: BaseException | None = None


class Writer:
    """Owns the writing connection. `run` may be awaited on any event loop, `cast` called from any thread."""

    def __init__(self, connection: sqlite3.Connection, queries: Mapping[str, Query], watch: Watch) -> None:
        self._connection = connection
        self._queries = queries
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Item] = deque()
        self._condition = threading.Condition()
        self._closing = False
        self._erasing = False
        self._erased_at = -math.inf
        self.broken: str | None = None
        self.full_at = -math.inf  # monotonic seconds, of the last write that found no room on the disk
        self.commits = 0
        self.operations = 0
        self._thread = threading.Thread(target=self._work, name="impasto-store-writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[Transaction], T]) -> T:
        """The operation's value, once it is durable. It runs to its end even if the awaiting task is cancelled.

        Raises what the operation raised; `StoreError`: refused statement, failed commit, broken or closed store.
        """
        item = _Item(operation, asyncio.get_running_loop().create_future())
        self._put(item)
        assert item.future is not None
        await item.future
        if item.error is not None:
            raise item.error
        return item.value

    def cast(self, operation: Callable[[Transaction], Any]) -> None:
        """Run an operation some time soon; nobody waits for it, and its failure is nobody's."""
        with contextlib.suppress(StoreError):
            self._put(_Item(operation, None))

    async def close(self) -> None:
        """Finish what waits, then end the thread and close the connection."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        await asyncio.to_thread(self._thread.join)

    def _put(self, item: _Item) -> None:
        with self._condition:
            if self.broken is not None:
                raise self._refusal()
            if self._closing:
                raise StoreError("the store is closed")
            self._waiting.append(item)
            self._condition.notify()

    def _refusal(self) -> StoreError:
        return StoreError(f"the database is broken ({self.broken}): check the disk, then start again")

    def _work(self) -> None:
        while (batch := self._take()) or not self._closing:
            told = self._commit(batch) if batch else Transaction(self._connection, self._queries)
            self._erasing |= told.erased
            if told.promised and self.broken is None:
                self._erase()
            self._watch.notify(told.changed, ring=any(after <= 0 for after in told.rings), posted=told.posted)
            for after in told.rings:
                if after > 0:
                    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody claims any more
                        self._loop.call_soon_threadsafe(self._ring_later, after)
            wake(item.future for item in batch if item.future is not None)
            batch.clear()  # its operations may hold large results, and the next batch may be far away
            if self._erasing and self.broken is None and time.monotonic() - self._erased_at >= ERASE_SECONDS:
                self._erase()
        self._connection.close()

    def _erase(self) -> None:
        """Empty the log, so that what was erased is in neither file. A reader in the way: tried again."""
        self._erased_at = time.monotonic()
        try:
            self._execute("erase_patience")
            (busy, _, _) = self._connection.execute(self._queries["erase"].sql).fetchone()
            self._erasing = bool(busy)
        except sqlite3.Error as error:
            self._fail([], error)
        finally:
            self._execute("write_patience")

    def _ring_later(self, after: float) -> None:
        self._loop.call_later(after, lambda: self._watch.notify((), ring=True))

    def _take(self) -> list[_Item]:
        """The next batch; empty: nothing waits, and the store closes or the log is to be emptied."""
        with self._condition:
            while not self._waiting and not self._closing:
                called = self._condition.wait(ERASE_SECONDS if self._erasing else None)
                if not (called or self._waiting or self._closing):
                    return []
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]

    def _commit(self, batch: list[_Item]) -> Transaction:
        """Run and commit a batch; → what to tell. Every item ends with its value or its error."""
        told = Transaction(self._connection, self._queries)
        if self.broken is not None:  # since they were put: the next sync may succeed and mean nothing
            for item in batch:
                item.error = self._refusal()
            return told
        try:
            self._execute("begin")
            for item in batch:
                self._run_one(item, told)
            self._execute("commit")
            self.commits += 1
            self.operations += len(batch)
        except sqlite3.Error as error:
            self._fail(batch, error)
            _call(told.undo)
            return Transaction(self._connection, self._queries)
        return told

    def _run_one(self, item: _Item, told: Transaction) -> None:
        transaction = Transaction(self._connection, self._queries)
        self._execute("savepoint")
        try:
            item.value = item.operation(transaction)
        except Exception as error:  # not swallowed: it is raised in the task that awaits the operation
            told.undo += transaction.undo
            if isinstance(error, sqlite3.Error) and (self._fatal(error) or not self._connection.in_transaction):
                raise
            self._note_full(error)
            self._execute("rollback_operation")
            self._execute("release")
            _call(transaction.undo)
            item.error = _explain(error)
        else:
            self._execute("release")
            told.changed += transaction.changed
            told.rings += transaction.rings
            told.posted |= transaction.posted
            told.undo += transaction.undo
            told.erased |= transaction.erased
            told.promised |= transaction.promised

    def _fail(self, batch: list[_Item], error: sqlite3.Error) -> None:
        self._note_full(error)
        if self._fatal(error):
            with self._condition:
                self.broken = str(error)
        try:
            if self._connection.in_transaction:
                self._execute("rollback")
        except sqlite3.Error as second:
            with self._condition:
                self.broken = self.broken or str(second)
        for item in batch:
            item.value, item.error = None, _explain(error)

    def _note_full(self, error: Exception) -> None:
        if (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_FULL:
            self.full_at = time.monotonic()

    def _fatal(self, error: sqlite3.Error) -> bool:
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(error, sqlite3.OperationalError | sqlite3.InternalError) or type(error) is sqlite3.DatabaseError:
            return code is not None and (code & 0xFF) not in _PASSING | {sqlite3.SQLITE_ERROR}
        return False

    def _execute(self, query: str) -> None:
        self._connection.execute(self._queries[query].sql)


def _call(functions: Iterable[Callable[[], None]]) -> None:
    for function in functions:
        function()


def _explain(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error | ValueError | OverflowError):  # the last two: a value that no column holds
        return error
    explained = StoreError(f"the database refused the operation: {error}")
    explained.__cause__ = error
    return explained
