"""A server's endpoint table: the shipped rows, those of installed packages, those of `server.endpoints`.

In: names of a user's modules. Out: `Endpoints`, each of the user's rows checked. Both processes read it: the gateway
for schemas and jobs, the runner for the code that works on the loaded model.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import cast

from impasto.endpoints.base import Endpoint
from impasto.endpoints.table import SHIPPED, Endpoints
from impasto.endpoints.validation import validate
from impasto.errors import ConfigError, ModelError
from impasto.plugins import FAULTS, named

GROUP = "impasto.endpoints"  # of entry points
SETTING = "server.endpoints"
ID = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*){1,5}")
TAKEN = frozenset(
    {"api", "files", "models", "queue", "storage", "tokens", "v1", "ws"}
)  # first segments of other routes
VERBS = frozenset({"requests", "status", "response", "cancel", "stream", "realtime"})  # segments of the wire's own


def load_endpoints(names: Sequence[str] = (), *, without_torch: bool = True) -> Endpoints:
    """The whole table. Raises `ConfigError` that names module, attribute, endpoint and remedy.

    `without_torch`: refuse modules that import torch, because the process that serves HTTP must not load it.
    """
    rows = list(SHIPPED)
    for entry in entry_points(group=GROUP):
        source = f"entry point {entry.name} = {entry.value}"
        loaded = "torch" in sys.modules
        try:
            found = entry.load()
        except FAULTS as error:
            raise ConfigError(
                f"{source} cannot be loaded ({type(error).__name__}: {error}). Mend or uninstall its package."
            ) from error
        rows += _rows(found, source, torch_came=without_torch and not loaded)
    for name in names:
        loaded = "torch" in sys.modules
        found = named(name, setting=SETTING)
        rows += _rows(found, f"{SETTING} = {name!r}", torch_came=without_torch and not loaded)
    return Endpoints(rows)


def _rows(found: object, source: str, *, torch_came: bool) -> list[Endpoint]:
    if torch_came and "torch" in sys.modules:
        raise ConfigError(
            f"{source} imports torch, which the server process must not load. "
            "Import it inside the functions that need it: they run in the runner."
        )
    rows = [found] if isinstance(found, Endpoint) else list(cast("Iterable[object]", found)) if _many(found) else []
    if not rows or not all(isinstance(row, Endpoint) for row in rows):
        raise ConfigError(
            f"{source} is {type(found).__name__}, not an Endpoint or a list of them. Name such an object."
        )
    endpoints = cast("list[Endpoint]", rows)
    for endpoint in endpoints:
        _check(endpoint, source)
    return endpoints


def _many(found: object) -> bool:
    return isinstance(found, list | tuple | set | frozenset)


def _check(endpoint: Endpoint, source: str) -> None:
    segments = endpoint.id.split("/")
    if not ID.fullmatch(endpoint.id) or segments[0] in TAKEN or VERBS & set(segments):
        raise ConfigError(
            f"{source}: {endpoint.id!r} cannot be an endpoint id. Use owner/name in lower case, "
            f"not starting with {', '.join(sorted(TAKEN))} and without {', '.join(sorted(VERBS))}."
        )
    try:
        validate(endpoint, endpoint.example)
    except ModelError as error:
        raise ConfigError(f"{source}: the example of {endpoint.id} is not a valid input: {error.message}.") from None
