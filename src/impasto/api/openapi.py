"""The OpenAPI documents: one of an endpoint's queue, as fal publishes it, and one of all sync runs, as an app's own."""

from typing import Any

from starlette.responses import Response

from impasto import __version__
from impasto.api.admission import resolve
from impasto.api.bodies import Json
from impasto.api.gateway import Call
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

_ERROR: dict[str, Any] = {
    "type": "object",
    "title": "Error",
    "description": "A sentence, or a list of what is wrong at which field.",
    "x-fal-order-properties": ["detail", "error_type"],
    "properties": {
        "detail": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object", "additionalProperties": True}}]
        },
        "error_type": {"type": "string"},
    },
    "required": ["detail"],
}
_FAILURES = {  # of a sync run
    "400": "A header or a query value makes no sense.",
    "401": "The key is missing, malformed or unknown.",
    "403": "The key, or the page that calls, may not do this.",
    "413": "The body is larger than the server takes.",
    "422": "The input is wrong; `detail` names every field.",
    "429": "More requests are waiting than the caller allowed.",
    "499": "The request was cancelled.",
    "500": "The model failed.",
    "503": "Nobody can draw it now.",
    "504": "It did not start, or did not end, in time.",
}


async def of_queue(call: Call) -> Response:
    """`?endpoint_id=fal-ai/flux-pro`: the document that code generators ask fal.ai for."""
    id_ = call.request.query_params.get("endpoint_id")
    if not id_:
        raise BadRequest("The query lacks endpoint_id, e.g. endpoint_id=fal-ai/flux-pro.")
    endpoint = resolve("/" + id_, call.gateway.endpoints)
    return Json(queue_document(endpoint, base=call.address.queue_base, home=call.address.file_base))


async def of_run(call: Call) -> Response:
    """Every endpoint's sync run."""
    return Json(run_document(call.gateway.endpoints))


def queue_document(endpoint: Endpoint, *, base: str, home: str) -> dict[str, Any]:
    """OpenAPI 3.0.4 of submit, status, cancel and result of one endpoint."""
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
                "thumbnailUrl": "",
                "playgroundUrl": f"{home}/",
                "documentationUrl": f"{home}/openapi.json",
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
        "servers": [{"url": base}],
        "security": [{"apiKeyAuth": []}],
    }


def run_document(endpoints: Endpoints) -> dict[str, Any]:
    """OpenAPI 3.0.4 of the sync run of every endpoint, in the order of the table (`x-fal-order-paths`)."""
    components = {name: schema for endpoint in endpoints.values() for name, schema in schemas(endpoint).items()}
    components["Error"] = _ERROR
    failures = {
        status: {"description": text, "content": {"application/json": {"schema": _ref("Error")}}}
        for status, text in _FAILURES.items()
    }
    return {
        "openapi": "3.0.4",
        "info": {"title": "impasto", "version": __version__},
        "paths": {
            f"/{endpoint.id}": {
                "post": {
                    "summary": endpoint.title,
                    "description": endpoint.description,
                    "requestBody": _body(endpoint),
                    "responses": _answers("Successful Response", _ref(endpoint.Output.__name__))["responses"]
                    | failures,
                }
            }
            for endpoint in endpoints.values()
        },
        "components": {"securitySchemes": _KEY, "schemas": components},
        "security": [{"apiKeyAuth": []}],
        "x-fal-order-paths": [f"/{id_}" for id_ in endpoints],
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": REF.format(model=name)}


def _body(endpoint: Endpoint) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _ref(endpoint.Input.__name__)}}}


def _answers(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"responses": {"200": {"description": description, "content": {"application/json": {"schema": schema}}}}}


def _parameter(name: str, where: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "schema": schema}
