"""Brings a database file to the schema of this version: migrations/NNNN_name.sql, each in one transaction, in order."""

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from impasto.errors import StoreError
from impasto.store.briefs import brief_of_text, prompt_of_text
from impasto.store.queries import Query


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped() -> list[Migration]:
    """The migrations of this version, in order."""
    folder = resources.files("impasto.store").joinpath("migrations")
    found = [
        Migration(int(entry.name.partition("_")[0]), entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted(found, key=lambda migration: migration.version)


def migrate(
    connection: sqlite3.Connection, queries: Mapping[str, Query], migrations: Sequence[Migration] | None = None
) -> int:
    """Apply what is missing; → how many were applied.

    Raises `StoreError`, and changes nothing, when the file comes from a newer version, or when a migration that it has
    seen reads differently today.
    """
    migrations = shipped() if migrations is None else migrations
    connection.create_function("prompt_of", 1, prompt_of_text)
    connection.create_function("brief_of", 1, brief_of_text)
    connection.execute(queries["begin"].sql)
    try:
        connection.execute(queries["schema_version_create"].sql)
        applied = connection.execute(queries["schema_version_list"].sql).fetchall()
        _check(applied, migrations)
        missing = migrations[len(applied) :]
        for migration in missing:
            for statement in _statements(migration.sql):
                connection.execute(statement)
            row = {"version": migration.version, "name": migration.name, "checksum": migration.checksum}
            connection.execute(queries["schema_version_add"].sql, row | {"now": time.time()})
    except BaseException:
        connection.execute(queries["rollback"].sql)
        raise
    connection.execute(queries["commit"].sql)
    return len(missing)


def _check(applied: Sequence[tuple[int, str, str]], migrations: Sequence[Migration]) -> None:
    if len(applied) > len(migrations):
        raise StoreError(
            f"the database has schema version {applied[-1][0]}, this impasto knows {len(migrations)}: it was "
            "written by a newer version. Install that version again, or name another data folder."
        )
    for (version, name, checksum), migration in zip(applied, migrations, strict=False):
        if (version, checksum) != (migration.version, migration.checksum):
            raise StoreError(
                f"migration {name} of the database differs from {migration.name} of this impasto: the file was written "
                "by a build that was never released. Use the build that wrote it, or name another data folder."
            )


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise StoreError(f"a migration ends in the middle of a statement: {statement.strip()[:80]}")
