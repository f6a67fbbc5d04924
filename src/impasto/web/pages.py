"""The pages: playground, model pages, history, dashboard. A client of the public wire and nothing else.

In: GET of a page's path or of a file below /static/. Out: one HTML shell for every page (`static/app.js` reads the path
and draws it in the browser), and the files, gzipped where the browser takes that, checked by ETag. Nothing of the pages
asks another host: the Content-Security-Policy forbids it.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, cast

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto.documents import Document, make, respond

MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
PAGES = ("/", "/models", "/models/{page:path}", "/history", "/history/{page:path}", "/compare", "/dashboard")
_NAME = re.compile(r"(vendor/)?[a-z-]+\.(css|html|js|svg|txt)")
_IMPORT_MAP = re.compile(rb'<script type="importmap">(.*?)</script>', re.DOTALL)


class _Page(Route):
    """Matches what a browser asks for to show it, and nothing that a program may mean: `GET /` is JSON to curl."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        shown = scope["type"] == "http" and "text/html" in Headers(scope=scope).get("accept", "")
        if not shown or scope["method"] not in {"GET", "HEAD"} or scope["path"].endswith(".txt"):
            return Match.NONE, {}
        return super().matches(scope)


class ErrorPages:
    """ASGI: answer a person whose browser opened an address that cannot be shown with a page instead of JSON.

    Only a GET that accepts text/html and names no key gets it, so that every program keeps the JSON. Status and headers
    stay; the page says why in words and links to the other pages.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_person(scope):
            await self.app(scope, receive, send)
            return
        held: Message | None = None
        body = bytearray()

        async def sending(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and message["status"] >= 400 and _is_json(message):
                held = message
            elif held is None:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await _refusal(held, bytes(body), {**scope, "headers": held["headers"]})(scope, receive, send)

        await self.app(scope, receive, sending)


def _is_person(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
        return False
    headers = Headers(scope=scope)
    return "text/html" in headers.get("accept", "") and "authorization" not in headers


def _is_json(start: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"application/json") for name, value in start["headers"])


def _refusal(start: Message, body: bytes, answered: Scope) -> Response:
    """The shell, told by two `meta` elements what was refused; its text stands also where no script runs."""
    shell = _asset("index.html")
    assert shell is not None, "the shell is part of the package"
    status, why = start["status"], html.escape(_words(body))
    told = f'<meta name="impasto-status" content="{status}">\n<meta name="impasto-problem" content="{why}">\n</head>'
    plain = shell.plain.decode("utf-8").replace("</head>", told, 1)
    plain = plain.replace("<noscript>", f"<noscript><p>{status}: {why}</p>", 1)
    own = {"content-type", "content-length", "content-encoding"}
    kept = {name: value for name, value in Headers(scope=answered).items() if name not in own}
    more = {"Content-Security-Policy": _policy(), "Cache-Control": "no-store", "Vary": "Accept, Authorization"}
    return Response(plain, status_code=status, media_type="text/html", headers={**kept, **more})


def _words(body: bytes) -> str:
    """The sentence of an error's body, whichever of the three shapes it has: fal's, the platform's, OpenAI's."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        return ""
    fields = cast(dict[str, Any], said) if isinstance(said, dict) else {}
    error = fields.get("error")
    detail = fields.get("detail") or (cast(dict[str, Any], error).get("message") if isinstance(error, dict) else error)
    if isinstance(detail, list):
        items = cast(list[Any], detail)
        return "; ".join(str(cast(dict[str, Any], each).get("msg", "")) for each in items if isinstance(each, dict))
    return detail if isinstance(detail, str) else ""


def routes() -> list[BaseRoute]:
    """For the route table: the shell's paths and the files."""
    return [*(_Page(path, page) for path in PAGES), Route("/static/{name:path}", static)]


async def page(request: Request) -> Response:
    """The shell: the same for every page, an unknown one says so itself."""
    return _answer(request, _asset("index.html"), {"Content-Security-Policy": _policy()})


async def static(request: Request) -> Response:
    name = request.path_params["name"]
    asset = _asset(name) if name in _names() else None
    if asset is None:
        return Response("There is no such file.", status_code=404, media_type="text/plain")
    return _answer(request, asset, {})


def _answer(request: Request, asset: Document, more: Mapping[str, str]) -> Response:
    return respond(request, asset, {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", **more})


@cache
def _names() -> frozenset[str]:
    """The files of the pages. A set, so that thousands of names that are none leave nothing behind."""
    folder = resources.files("impasto.web").joinpath("static")
    found = [file.name for file in folder.iterdir()]
    found += [f"vendor/{file.name}" for file in folder.joinpath("vendor").iterdir()]
    return frozenset(name for name in found if _NAME.fullmatch(name))


@cache
def _asset(name: str) -> Document:
    file = resources.files("impasto.web").joinpath("static", *name.split("/"))
    return make(file.read_bytes(), MEDIA_TYPES[name.rpartition(".")[2]])


@cache
def _policy() -> str:
    """Only this server, and of inline scripts only the import map of the shell."""
    found = _IMPORT_MAP.search(_asset("index.html").plain)
    assert found is not None, "the shell has an import map"
    digest = base64.b64encode(hashlib.sha256(found[1]).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
