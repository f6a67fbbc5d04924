"""A client's connection: uvicorn's fast HTTP protocol, and the slower one for clients that offer HTTP/2.

`Upgrade: h2c` is what Java's HttpClient and `curl --http2` add to requests without TLS. A server that speaks no HTTP/2
ignores the offer; httptools stops reading at it and loses the body, so that a submit became an empty one.
"""

import re

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_OFFER = re.compile(rb"\r\nupgrade:[ \t]*(?!websocket)", re.IGNORECASE)


class Connection(HttpToolsProtocol):
    """For `uvicorn.Config(http=Connection)`."""

    def data_received(self, data: bytes) -> None:
        """A connection is judged by its first bytes: clients that offer an upgrade do so from the first request on."""
        first = self.scope is None  # pyright: ignore[reportUnnecessaryComparison] - None until a request has begun
        if first and _OFFER.search(data.partition(b"\r\n\r\n")[0]):
            self._hand_over(data)
        else:
            super().data_received(data)

    def _hand_over(self, data: bytes) -> None:
        patient = _Patient(config=self.config, server_state=self.server_state, app_state=self.app_state)
        self.connections.discard(self)
        patient.connection_made(self.transport)
        self.transport.set_protocol(patient)
        patient.data_received(data)


class _Patient(H11Protocol):
    def _unsupported_upgrade_warning(self) -> None:
        """Not worth a line in the log at every request: the answer is HTTP/1.1, which the client takes as no."""
