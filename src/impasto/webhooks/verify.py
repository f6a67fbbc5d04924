"""For receivers: is this webhook genuine? Needs nothing of the server but the URL of its keys.

    from impasto.webhooks.verify import InvalidSignature, Verifier

    verifier = Verifier("http://127.0.0.1:8000/.well-known/jwks.json")
    verifier.verify(headers, body)        # raises InvalidSignature; `body` is the raw bytes, before any JSON

`verify` blocks while it fetches keys (at most once a minute, else once a day); in an async program call it in a thread.
A genuine webhook may come twice: know a request by its id.
"""

import base64
import binascii
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature as _Invalid
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from impasto.webhooks.signature import REQUEST_ID, SIGNATURE, TIMESTAMP, USER_ID, message

TOLERANCE = 300.0  # seconds that the sender's clock may be off
KEEP_SECONDS = 24 * 3600.0
REFETCH_SECONDS = 60.0  # at most so often for a signature that no known key made


class InvalidSignature(Exception):
    """The webhook is not genuine, or not from now."""


def verify(
    headers: Mapping[str, str],
    body: bytes,
    keys: Iterable[bytes],
    *,
    tolerance: float = TOLERANCE,
    now: Callable[[], float] = time.time,
) -> None:
    """Check the headers of a webhook and its raw `body` against public keys (32 bytes each).

    Raises `InvalidSignature`: a header is missing, the time is more than `tolerance` seconds off, no key fits.
    """
    values = {name.lower(): value for name, value in headers.items()}
    try:
        request_id, user_id, timestamp, signature = (
            values[name.lower()] for name in (REQUEST_ID, USER_ID, TIMESTAMP, SIGNATURE)
        )
    except KeyError as error:
        raise InvalidSignature(f"The header {error.args[0]} is missing.") from None
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise InvalidSignature(f"{TIMESTAMP} is not a unix time.")
    if abs(now() - int(timestamp)) > tolerance:
        raise InvalidSignature(
            f"{TIMESTAMP} is more than {tolerance:g} s off; is this an old webhook, or a wrong clock?"
        )
    try:
        given = bytes.fromhex(signature)
    except ValueError:
        raise InvalidSignature(f"{SIGNATURE} is not hexadecimal.") from None
    text = message(request_id=request_id, user_id=user_id, timestamp=timestamp, body=body)
    if not any(_fits(key, given, text) for key in keys):
        raise InvalidSignature("No published key made this signature.")


def keys_of(jwks: Mapping[str, Any]) -> list[bytes]:
    """The Ed25519 keys of a key set; others, and what cannot be read, are passed over."""
    keys: list[bytes] = []
    for item in jwks.get("keys", ()):
        if item.get("kty") != "OKP" or item.get("crv") != "Ed25519":
            continue
        try:
            text = str(item["x"])
            keys.append(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (KeyError, binascii.Error):
            continue
    return keys


class Verifier:
    """`verify` with the keys of `url`, kept for a day. Thread-safe."""

    def __init__(self, url: str, *, tolerance: float = TOLERANCE) -> None:
        self._url = url
        self._tolerance = tolerance
        self._lock = threading.Lock()
        self._keys: list[bytes] = []
        self._fetched_at = -KEEP_SECONDS

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raises `InvalidSignature`; `OSError` when the keys cannot be fetched."""
        try:
            verify(headers, body, self._known(KEEP_SECONDS), tolerance=self._tolerance)
        except InvalidSignature:
            known = self._keys
            if self._known(REFETCH_SECONDS) == known:
                raise
            verify(headers, body, self._keys, tolerance=self._tolerance)

    def _known(self, seconds: float) -> list[bytes]:
        """The keys, fetched again when they are older than `seconds`."""
        with self._lock:
            if time.monotonic() - self._fetched_at >= seconds or not self._keys:
                with urllib.request.urlopen(self._url, timeout=10) as answer:
                    self._keys = keys_of(json.load(answer))
                self._fetched_at = time.monotonic()
            return self._keys


def _fits(key: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except (_Invalid, ValueError):
        return False
    return True
