"""Uploads by every way that fal's clients know (reference, protocol section 8).

    token or key + POST /files/upload               Python: bytes up to 100 MB
    POST /files/upload/multipart, PUT part, complete Python: larger ones, below the access_url
    initiate, then PUT the upload_url               JavaScript: no key, the URL carries its own signature
    initiate-multipart, PUT {url}/{n}, complete     JavaScript: larger ones
    initiate-multipart of `gcs`                     POST {url}/{n} tells where to PUT the part, then complete

In: bytes with a declared type, name and lifecycle. Out: a blob, its record and a URL on the host that the client used.
What a file is served as is decided by `media`, never by the client alone; `incoming` moves the bytes.
"""

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from urllib.parse import parse_qs, urlsplit

import msgspec
from starlette.responses import Response

from impasto.api import lifecycle
from impasto.api.auth import Access, identify, key_is_live
from impasto.api.bodies import MIB, Json, read_body, read_object, too_large
from impasto.api.download import etag
from impasto.api.gateway import Call, Gateway
from impasto.api.incoming import Room, disk_errors, keep, receive, room
from impasto.api.media import bare, clean_name
from impasto.api.signing import Claims, sign, verify
from impasto.errors import BadRequest, Forbidden, Unauthorized
from impasto.files.urls import file_url

TOKEN_SECONDS = 3600.0  # life of an upload token and of an upload URL
TOKEN, PUT, MULTIPART = "token", "put", "multipart"  # kinds of signed claims
GCS = "gcs"  # the storage type whose clients put the part's number behind the whole URL


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
    """Where to PUT the bytes (or, with `/{n}` and `/complete` behind its path, the parts), and their URL to be."""
    assert call.caller is not None
    body = await read_object(call.request, limit_mb=1)
    claims = _new_file(call, PUT, call.caller.key_id, body.get("content_type"), body.get("file_name"))
    url = _url(call, claims.file)
    return Json({"upload_url": f"{url}?upload={sign(claims, call.gateway.secret)}", "file_url": url})


async def initiate_multipart(call: Call) -> Response:
    """As `initiate`, for parts."""
    if call.request.query_params.get("storage_type") != GCS:
        return await initiate(call)
    assert call.caller is not None
    body = await read_object(call.request, limit_mb=1)
    claims = _new_file(call, MULTIPART, call.caller.key_id, body.get("content_type"), body.get("file_name"))
    url = _url(call, claims.file)
    return Json({"upload_url": f"{url}/multipart/{sign(claims, call.gateway.secret)}", "file_url": url})


def _new_file(call: Call, kind: str, key_id: str, declared: object, file_name: object) -> Claims:
    type_ = bare(declared if isinstance(declared, str) else None)
    name = clean_name(file_name if isinstance(file_name, str) else None)
    wish = lifecycle.of_upload(call.request.headers)
    return Claims(
        kind=kind,
        expires_at=time.time() + TOKEN_SECONDS,
        key_id=key_id,
        file=call.gateway.blobs.new_token(type_, name),
        media_type=type_,
        file_name=name,
        lifetime=wish.expires_in,
        acl=wish.acl,
    )


def _url(call: Call, token: str) -> str:
    return file_url(call.address.file_base, token)


# ---------------------------------------------------------------- with a token or a key


async def upload(call: Call) -> Response:
    """The whole file in one POST."""
    claims = _new_file(call, MULTIPART, _uploader(call), *_declared(call))
    await _receive_file(call, claims)
    return Json({"access_url": _url(call, claims.file)})


async def start_multipart(call: Call) -> Response:
    """The URL of the file to be, below which its parts are PUT. The upload id carries everything; nothing is stored."""
    claims = _new_file(call, MULTIPART, _uploader(call), *_declared(call))
    return Json({"access_url": _url(call, claims.file), "uploadId": sign(claims, call.gateway.secret)})


async def put_part(call: Call) -> Response:
    return await _put_part(call, _claims(call, MULTIPART, call.request.path_params["upload"]))


async def part_url(call: Call) -> Response:
    """Where to PUT a part: just there."""
    claims = _claims(call, MULTIPART, call.request.path_params["upload"])
    parameters = call.request.path_params
    return Json({"upload_url": f"{_url(call, claims.file)}/multipart/{parameters['upload']}/{parameters['part']}"})


async def complete_multipart(call: Call) -> Response:
    claims = _claims(call, MULTIPART, call.request.path_params["upload"])
    return await _complete(call, claims, await _listed(call))


def _uploader(call: Call) -> str:
    """The key id behind an upload token or a key. Raises `Unauthorized`."""
    authorization = call.request.headers.get("authorization")
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        claims = verify(token.strip(), kind=TOKEN, secret=call.gateway.secret)
        if claims is not None:
            if not _live(call, claims):
                raise Unauthorized("The key that this token was made with is no longer valid.")
            return claims.key_id
    caller = identify(
        call.request.headers, store=call.gateway.store, settings=call.gateway.settings, access=Access.REST
    )
    if caller is None:
        raise Unauthorized
    return caller.key_id


def _live(call: Call, claims: Claims) -> bool:
    """Whether the key behind signed claims still calls: they are worth what it is worth now, and none is worth nothing
    where keys are required.
    """
    known = bool(claims.key_id) or not call.gateway.settings.keys_required
    return known and key_is_live(call.gateway.store, claims.key_id)


def _declared(call: Call) -> tuple[str | None, str | None]:
    headers = call.request.headers
    return headers.get("content-type"), _utf8(headers.get("x-fal-file-name"))


def _utf8(name: str | None) -> str | None:
    """A name as its sender meant it: headers come as Latin-1, senders write UTF-8."""
    try:
        return name and name.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return name


# ---------------------------------------------------------------- with a signed URL


async def put_signed(call: Call) -> Response:
    """The whole file at its upload URL: no key, the signature in the query is the right to write this one file."""
    claims = _claims(call, PUT, call.request.query_params.get("upload", ""))
    await _receive_file(call, claims)
    return Response(status_code=200, headers={"ETag": etag(claims.file)})


async def put_signed_part(call: Call) -> Response:
    return await _put_part(call, _claims(call, PUT, call.request.query_params.get("upload", "")))


async def complete_signed(call: Call) -> Response:
    claims = _claims(call, PUT, call.request.query_params.get("upload", ""))
    return await _complete(call, claims, await _listed(call))


async def complete_by_url(call: Call) -> Response:
    """`/storage/upload/complete-multipart`: the same, away from the file's own host; the body names the upload_url."""
    listed = await _listed(call)
    try:
        parts = urlsplit(listed.upload_url)
    except ValueError:
        raise BadRequest("upload_url is the one that initiate-multipart gave.") from None
    file, _, signature = parts.path.partition("/files/")[2].partition("/multipart/")
    kind, token = (MULTIPART, signature) if signature else (PUT, parse_qs(parts.query).get("upload", [""])[0])
    return await _complete(call, _claims(call, kind, token, file), listed)


def _claims(call: Call, kind: str, token: str, file: str | None = None) -> Claims:
    """The right to write `file`, by default the one that the path names. Raises `Forbidden`."""
    claims = verify(token, kind=kind, secret=call.gateway.secret)
    if claims is None or claims.file != (call.request.path_params["token"] if file is None else file):
        raise Forbidden("The upload URL is not genuine or has expired; ask for a new one.")
    if not _live(call, claims):
        raise Forbidden("The key that asked for this upload URL is no longer valid.")
    return claims


# ---------------------------------------------------------------- bytes


async def _receive_file(call: Call, claims: Claims) -> None:
    gateway = call.gateway
    with disk_errors():
        draft = await asyncio.to_thread(gateway.blobs.draft)
    with draft:
        await receive(call.request, draft, await room(gateway, claims), space=gateway.space)
        await keep(gateway, claims, draft)


async def _put_part(call: Call, claims: Claims) -> Response:
    """Python reads the ETag header, JavaScript the JSON body: both are there."""
    number: int = call.request.path_params["part"]
    parts, upload_ = call.gateway.parts, (claims.key_id, claims.file)
    if call.gateway.store.file(claims.file) is not None:
        raise BadRequest("This upload is complete; its parts were joined.")
    with disk_errors():
        draft = await asyncio.to_thread(parts.draft, *upload_, number)
    with draft:

        async def left() -> Room:
            replaced = await asyncio.to_thread(parts.size, *upload_, number)
            taken = await asyncio.to_thread(parts.pending, *upload_) - replaced
            new = not await asyncio.to_thread(parts.has, *upload_, number)
            return await room(call.gateway, claims, taken=taken, replaced=replaced, new=new)

        await receive(call.request, draft, await left(), space=call.gateway.space)
        if draft.size > (now := await left()).size:  # others came while this one did
            raise now.refusal
        with disk_errors():
            tag = await asyncio.to_thread(parts.keep, draft)
    return Json({"partNumber": number, "etag": tag}, headers={"ETag": tag})


class _Part(msgspec.Struct):
    etag: str
    partNumber: int = 0
    part_number: int = 0  # as the `fal` package writes it for gcs


class _Parts(msgspec.Struct):
    parts: list[_Part]
    upload_url: str = ""


async def _listed(call: Call) -> _Parts:
    body = await read_body(call.request, limit_mb=1, setting="none: a list of parts")
    try:
        return msgspec.json.decode(body, type=_Parts)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f'The body is {{"parts": [{{"partNumber": 1, "etag": "…"}}, …]}}: {error}.') from None


async def _complete(call: Call, claims: Claims, listed: _Parts) -> Response:
    """Join the parts. A repeated call for a finished file is answered alike: clients retry it."""
    gateway = call.gateway
    if gateway.store.file(claims.file) is None:
        try:
            await _join(gateway, claims, [(part.partNumber or part.part_number, part.etag) for part in listed.parts])
        except BadRequest:
            if gateway.store.file(claims.file) is None:
                raise
            # the same call came twice at once, and the other one has taken the parts
        await asyncio.to_thread(gateway.parts.drop, claims.key_id, claims.file)
    return Json({"access_url": _url(call, claims.file)})


async def _join(gateway: Gateway, claims: Claims, listed: list[tuple[int, str]]) -> None:
    with disk_errors():
        draft = await asyncio.to_thread(gateway.blobs.draft)
    with draft:
        with disk_errors():
            await asyncio.to_thread(partial(gateway.parts.join, claims.key_id, claims.file, listed, into=draft))
        largest = gateway.settings.server.max_upload_mb
        if draft.size > largest * MIB:  # parts that came at once did not see each other
            raise too_large(largest, "server.max_upload_mb")
        await keep(gateway, claims, draft)
