"""`GET /models`, `GET /models/{id}`: every endpoint as one of OpenAI's model objects."""

from typing import Any

from starlette.responses import Response

from impasto.api.bodies import Json
from impasto.api.gateway import Call
from impasto.api.openai.names import find
from impasto.endpoints.base import Endpoint


async def listed(call: Call) -> Response:
    return Json({"object": "list", "data": [_model(endpoint) for endpoint in call.gateway.endpoints.values()]})


async def one(call: Call) -> Response:
    """By any name that `model` may have in a call. 404 `model_not_found`."""
    return Json(_model(find(call.request.path_params["model"], call.gateway.endpoints)))


def _model(endpoint: Endpoint) -> dict[str, Any]:
    # `created` has to be a number; when an endpoint was made is not known
    return {"id": endpoint.id, "object": "model", "created": 0, "owned_by": endpoint.id.partition("/")[0]}
