"""The Ed25519 keys that sign webhooks. Private parts are encrypted in the database under a key made from the pepper.

Receivers keep our public keys for up to a day (fal's recipe does), so a new key is published long before it signs, an
old one long after: `rotate`. The signing key of an instant is the youngest published one whose time has come.
"""

import base64
import hashlib
import os
import sqlite3

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from impasto.errors import StoreError
from impasto.store.records import SigningKey
from impasto.store.secret import keyed_hash
from impasto.store.writer import Transaction

NONCE = 12  # bytes
_PURPOSE = b"impasto webhook signing keys 1"


def ensure(tx: Transaction, pepper: bytes, now: float) -> None:
    """The first key, which signs at once; nothing when there is one."""
    if not tx.rows("signing_key_list", now=now):
        _insert(tx, pepper, created_at=now, active_from=now)


def rotate(tx: Transaction, pepper: bytes, *, overlap: float, now: float) -> SigningKey:
    """A new key that signs in `overlap` seconds; the others are published for as long again, then forgotten.

    `overlap` 0 is for a key that leaked: from now on nothing that it signed is genuine.
    """
    first = not tx.rows("signing_key_list", now=now)
    active_from = now if first else now + overlap
    tx.run("signing_keys_retire", retire_at=active_from + overlap)
    tx.run("signing_keys_forget", now=now)
    return _insert(tx, pepper, created_at=now, active_from=active_from)


def opened(row: sqlite3.Row, pepper: bytes) -> SigningKey:
    """The record of a row. Raises `StoreError` when the pepper is not the one that it was sealed with."""
    sealed: bytes = row["sealed"]
    try:
        private = _cipher(pepper).decrypt(sealed[:NONCE], sealed[NONCE:], row["kid"].encode())
    except InvalidTag:
        raise StoreError(
            "the webhook signing keys cannot be decrypted: the pepper file beside the database is another one than "
            "they were made with. Restore it from the backup, or delete the rows of the table `signing_keys`."
        ) from None
    return SigningKey(
        kid=row["kid"],
        private=private,
        public=row["public"],
        created_at=row["created_at"],
        active_from=row["active_from"],
        retire_at=row["retire_at"],
    )


def _insert(tx: Transaction, pepper: bytes, *, created_at: float, active_from: float) -> SigningKey:
    key = Ed25519PrivateKey.generate()
    private, public = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    kid, nonce = thumbprint(public), os.urandom(NONCE)
    sealed = nonce + _cipher(pepper).encrypt(nonce, private, kid.encode())
    tx.run("signing_key_insert", kid=kid, sealed=sealed, public=public, created_at=created_at, active_from=active_from)
    return SigningKey(
        kid=kid, private=private, public=public, created_at=created_at, active_from=active_from, retire_at=None
    )


def _cipher(pepper: bytes) -> AESGCM:
    return AESGCM(keyed_hash(pepper, _PURPOSE))


def thumbprint(public: bytes) -> str:
    """The key id of RFC 7638: a hash of what the key is, so that nobody has to give it a name."""
    text = f'{{"crv":"Ed25519","kty":"OKP","x":"{base64url(public)}"}}'
    return base64url(hashlib.sha256(text.encode()).digest())


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")
