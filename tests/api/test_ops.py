"""Health, readiness, the front door, the OpenAPI documents, and what is honestly not there yet."""

import re

import pytest

from impasto import __version__
from impasto.endpoints.table import Endpoints

ENDPOINTS = Endpoints()
APP = "/fal-ai/flux-pro"


async def test_healthz_answers_while_the_process_lives(client, server) -> None:
    for ready in (True, False):
        server.worker.ready = ready
        for path in ("/healthz", "/health", "/healthz/"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": __version__})


async def test_readyz_tells_why_not(client, server) -> None:
    assert (await client.get("/readyz")).status_code == 200
    server.worker.ready, server.worker.reason = False, "the model is loading"
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "the model is loading"


async def test_submit_works_before_anything_is_ready(client, server) -> None:
    server.worker.ready = False
    assert (await client.post("/queue" + APP, json={"prompt": "a"})).status_code == 200


async def test_the_front_door_links_to_the_rest(client) -> None:
    body = (await client.get("/")).json()
    assert body["name"] == "impasto"
    assert set(body["endpoints"]) == set(ENDPOINTS)
    for name in ("health", "openapi", "ready"):
        assert (await client.get(body[name])).status_code == 200


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
async def test_the_queue_document_of_every_endpoint(client, endpoint) -> None:
    answer = await client.get("/api/openapi/queue/openapi.json", params={"endpoint_id": endpoint.id})
    document = answer.json()
    assert document["openapi"] == "3.0.4"
    assert document["info"]["title"] == f"Queue OpenAPI for {endpoint.id}"
    assert document["info"]["x-fal-metadata"]["endpointId"] == endpoint.id
    requests = f"/{endpoint.app}/requests/{{request_id}}"
    assert list(document["paths"]) == [f"/{endpoint.id}", f"{requests}/status", f"{requests}/cancel", requests]
    schemas = document["components"]["schemas"]
    assert schemas["QueueStatus"]["properties"]["status"]["enum"] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    for schema in schemas.values():
        assert schema["x-fal-order-properties"] == list(schema["properties"])
    references = set(re.findall(r"'#/components/schemas/(\w+)'", str(document)))
    assert references <= set(schemas)
    assert {endpoint.Input.__name__, endpoint.Output.__name__, "QueueStatus"} <= references


async def test_the_queue_document_needs_a_known_endpoint(client) -> None:
    path = "/api/openapi/queue/openapi.json"
    missing = await client.get(path)
    assert missing.status_code == 400
    assert "endpoint_id" in missing.json()["detail"]
    assert (await client.get(path, params={"endpoint_id": "fal-ai/none"})).status_code == 404
