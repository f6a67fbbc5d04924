"""Sends what a Python program says to fal to the server at $FAL_BASE_URL. Loaded by `site`, being on PYTHONPATH.

It stands alone, with the standard library of Python 3.8 and later: it runs in the program's own interpreter, where
impasto need not be installed. Only requests to fal's hosts are touched, at the last step before the network, in the
HTTP and WebSocket libraries below; everything else goes its usual way. Any other library fails instead of reaching fal.

    FAL_BASE_URL=http://127.0.0.1:8000   https://queue.fal.run/x  →  http://127.0.0.1:8000/@queue.fal.run/x
    FAL_FILE_URLS=fal                    https://queue.fal.run/x  →  http://127.0.0.1:8000/@queue.fal.run+files/x

The server reads from the path which host was meant, and puts fal's names into the URLs of its answer as fal does; files
are named by the server's own address, which a browser can open, unless FAL_FILE_URLS asks for fal's.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:  # every start of the program's Python pays for what is imported here
    from collections.abc import Callable
    from typing import Any

DOMAINS = ("fal.run", "fal.ai", "fal.media", "falrun.com")
BASE = os.environ.get("FAL_BASE_URL", "").rstrip("/")  # http(s)://HOST[:PORT][/PREFIX]
FILES = "+files" if os.environ.get("FAL_FILE_URLS") == "fal" else ""
ORIGIN = "/".join(BASE.split("/", 3)[:3])


def is_fal(host: str) -> bool:
    host = host.lower().rstrip(".")
    return any(host == domain or host.endswith("." + domain) for domain in DOMAINS)


def reroute(url: str) -> str | None:
    """The address at our server of a fal `url`, or None for any other one."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https", "ws", "wss") or not is_fal(host):
        return None
    base = BASE.replace("http", "ws", 1) if parts.scheme.startswith("ws") else BASE
    query = "?" + parts.query if parts.query else ""
    return base + "/@" + host.rstrip(".") + FILES + (parts.path or "/") + query


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replaces `owner.name` by `make(original)`, once, however often the module is found again under another name."""
    original = getattr(owner, name, None)
    if original is None or getattr(original, "impasto", False):
        return
    replacement = make(original)
    replacement.impasto = True
    setattr(owner, name, replacement)


def patch_httpx(httpx: Any) -> None:
    def moved(request: Any) -> Any:
        target = reroute(str(request.url))
        if target is None:
            return request
        url = httpx.URL(target)
        headers = request.headers.copy()
        headers["Host"] = url.netloc.decode("ascii")
        return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)

    def sync(original: Any) -> Any:
        def handle_request(self: Any, request: Any) -> Any:
            return original(self, moved(request))

        return handle_request

    def asynchronous(original: Any) -> Any:
        async def handle_async_request(self: Any, request: Any) -> Any:
            there = moved(request)
            if str(there.url).startswith(ORIGIN + "/"):
                # fal's hosts are one host now. A connection that an earlier event loop kept open to another of them
                # must not be found in the pool of a client that outlives its loop, as fal_client's does.
                there.headers["Connection"] = "close"
            return await original(self, there)

        return handle_async_request

    wrap(httpx.HTTPTransport, "handle_request", sync)
    wrap(httpx.AsyncHTTPTransport, "handle_async_request", asynchronous)


def patch_requests(adapters: Any) -> None:
    def make(original: Any) -> Any:
        def send(self: Any, request: Any, *arguments: Any, **options: Any) -> Any:
            target = reroute(request.url)
            if target is None:
                return original(self, request, *arguments, **options)
            request = request.copy()
            request.url = target
            request.headers.pop("Host", None)
            options["proxies"] = {}
            return original(self, request, *arguments, **options)

        return send

    wrap(adapters.HTTPAdapter, "send", make)


def patch_aiohttp(client: Any) -> None:
    def make(original: Any) -> Any:
        def _build_url(self: Any, str_or_url: Any) -> Any:
            url = original(self, str_or_url)
            target = reroute(str(url))
            return url if target is None else type(url)(target, encoded=True)

        return _build_url

    wrap(client.ClientSession, "_build_url", make)


def patch_urllib(request_module: Any) -> None:
    def make(original: Any) -> Any:
        def open(self: Any, fullurl: Any, *arguments: Any, **options: Any) -> Any:
            target = reroute(fullurl if isinstance(fullurl, str) else fullurl.full_url)
            if target is None:
                return original(self, fullurl, *arguments, **options)
            if not isinstance(fullurl, str):
                from copy import copy

                fullurl = copy(fullurl)
                fullurl.full_url = target
                fullurl.remove_header("Host")
                target = fullurl
            return original(self, target, *arguments, **options)

        return open

    wrap(request_module.OpenerDirector, "open", make)


def patch_websockets_sync(client: Any) -> None:
    def make(original: Any) -> Any:
        def connect(uri: str, *arguments: Any, **options: Any) -> Any:
            return original(reroute(uri) or uri, *arguments, **options)

        return connect

    wrap(client, "connect", make)


def patch_websockets_async(client: Any) -> None:
    def make(original: Any) -> Any:
        def __init__(self: Any, uri: str, *arguments: Any, **options: Any) -> None:
            original(self, reroute(uri) or uri, *arguments, **options)

        return __init__

    wrap(client.connect, "__init__", make)


def patch_socket(socket: Any) -> None:
    def make(original: Any) -> Any:
        def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
            name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
            if isinstance(name, str) and is_fal(name):
                raise socket.gaierror(
                    socket.EAI_FAIL,
                    "impasto: this program's way to " + name + " is not one that the shim leads to " + BASE + "; "
                    "run it with `impasto exec --method connect`",
                )
            return original(host, *arguments, **options)

        return getaddrinfo

    wrap(socket, "getaddrinfo", make)


PATCHES = {
    "aiohttp.client": patch_aiohttp,
    "httpx": patch_httpx,
    "httpx2": patch_httpx,
    "requests.adapters": patch_requests,
    "socket": patch_socket,
    "urllib.request": patch_urllib,
    "websockets.asyncio.client": patch_websockets_async,
    "websockets.legacy.client": patch_websockets_async,
    "websockets.sync.client": patch_websockets_sync,
}


class PatchingLoader:
    """The module's own loader, and the patch right after it."""

    def __init__(self, inner: Any, patch: Callable[[Any], None]) -> None:
        self.inner = inner
        self.patch = patch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def create_module(self, spec: Any) -> Any:
        return self.inner.create_module(spec)

    def exec_module(self, module: Any) -> None:
        # What looks at the module later (inspect, importlib.resources, pickle) shall find its real loader.
        module.__loader__ = self.inner
        if module.__spec__ is not None:
            module.__spec__.loader = self.inner
        self.inner.exec_module(module)
        self.patch(module)


class PatchingFinder:
    """Asks the other finders and hands their loader on in a wrapper, for the modules in PATCHES only."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        patch = PATCHES.get(name)
        if patch is None:
            return None
        for finder in sys.meta_path:
            find = None if finder is PatchingFinder else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = PatchingLoader(spec.loader, patch)
                return spec
        return None


def install() -> None:
    for name, patch in PATCHES.items():
        if name in sys.modules:  # a .pth file may have imported it before us
            patch(sys.modules[name])
    sys.meta_path.insert(0, PatchingFinder)  # pyright: ignore[reportArgumentType] - a class with a static find_spec


def chain() -> None:
    """Runs the `sitecustomize` that this file hides, if the program's interpreter has one."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if os.path.abspath(entry) != here])
    if spec is None or spec.loader is None:
        return
    from importlib.util import module_from_spec

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if BASE:
    install()
chain()
