"""Short-lived tokens for browsers: a JWT that lets its holder run the apps it names, as the key that asked for it.

In: a key id, apps, seconds. Out: text that goes into a URL as `?fal_jwt_token=`; and back, if it is genuine and alive.
Signed with a key of its own, so that no other signature of this server can pass for a token. One algorithm only.
"""

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import jwt

from impasto.api.roles import app_of
from impasto.errors import Unauthorized

ALGORITHM = "HS256"
ISSUER = "impasto"
PARAMETER = "fal_jwt_token"
_PURPOSE = b"impasto short-lived token 1"
_CLAIMS = ["iss", "sub", "aud", "iat", "exp", "jti"]


@dataclass(frozen=True, slots=True)
class Genuine:
    """What a token says that was made here and is alive."""

    key_id: str
    token_id: str  # jti: one open socket each


def issue(*, key_id: str, apps: Sequence[str], seconds: int, secret: bytes) -> str:
    """A token for `apps` (alias, app or endpoint id), alive for `seconds`."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": key_id,
        "aud": [audience(app) for app in apps],
        "iat": now,
        "exp": now + seconds,
        "jti": str(uuid4()),
    }
    return jwt.encode(claims, _key(secret), algorithm=ALGORITHM)


def read(token: str, *, path: str, secret: bytes) -> Genuine:
    """A genuine, living token for the app of `path`. Raises `Unauthorized` that says what is wrong."""
    app = app_of(path)
    try:
        claims = jwt.decode(
            token,
            _key(secret),
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            audience=[app, app.rpartition("/")[2]],
            options={"require": _CLAIMS},
        )
    except jwt.ExpiredSignatureError:
        raise Unauthorized(f"The token ({PARAMETER}) has expired; ask for another one at /tokens/.") from None
    except jwt.InvalidAudienceError:
        raise Unauthorized(f'The token ({PARAMETER}) was not made for application "{app}".') from None
    except jwt.InvalidTokenError:
        raise Unauthorized(f"The token ({PARAMETER}) is not one of this server.") from None
    return Genuine(str(claims["sub"]), str(claims["jti"]))


def audience(app: str) -> str:
    """What a token's `aud` says for an allowed app: clients name it by alias, by app, or by a whole endpoint id."""
    return app_of(app) if "/" in app.strip("/") else app.strip("/")


def _key(secret: bytes) -> bytes:
    return hmac.new(secret, _PURPOSE, hashlib.sha256).digest()
