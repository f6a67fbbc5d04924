"""Who asks. In: the Authorization header and the kind of door it knocks at. Out: a `Caller`, or fal's 401 and 403.

The open mode (a server on a loopback address) takes any key and none; all its requests belong to the caller "". In the
keys mode a request belongs to the key that made it, and other keys' requests do not exist.
"""

from dataclasses import dataclass
from enum import Enum, auto

from impasto.api.roles import app_of
from impasto.errors import Forbidden, Unauthorized
from impasto.store.base import Store

SCOPES = ("API", "ADMIN")  # either lets a key call models


class Access(Enum):
    PUBLIC = auto()  # anybody; the header is not looked at
    MODEL = auto()  # run and submit
    REQUEST = auto()  # status, result, cancel: without a key every id is unknown, there is no 401
    REST = auto()  # tokens and storage


@dataclass(frozen=True, slots=True)
class Caller:
    key_id: str  # "" in the open mode


EVERYBODY = Caller("")


def identify(
    authorization: str | None, *, store: Store, keys_required: bool, access: Access, path: str = ""
) -> Caller | None:
    """The caller; None when nobody is named and the door allows that. Raises `Unauthorized` or `Forbidden`."""
    if not keys_required:
        return EVERYBODY
    if access is Access.PUBLIC:
        return None
    if not authorization:
        if access is Access.MODEL:
            raise Unauthorized(
                f'Cannot access application "{app_of(path)}". Authentication is required to access this application.'
            )
        if access is Access.REST:
            raise Unauthorized
        return None
    return _of_key(authorization, store)


def _of_key(authorization: str, store: Store) -> Caller:
    scheme, _, credentials = authorization.strip().partition(" ")
    key_id, colon, secret = credentials.strip().partition(":")
    if scheme.lower() not in {"key", "bearer"} or not (key_id and colon and secret) or " " in credentials.strip():
        raise Unauthorized("Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'.")
    key = store.authenticate(key_id, secret)
    if key is None:
        raise Unauthorized("No user found for Key ID and Secret")
    if not set(SCOPES) & set(key.scopes):
        raise Forbidden(f"The key {key.alias!r} has none of the scopes {', '.join(SCOPES)} that this call needs.")
    return Caller(key.key_id)
