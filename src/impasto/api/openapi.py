"""The OpenAPI documents: one of an endpoint's queue, as fal publishes it, and one of all that this server answers."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
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
    ERROR_ITEM,
    FAILURES,
    INPUT,
    JSON,
    OBJECT,
    OPENAI_ERROR,
    OUTPUT,
    PLATFORM_ERROR,
    Operation,
)
from impasto.api.gateway import Call
from impasto.api.openapi30 import to_30
from impasto.api.platform.query import choice
from impasto.endpoints.base import Endpoint
from impasto.endpoints.schema import REF, schemas
from impasto.endpoints.table import Endpoints
from impasto.errors import BadRequest

STREAM_PATH = "/stream"
_NAMES = {  # operationIds of what people look for first; the others are made of method and path
    "/queue/{endpoint}": "submit",
    "/{endpoint}/stream": "stream",
    "/{endpoint}/realtime": "realtime",
    "/{endpoint}/requests/{request_id}": "get_result",
    "/{endpoint}/requests/{request_id}/response": "get_response",
    "/{endpoint}/requests/{request_id}/status": "get_status",
    "/{endpoint}/requests/{request_id}/status/stream": "stream_status",
    "/{endpoint}/requests/{request_id}/cancel": "cancel_request",
    "/{endpoint}/requests/{request_id}/webhook": "get_webhook",
    "/{endpoint}/requests/{request_id}/webhook/redeliver": "redeliver_webhook",
}
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
        document = queue_document(endpoint, _inputs_of_app(endpoint, endpoints) if expand else None)
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


def queue_document(endpoint: Endpoint, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """fal's document of submit, status, cancel and result of one endpoint, OpenAPI 3.0.4 as fal's. `more`: schemas that
    it does without. Its URLs have `ROOM` for their bases.
    """
    requests = f"/{endpoint.app}/requests/{{request_id}}"
    id_ = _parameter("request_id", "path", {"type": "string", "format": "uuid"}, required=True)
    logs = _parameter("logs", "query", {"type": "number"})
    own = {"QueueStatus": _STATUS, **schemas(endpoint), "Error": ERROR, "ErrorItem": ERROR_ITEM}
    own |= {name: schema for name, schema in (more or {}).items() if name not in own}
    name = _words(endpoint.id)
    cancelled = {"type": "object", "properties": {"success": {"type": "boolean"}}}

    def operation(verb: str, description: str, schema: dict[str, Any], **rest: Any) -> dict[str, Any]:
        return {"operationId": f"{verb}_{name}", "tags": [endpoint.app], **rest, **_answers(description, schema)}

    status = operation("status", "The request status.", _ref("QueueStatus"), parameters=[id_, logs])
    cancel = operation("cancel", "The request was cancelled.", cancelled, parameters=[id_])
    result = operation("result", "Result of the request.", _ref(endpoint.Output.__name__), parameters=[id_])
    submit = operation("submit", "The request status.", _ref("QueueStatus"), requestBody=_body(endpoint))
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
        "components": {
            "securitySchemes": _KEY,
            "schemas": {name: to_30(schema) for name, schema in own.items()},
        },
        "paths": {
            f"/{endpoint.id}": {"post": submit},
            f"{requests}/status": {"get": status},
            f"{requests}/cancel": {"put": cancel},
            requests: {"get": result},
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
    """OpenAPI 3.1 of the whole route table; the runs of the endpoints first, in their order. What is the same for every
    endpoint has one path with the endpoint as its parameter; an endpoint's queue is typed in its own document.
    """
    components, names = _components(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    for (template, method), operation in CONTRACT.items():
        verb = "get" if method == "WEBSOCKET" else method.lower()
        for path, endpoint in _places(template, operation, endpoints):
            if endpoint is not None and endpoint.id.endswith(STREAM_PATH):
                operation = replace(CONTRACT["/{endpoint}" + STREAM_PATH, "POST"], body=INPUT)
            made = _operation(operation, endpoint, names.get(endpoint.id, {}) if endpoint else {})
            if endpoint is not None:
                made |= {"operationId": _unique(f"run_{_words(endpoint.id)}", taken), "tags": [endpoint.app]}
            else:
                named = _NAMES.get(template) or f"{method.lower()}_{_words(template)}"
                made |= {"operationId": _unique(named, taken), "tags": [_tag(template)]}
                made["parameters"] = [*_choice_of_endpoint(template, operation, endpoints), *made.get("parameters", [])]
            if method == "WEBSOCKET":
                made["x-fal-protocol"] = "realtime"
            paths.setdefault(path, {})[verb] = made
    tags = dict.fromkeys(tag for item in paths.values() for made in item.values() for tag in made["tags"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "impasto", "version": __version__},
        "servers": [{"url": ROOM.run}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {"securitySchemes": _KEY, "schemas": components},
        "security": [{"apiKeyAuth": []}],
        "x-fal-order-paths": [f"/{id_}" for id_ in endpoints],
    }


def _places(template: str, operation: Operation, endpoints: Endpoints) -> Iterator[tuple[str, Endpoint | None]]:
    """Where the operation is in the document: once, or for every endpoint."""
    if operation.listed:
        yield from ((template.replace("{endpoint}", id_), endpoint) for id_, endpoint in endpoints.items())
    else:
        yield template, None


def _choice_of_endpoint(template: str, operation: Operation, endpoints: Endpoints) -> list[dict[str, Any]]:
    """The parameter `endpoint` of a path that has one."""
    if "{endpoint}" not in template:
        return []
    known = sorted(endpoints.apps) if operation.each == "app" else list(endpoints)
    words = "The app of the endpoint, owner/alias" if operation.each == "app" else "The endpoint's id"
    made = _parameter("endpoint", "path", {"type": "string", "enum": known}, required=True)
    return [made | {"description": f"{words}; its slashes may be escaped as %2F."}]


def _words(path: str) -> str:
    """A path as a name: `/files/{token}/{part}` → `files_by_part`, `fal-ai/flux/dev` → `fal_ai_flux_dev`."""
    parts = path.strip("/").split("/")
    named = [part for part in parts if not part.startswith("{")]
    if parts[-1].startswith("{") and parts[-1] != "{endpoint}":
        named.append(f"by_{parts[-1].strip('{}')}")
    return re.sub(r"[^a-z0-9]+", "_", "_".join(named).lower()).strip("_") or "index"


def _unique(name: str, taken: set[str]) -> str:
    """`name`, or the first of name_2, name_3, … that no other operation has: `me/a-b` and `me/a/b` are one word."""
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    found = name if name not in taken else next(each for each in numbered if each not in taken)
    taken.add(found)
    return found


def _tag(template: str) -> str:
    """The family of a path that is the same for every endpoint."""
    first = template.strip("/").split("/")[0]
    families = {"v1": "platform", "files": "files", "storage": "files", "openai": "openai", "tokens": "tokens"}
    return families.get(first) or ("models" if "{endpoint}" in template else "server")


def _components(endpoints: Endpoints) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """All schemas, and {endpoint id: {class name: name of its schema}} where two classes of one name differ."""
    components: dict[str, Any] = {
        "QueueStatus": _STATUS,
        "Error": ERROR,
        "ErrorItem": ERROR_ITEM,
        "PlatformError": PLATFORM_ERROR,
        "OpenAIError": OPENAI_ERROR,
    }
    names: dict[str, dict[str, str]] = {}
    for endpoint in endpoints.values():
        own = schemas(endpoint)
        renamed = {
            name: _free_name(name, schema, endpoint, components)
            for name, schema in own.items()
            if components.get(name, schema) != schema
        }
        text = json.dumps(own)
        for name, new in renamed.items():
            text = text.replace(f'"{_ref(name)["$ref"]}"', f'"{_ref(new)["$ref"]}"')
        made: dict[str, Any] = json.loads(text)
        for name, new in renamed.items():
            made[name]["title"] = new  # generators name their classes by it
        components |= {renamed.get(name, name): schema for name, schema in made.items()}
        names[endpoint.id] = renamed
    return components, names


def _free_name(name: str, schema: dict[str, Any], endpoint: Endpoint, components: Mapping[str, Any]) -> str:
    """`name` with the words of the endpoint's app before it, of its whole id where that is taken, too."""
    for words in (endpoint.app.rpartition("/")[2], endpoint.id):
        found = "".join(word.capitalize() for word in re.split(r"[^A-Za-z0-9]+", words)) + name
        if components.get(found, schema | {"title": found}) == schema | {"title": found}:
            return found
    return f"{found}{len(components)}"


def _operation(operation: Operation, endpoint: Endpoint | None, names: Mapping[str, str]) -> dict[str, Any]:
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
        schema = OBJECT if schema is INPUT else schema
        made["requestBody"] = {"required": True, "content": {operation.body_type: {"schema": schema}}}
    made["responses"] = _responses(operation, endpoint, names)
    if operation.public:
        made["security"] = []
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
    made = {"200": {"description": description, "content": {JSON: {"schema": schema}}}}
    for status in ("401", "404", "422"):
        made[status] = {"description": FAILURES[status], "content": {JSON: {"schema": _ref("Error")}}}
    return {"responses": made}


def _parameter(name: str, where: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "schema": schema}
