"""The published documents: valid OpenAPI, every route of the table in them, links that lead somewhere; and llms.txt."""

import re
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator, validate
from starlette.routing import Route, WebSocketRoute

from impasto.api.contract import CONTRACT, INTERNAL
from impasto.api.openapi import server_document
from impasto.api.openapi30 import to_30
from impasto.endpoints.custom import Prompt, WireInput, derive
from impasto.endpoints.schema import schemas
from impasto.endpoints.table import SHIPPED, Endpoints
from impasto.web.pages import routes as pages

ENDPOINTS = Endpoints()
every_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
WORDS = {"GET": "get", "POST": "post", "PUT": "put", "DELETE": "delete", "WEBSOCKET": "get"}


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("/openapi.json")).json()


def served(server) -> set[tuple[str, str]]:
    """(path, method) of every row of the route table, without convertors; a model's path stands for run and submit."""
    found = {("/api/fal/proxy", method) for method in ("GET", "POST", "PUT")}
    for route in server.app.router.routes[1:]:  # the proxy is the first
        if isinstance(route, WebSocketRoute):
            found.add(("/{endpoint}/realtime", "WEBSOCKET"))
            continue
        assert isinstance(route, Route)
        path = re.sub(r":\w+}", "}", route.path)
        if path == "/{endpoint}":
            found |= {(path, "POST"), ("/queue/{endpoint}", "POST")}
        else:
            found |= {(path, method) for method in route.endpoint.handlers}
    return found - INTERNAL


def test_every_route_is_documented_and_nothing_else(server) -> None:
    assert served(server) == set(CONTRACT)


async def test_the_whole_document_is_valid_openapi(document) -> None:
    validate(document, cls=OpenAPIV31SpecValidator)
    assert document["openapi"] == "3.1.0"
    assert (
        list(document["paths"])[: len(ENDPOINTS)] == document["x-fal-order-paths"] == [f"/{id_}" for id_ in ENDPOINTS]
    )


def test_two_inputs_of_one_name_are_two_schemas() -> None:
    class Input(WireInput):
        prompt: Prompt
        style: str = "ink"

    first = Input

    class Input(WireInput):  # type: ignore[no-redef]
        prompt: Prompt
        mood: str = "calm"

    own = [
        derive(f"me/{name}", Input=model, asks=lambda x: {"prompt": x.prompt}, example={"prompt": "a"})
        for name, model in (("first", first), ("second", Input))
    ]
    document = server_document(Endpoints([*SHIPPED, *own]))
    validate(document, cls=OpenAPIV31SpecValidator)
    fields: list[list[str]] = []
    for name in ("first", "second"):
        body = document["paths"][f"/me/{name}"]["post"]["requestBody"]["content"]["application/json"]
        schema = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
        fields.append(list(schema["properties"]))
    assert fields == [["prompt", "style"], ["prompt", "mood"]]


async def test_every_operation_of_the_contract_stands_in_the_document(document) -> None:
    for (template, method), operation in CONTRACT.items():
        for path in [template.replace("{endpoint}", id_) for id_ in ENDPOINTS] if operation.listed else [template]:
            made = document["paths"][path][WORDS[method]]
            assert {*operation.answers, *operation.failures, "400", "500"} <= set(made["responses"])
            in_path = {one["name"] for one in made.get("parameters", []) if one["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path)), template


async def test_every_operation_has_a_name_of_its_own_and_a_family(document) -> None:
    operations = [made for item in document["paths"].values() for made in item.values()]
    names = [made["operationId"] for made in operations]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    assert {"run_fal_ai_flux_dev", "submit", "get_status", "get_result", "get_v1_models"} <= set(names)
    tags = {tag["name"] for tag in document["tags"]}
    assert tags == {*ENDPOINTS.apps, "models", "files", "tokens", "platform", "openai", "server"}
    assert all(len(made["tags"]) == 1 and made["tags"][0] in tags for made in operations)
    assert len(document["paths"]) < 130, "what is the same for all endpoints has one path"


async def test_every_schema_has_a_title_of_its_own(document) -> None:
    titles = [schema.get("title", name) for name, schema in document["components"]["schemas"].items()]
    assert len(set(titles)) == len(titles), "generators make one class of two of the same title, and drop operations"


def test_ids_that_are_one_word_get_names_of_their_own() -> None:
    class Input(WireInput):
        prompt: Prompt

    own = [
        derive(id_, Input=Input, asks=lambda x: {"prompt": x.prompt}, example={"prompt": "a"})
        for id_ in ("me/a-b", "me/a/b")
    ]
    paths = server_document(Endpoints(own))["paths"]
    names = [paths[path]["post"]["operationId"] for path in ("/me/a-b", "/me/a/b")]
    assert names == ["run_me_a_b", "run_me_a_b_2"]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": 1}, {"enum": [1]}),
        ({"type": "string", "examples": ["a", "b"]}, {"type": "string", "example": "a"}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 0, "exclusiveMinimum": True}),
        ({"type": "number", "exclusiveMaximum": 2}, {"type": "number", "maximum": 2, "exclusiveMaximum": True}),
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        (
            {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}], "title": "A"},
            {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "nullable": True, "title": "A"},
        ),
        (
            {"anyOf": [{"$ref": "#/a"}, {"type": "null"}]},
            {"allOf": [{"$ref": "#/a"}], "nullable": True},
        ),
        ({"$ref": "#/a", "description": "d"}, {"allOf": [{"$ref": "#/a"}], "description": "d"}),
        ({"$ref": "#/a"}, {"$ref": "#/a"}),
        (
            {
                "properties": {"const": {"const": "x"}, "examples": {"items": {"examples": [1]}}},
                "default": {"const": 1},
            },
            {"properties": {"const": {"enum": ["x"]}, "examples": {"items": {"example": 1}}}, "default": {"const": 1}},
        ),
        ({"additionalProperties": {"const": 1}}, {"additionalProperties": {"enum": [1]}}),
        ({"additionalProperties": True}, {"additionalProperties": True}),
    ],
)
def test_schemas_of_today_become_schemas_of_openapi_3_0(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert to_30(schema) == expected


@every_endpoint
async def test_every_queue_document_is_valid_and_its_links_lead_somewhere(server, client, endpoint) -> None:
    server.app.router.routes[1:1] = pages()
    document = (await client.get("/api/openapi/queue/openapi.json", params={"endpoint_id": endpoint.id})).json()
    assert document["openapi"] == "3.0.4"
    validate(document, cls=OpenAPIV30SpecValidator)
    operations = [made for item in document["paths"].values() for made in item.values()]
    verbs = [made["operationId"].partition("_")[0] for made in operations]
    assert verbs == ["submit", "status", "cancel", "result"]
    assert all(made["responses"]["422"]["content"]["application/json"]["schema"] for made in operations)
    detail = document["components"]["schemas"]["ErrorItem"]
    assert detail["required"] == ["loc", "msg", "type"], "an item of fal's 422"
    metadata = document["info"]["x-fal-metadata"]
    assert list(metadata) == ["endpointId", "category", "thumbnailUrl", "playgroundUrl", "documentationUrl"]
    assert (metadata["endpointId"], metadata["category"]) == (endpoint.id, endpoint.category)
    for name in ("playgroundUrl", "documentationUrl"):
        found = await client.get(metadata[name], headers={"accept": "text/html"})
        assert found.status_code == 200, metadata[name]
    for name, schema in document["components"]["schemas"].items():
        assert schema["x-fal-order-properties"] == list(schema["properties"]), name


@every_endpoint
async def test_llms_txt_tells_every_field_and_how_to_call(client, endpoint) -> None:
    answer = await client.get(f"/models/{endpoint.id}/llms.txt")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    assert text.startswith(f"# {endpoint.title}\n")
    for heading in ("## Overview", "## API Information", "### Input Schema", "### Output Schema", "## Usage Examples"):
        assert f"\n{heading}\n" in text
    published = schemas(endpoint)[endpoint.Input.__name__]["properties"]
    for name, field in (*endpoint.Input.model_fields.items(), *endpoint.Output.model_fields.items()):
        if name in endpoint.Input.model_fields and name not in published:
            continue  # taken, but not told
        need = "required" if field.is_required() else "optional"
        assert re.search(rf"^- \*\*`{name}`\*\* \(.*_{need}_\)", text, re.MULTILINE), name
    assert f"http://127.0.0.1:8000/{endpoint.id}" in text, "the examples point at this server"
    for language in ("python", "javascript", "bash"):
        assert f"```{language}\n" in text


async def test_the_python_and_the_curl_line_of_llms_txt_are_what_they_say(client) -> None:
    import json
    import shlex

    text = (await client.get("/models/fal-ai/flux-pro/llms.txt")).text
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL))
    compile(blocks["python"], "llms.txt", "exec")
    words = shlex.split(blocks["bash"].replace("\\\n", " "))
    assert json.loads(words[words.index("-d") + 1]) == ENDPOINTS["fal-ai/flux-pro"].example
    assert "Bounds: at least 1, at most 50" in text
    assert "Default: `28`" in text
    assert '`"square_hd"`' in text


async def test_the_top_level_llms_txt_lists_every_endpoint(client, server) -> None:
    text = (await client.get("/llms.txt")).text
    for link in re.findall(r"\]\((http://[^)]+)\)", text):
        assert (await client.get(link)).status_code == 200, link
    assert all(f"`{id_}`" in text for id_ in ENDPOINTS)
    server.worker.ready = False
    page = (await client.get("/models/fal-ai/flux-pro/llms.txt")).text
    assert "no model now; requests wait in the queue" in page
    assert (await client.get("/models/fal-ai/none/llms.txt")).status_code == 404
