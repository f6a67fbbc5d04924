"""`/v1/system`, ours and not fal's: what the server is doing now. ADMIN only, since it shows everybody's work."""

import os
import time
from pathlib import Path
from typing import Any

from starlette.responses import Response

from impasto import __version__
from impasto.api.bodies import Json
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.api.platform.door import admin
from impasto.fleet.link import RunnerFacts
from impasto.store.records import Request, Status

SHOWN = 100  # running requests


async def system(call: Call) -> Response:
    """Queue depths, running work with its progress, runners."""
    admin(call)
    gateway = call.gateway
    store, fleet = gateway.store, gateway.dispatcher
    running = await gateway.reading.run(store.requests, status=Status.IN_PROGRESS, limit=SHOWN)
    counts = await gateway.reading.run(store.queue_counts)
    waiting = {endpoint: counts[endpoint] for endpoint in gateway.endpoints if endpoint in counts}
    return Json(
        {
            "version": __version__,
            "started_at": q.shown(gateway.started_at),
            "ready": fleet.ready,
            "reason": fleet.reason,
            "queue": [{"endpoint_id": endpoint, "waiting": count} for endpoint, count in waiting.items()],
            "running": [_running(call, request) for request in running],
            "runners": [_runner(facts) for facts in fleet.runners],
        }
    )


def _running(call: Call, request: Request) -> dict[str, Any]:
    step = call.gateway.dispatcher.progress(request.request_id)
    return {
        "request_id": request.request_id,
        "endpoint_id": request.endpoint,
        "runner_id": request.runner_id,
        "attempt": request.attempt,
        "seconds": round(max(time.time() - (request.started_at or time.time()), 0.0), 3),
        "progress": 0.0 if step is None else round(step.share, 4),
    }


def _runner(facts: RunnerFacts) -> dict[str, Any]:
    return {
        "runner_id": facts.runner_id,
        "models": list(facts.models),
        "device": facts.device,
        "dtype": facts.dtype,
        "load_seconds": round(facts.load_seconds, 3),
        "residency": facts.residency,
        "slots": facts.slots,
        "busy": facts.busy,
        "counters": dict(facts.counters),
        "resident_bytes": _resident(facts.pid),
        "steps_per_second": None if facts.steps_per_second is None else round(facts.steps_per_second, 2),
        "pictures": facts.pictures,
        "work_seconds": round(facts.work_seconds, 3),
    }


def _resident(pid: int) -> int | None:
    """Memory of a process of this machine; None where the system does not tell (it is no Linux, or another machine)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
