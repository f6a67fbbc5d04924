"""How a webhook is signed (protocol section 7), and how the keys are published.

The signed message is four lines without a newline at the end: request id, user id, unix time, and the lower-case hex
SHA-256 of the exact body. Ed25519; 64 bytes as lower-case hex.
"""

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

REQUEST_ID = "X-Fal-Webhook-Request-Id"
USER_ID = "X-Fal-Webhook-User-Id"
TIMESTAMP = "X-Fal-Webhook-Timestamp"
SIGNATURE = "X-Fal-Webhook-Signature"


def message(*, request_id: str, user_id: str, timestamp: str, body: bytes) -> bytes:
    """What is signed."""
    return "\n".join([request_id, user_id, timestamp, hashlib.sha256(body).hexdigest()]).encode("utf-8")


def signed_headers(*, private: bytes, request_id: str, user_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The four headers of one attempt. `private`: 32 bytes."""
    text = message(request_id=request_id, user_id=user_id, timestamp=str(timestamp), body=body)
    return {
        REQUEST_ID: request_id,
        USER_ID: user_id,
        TIMESTAMP: str(timestamp),
        SIGNATURE: Ed25519PrivateKey.from_private_bytes(private).sign(text).hex(),
    }


def jwks(keys: Iterable[tuple[str, bytes]]) -> dict[str, Any]:
    """The key set (RFC 8037) of (kid, public key) pairs."""
    return {
        "keys": [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": base64.urlsafe_b64encode(public).decode("ascii").rstrip("="),
                "kid": kid,
            }
            for kid, public in keys
        ]
    }
