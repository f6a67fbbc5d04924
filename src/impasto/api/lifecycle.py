"""X-Fal-Object-Lifecycle and -Preference: how long files live and who may read them (reference, protocol section 8.4).

    {"expiration_duration_seconds": 86400,
     "initial_acl": {"default": "forbid", "rules": [{"user": "…", "decision": "allow"}]}}

Every member is optional. A `user` is a key id: the part of a key before its colon. 0 and null seconds mean what leaving
them out means: the server's rule.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from impasto.errors import BadRequest
from impasto.store.records import Acl, Decision, Lifecycle

OBJECT = "X-Fal-Object-Lifecycle"  # of what is uploaded
PREFERENCE = "X-Fal-Object-Lifecycle-Preference"  # of what a request makes
CENTURY = 100 * 365 * 24 * 3600  # seconds; who wants a file to live longer wants it for ever
MAX_RULES = 32  # an upload URL carries them
MAX_USER = 255  # characters


class RuleBody(msgspec.Struct):
    user: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_USER)]
    decision: Decision


class AclBody(msgspec.Struct):
    """An ACL on the wire."""

    default: Decision = Decision.ALLOW
    rules: Annotated[list[RuleBody], msgspec.Meta(max_length=MAX_RULES)] | None = None

    def acl(self) -> Acl:
        return Acl(self.default, tuple((rule.user, rule.decision) for rule in self.rules or ()))

    @classmethod
    def of(cls, acl: Acl) -> "AclBody":
        return cls(acl.default, [RuleBody(user, decision) for user, decision in acl.rules])


class _Body(msgspec.Struct):
    expiration_duration_seconds: Annotated[int, msgspec.Meta(ge=0)] | None = None
    initial_acl: AclBody | None = None


def of_upload(headers: Mapping[str, str]) -> Lifecycle:
    """What an upload asks for; Python's client says it in both headers. Raises `BadRequest`."""
    return _read(headers, OBJECT) or _read(headers, PREFERENCE) or Lifecycle()


def of_request(headers: Mapping[str, str]) -> Lifecycle | None:
    """What a request asks for its files. Raises `BadRequest`."""
    return _read(headers, PREFERENCE)


def _read(headers: Mapping[str, str], name: str) -> Lifecycle | None:
    text = headers.get(name.lower())
    if not text:
        return None
    try:
        body = msgspec.json.decode(text, type=_Body)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadRequest(f"{name} is not understood: {error}.") from None
    seconds = body.expiration_duration_seconds
    acl = None if body.initial_acl is None else body.initial_acl.acl()
    return Lifecycle(min(seconds, CENTURY) if seconds else None, acl)
