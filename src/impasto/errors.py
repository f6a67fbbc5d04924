"""The error tree.

    ImpastoError                      anything impasto raises on purpose
    ├── ConfigError                   a setting is unknown or has a bad value: the start stops
    ├── WireError                     ends as an HTTP answer; carries status, error_type, retryable
    │   ├── RequestError              shape (a): {"detail": "<text>", "error_type": "<type>"}
    │   └── ModelError                shape (b): {"detail": [{"loc", "msg", "type", …}]}
    ├── StoreError                    an illegal move or a broken database
    └── WeightsError                  weights that are missing, incomplete or of the wrong shape
        └── ModelUnavailable          a model that this installation cannot load

The docstring of a class is its default message. `api/problems.py` turns WireErrors into bytes, nobody else does.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, get_args


class ImpastoError(Exception):
    """Something went wrong in impasto."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or type(self).__name__)

    @property
    def message(self) -> str:
        return str(self.args[0])


class ConfigError(ImpastoError):
    """A setting is unknown or has a value that is not allowed."""


class StoreError(ImpastoError):
    """The request store refused an operation."""


class WeightsError(ImpastoError):
    """The model's weights could not be loaded."""


class ModelUnavailable(WeightsError):
    """This installation cannot load the model."""


# ---------------------------------------------------------------- what ends as an HTTP answer


class WireError(ImpastoError):
    """The request could not be served."""

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def body(self) -> dict[str, Any]:
        raise NotImplementedError

    def headers(self) -> dict[str, str]:
        """What the answer carries besides the body; also kept with a stored result."""
        return {"X-Fal-Error-Type": self.error_type, "X-Fal-Retryable": str(self.retryable).lower()}


class RequestError(WireError):
    """The request could not be served."""

    detail_only: ClassVar[bool] = False  # fal names the type of these in the header only

    def body(self) -> dict[str, Any]:
        if self.detail_only:
            return {"detail": self.message}
        return {"detail": self.message, "error_type": self.error_type}


class InternalError(RequestError):
    """Internal Server Error"""

    detail_only = True


class BadRequest(RequestError):
    """The request is not understood."""

    status = 400
    error_type = "bad_request"


class StillInProgress(BadRequest):
    """Request is still in progress"""

    detail_only = True


class Unauthorized(RequestError):
    """Authorization header is required"""

    status = 401
    error_type = "auth_error"
    detail_only = True


class Forbidden(RequestError):
    """The key does not allow this."""

    status = 403
    error_type = "auth_error"
    detail_only = True


class NotFound(RequestError):
    """Not Found"""

    status = 404
    error_type = "not_found"
    detail_only = True


class ModelNotFound(NotFound):
    """The model does not exist."""

    error_type = "model_not_found"


class PathNotFound(NotFound):
    """The application has no such path."""

    def headers(self) -> dict[str, str]:
        return super().headers() | {"X-Fal-Billable-Units": "0"}


class UnknownRequest(NotFound):
    """No request of this caller has that id."""

    def body(self) -> dict[str, Any]:
        return {"status": "NOT_FOUND"}


class MethodNotAllowed(RequestError):
    """Method Not Allowed"""

    status = 405
    error_type = "bad_request"
    detail_only = True

    def __init__(self, message: str | None = None, *, allowed: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)

    def headers(self) -> dict[str, str]:
        return super().headers() | {"Allow": ", ".join(self.allowed)}


class RequestTooSlow(RequestError):
    """The request came too slowly."""

    status = 408
    error_type = "bad_request"


class PreconditionFailed(RequestError):
    """The proxy does not serve this target."""

    status = 412
    error_type = "bad_request"


class UnsupportedMediaType(RequestError):
    """The body has to be JSON."""

    status = 415
    error_type = "bad_request"


class PayloadTooLarge(RequestError):
    """The request body is larger than this server accepts."""

    status = 413
    error_type = "bad_request"


class QuotaExceeded(RequestError):
    """The uploads of this key would take more space than it may use."""

    status = 413
    error_type = "quota_exceeded"

    @classmethod
    def of(cls, *, used: int, more: int, quota: int) -> QuotaExceeded:
        return cls(
            f"The uploads of this key take {used} bytes, {more} more would pass its quota of {quota} bytes (setting "
            "server.upload_quota_mb). Delete files, or let them expire (X-Fal-Object-Lifecycle)."
        )

    @classmethod
    def of_files(cls, *, limit: int) -> QuotaExceeded:
        return cls(
            f"This key has {limit} uploads, and may keep no more (setting server.upload_quota_files, or one for every "
            "4 KiB of server.upload_quota_mb). Delete files, or let them expire (X-Fal-Object-Lifecycle)."
        )


class StorageFull(RequestError):
    """The server's disk has no room for this file; tell its operator."""

    status = 507
    error_type = "storage_full"
    retryable = True


class HeadersTooLarge(RequestError):
    """The request's headers are larger than this server accepts."""

    status = 431
    error_type = "bad_request"


class ClientCancelled(RequestError):
    """Request cancelled by the client."""

    status = 499
    error_type = "client_cancelled"


class ClientDisconnected(RequestError):
    """The client closed the connection before the answer was there."""

    status = 499
    error_type = "client_disconnected"


class QueueFull(RequestError):
    """The queue is full; try again soon."""

    status = 429
    error_type = "concurrent_requests_limit"
    retryable = True

    def headers(self) -> dict[str, str]:
        return super().headers() | {"X-Fal-Needs-Retry": "1"}


class TooManyConnections(QueueFull):
    """Too many connections are open; try again soon."""


class TooMuchBuffered(QueueFull):
    """Requests that are on their way hold too much memory; try again soon."""


class RequestTimeout(RequestError):
    """The request did not start within the time its caller allowed."""

    status = 504
    error_type = "request_timeout"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"X-Fal-Request-Timeout-Type": "user"}


class RunnerDisconnected(RequestError):
    """The runner went away while it worked on the request, too often to try again."""

    status = 503
    error_type = "runner_disconnected"
    retryable = True


class ServiceUnavailable(RequestError):
    """The server cannot take the request now."""

    status = 503
    error_type = "runner_scheduling_failure"
    retryable = True


DOCS_URL = "https://docs.fal.ai/errors#"
FAL_TYPES = frozenset(  # of pydantic's words those that fal documents itself
    ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of")
)


def docs_url(type_: str) -> str:
    """The page about an item's `type`: pydantic's for its own types, fal's for all others."""
    return (None if type_ in FAL_TYPES else _pydantic_pages().get(type_)) or DOCS_URL + type_


@cache
def _pydantic_pages() -> dict[str, str]:
    """type → the page that pydantic itself links to. Read late: decoders import this module and need no pydantic."""
    from pydantic.version import version_short
    from pydantic_core.core_schema import ErrorType

    base = f"https://errors.pydantic.dev/{version_short()}/v/"
    return {type_: base + type_ for type_ in get_args(ErrorType)}


class ModelError(WireError):
    """The input was refused by the model.

    `items` are pydantic-style: `loc` (strings only: Vercel's ai-sdk drops the whole list at an integer), `msg`, `type`.
    """

    status = 422
    error_type = "validation_error"

    def __init__(self, items: list[dict[str, Any]]) -> None:
        super().__init__("; ".join(f"{'.'.join(item['loc'])}: {item['msg']}" for item in items))
        self.items = items

    @classmethod
    def at(cls, field: str, message: str, type_: str = "value_error", **ctx: Any) -> ModelError:
        """One item at input field `field` (dots lead deeper: "loras.0.path"); `ctx`: the bound missed (`le=4`)."""
        item: dict[str, Any] = {
            "loc": ["body", *field.split(".")],
            "msg": message,
            "type": type_,
            "url": docs_url(type_),
        }
        if ctx:
            item["ctx"] = ctx
        return cls([item])

    def body(self) -> dict[str, Any]:
        return {"detail": self.items}

    def headers(self) -> dict[str, str]:
        return {"X-Fal-Retryable": str(self.retryable).lower(), "X-Fal-Billable-Units": "0"}
