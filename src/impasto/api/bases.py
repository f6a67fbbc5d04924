"""The URLs of this server in its documents: a document is built once with room for them, and filled for each client.

In: an `Address`. Out: the four bases of that client. `ROOM` has a mark in the place of each.
"""

from dataclasses import astuple, dataclass

import msgspec

from impasto.api.roles import Address


@dataclass(frozen=True, slots=True)
class Bases:
    """scheme://host[/prefix] of the site (pages, documents), of runs, of submits and of the platform API."""

    site: str
    run: str
    queue: str
    platform: str


ROOM = Bases(*(f"@@impasto:{name}@@" for name in ("site", "run", "queue", "platform")))


def bases_of(address: Address) -> Bases:
    return Bases(address.site, address.run_base, address.queue_door, address.platform_base)


def fill(document: bytes, bases: Bases) -> bytes:
    """`document`, built with `ROOM`, with the client's own bases. They are JSON-safe: a quote is escaped."""
    for room, base in zip(astuple(ROOM), astuple(bases), strict=True):
        document = document.replace(room.encode(), msgspec.json.encode(base)[1:-1])
    return document
