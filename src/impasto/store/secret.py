"""The pepper, a secret file beside the database, and what depends on it: hashes of API keys and idempotent bodies; the
encryption of the webhook signing keys (`keyring`).
"""

import contextlib
import hashlib
import hmac
import os
from pathlib import Path

from impasto.errors import StoreError

PEPPER_BYTES = 32


def pepper_path(database: Path) -> Path:
    return database.with_name(database.name + "-pepper")


def load_pepper(database: Path, *, needed: bool) -> bytes:
    """The pepper of a database, made on first use (mode 0600, synced).

    `needed`: keys exist already, so a new one would lock every holder out. Raises `StoreError`: it is lost or damaged.
    """
    path = pepper_path(database)
    if not path.exists():
        if needed:
            raise StoreError(
                f"{path} is missing, and without it no API key can be checked and no webhook signed. Restore it from "
                "the backup of the data folder, or delete the rows of the tables `keys` and `signing_keys` and make "
                "new keys."
            )
        _create(path)
    pepper = path.read_bytes()
    if len(pepper) != PEPPER_BYTES:
        raise StoreError(f"{path} is damaged: {len(pepper)} bytes instead of {PEPPER_BYTES}. Restore it from a backup.")
    return pepper


def keyed_hash(pepper: bytes, data: bytes) -> bytes:
    """HMAC-SHA256. Secrets of 128 random bits need no slow hash; the pepper keeps a stolen database useless."""
    return hmac.digest(pepper, data, hashlib.sha256)


def _create(path: Path) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(PEPPER_BYTES))
        file.flush()
        os.fsync(file.fileno())
    # A link never replaces: of two processes that start together, the first one's pepper stands.
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
