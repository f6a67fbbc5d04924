"""What an endpoint id means: a pydantic Input, an Output, a model, and the two ways between the wire and a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

from impasto.engine.job import ImageRole, Job, JobResult

if TYPE_CHECKING:  # the gateway does without numpy
    from impasto.engine.custom import Over, Post

NAMESPACES = frozenset({"workflows", "comfy"})  # a first segment that stands before owner/alias


def split_id(endpoint_id: str) -> tuple[str, str]:
    """(app, sub-path): ("fal-ai/flux-pro", "v1.1/redux"); a namespace belongs to the app."""
    parts = endpoint_id.split("/")
    length = 3 if parts[0] in NAMESPACES else 2
    return "/".join(parts[:length]), "/".join(parts[length:])


class ToJob(Protocol):
    """A validated `Input` → the job. `seed` counts only when the input has none; `model` is the name that is loaded."""

    def __call__(self, input_: Any, *, request_id: str, seed: int, model: str) -> Job: ...


class ToOutput(Protocol):
    """The wire output of a finished job. `urls`: one a picture; not looked at when the input asked for `sync_mode`."""

    def __call__(self, input_: Any, result: JobResult, urls: Sequence[str]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A picture that an input names: http(s) URL or data URI. Role and strength as in `engine.job.ImageInput`."""

    url: str
    role: ImageRole
    strength: float | None
    field: str = "image_url"  # dots lead deeper: "image_urls.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedLora:
    """A LoRA that an input names: http(s) URL, file of the server's folder, or owner/name of the hub."""

    path: str
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One row of an `endpoints.table.Endpoints`."""

    id: str  # "fal-ai/flux-pro"
    title: str
    description: str
    model: str  # logical model name; the server's configuration maps it to what is loaded
    Input: type[BaseModel]
    Output: type[BaseModel]
    to_job: ToJob
    to_output: ToOutput
    example: dict[str, Any]  # an input that validates; docs, schema and the playground show it
    category: str = "text-to-image"
    pictures: Callable[[Any], tuple[Wanted, ...]] | None = None  # what a validated input names, if it may name any
    loras: Callable[[Any], tuple[WantedLora, ...]] | None = None  # likewise
    with_pictures: Callable[[Job], Job] = lambda job: job  # what else they decide, say the size
    post: Post | None = None  # in the runner: the last hand on each picture
    pipeline: Over | None = None  # in the runner: draws over the loaded one

    @property
    def app(self) -> str:
        """owner/alias: what status, result and cancel URLs carry."""
        return split_id(self.id)[0]

    @property
    def roles(self) -> tuple[ImageRole, ...]:
        """What the images of its example are for: without these the endpoint has no use. () for one that takes none."""
        if self.pictures is None:
            return ()
        return tuple(dict.fromkeys(image.role for image in self.pictures(self.Input.model_validate(self.example))))

    @property
    def own_code(self) -> bool:
        """Whether the runner has to know the endpoint, too."""
        return self.post is not None or self.pipeline is not None

    def may_name_files(self, input_: Mapping[str, Any]) -> bool:
        """Whether an input, not validated yet, seems to name images or LoRAs. A guess, which saves a claim: what it
        misses is found when the request is claimed.
        """
        if self.loras is not None and input_.get("loras"):
            return True
        return self.pictures is not None and any("url" in name and value for name, value in input_.items())
