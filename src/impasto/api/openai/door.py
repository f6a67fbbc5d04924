"""The door of OpenAI's API: `gateway.Door` with its error shape, and the header where its clients look for an id."""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from impasto.api.gateway import Call, Door
from impasto.api.openai.answers import failure
from impasto.errors import NotFound, WireError

PREFIX = "/openai/v1"
ID = "x-request-id"


@dataclass(frozen=True, slots=True)
class OpenAIDoor:
    door: Door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                id_ = scope["impasto.request_id"][0].encode("latin-1")
                message["headers"] = [*message["headers"], (ID.encode("ascii"), id_)]
            await send(message)

        scope["impasto.shape"][0] = problem
        await self.door(scope, receive, send_with_id)

    @property
    def handlers(self) -> Mapping[str, object]:
        return self.door.handlers


def problem(error: WireError, request_id: str) -> Response:
    """`error` as this API words it."""
    return failure(error.status, error.body(), {**error.headers(), ID: request_id})


async def unknown(call: Call) -> Response:
    raise NotFound(f"There is no {call.address.path}; docs/openai.md lists what is served.")
