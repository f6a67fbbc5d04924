"""`impasto backup`: what a server needs to go on elsewhere, copied beside a running one or without one.

In: a data folder. Out: a folder that `impasto serve --data` takes. Taken are the database, the pepper without which no
key of it can be checked, the secret of links and upload URLs, and the blobs; not weights, caches, unfinished uploads.
"""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from impasto.api.app import SECRET_FILE
from impasto.errors import ConfigError, StoreError
from impasto.serve import BLOBS, DATABASE, data_of
from impasto.settings import Settings
from impasto.store.secret import pepper_path


def back_up(settings: Settings, target: Path) -> str:
    """Copy; → a sentence about it.

    Raises ConfigError: `target` cannot be used; StoreError: there is no data, or it is damaged; OSError: the disk.
    """
    database = data_of(settings)
    _make_empty(target)
    # The database first: a file that comes later is a blob too many, one too few would be a picture lost. Its name
    # last: what was cut off cannot be taken for a backup.
    draft = target / f"{DATABASE}.draft"
    _copy_database(database, draft)
    for path in (pepper_path(database), settings.data / SECRET_FILE):
        with contextlib.suppress(FileNotFoundError):  # a data folder that never served has no upload.key yet
            _copy(path, target / path.name)
    linked, copied = _bring_blobs(settings.data / BLOBS, target / BLOBS)
    os.replace(draft, target / DATABASE)
    _sync_folder(target)
    return (
        f"{target}: the database, its secrets and {linked + copied} files ({linked} as hard links). "
        f"Serve it with `impasto serve --data {target}`."
    )


def _make_empty(target: Path) -> None:
    if target.is_dir() and next(target.iterdir(), None) is None:
        return  # it is there, for instance as the place where a disk is mounted
    if target.exists():
        raise ConfigError(f"{target} is there already and is no empty folder. Name another for the backup.")
    target.mkdir(parents=True, mode=0o700)


def _copy_database(source: Path, target: Path) -> None:
    """One moment of the database, while others write to it. Raises `StoreError`."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # prompts lie in it
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True, timeout=10)) as one,
            contextlib.closing(sqlite3.connect(target)) as other,
        ):
            one.backup(other)
    except sqlite3.Error as error:
        raise StoreError(f"{source} cannot be copied: {error}") from error


def _bring_blobs(source: Path, target: Path) -> tuple[int, int]:
    """→ (linked, copied). A blob's content never changes, so a link is as good as a copy and takes no room."""
    linked = copied = 0
    for path in sorted((source / "b").glob("*/*")):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            os.link(path, place)
            linked += 1
        except FileNotFoundError:
            continue  # expired meanwhile
        except OSError:  # another disk, or a file system without links
            with contextlib.suppress(FileNotFoundError):
                _copy(path, place)
                copied += 1
    return linked, copied


def _copy(source: Path, target: Path) -> None:
    """Bytes and mode, on the disk when this returns."""
    with source.open("rb") as reading, open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(reading, file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
