"""Migrations, the query file, and that every statement finds its rows by an index."""

import ast
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import impasto.store
from impasto.errors import StoreError
from impasto.store.migrate import Migration, migrate, shipped
from impasto.store.queries import load, parse

QUERIES = load("queries.sql")
ROOM = Path(impasto.store.__file__).parent


@pytest.fixture
def fresh(tmp_path: Path):
    connection = sqlite3.connect(tmp_path / "fresh.sqlite3", isolation_level=None)
    connection.create_function("bucket", 1, lambda at: at)  # reports bring their own
    yield connection
    connection.close()


def schema(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


class TestMigrations:
    def test_they_are_numbered_without_gaps(self):
        assert [migration.version for migration in shipped()] == list(range(1, len(shipped()) + 1))

    def test_a_fresh_file_gets_all_once(self, fresh):
        assert migrate(fresh, QUERIES) == len(shipped())
        before = schema(fresh)
        assert migrate(fresh, QUERIES) == 0
        assert schema(fresh) == before
        rows = fresh.execute("SELECT version, checksum FROM schema_version").fetchall()
        assert rows == [(migration.version, migration.checksum) for migration in shipped()]

    def test_a_file_of_the_version_before_gets_what_is_missing_and_keeps_its_rows(self, fresh):
        migrate(fresh, QUERIES)
        fresh.execute("INSERT INTO keys (key_id, alias, scopes, hash, created_at) VALUES ('k', 'a', '[]', x'00', 1)")
        next_one = Migration(len(shipped()) + 1, "9999_next", "ALTER TABLE keys ADD COLUMN note TEXT DEFAULT 'new';")
        assert migrate(fresh, QUERIES, [*shipped(), next_one]) == 1
        assert fresh.execute("SELECT key_id, note FROM keys").fetchall() == [("k", "new")]

    async def test_files_of_the_first_version_are_served_as_before(self, open_store, database):
        database.parent.mkdir(parents=True)
        connection = sqlite3.connect(database, isolation_level=None)
        migrate(connection, QUERIES, shipped()[:1])
        connection.execute(
            "INSERT INTO files (token, media_type, size, key_id, created_at) VALUES ('t', 'x', 5, 'k', 1)"
        )
        connection.close()
        store = await open_store()
        assert (store.file("t").acl, store.stored_bytes("k")) == (None, 5)

    async def test_a_file_of_a_newer_version_is_refused_and_left_alone(self, open_store, database):
        await (await open_store()).close()
        connection = sqlite3.connect(database)
        connection.execute("INSERT INTO schema_version VALUES (99, '0099_future', 'x', 0)")
        connection.commit()
        before = schema(connection)
        with pytest.raises(StoreError, match=r"schema version 99.*newer version"):
            await open_store()
        assert schema(connection) == before
        connection.close()

    def test_a_migration_that_reads_differently_is_refused(self, fresh):
        migrate(fresh, QUERIES)
        changed = [Migration(m.version, m.name, m.sql + "-- changed\n") for m in shipped()]
        with pytest.raises(StoreError, match="differs"):
            migrate(fresh, QUERIES, changed)

    def test_a_migration_that_fails_leaves_nothing(self, fresh):
        broken = Migration(
            len(shipped()) + 1, "broken", "CREATE TABLE half (a INTEGER);\nCREATE TABLE half (b INTEGER);"
        )
        with pytest.raises(sqlite3.OperationalError):
            migrate(fresh, QUERIES, [*shipped(), broken])
        assert schema(fresh) == []
        assert migrate(fresh, QUERIES) == len(shipped())

    async def test_a_file_that_is_no_database_is_refused_by_name(self, open_store, database):
        database.parent.mkdir(parents=True)
        database.write_bytes(b"this is a letter to my grandmother. " * 100)
        with pytest.raises(StoreError, match=re.escape(str(database))):
            await open_store()

    async def test_a_folder_that_is_a_file_is_refused_by_name(self, open_store, database):
        database.parent.write_bytes(b"")
        with pytest.raises(StoreError, match=re.escape(str(database))):
            await open_store()


class TestQueryFile:
    def test_a_statement_without_a_sentence_a_name_twice_or_a_stump_is_refused(self):
        assert parse("-- name: a\n-- What it does.\nSELECT 1;\n\n-- ---- next\n")["a"].sql == "SELECT 1;"
        for text in (
            "-- name: a\nSELECT 1;",
            "-- name: a\n-- Does.\nSELECT 1",
            "-- name: a\n-- Does.\nSELECT 1;\n-- name: a\n-- Does.\nSELECT 2;",
        ):
            with pytest.raises(StoreError, match="query 'a'"):
                parse(text)

    def test_a_part_is_put_in_place_of_its_mark_in_every_statement(self):
        text = "-- part: row\n-- Columns.\nx, y\n\n-- name: a\n-- What it does.\nSELECT {row} FROM t;\n"
        assert parse(text)["a"].sql == "SELECT x, y FROM t;"
        assert [query.name for query in QUERIES.values() if re.search(r"\{\w+\}", query.sql)] == []

    def test_python_holds_no_sql(self):
        statement = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|PRAGMA|BEGIN|COMMIT|SAVEPOINT|CREATE)\b")
        found = [
            (path.name, node.value)
            for path in ROOM.glob("*.py")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and statement.search(node.value)
        ]
        assert found == []

    def test_every_query_is_used_and_every_used_query_is_there(self):
        source = "".join(path.read_text(encoding="utf-8") for path in ROOM.glob("*.py"))
        assert [name for name in QUERIES if f'"{name}"' not in source] == []


class Nothing(dict[str, None]):
    """Every parameter of a statement, without a value."""

    def __missing__(self, key: str) -> None:
        return None


class TestPlans:
    WHOLE_TABLES = frozenset(  # small by nature
        {
            "key_list", "key_count", "schema_version_list",
            "signing_key_list", "signing_key_count", "signing_keys_retire", "signing_keys_forget",
        }
    )  # fmt: skip

    def plan(self, connection: sqlite3.Connection, name: str) -> str:
        rows = connection.execute("EXPLAIN QUERY PLAN " + QUERIES[name].sql, Nothing()).fetchall()
        return " | ".join(row[3] for row in rows)

    @pytest.mark.parametrize(
        "name",
        sorted(name for name, query in QUERIES.items() if re.match(r"SELECT|UPDATE|DELETE", query.sql)),
    )
    def test_no_statement_walks_a_table(self, fresh, name):
        migrate(fresh, QUERIES)
        if name not in self.WHOLE_TABLES:
            assert re.findall(r"SCAN \w+\b(?! USING| VIRTUAL)", self.plan(fresh, name)) == [], self.plan(fresh, name)

    @pytest.mark.parametrize(
        ("name", "index"),
        [
            ("queue_head", "requests_turns (endpoint=? AND priority=? AND key_id=? AND seq>?)"),
            ("queue_lines", "COVERING INDEX requests_turns"),
            ("queue_counts", "COVERING INDEX requests_turns"),
            ("requests_newest_waiting", "requests_waiting (seq>?)"),
            ("requests_newest_failed", "requests_failed (seq>?)"),
            ("requests_newest_open_of_key", "requests_open (key_id=? AND status=?"),
            ("requests_newest_failed_of_key", "requests_failed_of_key (key_id=?"),
            ("requests_newest_running", "requests_lease (lease_until>?)"),
            ("queue_backoffs", "requests_backoff"),
            ("sweep_adopt_backoff", "requests_backoff"),
            ("sweep_adopt_leases", "requests_lease"),
            ("sweep_extend_leases", "requests_lease"),
            ("running_by_key", "requests_lease"),
            ("queued_of_key", "requests_open (key_id=? AND status=?)"),
            ("open_of_key", "requests_open (key_id=?)"),
            ("queue_whole", "COVERING INDEX requests_turns"),
            ("request_renew", "sqlite_autoindex_requests_1 (request_id=?)"),
            ("request_held", "sqlite_autoindex_requests_1 (request_id=?)"),
            ("request_complete", "sqlite_autoindex_requests_1 (request_id=?)"),
            ("request_get", "sqlite_autoindex_requests_1 (request_id=?)"),
            ("request_by_idempotency", "requests_idempotency (key_id=? AND idempotency_key=?)"),
            ("sweep_leases", "requests_lease (lease_until<?)"),
            ("sweep_deadlines", "requests_deadline (start_deadline>? AND start_deadline<?)"),
            ("sweep_request", "requests_expiry (expires_at<?)"),
            ("requests_newest_of_key", "requests_of_key (key_id=?"),
            ("requests_newest_of_endpoint", "requests_of_endpoint (endpoint=?"),
            ("requests_newest_of_both", "requests_of_both (endpoint=? AND key_id=?"),
            ("usage_counts", "COVERING INDEX requests_ended (finished_at>? AND finished_at<?)"),
            ("usage_durations", "COVERING INDEX requests_ended (finished_at>? AND finished_at<?)"),
            ("payloads_retire_files", "files_request (request_id=?)"),
            ("logs_after", "PRIMARY KEY (request_id=? AND n>?)"),
            ("delivery_lanes", "webhook_due (key_id=? AND host=?)"),
            ("delivery_lanes", "webhook_due (key_id=? AND host>?)"),
            ("delivery_lanes", "webhook_due (key_id>?)"),
            ("delivery_due", "webhook_due (key_id=? AND host=? AND next_at<?)"),
            ("delivery_release", "webhook_claimed (claimed_until>?)"),
        ],
    )
    def test_the_hot_statements_use_the_index_made_for_them(self, fresh, name, index):
        migrate(fresh, QUERIES)
        assert index in self.plan(fresh, name)

    def test_the_order_of_a_claim_comes_from_the_index_and_not_from_sorting(self, fresh):
        migrate(fresh, QUERIES)
        for name in ("queue_lines", "queue_head", "sweep_leases", "delivery_due"):
            assert "TEMP B-TREE" not in self.plan(fresh, name)

    async def test_a_full_database_with_statistics_changes_no_plan(self, store, new, database):
        """A planner that knows how few rows are running must not take the small index for a lookup by id."""
        for _ in range(30):
            await store.submit(new())
        await store.claim(endpoints=["fal-ai/flux-pro"], runner_id="gpu", limit=2, lease_seconds=15)
        connection = sqlite3.connect(database)
        connection.execute("ANALYZE")
        for name in ("request_renew", "request_held", "request_complete", "request_get"):
            assert "sqlite_autoindex_requests_1 (request_id=?)" in self.plan(connection, name)
        assert "requests_turns (endpoint=? AND priority=? AND key_id=? AND seq>?)" in self.plan(
            connection, "queue_head"
        )
        connection.close()
