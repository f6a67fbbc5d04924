"""docs/reference/errors.md names every error of fal's; what it says occurs, occurs with that status and context."""

import re
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Le

from impasto import errors
from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints
from impasto.engine.failure import explain
from impasto.engine.safety.policy import CONTENT_POLICY_MESSAGE
from impasto.errors import DOCS_URL, RequestError
from impasto.fleet.work import refused

ENDPOINTS = Endpoints()
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/errors.md").read_text()
REQUESTS, MODELS = PAGE.split("## Model errors")

FAL_REQUEST_ERRORS = {  # fal's list (reference, protocol section 4): type → status
    "request_timeout": 504, "startup_timeout": 504, "runner_scheduling_failure": 503, "runner_connection_timeout": 503,
    "runner_disconnected": 503, "runner_connection_refused": 503, "concurrent_requests_limit": 429,
    "runner_connection_error": 503, "runner_incomplete_response": 502, "runner_server_error": 500,
    "client_disconnected": 499, "client_cancelled": 499, "bad_request": 400, "internal_error": 500,
}  # fmt: skip
FAL_MODEL_ERRORS = {
    "internal_server_error": 500, "generation_timeout": 504, "downstream_service_error": 400,
    "downstream_service_unavailable": 500, "content_policy_violation": 422, "no_media_generated": 422,
    "image_too_small": 422, "image_too_large": 422, "image_aspect_ratio_error": 422, "image_load_error": 422,
    "file_download_error": 422, "face_detection_error": 422, "file_too_large": 422, "greater_than": 422,
    "greater_than_equal": 422, "less_than": 422, "less_than_equal": 422, "multiple_of": 422,
    "sequence_too_short": 422, "sequence_too_long": 422, "one_of": 422, "feature_not_supported": 422,
    "invalid_archive": 422, "archive_file_count_below_minimum": 422, "archive_file_count_exceeds_maximum": 422,
    "audio_duration_too_long": 422, "audio_duration_too_short": 422, "video_duration_too_long": 422,
    "video_duration_too_short": 422, "unsupported_audio_format": 422, "unsupported_image_format": 422,
    "unsupported_video_format": 422,
}  # fmt: skip


def rows(table: str) -> dict[str, list[set[str]]]:
    """{type: one set of statuses a row}; "–" for what does not occur."""
    found: dict[str, list[set[str]]] = {}
    for line in table.splitlines():
        if line.startswith("| `") and "| status |" not in line:
            types, statuses = line.split("|")[1:3]
            for type_ in re.findall(r"`(\w+)`", types):
                found.setdefault(type_, []).append({status.strip() for status in statuses.split(",")})
    return found


def occurring(table: str) -> dict[str, set[str]]:
    return {type_: set().union(*all_) for type_, all_ in rows(table).items() if all_ != [{"–"}]}


def test_every_error_of_fals_has_a_row() -> None:
    assert set(FAL_REQUEST_ERRORS) <= set(rows(REQUESTS))
    assert set(FAL_MODEL_ERRORS) == set(rows(MODELS))


def test_what_occurs_has_fals_status() -> None:
    for type_, statuses in occurring(REQUESTS).items():
        assert type_ not in FAL_REQUEST_ERRORS or str(FAL_REQUEST_ERRORS[type_]) in statuses
    for type_, statuses in occurring(MODELS).items():
        assert statuses == {str(FAL_MODEL_ERRORS[type_])}


def leaves(kind: type[RequestError]) -> set[type[RequestError]]:
    return {kind} | {leaf for child in kind.__subclasses__() for leaf in leaves(child)}


def test_the_first_table_is_the_error_tree() -> None:
    said = {(type_, int(status)) for type_, statuses in occurring(REQUESTS).items() for status in statuses}
    made = {(kind.error_type, kind.status) for kind in leaves(RequestError) - {RequestError}}
    assert made == said


def test_what_occurs_is_in_the_source_and_what_does_not_is_not() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    allowed = {"multiple_of", "less_than"}  # types that a custom endpoint's own fields may raise
    for type_, all_ in rows(MODELS).items():
        if all_ == [{"–"}]:
            assert type_ in allowed or f'"{type_}"' not in source, type_
        else:
            assert f'"{type_}"' in source, type_


INPUTS: dict[str, tuple[dict[str, Any], list[str], dict[str, Any]]] = {
    "greater_than": ({"image_size": {"width": 0, "height": 512}}, ["body", "image_size", "width"], {"gt": 0}),
    "greater_than_equal": ({"num_images": 0}, ["body", "num_images"], {"ge": 1}),
    "less_than_equal": ({"num_images": 5}, ["body", "num_images"], {"le": 4}),
    "sequence_too_short": ({"image_url": ""}, ["body", "image_url"], {"min_length": 1}),
    "sequence_too_long": ({"prompt": "a" * 10_001}, ["body", "prompt"], {"max_length": 10_000}),
    "one_of": ({"output_format": "webp"}, ["body", "output_format"], {"expected": ["jpeg", "png"]}),
    "image_too_small": (
        {"image_size": {"width": 32, "height": 512}}, ["body", "image_size"], {"min_height": 64, "min_width": 64}
    ),
    "image_too_large": (
        {"image_size": {"width": 4096, "height": 512}}, ["body", "image_size"], {"max_height": 2560, "max_width": 2560}
    ),
}  # fmt: skip


@pytest.mark.parametrize("type_", INPUTS)
async def test_the_sync_run_and_the_queue_answer_alike_at_every_endpoint(client, server, type_: str) -> None:
    change, loc, context = INPUTS[type_]
    (field,) = change
    takers = [e for e in ENDPOINTS.values() if field in schemas(e)[e.Input.__name__]["properties"]]
    if type_ == "less_than_equal":
        takers = [e for e in takers if Le(4) in e.Input.model_fields[field].metadata]  # flux-general draws up to ten
    assert takers
    for endpoint in takers:
        payload = endpoint.example | change
        run = await client.post(f"/{endpoint.id}", json=payload)
        submitted = await client.post(f"/queue/{endpoint.id}", json=payload)
        assert (run.status_code, submitted.status_code) == (422, 200)
        await server.worker.draw(await server.worker.take())
        queued = await client.get(f"/queue/{endpoint.app}/requests/{submitted.json()['request_id']}")
        assert (queued.status_code, queued.json()) == (422, run.json())
        (item,) = run.json()["detail"]
        assert (item["loc"], item["type"], item["ctx"]) == (loc, type_, context)
        assert item["url"] == DOCS_URL + type_
        assert run.headers["x-fal-retryable"] == queued.headers["x-fal-retryable"] == "false"


def test_a_fault_of_the_model_is_a_model_error_of_its_own() -> None:
    failure = explain(ZeroDivisionError("secret"))
    (item,) = failure.body["detail"]
    assert (failure.status, item["type"], item["loc"]) == (500, "internal_server_error", ["body"])
    assert item["url"] == DOCS_URL + "internal_server_error"
    assert "secret" not in item["msg"]


def test_a_status_names_the_items_type_whoever_refused_it() -> None:
    error = errors.ModelError.at("prompt", CONTENT_POLICY_MESSAGE, "content_policy_violation")
    assert refused(error).error_type == explain(error).error_type == "content_policy_violation"
    late = errors.RequestTimeout()
    assert refused(late).error_type == explain(late).error_type == "request_timeout"


def test_a_refused_prompt_has_fals_words() -> None:
    error = errors.ModelError.at("prompt", CONTENT_POLICY_MESSAGE, "content_policy_violation")
    (item,) = error.items
    assert item["loc"] == ["body", "prompt"]
    assert item["msg"].startswith("The content could not be processed because it contained material flagged")
