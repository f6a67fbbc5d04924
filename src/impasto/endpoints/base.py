"""What an endpoint id means: a pydantic Input, an Output, a model, and the two ways between the wire and a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from impasto.engine.job import Job, JobResult


class ToJob(Protocol):
    def __call__(self, input_: Any, *, request_id: str, seed: int, model: str) -> Job: ...


class ToOutput(Protocol):
    def __call__(self, input_: Any, result: JobResult, urls: Sequence[str]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One row of the table `endpoints.table.ENDPOINTS`."""

    id: str  # "fal-ai/flux-pro"
    title: str
    description: str
    model: str  # logical model name; the server's configuration maps it to what is loaded
    Input: type[BaseModel]
    Output: type[BaseModel]
    to_job: ToJob
    to_output: ToOutput
    category: str = "text-to-image"

    @property
    def app(self) -> str:
        """owner/alias: what status, result and cancel URLs carry."""
        return "/".join(self.id.split("/")[:2])
