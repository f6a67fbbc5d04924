"""Uploads by every way that fal's clients know (reference, protocol section 8).

    token + POST /files/upload                      Python: bytes up to 100 MB
    POST /files/upload/multipart, PUT part, complete Python: larger ones, below the access_url
    initiate, then PUT the upload_url               JavaScript: no key, the URL carries its own signature
    initiate-multipart, PUT {url}/{n}, complete     JavaScript: larger ones

In: bytes with a declared type and name. Out: a blob, its record and a URL on the host that the client used. What a file
is served as is decided by `media`, never by the client alone.
"""

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import msgspec
from starlette.responses import Response

from impasto.api.auth import Access, identify
from impasto.api.bodies import MIB, Json, read_body, read_object
from impasto.api.download import etag
from impasto.api.gateway import Blobs, Call
from impasto.api.media import bare, clean_name, media_type
from impasto.api.parts import Parts
from impasto.api.signing import Claims, sign, verify
from impasto.errors import BadRequest, Forbidden, Unauthorized
from impasto.store.records import FileRecord

TOKEN_SECONDS = 3600.0  # life of an upload token and of an upload URL
CENTURY = 100 * 365 * 24 * 3600  # seconds; who wants a file to live longer wants it for ever
TOKEN, PUT, MULTIPART = "token", "put", "multipart"  # kinds of signed claims


# ---------------------------------------------------------------- tokens and URLs


async def auth_token(call: Call) -> Response:
    """A bearer token for `/files/upload`. The time carries a numeric offset: Python 3.10 reads no "Z"."""
    assert call.caller is not None
    expires_at = time.time() + TOKEN_SECONDS
    claims = Claims(kind=TOKEN, expires_at=expires_at, key_id=call.caller.key_id)
    return Json(
        {
            "token": sign(claims, call.gateway.secret),
            "token_type": "Bearer",
            "base_url": call.address.file_base,
            "expires_at": datetime.fromtimestamp(int(expires_at), UTC).isoformat(),
        }
    )


async def initiate(call: Call) -> Response:
    """Where to PUT the bytes (or, with `/{n}` and `/complete` behind it, the parts), and the URL they will have."""
    assert call.caller is not None
    body = await read_object(call.request, limit_mb=1)
    await asyncio.to_thread(_parts(call).sweep)
    claims = _new_file(call, PUT, call.caller.key_id, body.get("content_type"), body.get("file_name"))
    url = _url(call, claims.file)
    return Json({"upload_url": f"{url}?upload={sign(claims, call.gateway.secret)}", "file_url": url})


def _new_file(call: Call, kind: str, key_id: str, declared: object, file_name: object) -> Claims:
    type_ = bare(declared if isinstance(declared, str) else None)
    name = clean_name(file_name if isinstance(file_name, str) else None)
    now = time.time()
    lifetime = _lifetime(call)
    return Claims(
        kind=kind,
        expires_at=now + TOKEN_SECONDS,
        key_id=key_id,
        file=call.gateway.blobs.new_token(type_),
        media_type=type_,
        file_name=name,
        file_expires_at=None if lifetime is None else now + lifetime,
    )


def _url(call: Call, token: str) -> str:
    return f"{call.address.file_base}/files/{token}"


# ---------------------------------------------------------------- with a token or a key


async def upload(call: Call) -> Response:
    """The whole file in one POST."""
    claims = _new_file(call, MULTIPART, _uploader(call), *_declared(call))
    data = await _read(call)
    await _keep(call, claims, data)
    return Json({"access_url": _url(call, claims.file)})


async def start_multipart(call: Call) -> Response:
    """The URL of the file to be, below which its parts are PUT. The upload id carries everything; nothing is stored."""
    claims = _new_file(call, MULTIPART, _uploader(call), *_declared(call))
    await asyncio.to_thread(_parts(call).sweep)
    return Json({"access_url": _url(call, claims.file), "uploadId": sign(claims, call.gateway.secret)})


async def put_part(call: Call) -> Response:
    return await _put_part(call, _claims(call, MULTIPART, call.request.path_params["upload"]))


async def complete_multipart(call: Call) -> Response:
    return await _complete(call, _claims(call, MULTIPART, call.request.path_params["upload"]))


def _uploader(call: Call) -> str:
    """The key id behind an upload token or a key. Raises `Unauthorized`."""
    authorization = call.request.headers.get("authorization")
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        claims = verify(token.strip(), kind=TOKEN, secret=call.gateway.secret)
        if claims is not None:
            return claims.key_id
    caller = identify(
        call.request.headers, store=call.gateway.store, settings=call.gateway.settings, access=Access.REST
    )
    if caller is None:
        raise Unauthorized
    return caller.key_id


def _declared(call: Call) -> tuple[str | None, str | None]:
    return call.request.headers.get("content-type"), call.request.headers.get("x-fal-file-name")


# ---------------------------------------------------------------- with a signed URL


async def put_signed(call: Call) -> Response:
    """The whole file at its upload URL: no key, the signature in the query is the right to write this one file."""
    claims = _claims(call, PUT, call.request.query_params.get("upload", ""))
    data = await _read(call)
    await _keep(call, claims, data)
    return Response(status_code=200, headers={"ETag": etag(claims.file)})


async def put_signed_part(call: Call) -> Response:
    return await _put_part(call, _claims(call, PUT, call.request.query_params.get("upload", "")))


async def complete_signed(call: Call) -> Response:
    return await _complete(call, _claims(call, PUT, call.request.query_params.get("upload", "")))


def _claims(call: Call, kind: str, token: str) -> Claims:
    """The right to write the file that the path names. Raises `Forbidden`."""
    claims = verify(token, kind=kind, secret=call.gateway.secret)
    if claims is None or claims.file != call.request.path_params["token"]:
        raise Forbidden("The upload URL is not genuine or has expired; ask for a new one.")
    return claims


# ---------------------------------------------------------------- bytes


async def _put_part(call: Call, claims: Claims) -> Response:
    """Python reads the ETag header, JavaScript the JSON body: both are there."""
    number: int = call.request.path_params["part"]
    data = await _read(call)
    tag = await asyncio.to_thread(_parts(call).put, claims.file, number, data)
    return Json({"partNumber": number, "etag": tag}, headers={"ETag": tag})


class _Part(msgspec.Struct):
    partNumber: int
    etag: str


class _Parts(msgspec.Struct):
    parts: list[_Part]


async def _complete(call: Call, claims: Claims) -> Response:
    """Join the parts. A repeated call for a finished file is answered alike: clients retry it."""
    body = await read_body(call.request, limit_mb=1, setting="none: a list of parts")
    try:
        listed = [(part.partNumber, part.etag) for part in msgspec.json.decode(body, type=_Parts).parts]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f'The body is {{"parts": [{{"partNumber": 1, "etag": "…"}}, …]}}: {error}.') from None
    parts = _parts(call)
    if call.gateway.store.file(claims.file) is None:
        data = await asyncio.to_thread(parts.join, claims.file, listed)
        await _keep(call, claims, data)
        await asyncio.to_thread(parts.drop, claims.file)
    return Json({"access_url": _url(call, claims.file)})


async def _keep(call: Call, claims: Claims, data: bytes) -> None:
    """Blob first, record second: a record never names bytes that are not there. What is written is never changed."""
    store, blobs = call.gateway.store, call.gateway.blobs
    if store.file(claims.file) is not None:
        if await asyncio.to_thread(_same, blobs, claims.file, data):
            return  # the client did not hear our first answer
        raise BadRequest("This upload URL was used already; ask for a new one.")
    type_ = media_type(claims.media_type, data)
    await asyncio.to_thread(partial(blobs.put, data, media_type=type_, token=claims.file))
    await store.add_file(
        FileRecord(
            token=claims.file,
            media_type=type_,
            size=len(data),
            file_name=claims.file_name,
            key_id=claims.key_id,
            created_at=time.time(),
            expires_at=claims.file_expires_at,
        )
    )


def _same(blobs: Blobs, token: str, data: bytes) -> bool:
    with blobs.open(token) as file:
        return file.read() == data


def _lifetime(call: Call) -> float | None:
    """Seconds that the client wants its file to live (X-Fal-Object-Lifecycle). Raises `BadRequest`."""
    headers = call.request.headers
    text = headers.get("x-fal-object-lifecycle") or headers.get("x-fal-object-lifecycle-preference")
    if not text:
        return None
    try:
        wish = msgspec.json.decode(text, type=_Lifecycle)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"X-Fal-Object-Lifecycle is not understood: {error}.") from None
    acl = wish.initial_acl
    if acl is not None and (acl.default != "allow" or any(rule.decision != "allow" for rule in acl.rules)):
        raise BadRequest(
            "X-Fal-Object-Lifecycle: initial_acl is not supported, the file would be public to whoever knows its URL. "
            "Leave initial_acl out to accept that."
        )
    seconds = wish.expiration_duration_seconds
    return None if seconds is None else min(seconds, CENTURY)


class _Rule(msgspec.Struct):
    decision: str = "allow"


class _Acl(msgspec.Struct):
    default: str = "allow"
    rules: list[_Rule] = []


class _Lifecycle(msgspec.Struct):
    expiration_duration_seconds: Annotated[int, msgspec.Meta(gt=0)] | None = None
    initial_acl: _Acl | None = None


def _parts(call: Call) -> Parts:
    settings = call.gateway.settings
    return Parts(settings.data / "uploads", max_bytes=settings.server.max_upload_mb * MIB)


async def _read(call: Call) -> bytes:
    limit = call.gateway.settings.server.max_upload_mb
    return await read_body(call.request, limit_mb=limit, setting="server.max_upload_mb")
