"""`/llms.txt` and `/models/{endpoint}/llms.txt`: what is served and how to call it, as Markdown for people and models.

Made from the endpoint table and its published schemas, so that it cannot say anything else than they do.
"""

import json
import shlex
from typing import Any

from starlette.responses import Response

from impasto import __version__
from impasto.api.admission import resolve
from impasto.api.bases import Bases, bases_of
from impasto.api.gateway import Call
from impasto.api.roles import FAL_RUN
from impasto.endpoints.base import Endpoint
from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints
from impasto.engine.senses import Lack

MARKDOWN = "text/plain; charset=utf-8"
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
}


async def of_server(call: Call) -> Response:
    documents, endpoints, bases = call.gateway.documents, call.gateway.endpoints, bases_of(call.address)

    def build() -> bytes:
        return overview(endpoints, bases).encode()

    return await documents.answer(call.request, ("llms", bases), build, media_type=MARKDOWN)


async def of_endpoint(call: Call) -> Response:
    """404 for an unknown endpoint."""
    endpoint = resolve("/" + call.request.path_params["endpoint"], call.gateway.endpoints)
    documents, fleet, bases = call.gateway.documents, call.gateway.dispatcher, bases_of(call.address)
    served, lack = fleet.served_by(endpoint), fleet.lack(endpoint)

    def build() -> bytes:
        return page(endpoint, bases, served_by=served, lack=lack).encode()

    return await documents.answer(call.request, ("llms", endpoint.id, served, lack, bases), build, media_type=MARKDOWN)


def overview(endpoints: Endpoints, bases: Bases) -> str:
    rows = [
        f"- [{endpoint.title}]({bases.site}/models/{id_}/llms.txt): `{id_}`, {endpoint.category}. "
        f"{endpoint.description}"
        for id_, endpoint in endpoints.items()
    ]
    return "\n".join(
        [
            "# impasto",
            "",
            f"> FLUX text-to-image on this machine, behind fal.ai's wire protocol (impasto {__version__}). Programs "
            f"written for fal's clients run against {bases.run} unchanged.",
            "",
            "## Endpoints",
            "",
            *rows,
            "",
            "## Interfaces",
            "",
            f"- [OpenAPI]({bases.site}/openapi.json): every route",
            f"- [Models]({bases.platform}/v1/models): the endpoints as JSON, with `expand=openapi-3.0` their documents",
            f"- Run: `POST {bases.run}/{{endpoint_id}}`",
            f"- Queue: `POST {bases.queue}/{{endpoint_id}}`, then the URLs of its answer",
            "",
        ]
    )


def page(endpoint: Endpoint, bases: Bases, *, served_by: str | None, lack: Lack | None = None) -> str:
    """One endpoint: overview, API information, input, output, examples."""
    found = schemas(endpoint)
    drawn = f"`{served_by}`" if served_by else "no model now; requests wait in the queue"
    if lack is not None:
        drawn = f"no model now; requests are refused with 422. {lack.reason} {lack.remedy}"
    return "\n".join(
        [
            f"# {endpoint.title}",
            "",
            f"> {endpoint.description}",
            "",
            "## Overview",
            "",
            f"- **Endpoint**: `{bases.run}/{endpoint.id}`",
            f"- **Queue**: `{bases.queue}/{endpoint.id}`",
            f"- **Model ID**: `{endpoint.id}`",
            f"- **Category**: {endpoint.category}",
            f"- **Drawn by**: {drawn}",
            "",
            "## API Information",
            "",
            f"- **OpenAPI**: `{bases.site}/api/openapi/queue/openapi.json?endpoint_id={endpoint.id}`",
            "- **Authorization**: `Key $FAL_KEY`; on a loopback address any key passes",
            "",
            "### Input Schema",
            "",
            *_fields(found, endpoint.Input.__name__),
            "**Example**:",
            "",
            *_block("json", json.dumps(endpoint.example, indent=2, ensure_ascii=False)),
            "### Output Schema",
            "",
            *_fields(found, endpoint.Output.__name__),
            "## Usage Examples",
            "",
            *_usage(endpoint, bases),
        ]
    )


def _fields(found: dict[str, Any], name: str) -> list[str]:
    """A list of the fields of schema `name`, in their order; objects inside are listed below it."""
    lines: list[str] = []
    schema = found[name]
    for field in schema["x-fal-order-properties"]:
        one = schema["properties"][field]
        need = "required" if field in schema.get("required", []) else "optional"
        lines.append(f"- **`{field}`** ({_type(one, found)}, _{need}_): {one.get('description', '')}".rstrip(": "))
        if "default" in one:
            lines.append(f"  - Default: `{json.dumps(one['default'])}`")
        lines += [f"  - Allowed: {_words(choices)}" for choices in [_choices(one)] if choices]
        if bounds := ", ".join(text.format(one[key]) for key, text in BOUNDS.items() if key in one):
            lines.append(f"  - Bounds: {bounds}")
        if one.get("examples"):
            lines.append(f"  - Example: `{json.dumps(one['examples'][0], ensure_ascii=False)}`")
    lines.append("")
    for inner in _inner(schema, found):
        lines += [f"**`{inner}`**:", "", *_fields(found, inner)]
    return lines


def _type(schema: dict[str, Any], found: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{_name(schema)}`"
    if "anyOf" in schema:
        return " or ".join(_type(one, found) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], found)}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of {_type(schema['additionalProperties'], found)}"
    return "`enum`" if "enum" in schema else f"`{schema.get('type', 'any')}`"


def _choices(schema: dict[str, Any]) -> list[Any]:
    own = list(schema.get("enum", []))
    return own + [choice for one in schema.get("anyOf", []) for choice in one.get("enum", [])]


def _words(choices: list[Any]) -> str:
    return ", ".join(f"`{json.dumps(choice)}`" for choice in choices)


def _inner(schema: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of the object schemas that the properties refer to."""
    names: dict[str, None] = {}
    for one in schema["properties"].values():
        for part in (one, one.get("items", {}), *one.get("anyOf", [])):
            if "$ref" in part and "properties" in found.get(_name(part), {}):
                names[_name(part)] = None
    return list(names)


def _name(schema: dict[str, Any]) -> str:
    return schema["$ref"].rpartition("/")[2]


def _usage(endpoint: Endpoint, bases: Bases) -> list[str]:
    arguments = json.dumps(endpoint.example, indent=2, ensure_ascii=False)
    python = repr(endpoint.example)
    body = shlex.quote(json.dumps(endpoint.example, ensure_ascii=False))
    way = f"Start programs with `impasto exec --url {bases.run} -- …`: they reach this server without a change."
    return [
        *([] if bases.run == FAL_RUN else [way, ""]),  # a client that knows us as fal's host reaches us already
        "### Python",
        "",
        *_block(
            "python",
            f'import fal_client\n\nresult = fal_client.subscribe("{endpoint.id}", arguments={python})\nprint(result)',
        ),
        "### JavaScript",
        "",
        *_block(
            "javascript",
            'import { fal } from "@fal-ai/client";\n\n'
            f'const result = await fal.subscribe("{endpoint.id}", {{ input: {arguments} }});\n'
            "console.log(result.data);",
        ),
        "### cURL",
        "",
        *_block(
            "bash",
            f'curl {bases.run}/{endpoint.id} \\\n  -H "Authorization: Key $FAL_KEY" \\\n'
            f'  -H "Content-Type: application/json" \\\n  -d {body}',
        ),
    ]


def _block(language: str, text: str) -> list[str]:
    return [f"```{language}", text, "```", ""]
