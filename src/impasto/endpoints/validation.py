"""The caller's JSON → a validated Input, or fal's list of error items. Used by the sync run and by the dispatcher."""

from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from impasto.endpoints.base import Endpoint
from impasto.endpoints.fields import UNION_TAGS
from impasto.errors import DOCS_URL, ModelError

M = TypeVar("M", bound=BaseModel)
MAX_ECHO = 4096  # bytes of an offending value that are sent back

FAL_TYPES = frozenset(  # documented on fal's errors page; any other type links to pydantic's own page
    ("image_too_small", "image_too_large", "greater_than", "greater_than_equal", "less_than", "less_than_equal")
)


def validate(endpoint: Endpoint, payload: object) -> BaseModel:
    """`payload` (parsed JSON) as `endpoint.Input`. Raises `ModelError` (422) whose items name every bad field."""
    return validated(endpoint.Input, payload)


def validated(model: type[M], payload: object) -> M:
    """`payload` as `model`. Raises `ModelError`."""
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        raise ModelError([_item(details) for details in error.errors()]) from None


def _item(error: ErrorDetails) -> dict[str, Any]:
    """One pydantic error as fal sends it: `loc` below "body" and of strings only, everything in it plain JSON."""
    type_ = error["type"]
    item: dict[str, Any] = {
        "loc": ["body", *(str(part) for part in error["loc"] if part not in UNION_TAGS)],
        "msg": error["msg"],
        "type": type_,
        "url": DOCS_URL + type_ if type_ in FAL_TYPES else error.get("url", DOCS_URL + type_),
    }
    if context := error.get("ctx"):
        item["ctx"] = {name: _plain(value) for name, value in context.items()}
    if len(msgspec.json.encode(error["input"])) <= MAX_ECHO:
        item["input"] = error["input"]
    return item


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | list) or value is None else str(value)
