"""Keep what people look for in an input apart from the input itself, which may hold megabytes of data URIs.

In: an input as a dict, or as the JSON text that the database holds. Out: its prompt, for lists and searches; and its
brief form, which replaces it where it is not kept: the same input with its long strings cut.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from impasto.store.rows import clean, dump

PROMPT = 2_000  # characters of a prompt that are searched and shown
LARGE = 64 * 1024  # bytes of JSON; a smaller input is always kept whole
CUT = 1_024  # characters; a longer string of a large input is cut
SHOWN = 64  # characters that are left of it: enough to recognise a data URI's type
FIELDS = 64  # of an input that consists of many small values: so many are left


def prompt_of(input_: Mapping[str, Any]) -> str | None:
    """Return the first `PROMPT` characters of the prompt; None when there is none."""
    prompt = input_.get("prompt")
    return clean(prompt[:PROMPT]) if isinstance(prompt, str) else None


def brief_of(input_: Mapping[str, Any], *, size: int) -> str | None:
    """Return the brief form as JSON, at most `LARGE` bytes; None for an input of `size` bytes that is not large."""
    if size <= LARGE:
        return None
    text = dump(_cut(input_), "the input")
    if len(text) > LARGE:
        plain = {name: value for name, value in input_.items() if not isinstance(value, dict | list)}
        text = dump(_cut(dict(list(plain.items())[:FIELDS])), "the input")
    return text if len(text) <= LARGE else dump({"prompt": prompt_of(input_)}, "the input")


def prompt_of_text(text: str) -> str | None:
    """Do the same for a stored input; for the migration that fills the index."""
    return prompt_of(json.loads(text))


def brief_of_text(text: str) -> str | None:
    """Do the same for a stored input; for the migration that fills the index."""
    return brief_of(json.loads(text), size=len(text)) if len(text) > LARGE else None


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= CUT else f"{value[:SHOWN]}… ({len(value)} characters, not kept)"
    if isinstance(value, dict):
        return {name[:CUT]: _cut(item) for name, item in cast("dict[str, Any]", value).items()}
    return [_cut(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value
