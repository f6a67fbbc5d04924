"""Which endpoint a `model` means.

In: an endpoint id, a short name ("flux-pro", "flux-schnell"), a name of weights ("black-forest-labs/FLUX.1-dev"), one
of OpenAI's own, or none. Out: the endpoint, and a notice when it is not the one that was named.
"""

import re
from functools import lru_cache

from impasto.api.admission import resolve
from impasto.endpoints.base import Endpoint
from impasto.endpoints.table import Endpoints
from impasto.engine.job import Notice
from impasto.errors import ModelError, ModelNotFound, NotFound
from impasto.settings import OpenAISettings

OPENAIS_OWN = re.compile(r"(gpt-image|chatgpt-image|dall-e).*", re.IGNORECASE)
OWNERS = frozenset({"fal", "ai", "black", "forest", "labs"})
EDITING = ("/image-to-image", "/redux", "/v1/redux")  # what stands behind the id of a sibling that takes a picture


def choose(
    model: str, endpoints: Endpoints, *, settings: OpenAISettings, editing: bool
) -> tuple[Endpoint, tuple[Notice, ...]]:
    """The endpoint to draw with. Raises `ModelNotFound` (404), `ModelError` when it takes no picture to edit."""
    setting, usual = ("edit_model", settings.edit_model) if editing else ("model", settings.model)
    notices: tuple[Notice, ...] = ()
    if OPENAIS_OWN.fullmatch(model):
        message = f"This server has no {model}: {usual} drew the picture (setting openai.{setting})."
        notices, model = (Notice(code="model_replaced", message=message, field="model"),), ""
    endpoint = find(model or usual, endpoints)
    if editing and not _edits(endpoint):
        return _sibling(endpoint, endpoints)
    return endpoint, notices


def find(model: str, endpoints: Endpoints) -> Endpoint:
    """The endpoint that a name means. Raises `ModelNotFound`."""
    try:
        return resolve("/" + model, endpoints)
    except NotFound:
        id_ = _by_words(tuple(endpoints)).get(_words(model))
    if id_ is None:
        raise ModelNotFound(f"The model {model[:100]!r} does not exist. GET /openai/v1/models lists those that do.")
    return endpoints[id_]


def _edits(endpoint: Endpoint) -> bool:
    return endpoint.pictures is not None and "image_url" in endpoint.Input.model_fields


def _sibling(endpoint: Endpoint, endpoints: Endpoints) -> tuple[Endpoint, tuple[Notice, ...]]:
    ids = {candidate.id: candidate for candidate in endpoints.values() if _edits(candidate)}
    for ending in EDITING:
        if sibling := ids.get(endpoint.id + ending):
            message = f"{endpoint.id} draws from words only: {sibling.id} drew the picture."
            return sibling, (Notice(code="model_replaced", message=message, field="model"),)
    raise ModelError.at("model", f"{endpoint.id} takes no picture. Those that do: {', '.join(ids)}.", "one_of")


@lru_cache(maxsize=8)
def _by_words(ids: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Words of an id → the first id that has just these, in whatever order."""
    return {_words(id_): id_ for id_ in reversed(ids)}


def _words(name: str) -> tuple[str, ...]:
    """ "flux-1.1-pro" and "fal-ai/flux-pro/v1.1" → ("1.1", "flux", "pro"); "FLUX.1-dev" → ("1", "dev", "flux")."""
    words = re.split(r"[/_ -]+", re.sub(r"\bflux\.", "flux-", name.lower()))
    return tuple(sorted(word.removeprefix("v") for word in words if word and word not in OWNERS))
