"""Whom a connection counts for: the client's address, also behind a proxy, in groups that one client can fill.

In: the address of the peer and the headers that it sent. Out: a group: an IPv4 address, or the /64 of an IPv6 address,
which is what one subscriber gets at least. A proxy's word about its client counts only where the proxy is trusted;
anybody can write `X-Forwarded-For`.
"""

import ipaddress
from collections.abc import Iterable, Sequence

FORWARDED = b"x-forwarded-for"
PREFIX = 64  # bits of an IPv6 address that tell clients apart

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The proxies whose `X-Forwarded-For` counts, as networks such as "127.0.0.0/8"."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def client(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Return the address of the client: the last one in the header that is no trusted proxy; else `peer` itself."""
        if not self._trusts(_read(peer)):
            return peer
        named = b",".join(value for name, value in headers if name == FORWARDED).decode("latin-1").split(",")
        client = peer
        for text in reversed(named):
            address = _read(_without_port(text.strip()))
            if address is None:  # what stands before something unreadable was not written by a proxy of ours
                break
            client = str(address)
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: _Address | None) -> bool:
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )


def group_of(text: str) -> str:
    """Return the group that an address counts for; a text that is no address is a group of its own."""
    address = _read(text)
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((int(address) >> PREFIX << PREFIX, PREFIX)))
    return text if address is None else str(address)


def _read(text: str) -> _Address | None:
    """Read an address; one of IPv4 that is written as IPv6 (::ffff:203.0.113.7) is one of IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
