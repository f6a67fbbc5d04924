"""Bodies: limits while they stream, JSON that is none, objects that are none."""

import json
from collections.abc import AsyncIterator

import pytest
from pydantic import TypeAdapter, ValidationError

from impasto.api.bodies import MAX_DEPTH, MAX_VALUES, parse_object
from impasto.documents import takes_gzip
from impasto.errors import DOCS_URL, ModelError, docs_url

APP = "/fal-ai/flux-pro"
PATHS = (APP, "/queue" + APP)
MIB = 1024 * 1024

NOT_JSON = [
    b"{",
    b"nope",
    b"{'a': 1}",
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b"{}\xef\xbb\xbf",
]


@pytest.mark.parametrize("body", NOT_JSON)
@pytest.mark.parametrize("path", PATHS)
async def test_what_is_not_json_is_refused_at_once(client, server, path: str, body: bytes) -> None:
    answer = await client.post(path, content=body)
    assert answer.status_code == 422
    (item,) = answer.json()["detail"]
    assert (item["type"], item["msg"]) == ("json_invalid", "JSON decode error")
    assert item["loc"][0] == "body"
    assert all(isinstance(part, str) for part in item["loc"])
    assert item["ctx"]["error"]
    assert answer.headers["x-fal-billable-units"] == "0"
    assert server.store.queued() == 0


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"5", b"null", b"true"])
@pytest.mark.parametrize("path", PATHS)
async def test_what_is_not_an_object_is_refused_at_once(client, server, path: str, body: bytes) -> None:
    answer = await client.post(path, content=body)
    assert answer.status_code == 422
    (item,) = answer.json()["detail"]
    assert (item["loc"], item["type"]) == (["body"], "dict_type")
    assert server.store.queued() == 0


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def test_depth_is_limited_exactly() -> None:
    assert parse_object(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))
    assert parse_object(b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}")
    for depth in (MAX_DEPTH + 1, 90_000):
        with pytest.raises(ModelError, match="JSON decode error") as caught:
            parse_object(nested(depth) if depth < 1000 else b'{"a":' + b"[" * depth)
        assert str(MAX_DEPTH) in caught.value.items[0]["ctx"]["error"]


@pytest.mark.parametrize("mark", [b"{},", b"[],", b"1,", b'"k":1,'])
def test_the_number_of_values_is_limited(mark: bytes) -> None:
    """30 MiB of empty objects took 2 GB and stopped every other caller for seconds."""
    opening, closing = (b'{"a":1,', b'"z":1}') if b":" in mark else (b'{"a":[', b"1]}")
    fitting = (MAX_VALUES - 2) // sum(mark.count(byte) for byte in b",[{")
    assert parse_object(opening + mark * fitting + closing)
    with pytest.raises(ModelError) as caught:
        parse_object(opening + mark * (fitting + 2) + closing)
    assert f"at most {MAX_VALUES} values" in caught.value.items[0]["ctx"]["error"]


def test_one_long_text_is_one_value() -> None:
    data = "data:image/png;base64," + "A" * 5_000_000
    assert parse_object(json.dumps({"image_url": data}).encode()) == {"image_url": data}


@pytest.mark.parametrize(("body", "value"), [(b"", {}), (b'{"a": 1}', {"a": 1})])
def test_a_byte_order_mark_is_skipped(body: bytes, value: dict[str, int]) -> None:
    assert parse_object(b"\xef\xbb\xbf" + body) == value


def test_whole_numbers_of_any_length_do_no_harm() -> None:
    assert parse_object(b'{"seed": %d}' % 2**64)["seed"] == 2**64
    with pytest.raises(ModelError) as caught:
        parse_object(b'{"seed": ' + b"9" * 100_000 + b"}")
    assert caught.value.items[0]["type"] == "json_invalid"


async def test_a_number_of_thousands_of_digits_is_an_answer(client) -> None:
    for path in PATHS:
        answer = await client.post(path, content=b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}")
        assert answer.status_code == 422


@pytest.mark.parametrize("body", [b"", b"  \r\n"])
def test_no_body_is_an_empty_object(body: bytes) -> None:
    assert parse_object(body) == {}


@pytest.mark.parametrize("path", PATHS)
async def test_a_large_body_is_413_and_names_the_setting(build, path: str) -> None:
    server = await build(max_body_mb=1)
    async with server.client() as client:
        just = b'{"prompt": "a", "x": "%s"}' % (b"y" * (MIB - 24))
        assert len(just) == MIB
        assert (await client.post("/queue" + APP, content=just)).status_code == 200
        declared = await client.post(path, content=just + b" ")
        assert declared.status_code == 413
        assert "server.max_body_mb" in declared.json()["detail"]

        sent = 0

        async def stream() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(64):
                sent += MIB // 4
                yield b"x" * (MIB // 4)

        streamed = await client.post(path, content=stream())
        assert streamed.status_code == 413
        assert sent < 64 * MIB // 4, "it was refused before all of it was read"


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        ("gzip", True),
        ("GZIP, br", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*;q=0", False),
        ("x-gzip-like", False),
        ("gzip;q=nonsense", False),
        ("identity", False),
        ("", False),
    ],
)
def test_gzip_is_sent_to_whoever_takes_it(accepted: str, taken: bool) -> None:
    assert takes_gzip(accepted) is taken


def test_a_types_url_is_the_page_of_whoever_named_it() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, str]).validate_python([])
    assert docs_url("dict_type") == caught.value.errors()[0]["url"], "as pydantic itself links it"
    for type_ in ("json_invalid", "missing", "int_type", "list_type", "string_type", "value_error"):
        assert docs_url(type_) == docs_url("dict_type").replace("dict_type", type_)
    for type_ in ("one_of", "less_than_equal", "image_too_small", "content_policy_violation", "feature_not_supported"):
        assert docs_url(type_) == "https://docs.fal.ai/errors#" + type_
    for body in (b"[]", b"{"):
        with pytest.raises(ModelError) as refused:
            parse_object(body)
        (item,) = refused.value.items
        assert item["url"] == docs_url(item["type"]) != DOCS_URL + item["type"]
    (item,) = ModelError.at("seed", "A whole number", "int_type").items
    assert item["url"] == docs_url("int_type")
