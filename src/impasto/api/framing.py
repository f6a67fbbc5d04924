"""Judge the head of an HTTP/1.1 request before any parser reads it: one strict door for all connections.

In: the bytes of a head, up to and including its empty line. Out: a `Head` with the same bytes, the offers of other
protocols than WebSocket taken out, and how long the body is; or `BadRequest` for whatever a proxy in front could read
differently (RFC 9112, sections 2 to 6; request smuggling).

Why offers are taken out: `Upgrade: h2c` is what Java's HttpClient and `curl --http2` add to requests without TLS. A
server that speaks no HTTP/2 ignores it; httptools stops reading at it and loses the body.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from impasto.errors import BadRequest

MAX_HEAD = 64 * 1024  # bytes of request line and headers
MAX_DIGITS = 18  # of a Content-Length
END = b"\r\n\r\n"

_LOOSE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]")  # line ends that others may read otherwise; folded headers
_REQUEST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")

Headers = Sequence[tuple[bytes, bytes]]
"""(name in lower case, value)."""


@dataclass(frozen=True, slots=True)
class Head:
    """A head that is well formed."""

    data: bytes
    body: int | None  # bytes of the body; None: it comes in chunks


def check_start(data: bytes, *, known: int = 0) -> None:
    """Refuse as early as possible what cannot become a head: its end may never come. Raises `BadRequest`.

    `known`: bytes that were checked already.
    """
    if _LOOSE.search(data, max(known - 2, 0), len(data) - data.endswith(b"\r")):
        raise BadRequest("A bare line end, or a header folded over two lines.")
    end = data.find(b"\r\n")
    if end >= max(known - 1, 0) and not _REQUEST.fullmatch(data, 0, end):
        raise BadRequest("The first line is METHOD TARGET HTTP/1.1, with single spaces.")


def read_head(data: bytes) -> Head:
    """Read a whole head. Raises `BadRequest`."""
    check_start(data)
    first, *lines = data.removesuffix(END).split(b"\r\n")
    headers: list[tuple[bytes, bytes]] = []
    kept = [first]
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise BadRequest(
                "A header is NAME: VALUE, without a space before the colon and without control characters."
            )
        name, value = found[1].lower(), found[2].strip(b" \t")
        if name == b"upgrade" and value.lower() != b"websocket":
            continue
        headers.append((name, value))
        kept.append(line)
    check_headers(headers, version=first[-3:].decode("ascii"))
    return Head(b"\r\n".join(kept) + END, _body_of(headers))


def check_headers(headers: Headers, *, version: str) -> None:
    """Refuse headers that say two things at once. `version`: of HTTP. Raises `BadRequest`."""
    if version not in ("1.0", "1.1"):
        raise BadRequest(f"This server speaks HTTP/1.1 and 1.0, not {version}.")
    hosts, lengths, codings = ([v for n, v in headers if n == name] for name in (b"host", b"content-length", CODING))
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadRequest("A request has exactly one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise BadRequest("The Host header is a name or an address, and perhaps a port.")
    if len(lengths) > 1 or (lengths and not (lengths[0].isdigit() and len(lengths[0]) <= MAX_DIGITS)):
        raise BadRequest("A request has at most one Content-Length, a number.")
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked" or version == "1.0"):
        raise BadRequest("The only Transfer-Encoding that is read here is chunked, of HTTP/1.1.")
    if codings and lengths:
        raise BadRequest("A request has a Content-Length or a Transfer-Encoding, not both.")
    if _body_of(headers) != 0 and any(name == b"upgrade" for name, _ in headers):
        raise BadRequest("A WebSocket handshake has no body.")


CODING = b"transfer-encoding"


def _body_of(headers: Headers) -> int | None:
    values = dict(headers)
    return None if CODING in values else int(values.get(b"content-length", 0))
