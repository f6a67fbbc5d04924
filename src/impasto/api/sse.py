"""Server-sent events as fal's clients read them: `data:` lines of JSON and comments, nothing else (protocol 3.3, 6.1).

No `event:`, no `id:`, no `[DONE]`: both of fal's clients parse every data line as JSON; the last is the outcome.
"""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import StreamingResponse

PING = b": ping\n\n"
PING_SECONDS = 10.0  # the clients' own idle limit is 15 s


class EventStream(StreamingResponse):
    """200 text/event-stream, never cached, never buffered. When the client hangs up, `events` is cancelled."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


def event(value: Any) -> bytes:
    """One event on one line: JSON has no raw line breaks."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def named_event(name: str, value: Any) -> bytes:
    """One with a name, for clients that are not fal's."""
    return b"event: " + name.encode("ascii") + b"\n" + event(value)
