"""URLs of the server's own files: formed here and nowhere else, and the token that one names, under whatever host.

A token has 128 random bits, so the path alone says which file is meant; host, port and prefix change with the client,
the deployment and time. Results are stored with the URLs of the request that made them; `moved` gives them the base of
the request that asks.
"""

import re
from typing import Any, cast
from urllib.parse import unquote, urlsplit

PATH = "/files/"
TOKEN = re.compile(r"b/[0-9a-f]{8}/[A-Za-z0-9_-]{22}\.(?:[a-z]{3,4}|safetensors)")


def file_url(base: str, token: str) -> str:
    """Form the URL of a file. `base`: scheme://host[:port][/prefix] that the reader can reach."""
    return f"{base.rstrip('/')}{PATH}{token}"


def token_of(url: str) -> str | None:
    """The token that an http(s) URL names by its path; None: it names none. Says nothing of whether it exists."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme.lower() not in {"http", "https"}:
        return None
    token = unquote(parts.path).rpartition(PATH)[2]
    return token if TOKEN.fullmatch(token) else None


def moved(payload: Any, *, before: str, after: str) -> Any:
    """A copy of `payload` in which every string that is a file URL below `before` is one below `after`.

    The prompt stays as the caller wrote it.
    """
    old, new = before.rstrip("/"), after.rstrip("/")
    return payload if old == new else _moved(payload, old + PATH, new)


def _moved(value: Any, old: str, base: str) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {name: item if name == "prompt" else _moved(item, old, base) for name, item in items}
    if isinstance(value, list):
        return [_moved(item, old, base) for item in cast("list[Any]", value)]
    if isinstance(value, str) and value.startswith(old) and TOKEN.fullmatch(value[len(old) :]):
        return file_url(base, value[len(old) :])
    return value
