"""The one way out: every URL that a user gives is reached through `fetch` (GET) or `send` (POST), nowhere else.

In: a URL and a `FetchPolicy`. Out: bytes, or a `FetchError` whose message is for the person who gave the URL.

    URL ─ target() ─ names, port ─▶ resolve once ─ every address must be public ─▶ connect to that very address
     ▲                                                                              (SNI and Host say the name)
     └──────────── redirect: from the beginning, at most `max_redirects` times ───────────────┘

There is no second look-up between the check and the connection, so a name that answers differently the next time
(DNS rebinding) gains nothing; no proxy of the environment, no cookies, no credentials, no decompression.
"""

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol
from urllib.parse import quote, urljoin, urlsplit

import httptools

from impasto import __version__
from impasto.errors import ImpastoError
from impasto.settings import Settings

MAX_URL = 8192  # characters
MAX_HEAD = 64 * 1024  # bytes of status line and headers
CHUNK = 64 * 1024
PIECE = 1024 * 1024  # bytes that `into` takes at a time
REPLY = 64 * 1024  # bytes of a receiver's answer that are read
REDIRECTS = frozenset({301, 302, 303, 307, 308})

NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "169.254.0.0/16",  # link-local: the metadata services of most clouds
        "168.63.129.16/32",  # Azure's, at a public address
        "100.100.100.200/32",  # Alibaba's
        "192.0.0.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "fe80::/10",
        "fd00:ec2::/32",  # Amazon's
        "fd20:ce::/32",  # Google's
        "ff00::/8",
    )
)
NOT_GLOBAL = tuple(  # on top of `is_global`, whose table depends on the release of Python
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "2001::/23",  # Teredo and other protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4: carries an IPv4 address
        "3fff::/20",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMBER = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f\\]")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Awaitable[list[str]]]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FetchError(ImpastoError):
    """The URL could not be read."""


class FetchRefused(FetchError):
    """The URL may not be read by this server."""


class FetchFailed(FetchError):
    """The server at the URL did not answer as it should."""


class FetchTooLarge(FetchError):
    """There is more at the URL than is allowed."""


class _NotTaken(Exception):
    """`into` failed: the cause is this machine's disk, not the other server."""


async def resolve_name(host: str, port: int) -> list[str]:
    """All addresses of a name, by the system's resolver, in one of the loop's few threads; servers use `names`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def open_stream(address: str, port: int, *, tls: ssl.SSLContext | None, name: str) -> Stream:
    """A connection to `address`, a literal one: no name is looked up here. `name` is what the certificate must say."""
    return await asyncio.open_connection(address, port, ssl=tls, server_hostname=name if tls else None)


class Connector(Protocol):
    """How a connection is opened (`open_stream`); a seam for tests."""

    async def __call__(self, address: str, port: int, *, tls: ssl.SSLContext | None, name: str) -> Stream: ...


@functools.cache
def _tls() -> ssl.SSLContext:
    import certifi

    context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """What may be reached. Public addresses at `ports`; besides, at any port, what the operator allows."""

    ports: frozenset[int] = frozenset({80, 443, 8080, 8443})
    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()  # lower case; their addresses may be private ones
    max_redirects: int = 3
    begin_seconds: float | None = None  # until a `fetch` has the head of the last answer; None: no bound of its own
    pace_seconds: float = 0.0  # over so many the pace of a fetched body is measured; 0: any pace will do
    pace_bytes: float = 0.0  # a second, at least
    resolve: Resolver = resolve_name
    connect: Connector = open_stream
    tls: ssl.SSLContext | None = None  # None: the certificate authorities of `certifi`

    @classmethod
    def of(cls, settings: Settings) -> "FetchPolicy":
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in settings.fetch.allow:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                hosts.add(entry.lower().rstrip("."))
        return cls(
            ports=frozenset(settings.fetch.ports),
            networks=tuple(networks),
            hosts=frozenset(hosts),
            begin_seconds=settings.fetch.seconds,
            pace_seconds=settings.fetch.pace_seconds,
            pace_bytes=settings.fetch.kib_per_second * 1024,
        )

    def allows(self, address: Address, host: str) -> bool:
        """Whether the operator allows this address of `host`. Metadata services and link-local ones: never."""
        address = _embedded(address)
        if any(address in network for network in NEVER):
            return False
        return host in self.hosts or any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Fetched:
    data: bytes
    media_type: str | None  # as the server says, without parameters, lower case
    url: str  # the last one, after redirects


@dataclass(frozen=True, slots=True)
class Sent:
    http_status: int
    data: bytes  # at most the first 64 KB


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart, once: everything later uses these parts and never parses the text again."""

    url: str
    secure: bool
    host: str  # lower case, ASCII; an address without brackets
    port: int
    path: str  # with the query, percent-encoded

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


async def fetch(
    url: str, *, policy: FetchPolicy, max_bytes: int, seconds: float, into: Callable[[bytes], object] | None = None
) -> Fetched:
    """What lies at `url`; both limits are over all redirects and count while the bytes come in. `into` takes them piece
    by piece, in a thread, and none are kept.

    Raises `FetchRefused` (not allowed), `FetchTooLarge`, `FetchFailed` (no answer, an error, too slow), and what `into`
    raises.
    """
    begin = seconds if policy.begin_seconds is None else min(seconds, policy.begin_seconds)
    beginning = asyncio.timeout(begin)
    try:
        async with asyncio.timeout(seconds), beginning:
            for _ in range(policy.max_redirects + 1):
                place = target(url)
                head = _head("GET", place, {})
                answer = await _exchange(
                    place,
                    head,
                    policy=policy,
                    max_bytes=max_bytes,
                    into=into,
                    beginning=beginning,
                )
                location = answer.headers.get("location")
                if answer.status not in REDIRECTS or not location:
                    return _fetched(answer, place)
                url = _redirected(place, location)
    except TimeoutError:
        if begin < seconds and beginning.expired():
            raise FetchFailed(f"Its answer did not begin within {begin:g} s.") from None
        raise FetchFailed(f"There was no complete answer within {seconds:g} s.") from None
    except _NotTaken as error:
        raise error.args[0] from None
    raise FetchFailed(f"It redirects more than {policy.max_redirects} times.")


def _redirected(place: Target, location: str) -> str:
    """Return where a redirect leads. Raises `FetchFailed` for one that is no URL."""
    try:
        return urljoin(place.url, location)
    except ValueError:
        raise FetchFailed("It redirects to something that is not a valid URL.") from None


async def send(url: str, body: bytes, *, headers: Mapping[str, str], policy: FetchPolicy, seconds: float) -> Sent:
    """POST `body` to `url`. A redirect is not followed: its status is the answer, as any other.

    Raises `FetchRefused`, `FetchFailed`.
    """
    try:
        async with asyncio.timeout(seconds):
            place = target(url)
            request = _head("POST", place, {**headers, "Content-Length": str(len(body))}) + body
            answer = await _exchange(place, request, policy=policy, max_bytes=REPLY, whole=False)
            return Sent(answer.status, bytes(answer.body[:REPLY]))
    except TimeoutError:
        raise FetchFailed(f"There was no answer within {seconds:g} s.") from None


def target(url: str) -> Target:
    """The parts of `url`. Raises `FetchRefused` for anything that two parsers might read in two ways."""
    if len(url) > MAX_URL:
        raise FetchRefused(f"The URL is longer than {MAX_URL} characters.")
    if _UNPRINTABLE.search(url):
        raise FetchRefused("The URL has blanks, control characters or backslashes in it; encode them with %.")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = _host(parts.hostname or "")
    except ValueError:
        raise FetchRefused("This is not a valid URL.") from None
    if parts.scheme not in {"http", "https"}:
        raise FetchRefused(f"URLs begin with https:// or http://, this one with {parts.scheme[:20] or 'neither'}.")
    if "@" in parts.netloc:
        raise FetchRefused("The URL has a user name in it (the part before @); leave it out.")
    secure = parts.scheme == "https"
    try:
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            path += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]|^`{}")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can carry
        raise FetchRefused("The URL has characters in it that are no text; encode them with %.") from None
    return Target(url, secure, host, port if port is not None else 443 if secure else 80, path)


def _host(host: str) -> str:
    """Lower case, ASCII. Raises `ValueError` or `FetchRefused` unless it is a name or a plain address."""
    if ":" in host:
        return str(ipaddress.IPv6Address(host)) if "%" not in host else _refuse_zone()
    name = host if host.isascii() else host.encode("idna").decode("ascii")
    name = name.lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        raise ValueError(host)
    if _NUMBER.fullmatch(name):
        try:
            ipaddress.IPv4Address(name)
        except ValueError:  # 2130706433, 0x7f.1, 0177.0.0.1: addresses to the C library, names to others
            raise FetchRefused("Write the address with four decimal numbers, as in 192.0.2.1.") from None
    return name


def _refuse_zone() -> str:
    raise FetchRefused("The URL names a network interface; that is for local addresses only.")


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (mapped, NAT64), or the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether anybody on the Internet could reach it, and nobody but its owner is meant by it."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        if address not in _UNICAST and address not in _NAT64:
            return False
        if address in _UNICAST and not address.is_global:
            return False
    inner = _embedded(address)
    return inner.is_global and not any(inner in network for network in (*NEVER, *NOT_GLOBAL))


async def _addresses(place: Target, policy: FetchPolicy) -> list[str]:
    """Where to connect. Raises `FetchRefused` when a single one of them may not be reached."""
    try:
        found = [str(ipaddress.ip_address(place.host))]
    except ValueError:
        try:
            found = await policy.resolve(place.host, place.port)
        except (OSError, UnicodeError):
            raise FetchFailed(f"The name {place.host} is not known.") from None
    if not found:
        raise FetchFailed(f"The name {place.host} has no address.")
    for text in found:
        address = ipaddress.ip_address(text)
        if policy.allows(address, place.host):
            continue
        if not is_public(address):
            raise FetchRefused(
                f"{place.host} is not a public address; the server's operator can allow it (setting fetch.allow)."
            )
        if place.port not in policy.ports:
            ports = ", ".join(str(port) for port in sorted(policy.ports))
            raise FetchRefused(f"Port {place.port} may not be used; allowed: {ports} (setting fetch.ports).")
    return found


@dataclass(slots=True)
class _Answer:
    """What the HTTP parser says, collected; `httptools` calls the methods by these names."""

    max_bytes: int
    into: Callable[[bytes], object] | None = None
    size: int = 0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytearray = field(default_factory=bytearray)
    parser: httptools.HttpResponseParser | None = None
    headed: bool = False
    complete: bool = False
    too_large: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headed:  # trailers are nobody's business
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        self.status = self.parser.get_status_code()
        if self.status < 200:
            self.headers.clear()
            return
        self.headed = True
        length = self.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > self.max_bytes:
            self.too_large = True

    def on_body(self, body: bytes) -> None:
        if self.too_large or self.complete:
            return
        self.size += len(body)
        if self.size > self.max_bytes:
            self.too_large = True
        if self.into is None or (self.status == 200 and not self.too_large):
            self.body += body

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete = True

    @property
    def ends_with_connection(self) -> bool:
        return "content-length" not in self.headers and "chunked" not in self.headers.get("transfer-encoding", "")


async def _exchange(
    place: Target,
    request: bytes,
    *,
    policy: FetchPolicy,
    max_bytes: int,
    whole: bool = True,
    into: Callable[[bytes], object] | None = None,
    beginning: asyncio.Timeout | None = None,
) -> _Answer:
    """One request on one connection. `whole` False: an answer that is too large is cut, and its status is enough.
    `beginning` ends once the head of an answer is there that is no redirect; from then on the pace is measured.
    """
    reader, writer = await _connect(place, await _addresses(place, policy), policy)
    try:
        writer.write(request)
        answer = _Answer(max_bytes, into)
        answer.parser = httptools.HttpResponseParser(answer)
        beside = 0  # bytes since the last ones of the body: the head, chunk extensions, trailers
        pace = None
        while not answer.complete:
            data, size = await (reader.read(CHUNK) if pace is None else pace.read(reader)), answer.size
            beside += len(data)
            if not data:
                _ended(answer)
                break
            try:
                answer.parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                if not answer.complete:  # what follows a complete answer is not read
                    raise FetchFailed("It does not answer in HTTP.") from None
            if answer.too_large and not whole:
                break
            if answer.too_large and answer.status < 300:
                raise FetchTooLarge(f"It is larger than the {max_bytes / 2**20:.3g} MiB that are allowed.")
            if answer.headed and (answer.status in REDIRECTS or answer.status >= 400) and whole:
                break  # nobody reads the page that explains an error
            if pace is None and answer.headed and whole:
                pace = _Pace(policy.pace_seconds, policy.pace_bytes)
                if beginning is not None and answer.status not in REDIRECTS:
                    beginning.reschedule(None)
            if answer.size > size:
                beside = 0
            if not answer.complete and beside > MAX_HEAD:
                where = "beside its body" if answer.headed else "before its body"
                raise FetchFailed(f"Its answer says too much {where}.")
            await _pass_on(answer, at_least=PIECE)
        await _pass_on(answer)
    except OSError as error:
        raise FetchFailed(f"The connection broke ({_reason(error)}).") from None
    finally:
        writer.transport.abort()
    return answer


async def _pass_on(answer: _Answer, *, at_least: int = 1) -> None:
    """In a thread: a disk that is slow to take it holds up this answer only."""
    if answer.into is not None and len(answer.body) >= at_least:
        piece, answer.body = answer.body, bytearray()
        try:
            await asyncio.to_thread(answer.into, bytes(piece))
        except OSError as error:
            raise _NotTaken(error) from None


class _Pace:
    """Measures how fast a body comes, over windows of `seconds` that are spent waiting for the other side."""

    def __init__(self, seconds: float, rate: float) -> None:
        self._seconds = seconds
        self._least = seconds * rate  # bytes in a window
        self._left, self._got = seconds, 0

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """The next bytes. Raises `FetchFailed` at the end of a window in which too few came."""
        if not self._least:
            return await reader.read(CHUNK)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            data = None
            try:
                async with asyncio.timeout(self._left):
                    data = await reader.read(CHUNK)
            except TimeoutError:
                pass
            waited = loop.time() - began
            self._left -= waited
            self._got += len(data or b"")
            if self._left <= 0:
                if data != b"" and self._got < self._least and waited < 2 * self._seconds:  # longer: this process slept
                    rate = self._least / self._seconds / 1024
                    raise FetchFailed(f"It came slower than {rate:g} KiB a second (setting fetch.kib_per_second).")
                self._left, self._got = self._seconds, 0
            if data is not None:
                return data


def _ended(answer: _Answer) -> None:
    if not answer.headed or not answer.ends_with_connection:
        raise FetchFailed("The connection closed before the answer was complete.")
    answer.complete = True


async def _connect(place: Target, addresses: list[str], policy: FetchPolicy) -> Stream:
    tls = (policy.tls or _tls()) if place.secure else None
    last: OSError | None = None
    for address in addresses:
        try:
            return await policy.connect(address, place.port, tls=tls, name=place.host)
        except OSError as error:  # certificates, too
            last = error
    raise FetchFailed(f"No connection to {place.host}:{place.port} ({_reason(last)}).")


def _reason(error: OSError | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    return (error and error.strerror) or type(error).__name__


def _head(method: str, place: Target, headers: Mapping[str, str]) -> bytes:
    lines = {
        "Host": place.host_header,
        "User-Agent": f"impasto/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
        **headers,
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {place.path} HTTP/1.1\r\n{text}\r\n".encode("ascii")


def _fetched(answer: _Answer, place: Target) -> Fetched:
    if answer.status != 200:
        raise FetchFailed(f"It answers with status {answer.status}.")
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", ""}:
        raise FetchFailed(f"It is compressed ({encoding[:40]}) although that was not asked for.")
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return Fetched(bytes(answer.body), media_type or None, place.url)
