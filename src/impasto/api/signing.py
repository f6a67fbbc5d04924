"""Tokens that we hand out and take back: upload tokens and upload URLs. Signed, expiring, kept nowhere.

A token is base64url(JSON claims) "." base64url(HMAC-SHA256). `kind` is part of what is signed, so that a token made for
one purpose opens nothing else.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from impasto.errors import ConfigError
from impasto.store.records import Acl

SECRET_BYTES = 32


class Claims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a token says. Times are unix seconds."""

    kind: str
    expires_at: float
    key_id: str = ""
    file: str = ""  # token of the file that may be written
    media_type: str = ""
    file_name: str | None = None
    lifetime: float | None = None  # seconds that the file lives, from the moment it is there
    acl: Acl | None = None


def sign(claims: Claims, secret: bytes) -> str:
    body = msgspec.json.encode(claims)
    return f"{_text(body)}.{_text(_mac(body, secret))}"


def verify(token: str, *, kind: str, secret: bytes) -> Claims | None:
    """The claims of a genuine, living token of that kind; else None."""
    body_text, _, mac_text = token.partition(".")
    try:
        body, mac = _bytes(body_text), _bytes(mac_text)
        if not hmac.compare_digest(mac, _mac(body, secret)):
            return None
        claims = msgspec.json.decode(body, type=Claims)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None
    return claims if claims.kind == kind and claims.expires_at > time.time() else None


def load_secret(path: Path) -> bytes:
    """The 32 signing bytes of a data folder, made on first use and readable by the owner only. Raises `ConfigError`."""
    if not path.exists():
        _create(path)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise ConfigError(
            f"{path} is damaged: {len(secret)} bytes instead of {SECRET_BYTES}. Delete it to get a new one."
        )
    return secret


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):  # of two processes that start at once, one wins and both read its bytes
        os.link(draft, path)
    draft.unlink()


def _mac(body: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, body, hashlib.sha256).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
