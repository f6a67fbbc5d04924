"""From a stored request to a job, and from an outcome to a stored result. Pure; `dispatcher` does the moving."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from impasto.endpoints.base import Endpoint, Wanted, WantedLora
from impasto.endpoints.fields import noise_seed
from impasto.endpoints.validation import validate
from impasto.engine.job import Job, JobResult, Notice
from impasto.errors import ModelError, NotFound, WireError
from impasto.fleet.messages import Failed, check
from impasto.store.fairness import ORDINARY_PIXEL_STEPS
from impasto.store.records import Outcome, Request, Result

WARNINGS = "X-Impasto-Warnings"
MAX_WARNINGS = 4096  # bytes
MAX_WARNING = 500  # characters of one message


@dataclass(slots=True)
class Work:
    """A request that a runner holds."""

    request: Request
    lease: str
    endpoint: Endpoint
    input: BaseModel
    job: Job
    seed: int  # as the caller sent it; `job.seed` is the same modulo 2**64
    alone: bool = False  # it, or its key at this endpoint, has ended a runner: if that happens again, nothing else ends
    cancel_sent: bool = False
    ended: bool = False  # the runner said how: it renews the lease no more
    pictures: tuple[Wanted, ...] = ()
    loras: tuple[WantedLora, ...] = ()

    @property
    def ordinary_images(self) -> float:
        """How much there is to draw, in images of 1024 × 1024 pixels and 28 steps."""
        job = self.job
        return job.num_images * job.width * job.height * job.steps / ORDINARY_PIXEL_STEPS

    @property
    def inline(self) -> bool:
        """The caller wants the pictures inside the answer: no file is made."""
        return bool(getattr(self.input, "sync_mode", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What `store.finish` is told."""

    outcome: Outcome
    result: Result
    error: str | None = None
    error_type: str | None = None
    inference_time: float | None = None
    pictures: int = 0


def prepare(request: Request, *, endpoints: Mapping[str, Endpoint], model: str) -> Work:
    """A claimed request as work for a runner that holds `model`. Raises WireError: the input is refused; anything: a
    fault in the endpoint, all of whose code up to the drawing is called here.
    """
    endpoint = endpoints.get(request.endpoint)
    if endpoint is None or request.lease is None:
        raise NotFound(f"This server no longer has the endpoint {request.endpoint}")
    input_ = validate(endpoint, request.input)
    job = endpoint.to_job(input_, request_id=request.request_id, seed=request.seed, model=model)
    seed = job.seed
    job = replace(job, priority=request.priority, seed=noise_seed(seed))
    if seed != job.seed:
        job = replace(job, sent_seed=str(seed))
    if endpoint.own_code:
        job = replace(job, endpoint=endpoint.id, arguments=input_.model_dump(mode="json"))
    check(job)
    return Work(
        request=request,
        lease=request.lease,
        endpoint=endpoint,
        input=input_,
        job=job,
        seed=seed,
        pictures=() if endpoint.pictures is None else tuple(endpoint.pictures(input_)),
        loras=() if endpoint.loras is None else tuple(endpoint.loras(input_)),
    )


def succeeded(work: Work, result: JobResult, urls: Sequence[str]) -> Ending:
    """`urls`: one a picture, none for inline pictures. Raises: a fault in the endpoint, which wrote the output."""
    payload = work.endpoint.to_output(work.input, replace(result, seed=work.seed), urls)
    _check_json(payload)
    units = {"X-Fal-Billable-Units": str(len(result.pictures))}  # of the unit that /v1/models/pricing names: images
    headers = units | warnings(result.notices)
    return Ending(
        outcome=Outcome.OK,
        result=Result(200, payload, headers),
        inference_time=result.timings.get("inference"),
        pictures=len(result.pictures),
    )


def warnings(notices: Sequence[Notice]) -> dict[str, str]:
    """The one header that carries notices: a JSON list in ASCII, under 4 KB; what does not fit is counted."""
    items = [
        {"code": notice.code, "message": notice.message[:MAX_WARNING]}
        | ({} if notice.field is None else {"field": notice.field})
        for notice in notices
    ]
    for kept in range(len(items), -1, -1):
        more = [] if kept == len(items) else [{"code": "more", "message": f"and {len(items) - kept} more in the logs"}]
        text = json.dumps(items[:kept] + more)
        if len(text) < MAX_WARNINGS:
            return {WARNINGS: text} if items else {}
    return {}


def refused(error: WireError) -> Ending:
    """The request never reached a runner. A ModelError's own type stands in its items, as a runner tells it."""
    return Ending(
        outcome=Outcome.CANCELLED if error.status == 499 else Outcome.ERROR,
        result=Result(error.status, error.body(), error.headers()),
        error=error.message,
        error_type=error.items[0]["type"] if isinstance(error, ModelError) else error.error_type,
    )


def failed(message: Failed) -> Ending:
    """The runner's last word on an attempt that is not repeated. Raises: the error is one that JSON cannot say."""
    _check_json(message.body)
    outcomes = {499: Outcome.CANCELLED, 504: Outcome.TIMEOUT}
    return Ending(
        outcome=outcomes.get(message.status, Outcome.ERROR),
        result=Result(message.status, message.body, message.headers),
        error=one_line(message.body),
        error_type=message.error_type,
    )


def _check_json(payload: Mapping[str, Any]) -> None:
    """Raises for what JSON cannot say, such as NaN: the store would take it for its own fault, to be tried again."""
    json.dumps(payload, allow_nan=False)


def one_line(body: Mapping[str, Any]) -> str:
    """The error of a fal body, for a status answer and for logs."""
    detail = body.get("detail")
    return "; ".join(str(item["msg"]) for item in detail) if isinstance(detail, list) else str(detail)
