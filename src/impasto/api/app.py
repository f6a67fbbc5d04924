"""The fal wire. START READING HERE: `create_app` and the route table below it.

    bytes ─ cors ─ problems ─ roles ─ route table ─ door (auth, method) ─ handler ─ bytes
            every  errors →   which   data          who asks             admission, queue, run, storage, ops, openapi
            answer bytes, id  host

In: the rooms behind it (store, blobs, dispatcher), already started: whoever calls `create_app` owns start and stop.
Out: a Starlette app. The table holds every path of every role; `POST /{endpoint}` alone depends on the role.
Paths arrive without `/queue` prefix and without a slash at the end, so nothing ever redirects.
"""

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp

from impasto.api import file_control, llms, openapi, ops, proxy, queue, storage, tokens, webhooks
from impasto.api.admission import resolve
from impasto.api.auth import Access
from impasto.api.cors import Cors
from impasto.api.download import download
from impasto.api.gateway import Blobs, Call, Door, Fleet, Gateway, Handler
from impasto.api.openai import images
from impasto.api.openai import models as openai_models
from impasto.api.openai.door import PREFIX as OPENAI
from impasto.api.openai.door import OpenAIDoor
from impasto.api.openai.door import unknown as not_openais
from impasto.api.platform import (
    account,
    activity,
    deliveries,
    history,
    installed,
    keys,
    models,
    pricing,
    reports,
    requests,
    system,
)
from impasto.api.platform.door import PlatformDoor, unknown
from impasto.api.problems import Problems, teach_uvicorn
from impasto.api.realtime import Sockets
from impasto.api.roles import Addressing, Role
from impasto.api.run import run
from impasto.api.signing import load_secret
from impasto.api.stream import stream
from impasto.endpoints.table import Endpoints
from impasto.errors import MethodNotAllowed, NotFound
from impasto.files.parts import FOLDER, Parts
from impasto.files.space import Space
from impasto.settings import Settings
from impasto.store.base import Store


class _Part(IntegerConvertor):
    """The number of an upload's part: Starlette's own would fail on one of thousands of digits."""

    regex = "[0-9]{1,9}"


register_url_convertor("part", _Part())

SECRET_FILE = "upload.key"


def create_app(
    *,
    settings: Settings,
    store: Store,
    dispatcher: Fleet,
    blobs: Blobs,
    endpoints: Endpoints | None = None,
    secret: bytes | None = None,
    pages: Sequence[BaseRoute] = (),
    error_pages: Callable[[ASGIApp], ASGIApp] | None = None,
) -> Starlette:
    """The ASGI app over rooms that are open already; it starts and stops nothing.

    `endpoints` defaults to the shipped ones. `secret` signs upload tokens and links; by default it lies in the data
    folder, so that a restart invalidates none. `pages` stand before every path of the wire; each matches only what is
    no call (`web.pages.routes`). `error_pages` answers a browser that opened what is refused (`web.pages.ErrorPages`).
    """
    teach_uvicorn()
    gateway = Gateway(
        settings=settings,
        store=store,
        blobs=blobs,
        dispatcher=dispatcher,
        parts=Parts(settings.data / FOLDER),
        space=Space(settings.data, reserve=settings.server.min_free_mb * 2**20),
        endpoints=Endpoints() if endpoints is None else endpoints,
        secret=secret or load_secret(settings.data / SECRET_FILE),
    )
    app = Starlette(
        middleware=[
            *([Middleware(error_pages)] if error_pages else []),
            *([Middleware(Cors)] if settings.server.cors else []),
            Middleware(Problems),
            Middleware(Addressing, settings.server.public_url),
        ]
    )
    app.router.redirect_slashes = False
    served = routes(gateway)
    app.router.routes = [Route(proxy.PATH, proxy.Proxy(served)), *pages, *served]
    return app


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The route table, the busiest first. `{endpoint}` takes slashes: clients send the app or the whole endpoint id."""

    def row(path: str, access: Access, **handlers: Handler) -> Route:
        return Route(path, Door(gateway, access, handlers))

    def platform(path: str, access: Access = Access.REST, **handlers: Handler) -> Route:
        return Route("/v1" + path, PlatformDoor(Door(gateway, access, handlers)))

    def openai(path: str, **handlers: Handler) -> Route:
        return Route(path, OpenAIDoor(Door(gateway, Access.REST, handlers)))

    return [
        # `/{endpoint}/requests/{request_id}` would take these for requests of the endpoint v1 or v1/models
        platform("/requests/{request_id}/cancel", PUT=history.cancel),
        platform("/models/requests/by-endpoint", GET=requests.by_endpoint),
        platform("/models/requests/{request_id}/payloads", DELETE=requests.erase),
        # ------------------------------------------------------------ the queue's requests
        row("/{endpoint:path}/requests/{request_id}/status", Access.REQUEST, GET=queue.status),
        row("/{endpoint:path}/requests/{request_id}", Access.REQUEST, GET=queue.result),
        row("/{endpoint:path}/requests/{request_id}/response", Access.REQUEST, GET=queue.result),
        row("/{endpoint:path}/requests/{request_id}/cancel", Access.REQUEST, PUT=queue.cancel),
        row("/{endpoint:path}/requests/{request_id}/status/stream", Access.REQUEST, GET=queue.status_stream),
        # ------------------------------------------------------------ their webhooks
        row("/{endpoint:path}/requests/{request_id}/webhook", Access.REQUEST, GET=webhooks.delivery_log),
        row("/{endpoint:path}/requests/{request_id}/webhook/redeliver", Access.REQUEST, POST=webhooks.redeliver),
        row("/.well-known/jwks.json", Access.PUBLIC, GET=webhooks.jwks),
        # ------------------------------------------------------------ sockets and the tokens that open them
        WebSocketRoute("/{endpoint:path}", Sockets(gateway)),
        row("/tokens", Access.REST, POST=tokens.create),
        row("/tokens/realtime", Access.REST, POST=tokens.create),
        # ------------------------------------------------------------ files in and out
        row("/storage/auth/token", Access.REST, POST=storage.auth_token),
        row("/storage/upload/initiate", Access.REST, POST=storage.initiate),
        row("/storage/upload/initiate-multipart", Access.REST, POST=storage.initiate_multipart),
        row("/storage/upload/complete-multipart", Access.REST, POST=storage.complete_by_url),
        row("/files/upload", Access.PUBLIC, POST=storage.upload),
        row("/files/upload/multipart", Access.PUBLIC, POST=storage.start_multipart),
        row("/files/{token:path}/multipart/{upload}/complete", Access.PUBLIC, POST=storage.complete_multipart),
        row(
            "/files/{token:path}/multipart/{upload}/{part:part}",
            Access.PUBLIC,
            PUT=storage.put_part,
            POST=storage.part_url,
        ),
        row("/files/{token:path}/complete", Access.PUBLIC, POST=storage.complete_signed),
        row("/files/{token:path}/{part:part}", Access.PUBLIC, PUT=storage.put_signed_part),
        row(
            "/files/{token:path}",
            Access.PUBLIC,
            GET=download,
            PUT=storage.put_signed,
            DELETE=file_control.delete_file,
        ),
        platform("/storage/files/sign", POST=file_control.sign),
        platform("/storage/files/acl", GET=file_control.get_acl, PUT=file_control.put_acl),
        row("/requests/delete_io/{request_id}", Access.REST, PUT=requests.erase_io),
        # ------------------------------------------------------------ OpenAI's clients
        *(
            openai(f"{base}/images/{path}", POST=handler)
            for base in (OPENAI, "/v1")
            for path, handler in (("generations", images.generations), ("edits", images.edits))
        ),
        openai(f"{OPENAI}/models", GET=openai_models.listed),
        openai(f"{OPENAI}/models/{{model:path}}", GET=openai_models.one),
        openai(OPENAI + "/{rest:path}", **dict.fromkeys(_ALL_METHODS, not_openais)),
        # ------------------------------------------------------------ for people and machines around it
        row("/", Access.PUBLIC, GET=ops.index),
        row("/health", Access.PUBLIC, GET=ops.healthz),
        row("/healthz", Access.PUBLIC, GET=ops.healthz),
        row("/readyz", Access.PUBLIC, GET=ops.readyz),
        row("/openapi.json", Access.PUBLIC, GET=openapi.of_server),
        row("/llms.txt", Access.PUBLIC, GET=llms.of_server),
        row("/models/{endpoint:path}/llms.txt", Access.PUBLIC, GET=llms.of_endpoint),
        row("/api/models", Access.PUBLIC, GET=models.catalogue),
        row("/api/openapi/queue/openapi.json", Access.PUBLIC, GET=openapi.of_queue),
        # ------------------------------------------------------------ the platform API
        platform("/models", Access.PUBLIC, GET=models.models),
        platform("/models/pricing", GET=pricing.prices),
        platform("/models/pricing/estimate", POST=pricing.estimate),
        platform("/models/usage", GET=reports.usage),
        platform("/models/analytics", GET=reports.analytics),
        platform("/requests", GET=history.requests),
        platform("/system", GET=system.system),
        platform("/system/activity", GET=activity.activity),
        platform("/system/models", GET=installed.models),
        platform("/webhooks", GET=deliveries.listed),
        platform("/webhooks/{request_id}/redeliver", POST=deliveries.redeliver),
        platform("/keys", GET=keys.list_keys, POST=keys.create_key),
        platform("/keys/{key_id}", DELETE=keys.delete_key),
        platform("/account/billing", GET=account.billing),
        platform("/meta", Access.PUBLIC, GET=account.meta),
        platform("/{rest:path}", Access.PUBLIC, **dict.fromkeys(_ALL_METHODS, unknown)),
        row("/{endpoint:path}/stream", Access.MODEL, POST=streamed),
        # ------------------------------------------------------------ models: every other path
        Route("/{endpoint:path}", Door(gateway, Access.MODEL, dict.fromkeys(_ALL_METHODS, model))),
    ]


_ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


async def streamed(call: Call) -> Response:
    """`/{endpoint}/stream` is a way to run; for any other role it is a path like all others."""
    return await stream(call) if call.address.role is Role.RUN else await model(call)


async def model(call: Call) -> Response:
    """`/{endpoint}`: the sync run or the submit. An unknown path is 404 under any method."""
    resolve(call.address.path, call.gateway.endpoints)
    if call.request.method != "POST":
        raise MethodNotAllowed(allowed=("POST",))
    if call.address.role is Role.QUEUE:
        return await queue.submit(call)
    if call.address.role is Role.RUN:
        return await run(call)
    raise NotFound("Models are run at fal.run and queued at queue.fal.run, not at this host.")
