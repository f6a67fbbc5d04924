"""Who asks. In: the Authorization header and the kind of door it knocks at. Out: a `Caller`, or fal's 401 and 403.

The open mode (a server on a loopback address) takes any key and none; all its requests belong to the caller "". In the
keys mode a request belongs to the key that made it, and other keys' requests do not exist.

A page that the user of the machine happens to visit reaches loopback addresses, too. So there a browser's request
passes only when its page comes from this machine or from `auth.origins`, and any request only under a name that is
known to be this server's: a page may have its own name point here (DNS rebinding), and then sends no Origin.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import urlsplit

from impasto.api.roles import FAL_HOSTS, app_of
from impasto.api.token_claims import read
from impasto.errors import Forbidden, Unauthorized
from impasto.settings import Settings, is_local
from impasto.store.base import Store
from impasto.store.records import Request

KEY_CHECK_SECONDS = 1.0  # between two looks whether the key of a waiting call was revoked
SCOPES = ("API", "ADMIN")  # either lets a key call models


class Access(Enum):
    PUBLIC = auto()  # anybody; the header is not looked at
    MODEL = auto()  # run and submit
    REQUEST = auto()  # status, result, cancel: without a key every id is unknown, there is no 401
    REST = auto()  # tokens, storage and the platform API


@dataclass(frozen=True, slots=True)
class Caller:
    key_id: str  # "" in the open mode
    admin: bool = False  # may see everybody's requests and manage keys
    token_id: str = ""  # of the short-lived token that it came with


EVERYBODY = Caller("", admin=True)


def identify(
    headers: Mapping[str, str],
    *,
    store: Store,
    settings: Settings,
    access: Access,
    path: str = "",
    token: str | None = None,
    secret: bytes = b"",
) -> Caller | None:
    """The caller; None when nobody is named and the door allows that. Raises `Unauthorized` or `Forbidden`.

    `token`: a short-lived one from the query, which counts at models when there is no header; `secret` signed it.
    """
    authorization = headers.get("authorization")
    if not settings.keys_required:
        if access is not Access.PUBLIC:
            _refuse_foreign_page(headers.get("origin"), settings)
            _refuse_foreign_name(headers.get("host", ""), settings)
        return EVERYBODY
    if access is Access.PUBLIC:
        return None
    if not authorization:
        if access is Access.MODEL and token is not None:
            return _of_token(token, path=path, store=store, secret=secret)
        if access is Access.MODEL:
            raise Unauthorized(
                f'Cannot access application "{app_of(path)}". Authentication is required to access this application.'
            )
        if access is Access.REST:
            raise Unauthorized
        return None
    return _of_key(authorization, store)


def named_key(headers: Mapping[str, str]) -> str:
    """Return the key id that a request names, genuine or not; "": none. Tells callers of an open server apart."""
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    return credentials.strip().partition(":")[0] if scheme.lower() in {"key", "bearer"} else ""


def _refuse_foreign_page(origin: str | None, settings: Settings) -> None:
    """Only browsers send an Origin, and no page can change its own."""
    if origin is None or origin in settings.auth.origins or settings.auth.mode == "open":
        return
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        host = ""
    if not is_local(host):
        raise Forbidden(
            f"Pages of {origin} may not call this server, which asks for no key. Add the origin to the setting "
            "auth.origins, or require keys: auth.mode = keys."
        )


def _refuse_foreign_name(host: str, settings: Settings) -> None:
    name = urlsplit(f"//{host}").hostname or ""
    if settings.auth.mode == "open" or not name or is_local(name) or name in FAL_HOSTS:
        return
    if name not in {urlsplit(origin).hostname for origin in settings.auth.origins}:
        raise Forbidden(
            f"This server asks for no key and is not known as {name}. Call it by 127.0.0.1 or localhost, add the "
            "name's origin to the setting auth.origins, or require keys: auth.mode = keys."
        )


def key_is_live(store: Store, key_id: str) -> bool:
    """Whether the key still calls models: neither revoked nor without scope. The open mode's "" always does."""
    if not key_id:
        return True
    key = store.key(key_id)
    return key is not None and key.revoked_at is None and bool(set(SCOPES) & set(key.scopes))


async def check_key(store: Store, request: Request) -> None:
    """End the wait for a request whose key was revoked meanwhile: it is cancelled. Raises `Unauthorized`. Waiting calls
    ask once in `KEY_CHECK_SECONDS`: another process may revoke, and rings no bell.
    """
    if not key_is_live(store, request.key_id):
        await store.cancel(request.request_id)
        raise Unauthorized("The API key of this call was revoked.")


def _of_token(token: str, *, path: str, store: Store, secret: bytes) -> Caller:
    """A token is worth what its key is worth now. One of the open mode, without a key, is worth nothing here."""
    genuine = read(token, path=path, secret=secret)
    if not genuine.key_id or not key_is_live(store, genuine.key_id):
        raise Unauthorized("The key that this token was made with is no longer valid.")
    return Caller(genuine.key_id, token_id=genuine.token_id)


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
    return Caller(key.key_id, admin="ADMIN" in key.scopes)
