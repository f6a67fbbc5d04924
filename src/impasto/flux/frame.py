"""The frame of a safetensors file: eight bytes of length, a header in JSON, and the tensors' bytes behind it.

In: a path. Out: a `Frame`, judged as the official reader judges it: every tensor has the bytes that its shape needs,
and the tensors follow each other without a gap or an overlap from the header to the end of the file. So a file cannot
claim more bytes than it has. LoRAs and checkpoints go through here alike, in the server process (no torch here) and
in the runner.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

from impasto.errors import WeightsError
from impasto.flux import kinds

MAX_HEADER = 100 * 2**20
"""Bytes of a header, the format's own bound."""

MAX_DIMENSIONS = 16
"""Of one tensor. No weight has more than five."""

MAX_SIDE = 2**40

BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits of one number, by the name that a header gives its type."""


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor as the header states it; `start` and `end` in bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Frame:
    """`items` in the order of the header; `metadata`: what the file's maker wrote beside them."""

    items: Mapping[str, Item]
    metadata: Mapping[str, str]


class _Twice(Exception):
    """The header names a tensor twice."""


def read(path: Path, *, name: str | None = None, max_header: int = MAX_HEADER) -> Frame:
    """Read and judge the header of the file. `name`: the file's name in errors, its path unless stated.

    Raises WeightsError: the file cannot be read, is of another kind (with the kind and the remedy), is incomplete, or
    its header contradicts its bytes.
    """
    name = str(path) if name is None else name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header, base = _header(file, size, name, max_header)
    except OSError as error:
        raise WeightsError(f"{name}: cannot be read ({error.strerror}).") from None
    metadata = _metadata(header.pop("__metadata__", {}), name)
    items = {key: _item(key, info, base, name) for key, info in header.items()}
    _judge_order(items, base, size, name)
    return Frame(items, metadata)


def _metadata(found: Any, name: str) -> Mapping[str, str]:
    if not isinstance(found, dict):
        raise WeightsError(f"{name}: the header's __metadata__ is damaged (it is no object).")
    texts = cast("dict[str, Any]", found)
    if any(not isinstance(value, str) for value in texts.values()):
        raise WeightsError(f"{name}: the header's __metadata__ is damaged (a value is no text).")
    return texts


def _header(file: BinaryIO, size: int, name: str, max_header: int) -> tuple[dict[str, Any], int]:
    """The header, and the byte at which the tensors begin. The frame decides first: the low bytes of a length may look
    like the beginning of any other format.
    """
    head = file.read(kinds.HEAD)
    length = int.from_bytes(head[:8], "little")
    whole = len(head) > 8 and length <= size - 8
    if whole and head[8:9] == b"{" and length > max_header:
        raise WeightsError(f"{name}: its header is larger than {max_header // 2**20} MiB.")
    if whole and length <= max_header:
        file.seek(8)
        try:
            header = json.loads(file.read(length), object_pairs_hook=_once)
        except _Twice as error:
            raise WeightsError(f"{name}: the header names {str(error)[:120]} twice.") from None
        except (ValueError, RecursionError) as error:
            _refuse_other(head, size, name)
            raise WeightsError(f"{name}: not a safetensors file: its header is no JSON ({str(error)[:100]}).") from None
        if isinstance(header, dict):
            return cast("dict[str, Any]", header), 8 + length
        _refuse_other(head, size, name)
        raise WeightsError(f"{name}: not a safetensors file: its header is no JSON object.")
    if head[8:9] != b"{" or length > MAX_HEADER:  # else its end is missing
        _refuse_other(head, size, name)
    raise WeightsError(f"{name}: not a complete safetensors file ({size} bytes). Fetch it again.")


def _refuse_other(head: bytes, size: int, name: str) -> None:
    kind = kinds.of_bytes(head, size=size, name=name)
    if kind is not None:
        raise WeightsError(f"{name}: not a safetensors file: it is {kind}.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _Twice(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return found


def _item(key: str, info: Any, base: int, name: str) -> Item:
    try:
        dtype, shape, offsets = info["dtype"], tuple(info["shape"]), tuple(info["data_offsets"])
        start, end = offsets
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{name}: the header's entry for {shown(key)} is damaged ({error!r}).") from None
    if any(type(number) is not int for number in (*shape, *offsets)) or not isinstance(dtype, str):
        raise WeightsError(f"{name}: the header's entry for {shown(key)} is damaged (a number is no whole number).")
    if dtype not in BITS:
        raise WeightsError(f"{name}: {shown(key)} has dtype {dtype[:40]}; known are {', '.join(BITS)}.")
    if len(shape) > MAX_DIMENSIONS or max(shape, default=0) > MAX_SIDE:
        raise WeightsError(f"{name}: {shown(key)} has no shape of a tensor ({len(shape)} dimensions).")
    bits = prod(shape) * BITS[dtype]
    if min((*shape, start), default=0) < 0 or bits % 8 or end - start != bits // 8:
        raise WeightsError(f"{name}: {shown(key)} {list(shape)} does not have the bytes that its header states.")
    return Item(dtype, shape, base + start, base + end)


def _judge_order(items: Mapping[str, Item], base: int, size: int, name: str) -> None:
    at, before = base, "the header"
    for key, item in sorted(items.items(), key=lambda each: (each[1].start, each[1].end)):
        if item.start < at:
            raise WeightsError(
                f"{name}: {shown(key)} and {shown(before)} overlap in the file, which safetensors does not allow."
            )
        if item.start > at:
            raise WeightsError(
                f"{name}: {item.start - at} bytes before {shown(key)} belong to no tensor, which safetensors does not "
                "allow."
            )
        if item.end > size:
            raise WeightsError(
                f"{name}: not a complete safetensors file: it ends inside {shown(key)} ({size} bytes, {item.end} "
                "needed). Fetch it again."
            )
        at, before = item.end, key
    if at != size:
        raise WeightsError(
            f"{name}: {size - at} bytes behind the last tensor belong to none, which safetensors does not allow."
        )


def shown(key: str, *, most: int = 120) -> str:
    """Return a key of somebody's file as text for people: of bearable length, without halves of characters."""
    return key[:most].encode("utf-8", "replace").decode("utf-8") + ("…" if len(key) > most else "")
