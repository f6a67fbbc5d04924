"""Signed links: a file's URL with the right to read it, for whoever has it, until a moment.

    {file_url}?identity=1767225600.k3J…       unix seconds "." base64url(HMAC-SHA256 over them and the token)

In: a file's token and the server's secret. Out: the text behind `identity=`, and whether one opens a file. Nothing is
stored: a link cannot be taken back, so it is short-lived (at most seven days, as fal's).
"""

import base64
import hashlib
import hmac
import re

PARAMETER = "identity"
MAX_SECONDS = 7 * 24 * 3600
_PURPOSE = b"impasto file link 1"  # the secret signs other things, too
_FORM = re.compile(r"([0-9]{1,12})\.([A-Za-z0-9_-]{43})", re.ASCII)


def identity(token: str, *, until: int, secret: bytes) -> str:
    """What opens the file `token` until then (unix seconds)."""
    return f"{until}.{_mac(token, until, secret)}"


def opens(text: str, token: str, *, now: float, secret: bytes) -> bool:
    """Whether `text` is a genuine identity of that file, not yet over."""
    form = _FORM.fullmatch(text)
    if form is None or int(form[1]) <= now:
        return False
    return hmac.compare_digest(form[2], _mac(token, int(form[1]), secret))


def _mac(token: str, until: int, secret: bytes) -> str:
    message = b"\n".join([_PURPOSE, str(until).encode("ascii"), token.encode("utf-8", "surrogatepass")])
    return base64.urlsafe_b64encode(hmac.digest(secret, message, hashlib.sha256)).decode("ascii").rstrip("=")
