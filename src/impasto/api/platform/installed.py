"""`/v1/system/models`, ours and not fal's: the known models, their licences, which lie here and which are loaded."""

import asyncio
from pathlib import Path
from typing import Any

from starlette.responses import Response

from impasto.api.bodies import Json
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.api.platform.door import admin
from impasto.errors import WeightsError
from impasto.flux import library
from impasto.flux.models import ADD_ONS, MODELS, SIBLINGS, AddOn, ModelSpec


async def models(call: Call) -> Response:
    """What `impasto models list` shows; `serves`: the endpoints that the model draws for now. ADMIN only."""
    admin(call)
    gateway = call.gateway
    serves: dict[str, list[str]] = {}
    for endpoint in gateway.endpoints.values():
        serves.setdefault(gateway.dispatcher.served_by(endpoint) or "", []).append(endpoint.id)
    loaded = {name for runner in gateway.dispatcher.runners for name in runner.models}
    rows = await asyncio.to_thread(_rows, gateway.settings.models_folder)
    known = {row["name"] for row in rows}
    rows += [_row(name, SIBLINGS.get(name), True) for name in sorted(loaded - known)]
    found = [row | {"loaded": row["name"] in loaded, "serves": serves.get(row["name"], [])} for row in rows]
    shown, next_ = q.slice_page(call.request.query_params, found)
    return Json(q.page("models", shown, next_=next_))


def licence_of(folder: Path, name: str) -> str | None:
    """The licence of a model by the name it is served under; None: nobody told."""
    spec = MODELS.get(name) or SIBLINGS.get(name)
    if spec is None:
        try:
            kept = library.find(folder, name)
        except WeightsError:  # `impasto models check` explains it
            kept = None
        spec = None if kept is None else MODELS.get(kept.model)
    return None if spec is None else spec.licence


def _rows(folder: Path) -> list[dict[str, Any]]:
    kept = {item.name: item for item in library.kept(folder)}
    rows = [
        _row(spec.name, spec, spec.name in kept or (isinstance(spec, ModelSpec) and spec.embedded))
        for spec in (*MODELS.values(), *ADD_ONS.values())
    ]
    others = [item for name, item in kept.items() if name not in MODELS and name not in ADD_ONS]
    return rows + [_row(item.name, MODELS.get(item.model) or ADD_ONS.get(item.model), True) for item in others]


def _row(name: str, spec: ModelSpec | AddOn | None, here: bool) -> dict[str, Any]:
    return {
        "name": name,
        "model": None if spec is None else spec.name,
        "licence": None if spec is None else spec.licence,
        "gated": spec is not None and spec.gated,
        "memory_bytes": None if spec is None else spec.memory,
        "here": here,
    }
