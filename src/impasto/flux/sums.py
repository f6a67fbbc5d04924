"""Checksums of weights: one for a file, and one for each tensor in it, so that a damaged file can be told from another
and its first bad tensor named.

In: a safetensors file. Out: `Sums`, from one reading. SHA-256 proves the file, as the hub states it; CRC-32 only finds
the place.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from impasto.flux.stored import StoredFile

PIECE = 2**22  # bytes that are read at a time


@dataclass(frozen=True, slots=True)
class Sums:
    """`tensors`: CRC-32 in hex by key, in the order of the file."""

    sha256: str
    tensors: Mapping[str, str]

    def first_other(self, known: Mapping[str, str]) -> str | None:
        """The first tensor that is not as `known`; None: they are all the same, or none is known."""
        return next((key for key, crc in self.tensors.items() if known.get(key, crc) != crc), None)


def of(path: Path) -> Sums:
    """Raises WeightsError for what is no whole safetensors file, naming the first bad key."""
    entries = sorted(StoredFile(path).entries.items(), key=lambda item: item[1].start)
    whole, tensors, at = hashlib.sha256(), dict[str, str](), 0
    with path.open("rb") as file:

        def read(end: int) -> Iterator[bytes]:
            nonlocal at
            file.seek(at)
            while at < end and (piece := file.read(min(PIECE, end - at))):
                at += len(piece)
                whole.update(piece)
                yield piece

        for key, entry in entries:
            for _ in read(entry.start):
                pass  # the header, or a gap
            crc = 0
            for piece in read(entry.end):
                crc = zlib.crc32(piece, crc)
            tensors[key] = f"{crc:08x}"
        for _ in read(path.stat().st_size):
            pass
    return Sums(whole.hexdigest(), tensors)
