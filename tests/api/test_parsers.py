"""Whatever stands in headers, queries, paths and data URIs: a value or a named refusal, never another exception."""

import base64
import binascii
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from impasto.api.admission import PRIORITIES, resolve, start_timeout
from impasto.api.bodies import parse_object, whole_number
from impasto.api.media import clean_name, content_disposition, media_type
from impasto.endpoints.table import Endpoints
from impasto.engine.job import Notice
from impasto.errors import BadRequest, ModelError, NotFound, WireError
from impasto.files.images import data_uri, parse_data_uri
from impasto.fleet.work import MAX_WARNINGS, WARNINGS, warnings

ENDPOINTS = Endpoints()
QUEUE = "/queue/fal-ai/flux-pro"
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)
WORDS = st.one_of(PRINTABLE, st.sampled_from(["1e999", "-0", "٣", "1_0", "0x10", "nan", "١٢", " 5", "5 ", "9" * 400]))
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_body_is_an_object_or_422(body: bytes) -> None:
    try:
        assert isinstance(parse_object(body), dict)
    except ModelError as error:
        json.dumps(error.body())


@given(WORDS)
def test_numbers_are_numbers_or_nothing(text: str) -> None:
    number = whole_number(text)
    assert number is None or 0 <= number < 10**18
    try:
        seconds = start_timeout({"x-fal-request-timeout": text})
    except BadRequest:
        return
    assert seconds is not None
    assert 0.1 <= seconds < float("inf")


@given(st.text(max_size=80))
def test_any_path_is_an_endpoint_or_404(path: str) -> None:
    try:
        assert resolve("/" + path, ENDPOINTS).id in ENDPOINTS
    except NotFound as error:
        json.dumps(error.body())


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_data_uri_is_bytes_or_a_sentence(head: str, body: str) -> None:
    for text in (f"data:{head},{body}", f"data:{head};base64,{body}", head + body):
        try:
            data, type_ = parse_data_uri(text)
        except ValueError as error:
            if isinstance(error, binascii.Error):
                raise  # the decoder's own words are not for callers
        else:
            assert isinstance(data, bytes)
            assert type_


@given(st.binary(max_size=300))
def test_a_data_uri_of_ours_comes_back(data: bytes) -> None:
    assert parse_data_uri(data_uri(data, "image/png")) == (data, "image/png")
    assert base64.b64encode(data).decode() in data_uri(data, "image/png")


@given(st.text(max_size=300), st.text(max_size=60), st.binary(max_size=64))
def test_any_file_name_and_type_make_a_header(name: str, declared: str, data: bytes) -> None:
    kept = clean_name(name)
    assert kept is None or ("/" not in kept and "\\" not in kept and kept.isprintable())
    header = content_disposition(media_type(declared, data), kept)
    assert header.isascii()
    assert header.isprintable()


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=2000), st.none() | st.text(max_size=40)), max_size=40))
def test_any_notices_make_a_short_ascii_header(said: list[tuple[str, str, str | None]]) -> None:
    header = warnings([Notice(code=code, message=message, field=field) for code, message, field in said])
    assert bool(header) == bool(said)
    for text in header.values():
        assert len(text) < MAX_WARNINGS
        assert text.isascii()
        assert text.isprintable()
        assert all({"code", "message"} <= set(item) for item in json.loads(text))
    assert set(header) <= {WARNINGS}


HEADERS = ["X-Fal-Request-Timeout", "X-Fal-Queue-Priority", "X-Fal-No-Retry", "X-Fal-Store-IO", "Idempotency-Key"]
HEADERS += ["X-Fal-Object-Lifecycle-Preference", "X-Fal-Retry-Config", "Origin", "Authorization", "Range"]


@FEW
@given(
    headers=st.dictionaries(st.sampled_from(HEADERS), WORDS.filter(str.isascii), max_size=4),
    query=st.dictionaries(
        st.sampled_from(["fal_webhook", "fal_max_queue_length", "priority", "logs"]), st.text(max_size=40), max_size=3
    ),
)
async def test_any_headers_and_query_are_taken_or_named(
    client: Any, headers: dict[str, str], query: dict[str, str]
) -> None:
    answer = await client.post(QUEUE, json={"prompt": "a"}, headers=headers, params=query)
    assert answer.status_code in (200, 400, 403, 422, 429)
    assert answer.status_code == 200 or answer.json()["detail"]


@pytest.mark.parametrize("word", [*PRIORITIES, *map(str.upper, PRIORITIES)])
async def test_priorities_are_words(client: Any, word: str) -> None:
    answer = await client.post(QUEUE, json={"prompt": "a"}, headers={"X-Fal-Queue-Priority": word})
    assert answer.status_code == 200
    assert issubclass(BadRequest, WireError)
