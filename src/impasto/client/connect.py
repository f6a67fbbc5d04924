"""An HTTPS proxy that leads fal's host names to the local server, and the TLS side behind it.

    CONNECT queue.fal.run:443 ──▶ proxy port ──▶ TLS port ──▶ server, in plain (Host: queue.fal.run)
    CONNECT example.com:443 ────▶ proxy port ──▶ example.com, untouched (or refused, or by way of another proxy)
    TLS for fal.run ───────────────────────────▶ TLS port     (hosts file, FAL_RUN_HOST, shims/node/connect.cjs)

The TLS side ends TLS and forwards what is inside, each request with `X-Forwarded-Proto: https` and else byte for byte:
Host, event streams and WebSockets pass as they are.
"""

import asyncio
import base64
import contextlib
import json
import logging
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from impasto.client.ca import Authority
from impasto.client.hosts import is_fal, server_url
from impasto.errors import ConfigError

logger = logging.getLogger(__name__)

CHUNK = 64 * 1024
HEAD_BYTES = 16 * 1024
HEAD_SECONDS = 30.0
DIAL_SECONDS = 30.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where the listener sends what it takes in.

    `server`: URL of the impasto server. `pass_through`: hosts other than fal's are reached too, else they are refused.
    `upstream`: HTTP proxy by way of which they are reached.
    """

    server: str
    pass_through: bool = False
    upstream: str | None = None

    def __post_init__(self) -> None:
        if server_url(self.server).path.strip("/"):
            raise ConfigError(f"server URL {self.server!r}: the connect method needs one without a path.")
        if self.upstream is not None and urlsplit(self.upstream).scheme not in {"http", "https"}:
            raise ConfigError(
                f"proxy {self.upstream!r}: the connect method can go by way of http:// and https:// proxies only; "
                "use the shim method, which leaves your proxy alone."
            )


class Listener:
    """The two ports: known after `await start()`, until `await stop()`, which ends every connection."""

    def __init__(self, route: Route, authority: Authority) -> None:
        self.route = route
        self.authority = authority
        self.host = "127.0.0.1"
        self.connect_port = 0
        self.tls_port = 0
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, *, host: str = "127.0.0.1", connect_port: int = 0, tls_port: int = 0) -> None:
        """Listens; port 0 picks a free one. Raises `OSError` when a port is taken."""
        self.host = host
        proxy = await asyncio.start_server(self._connected(self._proxy), host, connect_port, limit=HEAD_BYTES)
        self._servers.append(proxy)
        secure = await asyncio.start_server(
            self._connected(self._tls), host, tls_port, ssl=self.authority.server_context(), limit=CHUNK
        )
        self._servers.append(secure)
        self.connect_port = int(proxy.sockets[0].getsockname()[1])
        self.tls_port = int(secure.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    def _connected(self, handle: Handler) -> Handler:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            try:
                await handle(reader, writer)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                logger.debug("connection ended: %r", error)
            finally:
                await _close(writer)

        return serve

    async def _proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await _answer(writer, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request head is larger than 16 KiB.")
            return
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        authority = rest.partition(" ")[0]
        if method != "CONNECT":
            text = "This is a proxy for https only: use it as HTTPS_PROXY, not as HTTP_PROXY."
            await _answer(writer, HTTPStatus.METHOD_NOT_ALLOWED, text)
            return
        host, _, port_text = authority.rpartition(":")
        host = host.strip("[]")
        if not host or not port_text.isdecimal() or not 0 < int(port_text) < 65536:
            await _answer(writer, HTTPStatus.BAD_REQUEST, f"{authority!r} is not HOST:PORT.")
            return
        target = await self._dial(host, int(port_text), writer)
        if target is None:
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        await splice((reader, writer), target)

    async def _dial(self, host: str, port: int, writer: asyncio.StreamWriter) -> Streams | None:
        """The connection that `CONNECT host:port` asks for, or None after `writer` was told why not."""
        if is_fal(host):
            if port != 443:
                text = f"{host}:{port}: fal's hosts are served on port 443 only."
                await _answer(writer, HTTPStatus.FORBIDDEN, text)
                return None
            return await asyncio.open_connection(self.host, self.tls_port)
        if not self.route.pass_through:
            text = f"{host}: this proxy leads to fal's hosts only. Start it with --pass-through to allow others."
            await _answer(writer, HTTPStatus.FORBIDDEN, text)
            return None
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                if self.route.upstream is not None:
                    return await tunnel(urlsplit(self.route.upstream), host, port)
                return await asyncio.open_connection(host, port)
        except (OSError, asyncio.IncompleteReadError) as error:
            await _answer(writer, HTTPStatus.BAD_GATEWAY, f"{host}:{port}: {error or 'no answer'}")
            return None

    async def _tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(self.route.server)
        secure = url.scheme == "https"
        try:
            target = await asyncio.open_connection(
                url.hostname, url.port or (443 if secure else 80), ssl=ssl.create_default_context() if secure else None
            )
        except OSError as error:
            text = f"No impasto server at {self.route.server} ({error}): start one with `impasto serve`."
            await _answer(writer, HTTPStatus.BAD_GATEWAY, text)
            return
        try:
            await _both(forward(reader, target[1]), _pump(target[0], writer), target[1])
        except* ValueError as group:
            text = f"The request is not HTTP/1.1: {group.exceptions[0]}"
            await _answer(writer, HTTPStatus.BAD_REQUEST, text)


async def tunnel(proxy: SplitResult, host: str, port: int) -> Streams:
    """A connection to `host:port` by way of `proxy`, asked for with CONNECT. Raises `OSError` when it refuses."""
    secure = proxy.scheme == "https"
    reader, writer = await asyncio.open_connection(
        proxy.hostname, proxy.port or (443 if secure else 80), ssl=ssl.create_default_context() if secure else None
    )
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}"]
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        await _close(writer)
        line = head.split(b"\r\n", 1)[0].decode("latin-1")
        raise OSError(f"the proxy {proxy.hostname} answered {line!r}")
    return reader, writer


async def splice(one: Streams, other: Streams) -> None:
    """Copies both ways until both sides have ended; what one side ends is ended at the other. Closes `other`."""
    await _both(_pump(one[0], other[1]), _pump(other[0], one[1]), other[1])


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies HTTP/1.1 requests, and what follows an upgrade, telling the server that they came by TLS.

    The URLs in its answers shall have the scheme that the client used. Raises `ValueError` for what is no HTTP/1.1.
    """
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, fields = head.partition(b"\r\n")
            writer.write(b"\r\n".join([line, b"X-Forwarded-Proto: https", fields]))
            headers = {name.strip().lower(): value.strip() for name, _, value in map(_split, fields.split(b"\r\n"))}
            if b"upgrade" in headers:
                await _pump(reader, writer)
                return
            if headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
                await _copy_chunks(reader, writer)
            else:
                await _copy(reader, writer, int(headers.get(b"content-length", b"0")))
            await writer.drain()
    except asyncio.LimitOverrunError:
        raise ValueError("its head is larger than 64 KiB") from None
    except (asyncio.IncompleteReadError, OSError):
        await _end(writer)


def _split(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b":")


async def _copy_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A chunked body and its trailers."""
    line, size = b"", -1
    while size != 0:
        line = await reader.readuntil(b"\r\n")
        writer.write(line)
        size = int(line.partition(b";")[0], 16)
        if size:
            await _copy(reader, writer, size + 2)
    while line != b"\r\n":
        line = await reader.readuntil(b"\r\n")
        writer.write(line)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
    while size > 0:
        chunk = await reader.read(min(size, CHUNK))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", size)
        writer.write(chunk)
        await writer.drain()
        size -= len(chunk)


async def _both(
    there: Coroutine[Any, Any, None], back: Coroutine[Any, Any, None], writer: asyncio.StreamWriter
) -> None:
    """Runs both directions to their end and closes `writer`, whatever happens."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(there)
            group.create_task(back)
    finally:
        await _close(writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    await _end(writer)


async def _end(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
            return
    # TLS cannot be ended in one direction only: an end is an end of both.
    await _close(writer)


async def _answer(writer: asyncio.StreamWriter, status: HTTPStatus, text: str) -> None:
    body = json.dumps({"detail": f"impasto: {text}"}).encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + body)
    with contextlib.suppress(OSError):
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
        async with asyncio.timeout(5):
            await writer.wait_closed()
