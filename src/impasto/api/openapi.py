"""The OpenAPI documents: one of an endpoint's queue, as fal publishes it, and one of all that this server answers."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from pydantic import BaseModel
from starlette.responses import Response

from impasto import __version__
from impasto.api.admission import resolve
from impasto.api.bases import ROOM, bases_of, fill
from impasto.api.contract import (
    BYTES,
    COMMON,
    CONTRACT,
    ERROR,
    FAILURES,
    INPUT,
    JSON,
    OPENAI_ERROR,
    OUTPUT,
    PLATFORM_ERROR,
    Operation,
)
from impasto.api.gateway import Call
from impasto.api.platform.query import choice
from impasto.endpoints.base import Endpoint
from impasto.endpoints.schema import REF, schemas
from impasto.endpoints.table import Endpoints
from impasto.errors import BadRequest

_KEY: dict[str, Any] = {
    "apiKeyAuth": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Fal Key"}
}
_STATUS: dict[str, Any] = {
    "type": "object",
    "title": "QueueStatus",
    "x-fal-order-properties": [
        "status", "request_id", "response_url", "status_url", "cancel_url", "logs", "metrics", "queue_position",
    ],
    "properties": {
        "status": {"type": "string", "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
        "request_id": {"type": "string", "description": "The request id."},
        "response_url": {"type": "string", "description": "The response url."},
        "status_url": {"type": "string", "description": "The status url."},
        "cancel_url": {"type": "string", "description": "The cancel url."},
        "logs": {"type": "object", "description": "The logs.", "additionalProperties": True},
        "metrics": {"type": "object", "description": "The metrics.", "additionalProperties": True},
        "queue_position": {"type": "integer", "description": "The queue position."},
    },
    "required": ["status", "request_id"],
}  # fmt: skip


async def of_queue(call: Call) -> Response:
    """`?endpoint_id=fal-ai/flux-pro`: the document that code generators ask fal.ai for. `expand=app` (ours) adds the
    inputs of the app's endpoints that start from a picture.
    """
    id_ = call.request.query_params.get("endpoint_id")
    if not id_:
        raise BadRequest("The query lacks endpoint_id, e.g. endpoint_id=fal-ai/flux-pro.")
    endpoints, bases = call.gateway.endpoints, bases_of(call.address)
    endpoint = resolve("/" + id_, endpoints)
    expand = choice(call.request.query_params, "expand", ("app",))

    def build() -> bytes:
        document = queue_document(endpoint)
        if expand:
            own: dict[str, Any] = document["components"]["schemas"]
            own |= {name: schema for name, schema in _inputs_of_app(endpoint, endpoints).items() if name not in own}
        return fill(msgspec.json.encode(document), bases)

    return await call.gateway.documents.answer(call.request, ("queue", endpoint.id, expand, bases), build)


async def of_server(call: Call) -> Response:
    """Everything that this server answers."""
    documents, endpoints, bases = call.gateway.documents, call.gateway.endpoints, bases_of(call.address)

    def template() -> bytes:
        return msgspec.json.encode(server_document(endpoints))

    def build() -> bytes:
        return fill(documents.part("server", template), bases)

    return await documents.answer(call.request, ("server", bases), build)


def queue_document(endpoint: Endpoint) -> dict[str, Any]:
    """fal's document of submit, status, cancel and result of one endpoint: labelled 3.0.4 as fal's is. Its URLs have
    `ROOM` for their bases.
    """
    requests = f"/{endpoint.app}/requests/{{request_id}}"
    id_ = _parameter("request_id", "path", {"type": "string", "format": "uuid"}, required=True)
    logs = _parameter("logs", "query", {"type": "number"})
    return {
        "openapi": "3.0.4",
        "info": {
            "title": f"Queue OpenAPI for {endpoint.id}",
            "version": "1.0.0",
            "description": f"The OpenAPI schema for the {endpoint.id} queue.",
            "x-fal-metadata": {
                "endpointId": endpoint.id,
                "category": endpoint.category,
                "thumbnailUrl": "",  # no picture stands for an endpoint here
                "playgroundUrl": f"{ROOM.site}/models/{endpoint.id}",
                "documentationUrl": f"{ROOM.site}/models/{endpoint.id}/llms.txt",
            },
        },
        "components": {"securitySchemes": _KEY, "schemas": {"QueueStatus": _STATUS, **schemas(endpoint)}},
        "paths": {
            f"/{endpoint.id}": {
                "post": {"requestBody": _body(endpoint), **_answers("The request status.", _ref("QueueStatus"))}
            },
            f"{requests}/status": {
                "get": {"parameters": [id_, logs], **_answers("The request status.", _ref("QueueStatus"))}
            },
            f"{requests}/cancel": {
                "put": {
                    "parameters": [id_],
                    **_answers(
                        "The request was cancelled.",
                        {"type": "object", "properties": {"success": {"type": "boolean"}}},
                    ),
                }
            },
            requests: {
                "get": {"parameters": [id_], **_answers("Result of the request.", _ref(endpoint.Output.__name__))}
            },
        },
        "servers": [{"url": ROOM.queue}],
        "security": [{"apiKeyAuth": []}],
    }


def _inputs_of_app(endpoint: Endpoint, endpoints: Endpoints) -> dict[str, Any]:
    """What the other endpoints of its app take that start from a picture: fal's pages show these types, too. An input
    says in `x-impasto-endpoint` whose it is.
    """
    found: dict[str, Any] = {}
    for other in endpoints.values():
        if other.app == endpoint.app and other.category == "image-to-image" and other.id != endpoint.id:
            types = {name: schema for name, schema in schemas(other).items() if name != other.Output.__name__}
            types[other.Input.__name__] = types[other.Input.__name__] | {"x-impasto-endpoint": other.id}
            found = types | found
    return found


def server_document(endpoints: Endpoints) -> dict[str, Any]:
    """OpenAPI 3.1 of the whole route table; the runs of the endpoints first, in their order."""
    components, names = _components(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for (template, method), operation in CONTRACT.items():
        for path, endpoint in _places(template, operation, endpoints):
            verb = "get" if method == "WEBSOCKET" else method.lower()
            paths.setdefault(path, {})[verb] = _operation(
                operation, endpoint, names.get(endpoint.id, {}) if endpoint else {}, websocket=method == "WEBSOCKET"
            )
    return {
        "openapi": "3.1.0",
        "info": {"title": "impasto", "version": __version__},
        "servers": [{"url": ROOM.run}],
        "paths": paths,
        "components": {"securitySchemes": _KEY, "schemas": components},
        "security": [{"apiKeyAuth": []}],
        "x-fal-order-paths": [f"/{id_}" for id_ in endpoints],
    }


def _places(template: str, operation: Operation, endpoints: Endpoints) -> Iterator[tuple[str, Endpoint | None]]:
    """Where the operation stands: once, or for every endpoint or app."""
    if operation.each == "endpoint":
        yield from ((template.replace("{endpoint}", id_), endpoint) for id_, endpoint in endpoints.items())
    elif operation.each == "app":
        yield from ((template.replace("{endpoint}", app), None) for app in sorted(endpoints.apps))
    else:
        yield template, None


def _components(endpoints: Endpoints) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """All schemas, and {endpoint id: {class name: name of its schema}} where two classes of one name differ."""
    components: dict[str, Any] = {
        "QueueStatus": _STATUS,
        "Error": ERROR,
        "PlatformError": PLATFORM_ERROR,
        "OpenAIError": OPENAI_ERROR,
    }
    names: dict[str, dict[str, str]] = {}
    for endpoint in endpoints.values():
        own = schemas(endpoint)
        owner = endpoint.id.replace("/", "_")
        renamed = {name: f"{owner}_{name}" for name, schema in own.items() if components.get(name, schema) != schema}
        text = json.dumps(own)
        for name, new in renamed.items():
            text = text.replace(f'"{_ref(name)["$ref"]}"', f'"{_ref(new)["$ref"]}"')
        made: dict[str, Any] = json.loads(text)
        components |= {renamed.get(name, name): schema for name, schema in made.items()}
        names[endpoint.id] = renamed
    return components, names


def _operation(
    operation: Operation, endpoint: Endpoint | None, names: Mapping[str, str], *, websocket: bool
) -> dict[str, Any]:
    made: dict[str, Any] = {"summary": operation.summary}
    if endpoint is not None:
        made |= {"summary": f"{endpoint.title}: {operation.summary.lower()}", "description": endpoint.description}
    if operation.parameters:
        made["parameters"] = [
            _parameter(each.name, each.where, each.schema, required=each.required) for each in operation.parameters
        ]
    if operation.raw_body:
        made["requestBody"] = {"required": False, "content": {"application/octet-stream": {"schema": BYTES}}}
    elif operation.body is not None:
        schema = _schema(endpoint.Input, names) if operation.body is INPUT and endpoint else operation.body
        made["requestBody"] = {"required": True, "content": {operation.body_type: {"schema": schema}}}
    made["responses"] = _responses(operation, endpoint, names)
    if operation.public:
        made["security"] = []
    if websocket:
        made["x-fal-protocol"] = "realtime"
    return made


def _schema(model: type[BaseModel], names: Mapping[str, str]) -> dict[str, Any]:
    return _ref(names.get(model.__name__, model.__name__))


def _responses(operation: Operation, endpoint: Endpoint | None, names: Mapping[str, str]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        schema = _schema(endpoint.Output, names) if answer.schema is OUTPUT and endpoint else answer.schema
        answers[status] = {"description": answer.description}
        if schema is not None:
            answers[status]["content"] = {answer.media_type: {"schema": schema}}
    for status in sorted({*COMMON, *operation.failures}):
        content = {JSON: {"schema": _ref(operation.error)}}
        answers.setdefault(status, {"description": FAILURES[status], "content": content})
    return answers


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": REF.format(model=name)}


def _body(endpoint: Endpoint) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _ref(endpoint.Input.__name__)}}}


def _answers(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"responses": {"200": {"description": description, "content": {"application/json": {"schema": schema}}}}}


def _parameter(name: str, where: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "schema": schema}
