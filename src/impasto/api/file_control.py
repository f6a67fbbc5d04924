"""What an owner does with files that are there: the storage part of fal's platform API.

    POST   /v1/storage/files/sign?url=…            {"expiration_seconds": 3600} → {"signed_url": …}
    GET    /v1/storage/files/acl?url=…             → {"default", "rules"}; PUT replaces it
    DELETE /files/{token}                          one file (ours: fal has no such call)

Only the key that made a file may do this; to others it is what the file's ACL makes it. The files of a request go with
its payloads (`platform.requests`).
"""

import time
from urllib.parse import urlsplit

import msgspec
from starlette.responses import Response

from impasto.api.auth import EVERYBODY, Access, identify
from impasto.api.bodies import Json, read_body, read_object
from impasto.api.gateway import Call
from impasto.api.lifecycle import AclBody
from impasto.api.readers import MISSING
from impasto.errors import BadRequest, Forbidden, ModelError, NotFound
from impasto.files import links
from impasto.store.records import Acl, Decision, FileRecord


async def sign(call: Call) -> Response:
    """A link that opens the file for whoever has it, whatever its ACL says."""
    file = _own(call, _named(call))
    seconds = _seconds(await read_object(call.request, limit_mb=1))
    text = links.identity(file.token, until=int(time.time()) + seconds, secret=call.gateway.secret)
    return Json({"signed_url": f"{call.request.query_params['url']}?{links.PARAMETER}={text}"})


async def get_acl(call: Call) -> Response:
    file = _own(call, _named(call))
    return Json(AclBody.of(file.acl or Acl()))


async def put_acl(call: Call) -> Response:
    """Who may read the file from now on. What caches elsewhere already keep of a public file, they keep."""
    file = _own(call, _named(call))
    body = await read_body(call.request, limit_mb=1, setting="none: an ACL")
    try:
        acl = msgspec.json.decode(body, type=AclBody).acl()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f'The body is {{"default": "forbid", "rules": [{{"user", "decision"}}]}}: {error}.') from None
    if not await call.gateway.store.set_acl(file.token, acl):
        raise NotFound(MISSING)
    return Json(AclBody.of(acl))


async def delete_file(call: Call) -> Response:
    """204; not served from now on, the bytes are gone from the disk within seconds."""
    gateway = call.gateway
    call.caller = identify(call.request.headers, store=gateway.store, settings=gateway.settings, access=Access.REST)
    file = _own(call, call.request.path_params["token"])
    if not await gateway.store.delete_file(file.token):
        raise NotFound(MISSING)
    return Response(status_code=204)


def _named(call: Call) -> str:
    """The token in the query's `url`. Any host will do: the token alone names the file."""
    url = call.request.query_params.get("url", "")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    token = parts.path.rpartition("/files/")[2]
    if parts.scheme not in {"http", "https"} or not token or parts.query or parts.fragment:
        raise BadRequest("The query parameter url is the URL of a file, as the upload gave it, without a query.")
    return token


def _own(call: Call, token: str) -> FileRecord:
    """Raises `NotFound` or `Forbidden` unless it is the caller's."""
    file, key_id = call.gateway.store.file(token), (call.caller or EVERYBODY).key_id
    if file is None or (file.key_id != key_id and file.decide(key_id) is Decision.HIDE):
        raise NotFound(MISSING)
    if file.key_id != key_id:
        raise Forbidden("Only the key that made a file may do this.")
    return file


def _seconds(body: dict[str, object]) -> int:
    seconds = body.get("expiration_seconds")
    if seconds is None:
        raise ModelError.at("expiration_seconds", "Field required: how long the link opens the file", "missing")
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise ModelError.at("expiration_seconds", "A whole number of seconds", "int_type")
    if seconds < 1:
        message = "Input should be greater than or equal to 1"
        raise ModelError.at("expiration_seconds", message, "greater_than_equal", ge=1)
    if seconds > links.MAX_SECONDS:
        message = f"Input should be less than or equal to {links.MAX_SECONDS} (seven days)"
        raise ModelError.at("expiration_seconds", message, "less_than_equal", le=links.MAX_SECONDS)
    return seconds
