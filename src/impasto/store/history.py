"""Looking back: which list a filter means, and the counts of what ended. Reads only.

A report may walk a week of requests, so it is made on a connection of its own and never holds up a poll.
"""

import contextlib
import sqlite3
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path

from impasto.errors import StoreError
from impasto.store.queries import Query
from impasto.store.records import DurationRow, Status, UsageRow

FAILED = 400  # the lowest HTTP status that the lists of failed requests hold


def newest(
    *, key_id: str | None, endpoints: Sequence[str], status: Status | None = None, lowest: int | None = None
) -> str:
    """Name the query whose index fits the filters that are given. `lowest`: of the HTTP status."""
    if status in {Status.IN_QUEUE, Status.IN_PROGRESS}:
        if key_id is not None:
            return "requests_newest_open_of_key"
        return "requests_newest_waiting" if status is Status.IN_QUEUE else "requests_newest_running"
    if lowest is not None and lowest >= FAILED:
        return "requests_newest_failed" if key_id is None else "requests_newest_failed_of_key"
    if key_id is None:
        return "requests_newest_of_endpoint" if len(endpoints) == 1 else "requests_newest"
    return "requests_newest_of_both" if len(endpoints) == 1 else "requests_newest_of_key"


def usage(
    path: Path,
    queries: Mapping[str, Query],
    *,
    buckets: Sequence[float],
    until: float,
    key_id: str | None,
    whole: bool = False,
) -> tuple[list[UsageRow], list[DurationRow]]:
    """As `base.Store.usage`. Blocks. Raises `StoreError` when the file cannot be read."""
    if not buckets:
        return [], []

    def start(at: float) -> float:
        return buckets[bisect_right(buckets, at) - 1]

    values = {"since": buckets[0], "until": until, "key_id": key_id}
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute(queries["reader_settings"].sql)
            connection.create_function("bucket", 1, start)
            counts = connection.execute(queries["usage_counts"].sql, values).fetchall()
            durations = connection.execute(queries["usage_durations"].sql, values | {"whole": whole}).fetchall()
    except sqlite3.Error as error:
        raise StoreError(f"the database cannot be read: {error}") from error
    return [UsageRow(**dict(row)) for row in counts], [_duration(row) for row in durations]


def _duration(row: sqlite3.Row) -> DurationRow:
    return DurationRow(
        bucket=row["bucket"],
        endpoint=row["endpoint"],
        waited=(row["wait_50"], row["wait_75"], row["wait_90"]),
        ran=(row["run_50"], row["run_75"], row["run_90"]),
    )
