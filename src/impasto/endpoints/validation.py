"""The caller's JSON → a validated Input, or fal's list of error items. Used by the sync run and by the dispatcher."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from impasto.endpoints.base import Endpoint
from impasto.endpoints.fields import UNION_TAGS
from impasto.errors import DOCS_URL, ModelError

M = TypeVar("M", bound=BaseModel)
_BETWEEN = re.compile(r", | or ")
_QUOTED = re.compile(r"'([^']*)'")

MAX_ECHO = 4096  # bytes of an offending value that are sent back

RENAMED = {  # pydantic's word → fal's
    "literal_error": "one_of",
    "enum": "one_of",
    "string_too_short": "sequence_too_short",
    "string_too_long": "sequence_too_long",
    "too_short": "sequence_too_short",
    "too_long": "sequence_too_long",
}
SIZES = ("image_too_small", "image_too_large")
FAL_TYPES = frozenset(  # documented on fal's errors page; any other type links to pydantic's own page
    (
        *(*SIZES, "one_of", "sequence_too_short", "sequence_too_long", "multiple_of"),
        *("greater_than", "greater_than_equal", "less_than", "less_than_equal"),
    )
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
    type_ = RENAMED.get(error["type"], error["type"])
    item: dict[str, Any] = {
        "loc": ["body", *(str(part) for part in error["loc"] if part not in UNION_TAGS)],
        "msg": error["msg"],
        "type": type_,
        "url": DOCS_URL + type_ if type_ in FAL_TYPES else error.get("url", DOCS_URL + type_),
    }
    if context := _context(type_, error.get("ctx", {})):
        item["ctx"] = context
    if len(msgspec.json.encode(error["input"])) <= MAX_ECHO:
        item["input"] = error["input"]
    return item


def _context(type_: str, context: Mapping[str, Any]) -> dict[str, Any]:
    """The bound that was missed, as fal names it."""
    if type_ == "one_of":  # pydantic has the choices as a sentence only: 'jpeg' or 'png'
        choices: str = context["expected"]
        return {"expected": _QUOTED.findall(choices) if "'" in choices else _BETWEEN.split(choices)}
    if type_ in SIZES:
        context = {name: value for name, value in context.items() if name.startswith(("min_", "max_"))}
    return {name: _plain(value) for name, value in context.items()}


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | list) or value is None else str(value)
