"""What stands in a realtime frame. In: MessagePack or JSON bytes. Out: an input; and an output as either of the two.

Both clients send MessagePack in binary frames and read results there; their meta messages and errors are JSON in text
frames, because only in those do they look for errors. Decoding is bounded: a few bytes of MessagePack can ask for
gigabytes of objects.
"""

from typing import Any, cast

import msgspec

from impasto.api.bodies import MAX_DEPTH, MAX_VALUES, parse_object
from impasto.errors import BadRequest
from impasto.files.images import data_uri, parse_data_uri, sniff


def parse(frame: bytes | str) -> dict[str, Any]:
    """The input in a frame; raw bytes in it become data URIs. Raises `BadRequest` or `ModelError`."""
    if isinstance(frame, str):
        return parse_object(frame.encode("utf-8"))
    try:
        value = _decode(msgspec.Raw(frame), MAX_DEPTH, [MAX_VALUES])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The binary frame is not MessagePack: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("A frame holds one MessagePack map (binary) or one JSON object (text): the input.")
    return cast("dict[str, Any]", value)


def pack(output: dict[str, Any]) -> bytes:
    """Encode `output` as MessagePack. A whole number past its 64 bits goes out as the double nearest to it."""
    try:
        return msgspec.msgpack.encode(output)
    except OverflowError:
        return msgspec.msgpack.encode(_held(output))


def _held(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _held(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_held(item) for item in cast("list[Any]", value)]
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


def as_content(output: dict[str, Any], *, keep_urls: bool) -> dict[str, Any]:
    """`output` with every picture's data URI as the raw bytes `content`; `keep_urls`: beside its `url`."""
    images = output.get("images")
    if not isinstance(images, list):
        return output
    return {**output, "images": [_raw_image(image, keep_urls) for image in cast("list[Any]", images)]}


def _raw_image(image: Any, keep_url: bool) -> Any:
    url = cast("dict[str, Any]", image).get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or not url.startswith("data:"):
        return image
    data, media_type = parse_data_uri(url)
    rest = {name: value for name, value in image.items() if keep_url or name != "url"}
    return {"content": data, "content_type": media_type, **rest}


def _decode(raw: msgspec.Raw, depth: int, budget: list[int]) -> Any:
    """Level by level, so that a count is known before anything of that size is made."""
    data = memoryview(raw)
    kind, count = _container(data)
    budget[0] -= count
    if depth == 0 or budget[0] < 0:
        raise BadRequest(f"A frame holds at most {MAX_VALUES} values, {MAX_DEPTH} deep.")
    if kind == "map":
        items = msgspec.msgpack.decode(data, type=dict[str, msgspec.Raw])
        return {name: _decode(value, depth - 1, budget) for name, value in items.items()}
    if kind == "array":
        return [_decode(value, depth - 1, budget) for value in msgspec.msgpack.decode(data, type=list[msgspec.Raw])]
    value = msgspec.msgpack.decode(data)
    if isinstance(value, bytes):
        return data_uri(value, sniff(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise BadRequest("A frame holds text, numbers, booleans, bytes, maps and arrays only.")


def _container(data: memoryview) -> tuple[str, int]:
    """("map" | "array" | "", how many values) from the first bytes, as the MessagePack specification has them."""
    if not data:
        raise BadRequest("The frame is empty; it should hold the input.")
    first = data[0]
    if 0x80 <= first <= 0x8F:
        return "map", first & 0x0F
    if 0x90 <= first <= 0x9F:
        return "array", first & 0x0F
    if first in (0xDC, 0xDE):
        return ("array" if first == 0xDC else "map"), int.from_bytes(data[1:3], "big")
    if first in (0xDD, 0xDF):
        return ("array" if first == 0xDD else "map"), int.from_bytes(data[1:5], "big")
    return "", 1
