"""What went wrong with a job, in fal's words. One door: `explain` turns any exception into a Failure."""

from dataclasses import dataclass
from typing import Any

from impasto.engine.job import Job
from impasto.errors import DOCS_URL, ClientCancelled, ModelError, ServiceUnavailable, WireError


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How an attempt ended without pictures. `body` is fal's error body; `retryable`: another attempt may succeed."""

    status: int
    error_type: str
    body: dict[str, Any]
    headers: dict[str, str]
    retryable: bool = False

    @property
    def message(self) -> str:
        """One line for logs."""
        detail = self.body.get("detail")
        return str(detail[0]["msg"] if isinstance(detail, list) else detail)

    @classmethod
    def of(cls, error: WireError) -> "Failure":
        # A ModelError's own type stands in its items; the status answer shows that one.
        error_type = error.items[0]["type"] if isinstance(error, ModelError) else error.error_type
        return cls(
            status=error.status,
            error_type=error_type,
            body=error.body(),
            headers=error.headers(),
            retryable=error.retryable,
        )


def cancelled() -> Failure:
    return Failure.of(ClientCancelled())


def out_of_memory(job: Job, *, alone: bool) -> Failure:
    """`alone`: nothing else was in the making, so another attempt would meet the same wall."""
    message = (
        f"The runner ran out of memory drawing {job.width}x{job.height} pixels. "
        "Ask for a smaller image_size or fewer num_images."
    )
    if alone:
        return _internal(message)
    return Failure.of(ServiceUnavailable(message))


def explain(error: BaseException) -> Failure:
    """Errors made for the caller keep their words; anything else is an internal error that names its kind only."""
    if isinstance(error, WireError):
        return Failure.of(error)
    return _internal(f"The model failed while it drew ({type(error).__name__}). The server's log says more.")


def _internal(message: str) -> Failure:
    kind = "internal_server_error"
    item = {"loc": ["body"], "msg": message, "type": kind, "url": DOCS_URL + kind}
    return Failure(status=500, error_type=kind, body={"detail": [item]}, headers={"X-Fal-Retryable": "false"})
